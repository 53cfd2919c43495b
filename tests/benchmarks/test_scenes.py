"""benchmarks/scenes.py: which scenes it finds, what it runs, and its table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.tiny_scene import write_tiny_blender, write_tiny_colmap, write_tiny_scene

HERE = {"device": "CPU", "torch": "2"}


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import scenes  # type: ignore[import-not-found]

    monkeypatch.setattr(scenes, "machine", lambda: HERE)
    return scenes


def row(run: str, seed: int, **more: Any) -> dict[str, Any]:
    """The figures of a run, as train_gpu.py gives them."""
    figures = {"psnr": 20.0 + seed, "ssim": 0.5, "wall_s": 12.0, "train_s": 2.0, "peak_mib": 0.0, "host_mib": 900.0}
    return {"run": run, "seed": seed, "gaussians": 1000 * seed, **figures, **more}


def test_scenes_are_found_in_folders(scenes: ModuleType, tmp_path: Path) -> None:
    write_tiny_colmap(tmp_path / "all" / "b", num_views=4)
    write_tiny_blender(tmp_path / "all" / "a", num_views=4)
    (tmp_path / "all" / "notes").mkdir()
    write_tiny_scene(tmp_path / "single", num_views=4)
    found = scenes.find_scenes([tmp_path / "single", tmp_path / "all", tmp_path / "none"])
    assert [path.name for path in found] == ["single", "a", "b"]


def test_runs_of_train_gpu(scenes: ModuleType, tmp_path: Path) -> None:
    half = "pipeline.datamanager.camera_res_scale_factor=0.5"
    assert scenes.run_of("splatkit-3dgs", 1) == "splatkit-3dgs"
    assert scenes.run_of("splatkit-3dgs", 2) == f"splatkit-3dgs::{half}"
    assert scenes.run_of("splatkit-3dgs:70:pipeline.model.sh_degree=2", 2) == (
        f"splatkit-3dgs:70:pipeline.model.sh_degree=2,{half}"
    )
    write_tiny_colmap(tmp_path, num_views=4)
    config = sys.modules["train_gpu"].method_config(tmp_path, scenes.run_of("splatkit-3dgs-fast", 2))
    parser = config.pipeline.datamanager.dataparser
    assert (parser.colmap_path, parser.eval_mode, parser.eval_interval) == (Path("sparse/0"), "interval", 8)
    assert config.pipeline.datamanager.camera_res_scale_factor == 0.5
    assert config.max_num_iterations == 6500
    assert sys.modules["train_gpu"].method_config(tmp_path, "splatkit-3dgs-fast:70").max_num_iterations == 70


def test_the_table(scenes: ModuleType) -> None:
    runs = [
        {"scene": scene, "method": "ours", **row("ours", seed, lpips=0.1)} for scene in ("a", "b") for seed in (1, 3)
    ]
    runs.append({"scene": "a", "method": "theirs", **row("theirs", 5, peak_mib=123.0)})
    lines = [line.split() for line in scenes.table(runs).splitlines()]
    assert lines[0] == ["scene", "method", "PSNR", "SSIM", "LPIPS", "wall", "s", "train", "s", "memory", "Gaussians"]
    assert lines[1] == ["a", "ours", "22.00", "0.5000", "0.1000", "12.0", "2.0", "900", "2,000"]
    assert lines[2] == ["a", "theirs", "25.00", "0.5000", "-", "12.0", "2.0", "123", "5,000"]
    assert [line[:3] for line in lines[3:]] == [["b", "ours", "22.00"], ["mean", "ours", "22.00"]], (
        "a mean only of methods that have all scenes"
    )


def test_a_table_goes_on_and_a_failed_run_does_not_end_it(
    scenes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_colmap(tmp_path / "data" / "a", num_views=4)
    out, asked = tmp_path / "out.json", []

    def run(scene: Path, run: str, seed: int, lpips: bool) -> dict[str, Any]:
        asked.append((scene.name, run, seed, lpips))
        if run == "bad":
            raise SystemExit("bad failed with status 1")
        return row(run, seed)

    monkeypatch.setattr(scenes, "run_process", run)
    arguments = ["scenes.py", str(tmp_path / "data"), "--methods", "bad", "good", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert scenes.main() == 1
    assert asked == [("a", "bad", 42, True), ("a", "good", 42, True)]
    assert "failed: a: bad failed with status 1" in capsys.readouterr().out
    assert json.loads(out.read_text())["runs"][0]["method"] == "good"
    monkeypatch.setattr(sys, "argv", [*arguments[:3], "good", "--seeds", "42", "7", "--out", str(out), "--no-lpips"])
    asked.clear()
    assert scenes.main() == 0
    assert asked == [("a", "good", 7, False)]
    monkeypatch.setattr(scenes, "machine", lambda: {"device": "H100"})
    with pytest.raises(SystemExit, match="of another machine"):
        scenes.main()


def test_scenes_of_one_name_are_refused(
    scenes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("x", "y"):
        write_tiny_colmap(tmp_path / folder / "a", num_views=4)
    monkeypatch.setattr(sys, "argv", ["scenes.py", str(tmp_path / "x"), str(tmp_path / "y")])
    with pytest.raises(SystemExit):
        scenes.main()
    assert "several scenes are named a" in capsys.readouterr().err
