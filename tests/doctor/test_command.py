"""``splatkit doctor`` as people call it, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from splatkit_ns.cli import main
from splatkit_ns.doctor import command, storage
from splatkit_ns.doctor.findings import Finding
from splatkit_ns.doctor.options import split_arguments
from splatkit_ns.plugin.reporting.console import report_once
from tests.cli.helpers import refused
from tests.tiny_scene import write_tiny_blender, write_tiny_colmap, write_tiny_scene

NAMES = (
    "python", "splatkit", "packages", "bytecode", "gpu", "gsplat", "cpu_kernels", "compiler", "memory", "outputs",
    "disk", "caches", "ffmpeg", "colmap", "lpips",
)  # fmt: skip
SPLIT = ("nerfstudio-data", "--eval-mode", "interval", "--eval-interval", "4")
COLMAP = ("colmap", "--colmap-path", "sparse/0")
DATA_NAMES = ("data", "photographs", "held_out", "lenses", "masks", "seed_points", "image_memory")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One finding about the machine."""
    monkeypatch.setattr(command, "examine_machine", lambda _: [Finding("python", "ok", "3.11")])


def found(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, dict]:
    status = main(["doctor", "--json", *map(str, arguments)])
    return status, json.loads(capsys.readouterr().out)


def checks(result: dict) -> dict[str, str]:
    return {check["name"]: check["status"] for check in result["checks"]}


def test_this_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, result = found(capsys, "--outputs", tmp_path / "new")
    assert status == int(result["status"] == "fault")
    assert result["data"] is None
    names = checks(result)
    assert set(NAMES) - {"cpu_kernels"} <= set(names), "names are the same on every machine"
    assert names["outputs"] == "ok"
    for check in result["checks"]:
        assert check["text"]
        assert check["status"] == "ok" or check["command"] or check["advice"]
    assert not (tmp_path / "new").exists()


def test_checks_that_fail_several_times_are_named_once() -> None:
    faults = [Finding("damaged", "fault", "a.png"), Finding("disk", "fault", "full"), Finding("damaged", "fault", "b")]
    assert command.summary(faults) == "3 fault(s), 0 note(s): mend damaged, disk before training."


def test_a_fault_ends_with_status_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "free_host_memory", lambda: 10)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["doctor", "--outputs", "/tmp"]) == 1
    lines = capsys.readouterr().out.splitlines()
    (fault,) = [line for line in lines if line.startswith("fault")]
    assert fault.startswith("fault  memory       9.31e-09 GiB free")
    assert lines[-1].startswith("1 fault(s)")
    assert "mend memory" in lines[-1]
    commands = ("ns-train", "pip", "python", "sudo", "export", "conda", "du")
    assert all(len(line) <= 80 for line in lines if not line.strip().startswith(commands))


@pytest.mark.usefixtures("quick")
def test_text_is_wrapped_and_commands_are_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "pip install " + "a-very-long-name " * 8
    finding = Finding("disk", "note", "words " * 30, "Do [this]:", long.strip())
    monkeypatch.setattr(command, "examine_machine", lambda _: [finding])
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("note   disk         words words")
    assert " " * 20 + long.strip() in lines
    assert " " * 20 + "Do [this]:" in lines, "brackets are no markup"
    assert max(len(line) for line in lines if "pip" not in line) <= 80
    assert lines[-1] == "No fault, 1 note(s): ready to train."


def test_arguments_are_set_apart() -> None:
    own, rest = split_arguments(["--data", "d", "--json", "colmap", "--data", "x", "--json"])
    assert own == ["--data", "d", "--json"]
    assert rest == ("colmap", "--data", "x", "--json")
    assert split_arguments(["--data=d", "--pipeline.datamanager.cache-gib", "2", "--outputs", "o"]) == (
        ["--data=d"],
        ("--pipeline.datamanager.cache-gib", "2", "--outputs", "o"),
    )
    assert split_arguments(["--outputs", "colmap"]) == (["--outputs", "colmap"], ())


