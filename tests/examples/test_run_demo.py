"""The demo's orchestration, with stand-ins for nerfstudio's commands that write what those write."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAIN = """
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
run = Path(options["--output-dir"]) / options["--experiment-name"] / sys.argv[1] / options["--timestamp"]
run.mkdir(parents=True)
(run / "config.yml").write_text(" ".join(sys.argv[1:]))
print("Step (% Done)\\n10 (50.00%)          5.1 ms")
"""
EVAL = """
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert Path(options["--load-config"]).is_file()
Path(options["--output-path"]).write_text(json.dumps({"results": {"psnr": 27.25}}))
folder = Path(options["--render-output-path"]); folder.mkdir()
for index in range(3):
    pair = Image.new("RGB", (320, 120), "red"); pair.paste("blue", (160, 0, 320, 120))
    pair.save(folder / f"eval_img_{index:04d}.png")
"""
EXPORT = """
folder = Path(sys.argv[sys.argv.index("--output-dir") + 1]); folder.mkdir()
(folder / "splat.ply").write_text("ply")
"""


@pytest.fixture
def programs(tmp_path: Path) -> Callable[..., Path]:
    def make(**bodies: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, body in {"train": TRAIN, "eval": EVAL, "export": EXPORT, **bodies}.items():
            program = folder / f"ns-{name}"
            head = f"#!{sys.executable}\nimport json, sys\nfrom pathlib import Path\nfrom PIL import Image\n"
            program.write_text(head + body)
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return folder

    return make


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    monkeypatch.syspath_prepend(EXAMPLES)
    import run_demo  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(run_demo, "SCENE_SCRIPT", tmp_path / "scene.py")
    (tmp_path / "scene.py").write_text("")
    return run_demo.main


def test_summary_names_psnr_ply_and_picture(
    main: Callable[..., int], programs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["--out", str(out), "--steps", "20"], programs()) == 0
    said = capsys.readouterr().out
    assert "PSNR of 3 held-out views: 27.25 dB" in said
    assert str(out / "export" / "splat.ply") in said
    assert str(out / "demo.png") in said
    assert f"{tmp_path / 'bin' / 'ns-viewer'} --load-config" in said, "a make demo activates no environment"
    words = (out / "outputs" / "scene" / "splatkit-3dgs-adc" / "demo" / "config.yml").read_text()
    assert words.startswith("splatkit-3dgs-adc --data")
    assert "--max-num-iterations 20 " in words
    assert " nerfstudio-data --eval-mode interval --eval-interval 8 --downscale-factor 1" in words
    sheet = Image.open(out / "demo.png").convert("RGB")
    assert sheet.size == (2 * 648 + 8, 34 + 2 * 248)
    assert sheet.getpixel((100, 150)) == (255, 0, 0)
    assert sheet.getpixel((500, 150)) == (0, 0, 255)


def test_second_run_replaces_the_first(main: Callable[..., int], programs: Callable[..., Path], tmp_path: Path) -> None:
    folder = programs(export=EXPORT.replace("mkdir()", "mkdir(exist_ok=True)"))
    assert main(["--out", str(tmp_path / "out")], folder) == 0
    assert main(["--out", str(tmp_path / "out")], folder) == 0


def test_failing_command_is_named_with_its_last_line_and_log(
    main: Callable[..., int], programs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = programs(eval="print('loading'); sys.exit('ValueError: no such thing')")
    assert main(["--out", str(tmp_path / "out")], folder) == 1
    told = capsys.readouterr().err
    log = tmp_path / "out" / "logs" / "eval.log"
    assert "The demo stopped: ns-eval failed with status 1: ValueError: no such thing" in told
    assert str(log) in told
    assert "loading" in log.read_text()


def test_missing_command_is_named(main: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "out")], tmp_path) == 1
    assert "ns-train is missing" in capsys.readouterr().err


def test_a_program_is_named_as_it_can_be_typed(
    main: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import run_demo  # pyright: ignore[reportMissingImports]

    program = tmp_path / ".venv" / "bin" / "ns-viewer"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    monkeypatch.setenv("PATH", "/usr/bin")
    assert run_demo.to_type(program) == str(program)
    monkeypatch.chdir(tmp_path)
    assert run_demo.to_type(program) == ".venv/bin/ns-viewer"
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    assert run_demo.to_type(program) == "ns-viewer"
