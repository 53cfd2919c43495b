"""Train methods on a made scene whose surfaces are known, make meshes, and print how far they are from the truth.

    python benchmarks/mesh_quality.py render OUT --runs splatkit-3dgs:2000 splatkit-3dgs-mcmc:2000
    python benchmarks/mesh_quality.py measure OUT

``render`` makes the scene, trains, and saves what the training cameras see (depth, colour, poses) in OUT, one .npz a
run. ``measure`` fuses these and measures the meshes; it needs open3d, ``render`` does not, so the two may run on
different machines. Distances are in thousandths of the scene's unit: its ball has a radius of 450, and a pixel covers
about 18 at the default size.

A run is METHOD:STEPS, optionally with overrides of the method's config:
``splatkit-3dgs:2000:pipeline.model.sh_degree=2``. "truth" is a fusion of the true depths:
the error of voxels and pixels alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the made scene, which the tests use, too

from train_gpu import machine, method_config

from splatkit_ns.mesh.views import DepthView
from tests import made_scene

OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    render = commands.add_parser("render")
    render.add_argument("out", type=Path)
    render.add_argument("--runs", nargs="+", default=["splatkit-3dgs:2000"])
    render.add_argument("--seeds", type=int, nargs="+", default=[42])
    render.add_argument("--width", type=int, default=made_scene.WIDTH, help="of the pictures, in pixels")
    render.add_argument("--views", type=int, default=made_scene.NUM_VIEWS)
    render.add_argument("--device", choices=["cpu", "cuda"])
    measure = commands.add_parser("measure")
    measure.add_argument("out", type=Path)
    measure.add_argument("--voxels-per-pixel", type=float, default=1.5)
    measure.add_argument("--truncation", type=float, default=4.0, help="in voxels")
    measure.add_argument("--meshes", type=Path, help="folder to write the meshes to")
    measure.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    if args.command == "render":
        render_runs(args)
    else:
        measure_runs(args)


# ---------------------------------------------------------------------------------------------------------- rendering


def file_name(run: str) -> str:
    """A run's name as a file may have it; of a long one the start, and a digest of all."""
    name = re.sub(r"[^A-Za-z0-9.=-]+", "_", run)
    return name if len(name) <= 200 else f"{name[:180]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def render_runs(args: argparse.Namespace) -> None:
    """Make the scene, and train and save each run; runs that are there already are left out."""
    height = args.width * made_scene.HEIGHT // made_scene.WIDTH
    args.out.mkdir(parents=True, exist_ok=True)
    pictures = made_scene.made_views(args.views, args.width, height)
    true_views = [
        DepthView(
            picture.depth.astype(np.float32),
            picture.rgb.astype(np.float32),
            made_scene.intrinsics(args.width, height),
            picture.cam_to_world @ OPENCV,
        )
        for picture in pictures
    ]
    about: dict[str, Any] = {"steps": 0, "train_s": 0.0, "gaussians": 0, "machine": machine()}
    save(args.out / "truth.npz", true_views, {"run": "truth", "seed": 0, **about})
    with tempfile.TemporaryDirectory() as folder:
        scene = made_scene.write_made_scene(Path(folder), num_views=args.views, width=args.width, height=height)
        for run in args.runs:
            for seed in args.seeds:
                path = args.out / f"{file_name(run)}-{seed}.npz"
                if path.exists():
                    print(f"{path} is there already")
                    continue
                views, figures = train(scene, run, seed, args.device)
                save(path, views, {"run": run, "seed": seed, **about, **figures})
                print(f"{path}: {figures}", flush=True)


def train(scene: Path, run: str, seed: int, device: str | None) -> tuple[list[DepthView], dict[str, Any]]:
    """Train on all pictures, and see the scene through all cameras, in the scene's own frame."""
    import torch
    from nerfstudio.scripts import train as script

    from splatkit_ns.mesh.run_views import RunViews

    config = method_config(scene, run)
    config.pipeline.datamanager.dataparser.eval_mode = "all"
    config.machine.seed = seed
    config.machine.device_type = device or ("cuda" if torch.cuda.is_available() else "cpu")
    config.vis = "none"
    config.logging.local_writer.enable = False
    with tempfile.TemporaryDirectory() as folder:
        config.output_dir = Path(folder)
        script._set_random_seed(seed)
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    rendered = RunViews(trainer.pipeline.eval(), min_accumulation=0.5)
    world = rendered.frame("world")
    views = [in_scene(view, world) for view in rendered.views()]
    figures = {
        "steps": config.max_num_iterations,
        "train_s": seconds,
        "gaussians": int(trainer.pipeline.model.num_points),
        "surface_depth": rendered.has_surface_depth,
        "distortion": mean_distortion(trainer.pipeline, world.scale),
    }
    return views, figures


