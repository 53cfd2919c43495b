"""Train FastGS and our methods in turn on scenes, judge both by the same code, and write a JSON line for each run.

    python benchmarks/against_fastgs.py SCENE... --fastgs FOLDER --runs fastgs splatkit-3dgs splatkit-3dgs-fast

FOLDER is a checkout of FastGS (https://github.com/fastgs/FastGS) whose three CUDA extensions can be imported, from
FOLDER/site, too. ``fastgs`` is its method with its own 30,000 steps, ``fastgs-big`` its variant with more Gaussians;
``fastgs-indoor`` and ``fastgs-big-indoor`` are the same with what its scripts have for rooms. Its seed is always the
same. Runs of ours are those of `train_gpu.py`, for each of the --seeds. The word FASTGS in one stands for the number of
Gaussians that FastGS, not its big variant, has had on the scene:
``splatkit-3dgs::pipeline.model.densification.max_gaussians=FASTGS``. A run that fails says why; the next one begins.

A scene is a folder with a ``transforms.json`` of pinhole cameras whose principal point is the middle of the image, for
FastGS knows no other, and with seed points. FastGS gets them in a folder of COLMAP's format. Both train with the same
photographs, of full size, and every 8th is held out. ``wall`` is the whole process, evaluation left out, ``train`` the
training loop, PSNR and SSIM are as in `train_gpu.py`; each method renders with its own rasterizer.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import train_gpu
from numpy.lib import recfunctions
from plyfile import PlyData, PlyElement
from scipy.spatial.transform import Rotation

FASTGS = {
    "fastgs": ("--densification_interval", "500", "--optimizer_type", "default"),
    "fastgs-indoor": (
        *("--densification_interval", "500", "--optimizer_type", "default"),
        *("--highfeature_lr", "0.02", "--grad_abs_thresh", "0.0008"),
    ),
    "fastgs-big": (
        *("--densification_interval", "100", "--optimizer_type", "default"),
        *("--grad_abs_thresh", "0.0008"),
    ),
    "fastgs-big-indoor": (
        *("--densification_interval", "100", "--optimizer_type", "default"),
        *("--highfeature_lr", "0.02", "--grad_abs_thresh", "0.0004"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="+", type=lambda path: Path(path).resolve())
    parser.add_argument("--fastgs", type=lambda path: Path(path).resolve(), help="checkout of FastGS")
    parser.add_argument("--runs", nargs="+", default=["fastgs", "splatkit-3dgs", "splatkit-3dgs-fast"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--note", default="", help="a word for all of these runs")
    parser.add_argument("--out", type=Path, required=True, help="file that JSON lines are added to")
    parser.add_argument("--worker", nargs=2, metavar=("RUN", "RESULT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        run, result = args.worker
        Path(result).write_text(json.dumps(train_fastgs(args.fastgs, args.scenes[0], run)))
        return
    if args.fastgs is None and any(run in FASTGS for run in args.runs):
        parser.error("FastGS needs --fastgs FOLDER.")
    for scene in args.scenes:
        for seed in args.seeds:
            for run in args.runs:
                if run in FASTGS and seed != args.seeds[0]:
                    continue
                try:
                    if run in FASTGS and args.fastgs is not None:
                        row = {"run": run, **run_fastgs(args.fastgs, scene, run, args.out)}
                    else:
                        row = train_gpu.run_process(scene, with_fastgs_number(run, scene, args.out), seed)
                except SystemExit as error:
                    print(error, flush=True)
                    continue
                row = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
                row = {"scene": scene.name, "note": args.note, "device": train_gpu.machine()["device"], **row}
                with args.out.open("a") as results:
                    results.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


def with_fastgs_number(run: str, scene: Path, results: Path) -> str:
    """A run with the number of Gaussians of FastGS's last run on the scene in the place of the word FASTGS.

    Raises:
        SystemExit: If there is the word, but no such run among the results.
    """
    if "FASTGS" not in run:
        return run
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    of_fastgs = [row for row in rows if row["scene"] == scene.name and row["run"] in ("fastgs", "fastgs-indoor")]
    if not of_fastgs:
        raise SystemExit(f"{run} on {scene.name}: {results} has no run of FastGS there.")
    return run.replace("FASTGS", str(of_fastgs[-1]["gaussians"]))


def run_fastgs(checkout: Path, scene: Path, run: str, out: Path) -> dict[str, Any]:
    """Train FastGS in a process of its own; returns its figures."""
    with tempfile.TemporaryDirectory() as folder:
        colmap = write_colmap(scene, Path(folder) / "scene")
        result, log = Path(folder) / "result.json", Path(folder) / "log.txt"
        command = [sys.executable, __file__, str(colmap), "--fastgs", str(checkout), "--out", str(out)]
        paths = [str(checkout / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        began = time.perf_counter()
        with log.open("w") as file:
            status = subprocess.run(
                [*command, "--worker", run, str(result)],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                check=False,
            )
        seconds = time.perf_counter() - began
        if status.returncode or not result.exists():
            raise SystemExit(f"{log.read_text()[-3000:]}\n{run} on {scene.name} failed: status {status.returncode}")
        row = json.loads(result.read_text())
    return {"wall_s": seconds - row.pop("eval_s"), **row}


def train_fastgs(checkout: Path, scene: Path, run: str) -> dict[str, Any]:
    """Train with FastGS's own program, and measure, in this process."""
    sys.path[:] = [str(checkout), *(path for path in sys.path if Path(path).resolve() != Path(__file__).parent)]
    model = Path("model").resolve()
    arguments = ["-s", str(scene), "-m", str(model), "--eval", "-r", "1"]
    sys.argv = ["train.py", *arguments, *FASTGS[run]]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(checkout / "train.py"), run_name="__main__")
    import torch

    peak = torch.cuda.max_memory_allocated() / 2**20
    began = time.perf_counter()
    found = measure_fastgs(arguments)
    seconds = re.search(r"Training time: ([0-9.]+)", printed.getvalue())
    return {
        "train_s": float(seconds[1]) if seconds else float("nan"),
        "peak_mib": peak,
        **found,
        "eval_s": time.perf_counter() - began,
    }


