"""Train methods in turn on any number of scenes with the usual protocol, and print the usual table.

    python benchmarks/scenes.py data/mipnerf360 --methods splatfacto splatkit-3dgs --downscale 2 --out results.json

A folder is a scene (COLMAP's, with ``images`` and ``sparse``, or nerfstudio's or Blender's), or holds scenes. Every 8th
image in the order of names is held out and measured after training: PSNR, SSIM and, if its weights are found or can be
downloaded, LPIPS (AlexNet). Each run is a process of its own, with the number of steps of its method, or METHOD:STEPS;
see train_gpu.py, which trains and measures, for runs with other settings, and for the meaning of the times.
``memory`` is the most that PyTorch had on the GPU or, on a CPU, that the process had.

The JSON file has the figures of every run. Runs that it has already, on the same machine, are not repeated, so that a
table that was interrupted goes on. A run that fails is reported, and the others go on; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from train_gpu import colmap_model, machine, run_process

Run = dict[str, Any]
COLUMNS: dict[str, tuple[str, Callable[[Run], float | None]]] = {
    "PSNR": ("6.2f", lambda run: run["psnr"]),
    "SSIM": ("6.4f", lambda run: run["ssim"]),
    "LPIPS": ("6.4f", lambda run: run.get("lpips")),
    "wall s": ("8.1f", lambda run: run["wall_s"]),
    "train s": ("8.1f", lambda run: run["train_s"]),
    "memory": ("8.0f", lambda run: run["peak_mib"] or run["host_mib"]),
    "Gaussians": ("10,.0f", lambda run: run["gaussians"]),
}
"""The heading of a column -> format and value."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--methods", nargs="+", default=["splatfacto", "splatkit-3dgs-fast", "splatkit-3dgs"])
    parser.add_argument("--downscale", type=int, default=1, help="divide the sides of the images by this")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--no-lpips", action="store_true", help="leave out LPIPS")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    scenes = find_scenes(args.folders)
    if args.downscale < 1:
        parser.error(f"--downscale is {args.downscale}, expected at least 1")
    if not scenes:
        looked = ", ".join(map(str, args.folders))
        parser.error(f"no scene in {looked}: expected folders with images and sparse/0, or transforms.json")
    names = [scene.name for scene in scenes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        parser.error(f"several scenes are named {', '.join(twice)}: the table tells scenes apart by their names")
    here = machine()
    runs = earlier_runs(args.out, here)
    failed: list[str] = []
    for scene in scenes:
        for method in args.methods:
            for seed in args.seeds:
                if any(_is_of(run, scene, method, seed, args.downscale) for run in runs):
                    continue
                try:
                    row = run_process(scene, run_of(method, args.downscale), seed, not args.no_lpips)
                except SystemExit as error:
                    failed.append(f"{scene.name}: {error}")
                    print(failed[-1], flush=True)
                    continue
                runs.append({"scene": scene.name, "method": method, "downscale": args.downscale, **row})
                print(table([run for run in runs if run["scene"] == scene.name]), flush=True)
                if args.out:
                    args.out.write_text(json.dumps({"machine": here, "runs": runs}, indent=1))
    print(table(runs))
    print("\n".join(f"failed: {line}" for line in failed))
    return int(bool(failed))


def find_scenes(folders: Sequence[Path]) -> list[Path]:
    """The folders that are scenes themselves, and the scenes in the others, by name."""
    found: list[Path] = []
    for folder in (folder.resolve() for folder in folders):
        inside = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        found += [folder] if is_scene(folder) else [path for path in inside if is_scene(path)]
    return found


def is_scene(folder: Path) -> bool:
    """Whether a folder is a data set that train_gpu.py reads."""
    names = ("transforms.json", "transforms_train.json")
    return any((folder / name).is_file() for name in names) or colmap_model(folder) is not None


def run_of(method: str, downscale: int) -> str:
    """The run of train_gpu.py for a method (METHOD, or METHOD:STEPS with its overrides) at a size of the images."""
    if downscale == 1:
        return method
    name, _, rest = method.partition(":")
    steps, _, overrides = rest.partition(":")
    scaled = f"pipeline.datamanager.camera_res_scale_factor={1 / downscale!r}"
    return f"{name}:{steps}:{overrides},{scaled}" if overrides else f"{name}:{steps}:{scaled}"


def earlier_runs(path: Path | None, here: dict[str, str]) -> list[Run]:
    """The runs that a file holds already; none if they are of another machine or other versions."""
    if path is None or not path.exists():
        return []
    content = json.loads(path.read_text())
    if content["machine"] != here:
        raise SystemExit(f"{path} is of another machine or other versions ({content['machine']}): name another file.")
    return content["runs"]


def _is_of(run: Run, scene: Path, method: str, seed: int, downscale: int) -> bool:
    return (run["scene"], run["method"], run["seed"], run["downscale"]) == (scene.name, method, seed, downscale)


def table(runs: Sequence[Run]) -> str:
    """A table of runs, means over seeds; below it each method's means over the scenes, if there are several."""
    scenes, methods = (list(dict.fromkeys(run[name] for run in runs)) for name in ("scene", "method"))
    width = max([6, *(len(name) for name in (*scenes, *methods))]) + 1
    head = "".join(f"{name:>{_width(shape)}}" for name, (shape, _) in COLUMNS.items())
    lines = [f"{'scene':<{width}}{'method':<{width}}{head}"]
    groups = [(scene, [run for run in runs if run["scene"] == scene]) for scene in scenes]
    if len(scenes) > 1:
        complete = {method for method in methods if {r["scene"] for r in runs if r["method"] == method} == set(scenes)}
        groups.append(("mean", [run for run in runs if run["method"] in complete]))
    for name, group in groups:
        for method in methods:
            rows = [run for run in group if run["method"] == method]
            if rows:
                lines.append(f"{name:<{width}}{method:<{width}}{''.join(_cell(rows, head) for head in COLUMNS)}")
    return "\n".join(lines)


def _cell(runs: Sequence[Run], column: str) -> str:
    shape, value = COLUMNS[column]
    values = [value(run) for run in runs]
    known = [each for each in values if each is not None]
    width = _width(shape)
    return f"{mean(known):>{width}{shape.lstrip('0123456789')}}" if len(known) == len(values) else f"{'-':>{width}}"


def _width(shape: str) -> int:
    return int("".join(c for c in shape.split(".")[0] if c.isdigit())) + 2


if __name__ == "__main__":
    raise SystemExit(main())