def mean_distortion(pipeline: Any, scale: float) -> float | None:
    """The spread of the discs along a ray, over all training cameras, in the scene's units; None for 3DGS."""
    import torch

    cameras = pipeline.datamanager.train_dataset.cameras.to(pipeline.device)
    means: list[float] = []
    for index in range(len(cameras)):
        with torch.no_grad():
            outputs = pipeline.model.get_outputs_for_camera(cameras[index : index + 1])
        if "distortion" not in outputs:
            return None
        means.append(float(outputs["distortion"].mean()) / scale)
    return sum(means) / len(means)


def in_scene(view: DepthView, frame: Any) -> DepthView:
    """A view of nerfstudio's frame in the scene's."""
    pose = np.eye(4)
    pose[:3, :3] = np.linalg.inv(frame.rotation) @ view.cam_to_world[:3, :3]
    pose[:3, 3] = frame.to_original(view.cam_to_world[None, :3, 3])[0]
    return dataclasses.replace(view, depth=view.depth / np.float32(frame.scale), cam_to_world=pose)


def save(path: Path, views: list[DepthView], about: dict[str, Any]) -> None:
    """All views in one file; colours in 8 bits."""
    np.savez_compressed(
        path,
        depth=np.stack([view.depth for view in views]),
        color=np.stack([np.round(255 * view.color).astype(np.uint8) for view in views]),
        K=np.stack([view.K for view in views]),
        cam_to_world=np.stack([view.cam_to_world for view in views]),
        about=json.dumps(about),
    )


# ---------------------------------------------------------------------------------------------------------- measuring


def measure_runs(args: argparse.Namespace) -> None:
    """Fuse and measure every file of the folder, the truth first."""
    from splatkit_ns.mesh.fusion import fuse
    from splatkit_ns.mesh.scale import choose_sizes
    from splatkit_ns.mesh.surface import drop_small_components
    from splatkit_ns.mesh.writing import write_mesh
    from tests.mesh_quality import mesh_quality

    paths = sorted(args.out.glob("*.npz"), key=lambda path: (path.stem != "truth", path.name))
    if not paths or paths[0].stem != "truth":
        raise SystemExit(f"{args.out} has no truth.npz: run `render` first")
    true_views, _ = load(paths[0])
    height, width = true_views[0].depth.shape
    seen = made_scene.seen_points(made_scene.made_views(len(true_views), width, height))
    # one size of voxel for all, from the true depths
    voxel = choose_sizes(true_views, downscale=1).voxel_size / 1.5 * args.voxels_per_pixel
    rows: list[dict[str, Any]] = []
    for path in paths:
        views, about = load(path)
        sizes = choose_sizes(views, downscale=1, voxel_size=voxel, truncation=args.truncation * voxel)
        mesh, _ = drop_small_components(fuse(views, sizes), keep=50, min_share=0.001)
        if args.meshes:
            write_mesh(args.meshes / f"{path.stem}.ply", mesh)
        rows.append({**about, "triangles": len(mesh.triangles), **dataclasses.asdict(mesh_quality(mesh, seen))})
    print_table(rows, voxel)
    if args.json:
        args.json.write_text(json.dumps({"voxel_size": voxel, "pictures": [width, height], "runs": rows}, indent=1))


def load(path: Path) -> tuple[list[DepthView], dict[str, Any]]:
    """Read the views that `save` wrote."""
    with np.load(path) as file:
        stacks = {name: file[name] for name in ("depth", "color", "K", "cam_to_world")}
        about = json.loads(str(file["about"]))
    stacks["color"] = stacks["color"].astype(np.float32) / 255
    return [DepthView(**{name: stack[i] for name, stack in stacks.items()}) for i in range(len(stacks["K"]))], about


def print_table(rows: list[dict[str, Any]], voxel: float) -> None:
    """All runs; distances and gaps in thousandths."""
    print(f"voxel {1e3 * voxel:.1f}")
    print(
        f"{'run':<60} {'seed':>4} {'distance':>8} {'gap':>6} {'complete':>8} {'angle':>6} {'median':>6} "
        f"{'distort':>7} {'train s':>7} {'N':>7}"
    )
    for row in rows:
        distortion = row.get("distortion")
        print(
            f"{row['run']:<60} {row['seed']:4d} {1e3 * row['distance']:8.2f} {1e3 * row['gap']:6.2f} "
            f"{100 * row['completeness']:7.1f}% {row['angle']:6.2f} {row['median_angle']:6.2f} "
            f"{'' if distortion is None else format(1e3 * distortion, '7.2f'):>7} {row['train_s']:7.1f} "
            f"{row['gaussians']:7d}"
        )


if __name__ == "__main__":
    main()
