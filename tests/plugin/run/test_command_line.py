"""What the command of this process is decides."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.plugin.helpers import make_pipeline, run_config


@pytest.fixture(autouse=True)
def _collected_again() -> Generator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize(("program", "passes"), [("/env/bin/ns-train", True), ("my_script.py", False)])
def test_collections_pass_over_the_imports_of_a_command_alone(
    program: str, passes: bool, tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a script, what there is may be an earlier run, whose memory is wanted back."""
    monkeypatch.setattr(sys, "argv", [program])
    run_config(tiny_scene, tmp_path).save_config()
    assert (gc.get_freeze_count() > 100_000) == passes


@pytest.mark.parametrize(("program", "passes"), [("/env/bin/ns-eval", True), ("my_script.py", False)])
def test_so_they_do_in_a_command_that_opens_a_run(
    program: str, passes: bool, tiny_scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    make_pipeline(tiny_scene, "test")
    assert (gc.get_freeze_count() > 100_000) == passes