def measure_fastgs(arguments: list[str]) -> dict[str, Any]:
    """Mean PSNR and SSIM over the held-out images of the model that FastGS has written, as `train_gpu.evaluate`."""
    import torch
    from pytorch_msssim import ssim

    settings: Any = importlib.import_module("arguments")
    renderer: Any = importlib.import_module("gaussian_renderer")
    scenes: Any = importlib.import_module("scene")
    parser = argparse.ArgumentParser()
    groups = [kind(parser) for kind in (settings.ModelParams, settings.OptimizationParams, settings.PipelineParams)]
    dataset, options, pipe = (group.extract(parser.parse_args(arguments)) for group in groups)
    psnrs: list[float] = []
    ssims: list[float] = []
    with torch.no_grad():
        gaussians = scenes.GaussianModel(dataset.sh_degree, optimizer_type="default")
        scene = scenes.Scene(dataset, gaussians, load_iteration=-1, shuffle=False)
        black = torch.zeros(3, device=gaussians.get_xyz.device)
        for view in scene.getTestCameras():
            rendered = renderer.render_fastgs(view, gaussians, pipe, black, options.mult)["render"].clamp(0, 1)
            target = view.original_image[:3].to(rendered)
            psnrs.append(float(-10 * torch.log10((rendered - target).square().mean())))
            ssims.append(float(ssim(rendered[None], target[None], data_range=1.0)))
    return {
        "steps": scene.loaded_iter,
        "gaussians": len(gaussians.get_xyz),
        "psnr": sum(psnrs) / len(psnrs),
        "ssim": sum(ssims) / len(ssims),
        "held_out": len(psnrs),
        "trained_on": len(scene.getTrainCameras()),
    }


def write_colmap(scene: Path, folder: Path) -> Path:
    """Write a scene with a ``transforms.json`` as COLMAP's text model, with links to its images; returns the folder.

    Raises:
        SystemExit: If FastGS cannot take its cameras.
    """
    transforms = json.loads((scene / "transforms.json").read_text())
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    (folder / "images").mkdir()
    cameras: list[str] = []
    images: list[str] = []
    frames = sorted(transforms["frames"], key=lambda frame: frame["file_path"])
    for number, frame in enumerate(frames, 1):
        values = transforms | frame
        lens = [key for key in ("k1", "k2", "k3", "k4", "p1", "p2") if values.get(key)]
        width, height, cx, cy = (values[key] for key in ("w", "h", "cx", "cy"))
        if lens or abs(2 * cx - width) > 0.01 or abs(2 * cy - height) > 0.01:
            raise SystemExit(f"{scene.name}: FastGS needs pinhole cameras with the principal point in the middle.")
        camera_to_world = np.array(frame["transform_matrix"], dtype=np.float64)
        camera_to_world[:3, 1:3] *= -1
        world_to_camera = np.linalg.inv(camera_to_world)
        x, y, z, w = Rotation.from_matrix(world_to_camera[:3, :3]).as_quat()
        pose = " ".join(repr(float(value)) for value in (w, x, y, z, *world_to_camera[:3, 3]))
        source = scene / frame["file_path"]
        name = f"{number:05d}{source.suffix}"
        (folder / "images" / name).symlink_to(source)
        cameras.append(f"{number} PINHOLE {width} {height} {values['fl_x']!r} {values['fl_y']!r} {cx} {cy}\n")
        images.append(f"{number} {pose} {number} {name}\n\n")
    (model / "cameras.txt").write_text("".join(cameras))
    (model / "images.txt").write_text("".join(images))
    points = PlyData.read(scene / transforms["ply_file_path"])["vertex"].data
    names = ("x", "y", "z", "nx", "ny", "nz", "red", "green", "blue")
    vertices = np.zeros(len(points), dtype=[(name, "u1" if name in names[6:] else "f4") for name in names])
    recfunctions.assign_fields_by_name(vertices, points)
    PlyData([PlyElement.describe(vertices, "vertex")]).write(model / "points3D.ply")
    return folder


if __name__ == "__main__":
    main()
