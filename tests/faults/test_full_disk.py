"""A disk that is full, or a folder that cannot be written: training goes on where it can, and says what it lost."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns.errors import SplatkitError
from splatkit_ns.hooks import CheckPointHook
from splatkit_ns.modules import SplatCheckpointer, SplatEvaluator, SplatExporter
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.splat import SplatModel, read_checkpoint, write_checkpoint
from tests.faults.children import Child
from tests.faults.runs import CHEAP, At, make_config, make_trainer, run_command, train
from tests.splat.helpers import make_tensors

SMALL_DISK_KILOBYTES = 400


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path, None, None]:
    """A file system of its own of 400 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_KILOBYTES}k", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root; test_no_file_may_grow holds the same promise with a limit")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Use up the rest of a file system."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        for size in (4096, 64, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return path


def test_training_goes_on_when_a_save_fails(scene: Path, tmp_path: Path, messages: Any) -> None:
    """Two saves fail: one warning; the checkpoint from before stays; the next save works."""
    config = make_config(scene, tmp_path, steps_per_save=6, save_only_latest_checkpoint=False, **CHEAP)
    folder = config.get_checkpoint_dir()
    real, full = os.fsync, False

    def switch(on: bool) -> Any:
        def action() -> None:
            nonlocal full
            full = on
            if not on:
                assert [checkpoint_files.step_of(path) for path in checkpoint_files.checkpoint_paths(folder)] == [6]
                assert read_checkpoint(checkpoint_files.path_of(folder, 6))["step"] == 6

        return action

    def fsync(descriptor: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        steps = [At(8, switch(True)), At(22, switch(False))]
        train(config, *steps)
    assert steps[0].steps == list(range(1, 37))
    assert [checkpoint_files.step_of(path) for path in checkpoint_files.checkpoint_paths(folder)] == [6, 24, 30, 35]
    assert sorted(os.listdir(folder)) == [path.name for path in checkpoint_files.checkpoint_paths(folder)]
    warnings = [record.getMessage() for record in messages.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert "No checkpoint of step 12" in warnings[0]
    assert "No space left on device" in warnings[0]
    assert str(checkpoint_files.path_of(folder, 6)) in warnings[0]
    assert "can be written again: step 24" in warnings[1]


def test_training_goes_on_when_a_module_cannot_write(scene: Path, tmp_path: Path, messages: Any) -> None:
    """Exports, checkpoints and statistics of a few steps are missing; what was written before them is kept."""
    real, full = os.fsync, False

    def switch(on: bool) -> Any:
        def action() -> None:
            nonlocal full
            full = on

        return action

    def fsync(descriptor: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    config = make_config(scene, tmp_path, steps_per_save=0, hooks=("tests.faults.test_full_disk:OftenSaved",), **CHEAP)
    folder = config.get_base_dir() / "modules"
    modules = [
        SplatCheckpointer(folder, every=6, keep=1),
        SplatExporter(folder, export_steps=[6, 12, 24]),
        SplatEvaluator(folder, eval_steps=[6, 12, 24]),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        steps = [At(8, switch(True)), At(22, switch(False))]
        train(config, *steps, *modules)
    assert steps[0].steps == list(range(1, 37))
    written = sorted(path.relative_to(config.get_base_dir()).as_posix() for path in folder.rglob("step_*"))
    assert written == [
        "modules/ckpts/step_000006.ckpt",
        "modules/ckpts/step_000024.ckpt",
        "modules/images/step_000006",
        "modules/images/step_000012",
        "modules/images/step_000024",
        "modules/splats/step_000006.ply",
        "modules/splats/step_000024.ply",
        "modules/stats/step_000006.csv",
        "modules/stats/step_000006.json",
        "modules/stats/step_000024.csv",
        "modules/stats/step_000024.json",
        "modules/step_000036.ckpt",
    ]
    assert list((folder / "images/step_000012").iterdir()) == []
    hooked = sorted(path.name for path in (config.get_base_dir() / "ckpts").iterdir())
    assert hooked == ["step_000006.ckpt", "step_000024.ckpt", "step_000030.ckpt", "step_000036.ckpt"]
    assert "Step 12, mean of" in messages.text, "what was measured is told all the same"
    warnings = [record.getMessage() for record in messages.records if record.levelname == "WARNING"]
    assert all("No space left on device" in text and "Training goes on" in text for text in warnings)
    assert [text.split(" could not")[0] for text in warnings if "step 12" in text] == [
        "The Gaussians of step 12",
        "The evaluation of step 12",
        "The checkpoint of step 12",
        "The checkpoint of step 12",
        "CheckPointHook's checkpoint of step 12",
    ]


class OftenSaved(CheckPointHook):
    """Saves every six steps."""

    def __init__(self) -> None:
        super().__init__(every=6)


@pytest.mark.parametrize("has_earlier", [True, False])
def test_a_last_save_that_fails_is_an_error(
    has_earlier: bool, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "the file")

    trainer = make_trainer(make_config(scene, tmp_path, **CHEAP), end := At(36, lambda: None))
    monkeypatch.setattr(checkpoint_files, "save", fail)
    if has_earlier:
        trainer.checkpoint_dir.mkdir()
        checkpoint_files.path_of(trainer.checkpoint_dir, 11).touch()
    then = r"The last checkpoint is .* resume" if has_earlier else r"There is no checkpoint yet\. .* begin anew"
    with pytest.raises(SplatkitError, match=rf"of step 35, could not be saved: No space left.* {then}\.$"):
        trainer.train()
    assert end.cleaned_up == 1


def test_on_a_full_disk(scene: Path, small_disk: Path, messages: Any) -> None:
    """A file system that fills up after the first checkpoint and has room again before the last."""
    config = make_config(scene, small_disk, steps_per_save=6, max_num_iterations=24, **CHEAP)
    trainer = make_trainer(config)
    ballast: list[Path] = []
    steps = [At(8, lambda: ballast.append(fill(small_disk))), At(20, lambda: ballast[0].unlink())]
    trainer.pipeline.model.use_modules(list(steps))
    trainer.train()
    paths = checkpoint_files.checkpoint_paths(trainer.checkpoint_dir)
    assert [checkpoint_files.step_of(path) for path in paths] == [6, 23]
    warnings = [record.getMessage() for record in messages.records if record.levelname == "WARNING"]
    assert [("No space left" in text) for text in warnings] == [True]
    for step in (6, 23):
        assert read_checkpoint(checkpoint_files.path_of(trainer.checkpoint_dir, step))["step"] == step


def test_a_full_disk_leaves_the_old_files(small_disk: Path) -> None:
    old, new = SplatModel(**make_tensors(200)), SplatModel(**make_tensors(4000))
    checkpoint = {"step": 1, "pipeline": {}, "optimizers": {}}
    write_checkpoint(small_disk / "a.ckpt", checkpoint)
    old.save_ply(small_disk / "a.ply")
    with pytest.raises(OSError, match=r"cannot write the file: No space left on device.*a\.ply"):
        new.save_ply(small_disk / "a.ply")
    with pytest.raises(OSError, match=r"cannot write the file: No space left on device.*a\.ckpt"):
        write_checkpoint(small_disk / "a.ckpt", {**checkpoint, "pipeline": {"x": torch.zeros(10**6)}})
    assert len(SplatModel.load_ply(small_disk / "a.ply")) == 200
    assert read_checkpoint(small_disk / "a.ckpt") == checkpoint
    assert sorted(os.listdir(small_disk)) == ["a.ckpt", "a.ply"]


def limited_run(config: Any, limit: int) -> None:
    """A run in which no file may grow beyond `limit` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    run_command(config)


def test_no_file_may_grow(scene: Path, tmp_path: Path) -> None:
    """Every checkpoint fails; the run ends with one message and status 1."""
    config = make_config(scene, tmp_path, steps_per_save=6, **CHEAP)
    child = Child(limited_run, tmp_path / "log", config=config, limit=40_000)
    assert child.wait() == 1
    text = child.text()
    assert text.count("No checkpoint of step") == 1
    assert "Error: The last checkpoint, of step 35, could not be saved: cannot write the file: File too large" in text
    assert "Traceback" not in text
    assert os.listdir(config.get_checkpoint_dir()) == []


def unprivileged_run(config: Any) -> None:
    """A run of a user who may write nowhere but in folders open to all."""
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    run_command(config)


@pytest.mark.parametrize("existing", [True, False])
def test_a_folder_that_cannot_be_written(scene: Path, tmp_path: Path, existing: bool) -> None:
    config = make_config(scene, tmp_path / "out", **CHEAP)
    folder = config.get_base_dir() if existing else tmp_path / "out"
    folder.mkdir(parents=True)
    folder.chmod(0o555)
    child = Child(unprivileged_run, tmp_path / "log", config=config)
    assert child.wait() == 1
    text = child.text()
    assert f"Error: The run's folder {config.get_base_dir()} cannot be written: Permission denied. Choose" in text
    assert "Traceback" not in text


def test_a_file_where_the_folder_should_be(scene: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SplatkitError, match="cannot be written: Not a directory"):
        make_config(scene, tmp_path / "file").save_config()
