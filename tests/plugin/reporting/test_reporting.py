"""A user's mistake ends in its message alone, anything else in its traceback."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from importlib.util import module_from_spec
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_paths import get_interpolated_camera_path
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.scripts import train
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.scripts.exporter import ExportGaussianSplat, ExportMarchingCubesMesh
from nerfstudio.scripts.render import RenderCameraPath, SpiralRender
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.utils.rich_utils import CONSOLE

from splatkit_ns import methods
from splatkit_ns.errors import HookFailedError, SplatkitError
from splatkit_ns.plugin.reporting.console import report_once
from splatkit_ns.plugin.run.ending.excepthook import install_config_excepthook, install_excepthook

NerfstudioCommand = ComputePSNR | ExportGaussianSplat | ExportMarchingCubesMesh | RenderCameraPath | SpiralRender


@pytest.fixture
def previous(monkeypatch: pytest.MonkeyPatch) -> list[type[BaseException]]:
    """What reached the hook that was there before ours."""
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, traceback: seen.append(kind))
    return seen


def test_a_mistake_is_printed_whole_and_without_traceback(previous: list[type[BaseException]]) -> None:
    install_excepthook()
    with CONSOLE.capture() as capture:
        sys.excepthook(SplatkitError, SplatkitError("folder [x] is empty " + "very " * 60 + "long"), None)
    text = capture.get()
    assert text.startswith("Error: folder [x] is empty very very")
    assert text.count("\n") == 1, "the line is not broken, so that paths can be copied"
    assert "Traceback" not in text
    assert previous == []


def test_other_errors_look_as_before(previous: list[type[BaseException]]) -> None:
    install_excepthook()
    sys.excepthook(KeyError, KeyError("x"), None)
    sys.excepthook(HookFailedError, HookFailedError("a fault in code deserves its traceback"), None)
    assert previous == [KeyError, HookFailedError]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("(28, 'No space left')", "Error: [Errno 28] No space left. A file that was being written is incomplete.\n"),
        ("(30, 'Read-only', '/x/eval.json')", "Error: Read-only (/x/eval.json).\n"),
        ("(13, 'Permission denied', '/x/eval.json')", "Error: Permission denied (/x/eval.json).\n"),
    ],
)
@pytest.mark.parametrize(("module", "is_told"), [("nerfstudio.scripts.exporter", True), ("users_script", False)])
def test_a_file_that_cannot_be_written_is_told_by_the_commands_of_nerfstudio(
    previous: list[type[BaseException]], module: str, is_told: bool, error: str, told: str
) -> None:
    install_excepthook()
    with CONSOLE.capture() as capture:
        try:
            exec(f"raise OSError{error}", {"__name__": module})
        except OSError as raised:
            kind = type(raised)
            sys.excepthook(kind, raised, raised.__traceback__)
    assert (capture.get(), previous) == ((told, []) if is_told else ("", [kind]))


def test_a_path_of_one_camera(previous: list[type[BaseException]]) -> None:
    install_excepthook()
    camera = Cameras(torch.eye(4)[None, :3], fx=50.0, fy=50.0, cx=16.0, cy=12.0, width=32, height=24)
    with CONSOLE.capture() as capture:
        try:
            get_interpolated_camera_path(camera, steps=3, order_poses=False)
        except ValueError as error:
            sys.excepthook(ValueError, error, error.__traceback__)
    assert capture.get().startswith("Error: A path goes from camera to camera, but there is only one: --pose-source")
    assert previous == []


def ending(command: NerfstudioCommand) -> str:
    """What the hooks print when one of nerfstudio's commands fails."""
    with CONSOLE.capture() as capture:
        try:
            command.main()
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
    return capture.get()