@pytest.mark.usefixtures("quick")
def test_options_that_do_not_exist(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "Not an option of splatkit doctor: --jsom." in refused(capsys, "doctor", "--jsom")
    with pytest.raises(SystemExit) as raised:
        main(["doctor", "--data", str(tmp_path), "colmap", "--eval-mod", "all"])
    assert raised.value.code == 2
    assert "--eval-mode" in capsys.readouterr().err
    text = refused(capsys, "doctor", "--data", tmp_path, "--pipeline.datamanager.cache-gib", "-1")
    assert "--pipeline.datamanager.cache-gib is -1" in text
    text = refused(capsys, "doctor", "--data", tmp_path, "colmap", "--eval-interval", "0")
    assert "--eval-interval of the dataparser is 0" in text


@pytest.mark.usefixtures("quick")
def test_a_data_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_tiny_scene(tmp_path, masks=True)
    status, result = found(capsys, "--data", tmp_path, *SPLIT)
    assert status == 0
    assert tuple(checks(result))[1:] == DATA_NAMES
    data = result["data"]
    total = data["training_images"] + len(data["held_out_images"])
    assert total == len(list((tmp_path / "images").iterdir()))
    assert data["sizes"] == [{"width": 32, "height": 24, "images": data["training_images"]}]
    assert data["lenses"] == {"pinhole": data["training_images"]}
    assert data["seed_points"] == 48
    assert data["masks"] == data["training_images"]
    assert data["masked_share"] == pytest.approx(1 / 16)
    assert data["image_bytes"] == total * 32 * 24 * (3 + 1)
    assert data["damaged"] == data["notes"] == []
    for mask in (tmp_path / "masks").iterdir():
        Image.new("L", (32, 24)).save(mask)
    status, result = found(capsys, "--data", tmp_path, *SPLIT)
    assert (status, checks(result)["masks"]) == (1, "fault")


@pytest.mark.usefixtures("quick")
def test_lenses_are_undistorted_or_not(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_tiny_scene(tmp_path) / "transforms.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "k1": -0.2}))
    for options, expected in (
        ([], "of the pixels, without distortion ("),
        (["--pipeline.datamanager.undistort", "False"], "as they are"),
    ):
        _, result = found(capsys, "--data", tmp_path, *options, *SPLIT)
        (text,) = [check["text"] for check in result["checks"] if check["name"] == "lenses"]
        assert text.startswith("6 perspective with distortion; training uses ")
        assert expected in text


@pytest.mark.usefixtures("quick")
def test_other_formats_and_their_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_tiny_colmap(tmp_path / "colmap")
    status, result = found(capsys, "--data", tmp_path / "colmap", *COLMAP, "--eval-mode", "all")
    assert status == 0
    assert checks(result)["held_out"] == "note"
    held = result["data"]["held_out_images"]
    assert len(held) == result["data"]["training_images"]
    write_tiny_blender(tmp_path / "blender")
    status, result = found(capsys, "--data", tmp_path / "blender")
    assert status == 1, "the dataparser is not the right one"
    (fault,) = [check for check in result["checks"] if check["status"] == "fault"]
    assert "blender-data --data" in fault["text"]
    assert result["data"] is None


@pytest.mark.usefixtures("quick")
def test_what_is_damaged_or_not_honoured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_tiny_scene(tmp_path)
    meta = json.loads((tmp_path / "transforms.json").read_text())
    meta["camera_kind"] = "mine"
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    names = sorted((tmp_path / "images").iterdir())
    for path in names[1:3]:
        path.write_bytes(path.read_bytes()[:-60])  # its header is whole
    status, result = found(capsys, "--data", tmp_path, *SPLIT)
    assert status == 1
    damaged = [check["text"] for check in result["checks"] if check["name"] == "damaged"]
    assert len(damaged) == 2, "each is named, not only the first"
    assert all(path.name in text for path, text in zip(names[1:3], damaged, strict=True))
    (note,) = result["data"]["notes"]
    assert "'camera_kind'" in note
    assert checks(result)["not_honoured"] == "note"
    report_once("a note after the command")
    assert "a note after the command" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_a_picture_that_is_decoded_with_errors(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_tiny_scene(tmp_path)
    meta = json.loads((tmp_path / "transforms.json").read_text())
    for frame in meta["frames"]:
        path = tmp_path / frame["file_path"]
        frame["file_path"] = f"images/{path.stem}.jpg"
        Image.open(path).convert("RGB").save(tmp_path / frame["file_path"], quality=98)
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    _, result = found(capfd, "--data", tmp_path, *SPLIT)
    assert "damaged" not in checks(result)
    broken = tmp_path / meta["frames"][1]["file_path"]
    content = broken.read_bytes()
    broken.write_bytes(content[:-300] + bytes(200) + content[-100:])  # its end is whole
    status, result = found(capfd, "--data", tmp_path, *SPLIT)
    assert status == 0, "it can be trained on"
    (told,) = [check["text"] for check in result["checks"] if check["name"] == "damaged"]
    assert told.startswith(f"{broken}: its decoder says: Corrupt JPEG data")


@pytest.mark.usefixtures("quick")
def test_a_data_set_that_cannot_be_opened(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, result = found(capsys, "--data", tmp_path / "none")
    assert status == 1
    assert "does not exist" in result["checks"][-1]["text"]


@pytest.mark.usefixtures("quick")
def test_a_question_of_nerfstudio_s_is_not_asked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its colmap dataparser asks in the terminal whether to make smaller images, and would write them."""

    def asked() -> None:
        raise AssertionError("the terminal was asked")

    monkeypatch.setattr("sys.stdin", _Terminal(asked))
    write_tiny_colmap(tmp_path)
    status, result = found(capsys, "--data", tmp_path, *COLMAP, "--downscale-factor", "2")
    assert status == 1
    assert "--downscale-factor 1" in result["checks"][-1]["text"]


class _Terminal:
    def __init__(self, asked: Callable[[], None]) -> None:
        self.readline = lambda *_: asked()

    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("quick")
def test_pictures_of_another_size_than_their_cameras(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_tiny_scene(tmp_path)
    path = sorted((tmp_path / "images").iterdir())[0]
    with Image.open(path) as image:
        image.resize((16, 12)).save(path)
    status, result = found(capsys, "--data", tmp_path)
    assert status == 1
    assert "16×12 pixels, its camera says 32×24" in result["checks"][-1]["text"]
