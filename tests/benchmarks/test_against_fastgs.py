"""benchmarks/against_fastgs.py: the scenes that it gives to FastGS, and the figures of a run."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from plyfile import PlyData

from tests.tiny_scene import write_tiny_colmap, write_tiny_scene

TRAIN = """
from argparse import ArgumentParser
from arguments import ModelParams

args = ArgumentParser()
ModelParams(args)
args.add_argument("--densification_interval", type=int)
print("Training time:", args.parse_known_args()[0].densification_interval / 40)
"""
ARGUMENTS = """
class Params:
    def __init__(self, parser):
        if type(self) is Params:
            return
        parser.add_argument("-s", dest="source")
        parser.add_argument("-m", dest="model")
        parser.add_argument("-r", dest="images")
        parser.add_argument("--eval", action="store_true")

    def extract(self, args):
        args.sh_degree, args.mult = 3, 0.5
        return args


class ModelParams(Params):
    pass


OptimizationParams = PipelineParams = Params
"""
SCENE = """
import torch
from pathlib import Path
from types import SimpleNamespace


class GaussianModel:
    def __init__(self, degree, optimizer_type):
        self.get_xyz = torch.zeros(5, 3)


class Scene:
    def __init__(self, args, gaussians, load_iteration, shuffle):
        self.loaded_iter = 30000
        self.names = sorted(path.name for path in Path(args.source, "images").iterdir())

    def getTestCameras(self):
        return [SimpleNamespace(original_image=torch.full((3, 16, 16), 0.5)) for _ in self.names[::8]]

    def getTrainCameras(self):
        return [name for i, name in enumerate(self.names) if i % 8]
"""
RENDERER = """
def render_fastgs(view, gaussians, pipe, background, mult):
    return {"render": view.original_image + 0.1}
"""


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import against_fastgs  # type: ignore[import-not-found]

    return against_fastgs


def test_cameras_and_points_are_those_of_the_scene(benchmark: ModuleType, tmp_path: Path) -> None:
    scene = write_tiny_scene(tmp_path / "scene", num_views=5)
    written = benchmark.write_colmap(scene, tmp_path / "written")
    expected = write_tiny_colmap(tmp_path / "expected", num_views=5)
    poses = [
        [np.array(line.split()[1:8], dtype=float) for line in lines[::2]]
        for lines in (
            [line for line in (folder / "sparse/0/images.txt").read_text().splitlines() if not line.startswith("#")]
            for folder in (written, expected)
        )
    ]
    assert len(poses[0]) == 5
    for found, wanted in zip(*poses, strict=True):
        np.testing.assert_allclose(found[:4] * np.sign(found[0] * wanted[0]), wanted[:4], atol=1e-12)
        np.testing.assert_allclose(found[4:], wanted[4:], atol=1e-12)
    camera = (written / "sparse/0/cameras.txt").read_text().splitlines()[4].split()
    assert camera[:4] == ["5", "PINHOLE", "32", "24"]
    images = sorted((written / "images").iterdir())
    assert [image.resolve().name for image in images] == [f"frame_{i:05d}.png" for i in range(5)]
    points = PlyData.read(written / "sparse/0/points3D.ply")["vertex"]
    seeds = PlyData.read(scene / "sparse_pc.ply")["vertex"]
    for name in ("x", "y", "z", "red", "green", "blue"):
        np.testing.assert_array_equal(points[name], seeds[name])
    assert not points["nx"].any()


def test_cameras_that_fastgs_does_not_know_are_refused(benchmark: ModuleType, tmp_path: Path) -> None:
    scene = write_tiny_scene(tmp_path / "scene", num_views=3)
    transforms = json.loads((scene / "transforms.json").read_text())
    for name, value in (("cx", 15.0), ("k1", 0.1)):
        (scene / "transforms.json").write_text(json.dumps({**transforms, name: value}))
        with pytest.raises(SystemExit, match="principal point in the middle"):
            benchmark.write_colmap(scene, tmp_path / name)


def test_figures_of_a_run(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program with FastGS's files in the place of FastGS, which needs a GPU."""
    checkout = tmp_path / "checkout"
    for name, text in (
        ("train.py", TRAIN),
        ("arguments.py", ARGUMENTS),
        ("scene.py", SCENE),
        ("gaussian_renderer.py", RENDERER),
    ):
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text(text)
    scene = write_tiny_scene(tmp_path / "scene", num_views=10)
    monkeypatch.setattr(benchmark.train_gpu, "machine", lambda: {"device": "CPU"})
    monkeypatch.setattr(benchmark.train_gpu, "run_process", lambda _, run, seed: {"run": run, "seed": seed})
    out = tmp_path / "out.jsonl"
    command = ["against_fastgs.py", str(scene), "--fastgs", str(checkout), "--out", str(out), "--seeds", "1", "2"]
    monkeypatch.setattr("sys.argv", [*command, "--runs", "fastgs", "splatkit-3dgs"])
    benchmark.main()
    first, *others = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["run"], row["seed"]) for row in others] == [("splatkit-3dgs", 1), ("splatkit-3dgs", 2)]
    assert (first["run"], first["held_out"], first["trained_on"], first["gaussians"]) == ("fastgs", 2, 8, 5)
    assert first["psnr"] == pytest.approx(20, abs=1e-3)
    assert (first["train_s"], first["steps"]) == (12.5, 30000)
    assert 0 < first["wall_s"] < 60

    at_its_number = "splatkit-3dgs::pipeline.model.densification.max_gaussians"
    monkeypatch.setattr("sys.argv", [*command[:-1], "--runs", f"{at_its_number}=FASTGS"])
    benchmark.main()
    assert json.loads(out.read_text().splitlines()[-1])["run"] == f"{at_its_number}=5"
    out.unlink()
    monkeypatch.setattr("sys.argv", [*command[:-1], "--runs", "fastgs-big", f"{at_its_number}=FASTGS"])
    benchmark.main()
    assert [json.loads(line)["train_s"] for line in out.read_text().splitlines()] == [2.5]
    assert "no run of FastGS" in capsys.readouterr().out

    monkeypatch.setattr("sys.argv", [*command[:-1], "--runs", "fastgs", "splatkit-3dgs"])
    (checkout / "train.py").write_text("raise SystemExit('no GPU')")
    benchmark.main()
    assert "no GPU" in capsys.readouterr().out
    assert len(out.read_text().splitlines()) == 2
