"""Checkpoints that are written while training goes on, as on a GPU."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splatkit_ns.errors import HookFailedError
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.plugin.run.folder.run_folder import RunFolder
from splatkit_ns.splat import read_checkpoint
from tests.faults.runs import CHEAP, At, differences, make_config, make_trainer

SLOW = 30.0
"""Seconds that a test waits before it fails."""


def train(scene: Path, output: Path, *steps: At, in_background: bool = True) -> Path:
    """Train with a save after steps 7, 13 and so on; returns the folder of the checkpoints."""
    config = make_config(scene, output, steps_per_save=6, save_only_latest_checkpoint=False, **CHEAP)
    trainer: Any = make_trainer(config, *steps)
    assert not trainer._saver.in_background, "on the CPU it would take a core from training"
    trainer._saver.in_background = in_background
    try:
        trainer.train()
    finally:
        RunFolder(config).release()
    return trainer.checkpoint_dir


def held_up(until: threading.Event, step: int) -> Callable[..., None]:
    """`checkpoint_files.save`, which waits for an event before it writes the checkpoint of a step."""
    save = checkpoint_files.save

    def waiting(folder: Path, checkpoint: dict[str, Any], only_latest: bool) -> None:
        if checkpoint["step"] == step:
            assert until.wait(SLOW), "training does not go on"
        save(folder, checkpoint, only_latest)

    return waiting


def test_training_goes_on_and_changes_nothing_of_the_checkpoint(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(scene, tmp_path / "expected", in_background=False)
    later = threading.Event()
    monkeypatch.setattr(checkpoint_files, "save", held_up(later, step=6))
    found = train(scene, tmp_path / "found", At(11, later.set))
    steps = [6, 12, 18, 24, 30, 35]
    for folder in (expected, found):
        assert [checkpoint_files.step_of(path) for path in checkpoint_files.checkpoint_paths(folder)] == steps
    for step in steps:
        a, b = (read_checkpoint(checkpoint_files.path_of(folder, step)) for folder in (expected, found))
        assert differences(a, b) == [], step


def test_a_failed_write_is_told_after_a_later_step(
    scene: Path, tmp_path: Path, messages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint_files.save

    def full(folder: Path, checkpoint: dict[str, Any], only_latest: bool) -> None:
        if checkpoint["step"] in (12, 18):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(folder, checkpoint, only_latest)

    monkeypatch.setattr(checkpoint_files, "save", full)
    folder = train(scene, tmp_path)
    assert [checkpoint_files.step_of(path) for path in checkpoint_files.checkpoint_paths(folder)] == [6, 24, 30, 35]
    warnings = [record.getMessage() for record in messages.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert "No checkpoint of step 12: [Errno 28] No space left on device" in warnings[0]
    assert str(checkpoint_files.path_of(folder, 6)) in warnings[0]
    assert "can be written again: step 24" in warnings[1]


def test_an_error_waits_for_the_write_that_is_under_way(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = threading.Event()
    monkeypatch.setattr(checkpoint_files, "save", held_up(later, step=6))

    def fail() -> None:
        threading.Timer(0.2, later.set).start()
        raise ValueError("a fault")

    with pytest.raises(HookFailedError, match="a fault"):
        train(scene, tmp_path, At(9, fail))
    folder = make_config(scene, tmp_path).get_checkpoint_dir()
    assert [checkpoint_files.step_of(path) for path in checkpoint_files.checkpoint_paths(folder)] == [6]
    assert read_checkpoint(checkpoint_files.path_of(folder, 6))["step"] == 6
