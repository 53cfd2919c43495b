"""What the command of this process is decides."""

from __future__ import annotations

import atexit
import gc
import json
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.run.folder.command_line import (
    TRAINING,
    check_camera_path,
    check_export_box,
    check_export_name,
    pass_over_imports,
)
from tests.plugin.helpers import make_pipeline, run_config


@pytest.fixture(autouse=True)
def _collected_again() -> Generator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.enable()


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


def test_bindings_are_collected_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """If they are not, nanobind prints that they leak, after every training."""
    at_end: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", at_end.append)
    monkeypatch.setattr(sys, "argv", ["ns-train"])
    bound = type("nb_type_0", (type,), {"__module__": "nanobind"})
    pass_over_imports(TRAINING)
    assert gc.get_freeze_count() > 0
    for function in at_end:
        function()
    assert gc.get_freeze_count() == 0
    assert bound.__module__ == "nanobind", "it is there until now"


TURN = ["--obb-rotation", "0", "0", "1"]
REST = ["--obb_center", "0", "0", "0", "--obb-scale", "1", "1", "1"]


def test_a_box_that_ns_export_would_pass_over(tiny_scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """People give --obb-rotation alone to turn the scene, and get the same file without a word."""
    monkeypatch.setattr(sys, "argv", ["/bin/ns-export", "gaussian-splat", *TURN])
    with pytest.raises(SplatkitError, match="without --obb-center and --obb-scale: these"):
        make_pipeline(tiny_scene, "inference")


@pytest.mark.parametrize(
    "arguments",
    [["ns-export", "gaussian-splat", *TURN, *REST], ["ns-export", "gaussian-splat"], ["my_script.py", *TURN]],
)
def test_a_whole_box_or_none(arguments: list[str]) -> None:
    check_export_box(arguments)


@pytest.mark.parametrize("name", ["scene.spz", "x.compressed.ply"])
def test_a_name_under_which_ns_export_would_write_another_format(
    tiny_scene: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It writes a PLY file whatever it is called, which no viewer opens as an SPZ file."""
    monkeypatch.setattr(sys, "argv", ["/bin/ns-export", "gaussian-splat", "--output-filename", name])
    with pytest.raises(SplatkitError, match=f"splatkit export --load-config CONFIG --output {name}"):
        make_pipeline(tiny_scene, "inference")


@pytest.mark.parametrize("arguments", [[], ["--output-filename", "a.PLY"], ["--output-filename", "version_1.5"]])
def test_names_that_ns_export_may_give(arguments: list[str]) -> None:
    check_export_name(["ns-export", "gaussian-splat", *arguments])


@pytest.mark.parametrize("kind", ["orthographic", "Fisheye", "omnidirectional"])
def test_a_camera_path_that_ns_render_would_draw_as_another(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The command ended with status 0 and a video of perspective cameras."""
    path = tmp_path / "path.json"
    path.write_text(json.dumps({"camera_type": kind}))
    monkeypatch.setattr(sys, "argv", ["/bin/ns-render", "camera-path", f"--camera-path-filename={path}"])
    with pytest.raises(SplatkitError, match=f"{path} is for the camera type '{kind}', which cannot be drawn"):
        make_pipeline(tiny_scene, "inference")


@pytest.mark.parametrize("content", ['{"camera_type": "VR180"}', '{"camera_type": "fisheye"}', "{}", "[]", "{"])
def test_camera_paths_that_are_drawn_or_told_by_the_command(tmp_path: Path, content: str) -> None:
    path = tmp_path / "path.json"
    path.write_text(content)
    check_camera_path(["ns-render", "camera-path", "--camera-path-filename", str(path)])
