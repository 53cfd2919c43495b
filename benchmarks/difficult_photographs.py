"""Train on photographs that were made difficult in a known way, with and without the parts against it.

    python benchmarks/difficult_photographs.py appearance distractors poses few sky --scenes SCENE … --jobs 8 --out FILE
    python benchmarks/difficult_photographs.py make appearance SCENE FOLDER

`appearance` gives each training photograph a gain of up to a stop, white balance and gamma at random, and trains on the
photographs as they are and on the changed ones, without an image model and with each. `distractors` paints a figure
into a third of them, and measures how much of the figures and of all else is masked; the masks `oracle` leave out
exactly what was painted, from the beginning or from a share of the steps (`oracle:begin=0.3`). `poses` turns each
camera by half a degree and moves it by a hundredth of the scene. `few` keeps 3, 6 and 12 photographs, with depth (that
of a run on all of them, with a scale and shift for each image) and noise of opacities each off and on. `sky` trains
without a sky and with one, from which Gaussians are kept out or not, and writes renders of a path into --frames. Held-
out photographs (every eighth) are never changed. SCENE is a folder in nerfstudio's format. `make` only writes a data
set. Variants of image models and masks are written like `affine:lr=0.01,prior=0.1`. For a CPU that has little time:
--points 3000 --steps 900 --set pipeline.datamanager.camera_res_scale_factor=0.25
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from difficult_data import KINDS, few, make
from difficult_runs import Run, run_all

MODELS = ("none", "affine", "bilateral-grid", "ppisp")
EXPERIMENTS = ("appearance", "distractors", "poses", "few", "sky")
CORRECTED = {"pipeline.model.camera_optimizer.mode": "SO3xR3"}
POSES: dict[str, dict[str, Any]] = {
    "off": {},
    "SO3xR3": CORRECTED,
    "SO3xR3, 3 times the rate": CORRECTED | {"learning_rates": {"camera_opt": 3e-4}},
    "SO3xR3, 10 times the rate": CORRECTED | {"learning_rates": {"camera_opt": 1e-3}},
}
SKIES: dict[str, dict[str, Any]] = {
    "none": {},
    "degree 3": {"pipeline.model.renderer.sky_degree": 3},
    "degree 3, Gaussians in it": {
        "pipeline.model.renderer.sky_degree": 3,
        "pipeline.model.loss_fn.sky_lambda": 0.0,
    },
}


def depth(weight: float, final: float | None) -> dict[str, Any]:
    """The settings of a run with relative depth, whose weight falls."""
    settings = {"depth_kind": "inverse", "depth_lambda": weight, "depth_lambda_final": final}
    return {f"pipeline.model.loss_fn.{name}": value for name, value in settings.items()}


NOISE = {"pipeline.model.renderer.opacity_noise": 0.3}
AIDS: dict[str, dict[str, Any]] = {
    "none": {},
    "noise": NOISE,
    "depth": depth(1.0, 0.01),
    "depth and noise": depth(1.0, 0.01) | NOISE,
    "depth, falls less": depth(1.0, 0.1),
    "depth, constant": depth(1.0, None),
    "depth, a tenth": depth(0.1, 0.001),
}


def of_model(variant: str) -> dict[str, Any]:
    """The settings of a run with an image model, such as ``ppisp:lr=0.01``."""
    kind, _, values = variant.partition(":")
    place = f"pipeline.model.image_model.{kind.replace('-', '_')}"
    pairs = (pair.partition("=") for pair in values.split(",") if pair)
    return {"pipeline.model.image_model.kind": kind, **{f"{place}.{k}": json.loads(v) for k, _, v in pairs}}


def of_masks(variant: str) -> dict[str, Any]:
    """The settings of a run with masks, such as ``transients:begin=0.3``; ``oracle`` for what was painted exactly."""
    kind, _, values = variant.partition(":")
    pairs = dict(pair.split("=") for pair in values.split(",") if pair)
    if kind == "oracle":
        return {"oracle": float(pairs.get("begin", 0))}
    begin = {} if kind == "none" else {"modules.transients.begin": 0.3}
    return begin | {f"modules.transients.{k}": json.loads(v) for k, v in pairs.items()}


def runs_on(scene: Path, folder: Path, args: argparse.Namespace) -> Iterator[Run]:
    """The runs of the experiments on a scene, in the order in which they were named."""

    def on(seed: int, kind: str, experiment: str, part: str, settings: dict[str, Any], **more: Any) -> Run:
        data = folder / scene.name / kind
        if not data.exists():
            make(kind, scene, data, args.points)
        return Run(scene.name, experiment, kind, part, data, settings, seed, **more)

    for seed, experiment in itertools.product(args.seeds, args.experiments):
        if experiment == "few":
            if seed != args.seeds[0]:
                continue  # few_runs repeats the runs on few photographs alone
            yield on(seed, "nothing", "few", "all photographs", {}, depths=folder / scene.name / "depths")
        elif experiment == "sky":
            for part in args.skies:
                frames = None if args.frames is None else args.frames / f"{scene.name}-{part.replace(' ', '-')}"
                yield on(seed, "nothing", "sky", part, SKIES[part], frames=frames)
        elif experiment == "poses":
            for name, kind in itertools.product(args.corrections, ("poses", "nothing")):
                yield on(seed, kind, "poses", name, POSES[name], align=True)
        else:
            parts, settings_of = (args.models, of_model) if experiment == "appearance" else (args.masks, of_masks)
            for part, kind in itertools.product(parts, args.changes or ("nothing", experiment)):
                if (oracle := (settings := settings_of(part)).pop("oracle", None)) is None or kind == experiment:
                    yield on(seed, kind, experiment, part, settings, oracle=oracle)


def few_runs(dense: Run, args: argparse.Namespace) -> Iterator[Run]:
    """The runs with a few of the photographs of a run that has written their depth."""
    assert dense.depths is not None
    for seed, num in itertools.product(args.seeds, args.numbers):
        data = dense.data.parent / f"few-{num}"
        if not data.exists():
            few(dense.data, data, num, dense.depths)
        for part in args.aids:
            yield Run(dense.scene, "few", f"{num} photographs", part, data, AIDS[part], seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", help=f"{', '.join(EXPERIMENTS)}; or make KIND SCENE FOLDER")
    parser.add_argument("--scenes", type=Path, nargs="+", default=[])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--masks", nargs="+", default=("none", "transients"))
    parser.add_argument("--changes", nargs="+", choices=KINDS, help="only photographs with these changes")
    parser.add_argument("--corrections", nargs="+", default=tuple(POSES), choices=POSES, help="for poses")
    parser.add_argument("--skies", nargs="+", default=tuple(SKIES), choices=SKIES, help="for sky")
    parser.add_argument("--aids", nargs="+", default=tuple(AIDS)[:4], choices=AIDS, help="for few")
    parser.add_argument("--numbers", type=int, nargs="+", default=(3, 6, 12), help="of photographs, for few")
    parser.add_argument("--method", default="splatkit-3dgs-fast")
    parser.add_argument("--steps", type=int, help="the default is the method's own number")
    parser.add_argument("--points", type=int, help="the number of seed points that are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", nargs="*", default=[], help="further settings, such as pipeline.model.sh_degree=1")
    parser.add_argument("--jobs", type=int, default=1, help="the number of runs at the same time")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no run is begun")
    parser.add_argument("--frames", type=Path, help="the folder for renders of the experiment sky")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.experiments[0] == "make":
        _, kind, scene, target = args.experiments
        if kind not in KINDS:
            parser.error(f"there is no {kind}, only {', '.join(KINDS)}")
        make(kind, Path(scene), Path(target), args.points)
        return
    if unknown := set(args.experiments) - set(EXPERIMENTS):
        parser.error(f"there is no {', '.join(unknown)}, only {', '.join(EXPERIMENTS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def after(run: Run) -> list[Run]:
            return [] if run.depths is None else list(few_runs(run, args))

        run_all([run for scene in args.scenes for run in runs_on(scene.resolve(), folder, args)], after, args)


if __name__ == "__main__":
    main()