def told_of(command: NerfstudioCommand, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the hook prints when one of nerfstudio's commands fails behind its checkpoint."""
    install_excepthook()
    module = sys.modules[type(command).__module__]
    monkeypatch.setattr(
        module, "eval_setup", lambda *args, **kwargs: (None, Mock(model=Mock(config=object())), None, None)
    )
    monkeypatch.setattr("nerfstudio.utils.install_checks.check_ffmpeg_installed", lambda: None)
    return ending(command)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read (No such file or directory)."),
        ("{", "is no JSON file (Expecting property name"),
        ('{"frames": []}', "is no camera path of nerfstudio's viewer, or is damaged: 'seconds' is missing."),
        (
            '{"seconds": 1, "render_height": 8, "render_width": 8, "camera_path": []}',
            "or is damaged: it has no frames; add at least two keyframes in the viewer.",
        ),
    ],
)
def test_a_file_that_is_no_camera_path(
    previous: list[type[BaseException]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
    told: str,
) -> None:
    path = tmp_path / "path.json"
    if content is not None:
        path.write_text(content)
    text = told_of(RenderCameraPath(load_config=tmp_path, camera_path_filename=path), monkeypatch)
    assert text.startswith(f"Error: --camera-path-filename: {path} ")
    assert told in text
    assert previous == []


def test_a_fault_behind_the_camera_path_looks_as_before(
    previous: list[type[BaseException]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = {"camera_to_world": torch.eye(4).flatten().tolist(), "fov": 50}
    content = {
        "seconds": 1,
        "render_height": 8,
        "render_width": 8,
        "camera_path": [frame],
        "camera_type": "perspective",
    }
    (tmp_path / "path.json").write_text(json.dumps(content))

    def fail(*args: object, **kwargs: object) -> None:
        raise KeyError("of a renderer")

    monkeypatch.setattr("nerfstudio.scripts.render._render_trajectory_video", fail)
    command = RenderCameraPath(load_config=tmp_path, camera_path_filename=tmp_path / "path.json")
    assert told_of(command, monkeypatch) == ""
    assert previous == [KeyError]


def test_commands_that_refuse_gaussians_say_what_to_do_instead(
    previous: list[type[BaseException]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = told_of(SpiralRender(load_config=tmp_path), monkeypatch)
    assert text.endswith("splatkit render --load-config CONFIG --output FILE.mp4\n")
    text = told_of(ExportMarchingCubesMesh(load_config=tmp_path, output_dir=tmp_path), monkeypatch)
    assert text.endswith("splatkit mesh --load-config CONFIG --output FILE.ply\n")
    assert previous == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "does not exist. ns-train prints"),
        ("a: [1", "cannot be read (ParserError"),
        (
            "a: !!python/object:gone_parts.MyLoss {}",
            "it names gone_parts.MyLoss: gone_parts cannot be imported: ModuleNotFoundError: No module named "
            "'gone_parts'. Install it, or put its folder on PYTHONPATH.",
        ),
        ("a: !!python/object:left_parts.MyLoss {}", "it names left_parts.MyLoss: left_parts has no 'MyLoss'. Did you"),
    ],
)
@pytest.mark.parametrize("command", ["ns-train", "ns-eval"])
def test_a_config_that_cannot_be_read_ends_nerfstudios_commands_with_one_message(
    previous: list[type[BaseException]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    content: str | None,
    told: str,
) -> None:
    (tmp_path / "left_parts.py").write_text("class MyLosses: pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", [f"/bin/{command}"])
    spec = methods.__spec__
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module_from_spec(spec))  # as nerfstudio does in a new process
    path = tmp_path / "config.yml"
    if content is not None:
        path.write_text(content)
    config = TrainerConfig(load_config=path)
    with CONSOLE.capture() as capture:
        try:
            train.main(config) if command == "ns-train" else eval_setup(path)
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
    assert f"Error: --load-config: {path} " in capture.get()
    assert told in capture.get()
    assert previous == []


@pytest.mark.parametrize(
    ("content", "told"), [(b"ply\n\xbf", "cannot be read (UnicodeDecodeError"), (b'{"a": 1}', "holds dict, no run;")]
)
def test_another_file_in_place_of_a_config_is_told(
    previous: list[type[BaseException]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, told: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/ns-eval"])
    install_config_excepthook()
    path = tmp_path / "scene.ply"
    path.write_bytes(content)
    text = ending(ComputePSNR(load_config=path))
    assert f"Error: --load-config: {path} {told}" in text
    assert previous == []


def test_outputs_that_nerfstudios_commands_cannot_write_are_told(
    previous: list[type[BaseException]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/ns-export"])
    install_config_excepthook()
    (tmp_path / "file").touch()
    text = ending(ExportGaussianSplat(load_config=tmp_path, output_dir=tmp_path / "file/export"))
    assert "Error: Not a directory" in text
    install_excepthook()
    monkeypatch.setattr("nerfstudio.scripts.eval.eval_setup", lambda *_: (None, object(), tmp_path, 0))
    text = ending(ComputePSNR(load_config=tmp_path, output_path=tmp_path / "figures.txt"))
    assert text == f"Error: --output-path is {tmp_path / 'figures.txt'}, expected a name that ends in .json.\n"
    assert previous == []


def test_only_commands_that_read_configs_tell_of_them(
    previous: list[type[BaseException]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sys.excepthook
    monkeypatch.setattr(sys, "argv", ["/bin/my-program"])
    install_config_excepthook()
    assert sys.excepthook is before
    monkeypatch.setattr(sys, "argv", ["/bin/ns-train"])
    install_config_excepthook()
    try:
        exec("open('/nowhere/x')", {"__name__": "nerfstudio.scripts.train"})
    except FileNotFoundError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    assert previous == [FileNotFoundError], "which is not the config"


def test_ctrl_c_ends_the_viewer_without_a_traceback(
    previous: list[type[BaseException]], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_excepthook()
    monkeypatch.setattr(sys, "argv", ["/bin/ns-viewer"])
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert previous == []
    monkeypatch.setattr(sys, "argv", ["/bin/my-program"])
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert previous == [KeyboardInterrupt]


def test_it_is_installed_once(previous: list[type[BaseException]]) -> None:
    install_excepthook()
    first = sys.excepthook
    install_excepthook()
    assert sys.excepthook is first


def test_notes_are_given_once() -> None:
    with CONSOLE.capture() as capture:
        report_once("a note for this test alone")
        report_once("a note for this test alone")
    assert capture.get().count("a note for this test alone") == 1


@pytest.mark.parametrize(
    ("name", "count", "told"),
    [
        ("splat.ply", 0, "No Gaussian is left to be written: none is in the box"),
        ("file/splat.ply", 1, "file/splat.ply"),
        ("folder", 1, "Is a directory"),
        ("missing/splat.ply", 1, "Make the folder in --output-filename first."),
    ],
)
def test_mistakes_of_an_export_are_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    count: int,
    told: str,
) -> None:
    """nerfstudio's command ends with a traceback otherwise."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    install_excepthook()
    try:
        ExportGaussianSplat.write_ply(str(tmp_path / name), count, OrderedDict(x=np.zeros(count, np.float32)))
    except (ValueError, OSError):
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    printed = capsys.readouterr()
    assert "Error:" in printed.out
    assert told in printed.out
    assert "Traceback" not in printed.err
