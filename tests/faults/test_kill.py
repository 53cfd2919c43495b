"""kill -9 at random moments, many inside a save: what is on the disk is whole, and at most one interval is lost."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import torch

from splatkit_ns import files
from splatkit_ns.files import TEMPORARY_PREFIX
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.splat import read_checkpoint
from tests.faults.children import Child
from tests.faults.runs import CHEAP, At, make_config, run_command

KILLS = int(os.environ.get("SPLATKIT_FAULT_KILLS", "6"))
"""How often a run is killed; `make faults` asks for 200."""
STEPS_PER_SAVE = 4
PIECES = 10
SECONDS_A_PIECE = 0.004


class Progress(At):
    """Notes in a file which steps this process began with and has finished; what is written survives a kill."""

    def __init__(self, path: Path) -> None:
        super().__init__(0, lambda: None)
        self.path = path

    def post_step(self, step: int) -> None:
        self.steps.append(step)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT)
        os.pwrite(descriptor, json.dumps([self.steps[0], step]).ljust(40).encode(), 0)
        os.close(descriptor)


def run_slowly(config: Any, progress: Path) -> None:
    """A run that writes checkpoints in pieces, with time to be killed between them and before the rename."""
    real_save, real_sync = torch.save, os.fsync

    def save(content: Any, file: Any) -> None:
        buffer = io.BytesIO()
        real_save(content, buffer)
        view = buffer.getbuffer()
        size = -(-len(view) // PIECES)
        for start in range(0, len(view), size):
            file.write(view[start : start + size])
            file.flush()
            time.sleep(SECONDS_A_PIECE)

    def sync(descriptor: int) -> None:
        time.sleep(SECONDS_A_PIECE)
        real_sync(descriptor)
        time.sleep(SECONDS_A_PIECE)

    torch.save = save
    files.os.fsync = sync
    run_command(config, [Progress(progress)])


def unfinished(folder: Path) -> set[str]:
    """Names of files that are being written, or were when their process was killed."""
    return {name for name in os.listdir(folder) if name.startswith(TEMPORARY_PREFIX)} if folder.exists() else set()


def stop_inside_a_save(child: Child, folder: Path, left: set[str], generator: random.Random) -> None:
    """Stop a process while it writes a checkpoint, at a moment that differs, and however busy the machine is.

    Args:
        child: trains.
        folder: of its checkpoints.
        left: what processes before it had not finished.
        generator: draws the moment.
    """
    while True:
        child.wait_for(lambda: bool(unfinished(folder) - left))
        time.sleep(generator.uniform(0, PIECES * SECONDS_A_PIECE))
        child.kill(signal.SIGSTOP)
        child.wait_for(lambda: Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2].startswith("T"))
        if unfinished(folder) - left:
            return
        child.kill(signal.SIGCONT)


def test_a_killed_run_resumes_from_a_whole_checkpoint(scene: Path, tmp_path: Path) -> None:
    generator = random.Random(0)
    options = {"steps_per_save": STEPS_PER_SAVE, "max_num_iterations": 10**6, **CHEAP}
    config = make_config(scene, tmp_path, **options)
    folder, progress = config.get_checkpoint_dir(), tmp_path / "progress"
    inside_a_save = 0
    expected_start = 1
    for kill in range(KILLS):
        progress.unlink(missing_ok=True)
        left = unfinished(folder)
        child = Child(run_slowly, tmp_path / "log", config=config, progress=progress)
        child.wait_for(lambda: progress.exists() and progress.stat().st_size > 0)
        if kill % 2:
            stop_inside_a_save(child, folder, left, generator)
        else:
            time.sleep(generator.uniform(0, 0.4))
        child.kill()
        assert child.wait() == -9
        started, finished = json.loads(progress.read_text())
        assert started == expected_start, f"kill {kill}"
        inside_a_save += bool(unfinished(folder) - left)
        saved = [checkpoint_files.step_of(path) + 1 for path in checkpoint_files.checkpoint_paths(folder)]
        for path in checkpoint_files.checkpoint_paths(folder):
            assert read_checkpoint(path)["step"] == checkpoint_files.step_of(path), f"kill {kill}"
        # `finished` is 1-based; a checkpoint is written after steps 5, 9, 13, …, before the next step starts
        due = max([step for step in range(1, finished) if step % STEPS_PER_SAVE == 1 and step > 1], default=0)
        newest = max(saved, default=0)
        assert newest >= due, f"kill {kill}: {finished} steps were finished, the newest checkpoint is of {newest}"
        assert finished - newest <= STEPS_PER_SAVE + 1
        expected_start = newest + 1
        (tmp_path / "counts.json").write_text(json.dumps({"kills": kill + 1, "inside_a_save": inside_a_save}))
    assert inside_a_save >= KILLS // 2
    assert saved
