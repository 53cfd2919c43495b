"""Train on photographs as their lenses have taken them, and on undistorted ones, and compare.

    python benchmarks/lenses.py scene SCENE [--scale 0.25] [--steps 2000] [--device cuda] [--seeds 1 2] [--out FILE]
    python benchmarks/lenses.py made [--steps 1500]
    python benchmarks/lenses.py wide FILE SCENE [--fov 180]

`scene` trains a data set in nerfstudio's format twice. Both results are drawn through the lenses of the held-out
photographs (every eighth) and compared with these as they are: all pixels, those that the undistorted photographs show
as well, and the rest. With --warm-up there is a short training before each, whose time is given apart: on a GPU that is
the time of compiling kernels, for the most part. With --plain, raw photographs are trained on once more without CUDA
graphs; `bits` is a hash of the resulting Gaussians. `made` trains on exact pictures of one made scene through a
pinhole, an OPENCV lens and a fisheye. `wide` draws fisheye views of a trained scene, a checkpoint or a file in its
frame, from five cameras, directly and from many pinhole images, and compares images and times.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.image_metrics.ssim import ssim
from splatkit_ns.loss_fn.geometry import pixel_rays
from splatkit_ns.plugin.datamanager import SplatkitDatamanagerConfig
from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig, SplatTrainerResult

EVAL_INTERVAL = 8


@dataclass
class Photographs(NerfstudioDataProvider):
    """A data set whose photographs are made smaller."""

    scale: float = 1.0
    """Their sides are multiplied by this."""

    def datamanager_config(self) -> SplatkitDatamanagerConfig:
        return replace(super().datamanager_config(), camera_res_scale_factor=self.scale)


def provider(data: Path, undistort: bool, scale: float) -> Photographs:
    return Photographs(data=data, undistort=undistort, scale=scale, eval_interval=EVAL_INTERVAL)


def train(
    data: Photographs, args: argparse.Namespace, folder: str, steps: int | None = None, **settings: Any
) -> tuple[SplatTrainerResult, float]:
    """The result and the seconds of the training, with its start."""
    config = SplatTrainerConfig(
        method=args.method,
        max_steps=steps or args.steps,
        output_dir=folder,
        device=args.device,
        lpips=False,
        settings={"steps_per_eval_image": 0, "steps_per_eval_all_images": 0, **settings},
    )
    began = time.perf_counter()
    result = SplatTrainer(config, data).run()
    return result, time.perf_counter() - began


def shown_by(pinhole: View, lens: View) -> Tensor:
    """The pixels of a view through a lens that a pinhole camera at the same place sees, too: (H, W) bool."""
    rays = pixel_rays(lens)[0]
    places = rays @ pinhole.Ks[0].T
    x, y = (places[..., :2] / rays[..., 2:].clamp(min=1e-6)).unbind(-1)
    return (rays[..., 2] > 1e-6) & (x >= 0) & (x < pinhole.width) & (y >= 0) & (y < pinhole.height)


def psnr(error: Tensor) -> float:
    """The PSNR in dB of squared errors of values in [0, 1]."""
    return float(-10 * error.mean().log10())


def judge(result: SplatTrainerResult, raw: Photographs, undistorted: Photographs) -> dict[str, float]:
    """Means over the held-out photographs, as they are."""
    found: dict[str, list[float]] = {
        "psnr": [],
        "ssim": [],
        "psnr_shared": [],
        "psnr_rest": [],
        "share_undistorted": [],
    }
    pinholes = undistorted.views("eval")
    device = result.training_state.device
    for photograph, pinhole in zip(raw.photographs("eval"), pinholes, strict=True):
        image = photograph.image
        drawn = result.render(photograph.view.to(device))
        error, shared = (drawn - image).square(), shown_by(pinhole, photograph.view)
        found["psnr"].append(psnr(error))
        found["ssim"].append(float(ssim(drawn.permute(2, 0, 1)[None], image.permute(2, 0, 1)[None])))
        found["psnr_shared"].append(psnr(error[shared]))
        found["psnr_rest"].append(psnr(error[~shared]))
        found["share_undistorted"].append(float(shared.float().mean()))
    return {name: statistics.mean(values) for name, values in found.items()}


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    raw, undistorted = (provider(args.scene, flag, args.scale) for flag in (False, True))
    rows: list[dict[str, Any]] = []
    runs: list[tuple[str, Photographs, dict[str, Any]]] = [("undistorted", undistorted, {}), ("raw", raw, {})]
    if args.plain:
        runs.append(("raw, without CUDA graphs", raw, {"cuda_graphs": False}))
    for (name, data, kind), seed in itertools.product(runs, args.seeds):
        row: dict[str, Any] = {"trained_on": name, "seed": seed}
        settings = {**kind, "machine.seed": seed}
        with tempfile.TemporaryDirectory() as folder:
            if args.warm_up:
                _, row["warm_up_seconds"] = train(data, args, f"{folder}/warm_up", args.warm_up, **settings)
            result, row["seconds"] = train(data, args, folder, **settings)
            row |= {"num_gaussians": len(result.training_state), "bits": bits(result)}
            row |= judge(result, raw, undistorted)
        rows.append(row)
        show(row)
    return rows


def bits(result: SplatTrainerResult) -> str:
    """The beginning of a hash of the Gaussians."""
    params = result.training_state.params
    digest = hashlib.sha256()
    for name in sorted(params):
        digest.update(params[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def made(args: argparse.Namespace) -> list[dict[str, Any]]:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.made_lens_scene import LENSES, write_lens_scene

    rows: list[dict[str, Any]] = []
    for lens in LENSES:
        with tempfile.TemporaryDirectory() as folder:
            data = provider(write_lens_scene(Path(folder) / "data", lens), False, 1.0)
            result, seconds = train(data, args, folder)
            device = result.training_state.device
            errors = [(result.render(one.view.to(device)) - one.image).square() for one in data.photographs("eval")]
        mean = statistics.mean(map(psnr, errors))
        rows.append({"lens": lens, "psnr": mean, "num_gaussians": len(result.training_state), "seconds": seconds})
        show(rows[-1])
    return rows


def wide(args: argparse.Namespace) -> list[dict[str, Any]]:
    from splatkit_ns import formats
    from splatkit_ns.renderer import RenderOptions, Splat3DGSRenderer
    from splatkit_ns.renderer.wide_lenses import render_wide
    from splatkit_ns.splat import SplatModel, SplatTrainingState

    renderer = Splat3DGSRenderer()
    device = torch.device(args.device)
    if args.file.suffix == ".ckpt":
        state = SplatTrainingState.from_ckpt(args.file, device)
    else:
        state = SplatModel.from_gaussians(formats.read(args.file)).for_rendering(device)
    views = provider(args.scene, True, 1.0).views("eval")
    rows: list[dict[str, Any]] = []
    for view in views[:: max(1, len(views) // 5)][:5]:
        fisheye = replace(view, width=args.side, height=args.side).fisheye(args.fov).to(args.device)

        def in_parts(fisheye: View = fisheye) -> Any:
            return render_wide(lambda pinhole, _: renderer.render(state, pinhole), fisheye, None)

        def directly(fisheye: View = fisheye) -> Any:
            return renderer.render(state, fisheye, RenderOptions())

        seconds: dict[str, float] = {}
        images: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, draw in (("parts", in_parts), ("direct", directly)):
                draw()
                began = time.perf_counter()
                images[name] = draw().renders[0].clamp(0, 1).cpu()
                seconds[name] = time.perf_counter() - began
        rows.append(
            {
                "psnr_direct_against_parts": psnr((images["direct"] - images["parts"]).square()),
                **{f"seconds_{name}": value for name, value in seconds.items()},
            }
        )
        show(rows[-1])
        if args.pictures is not None:
            from PIL import Image

            both = torch.cat([images["parts"], images["direct"]], dim=1)
            args.pictures.mkdir(parents=True, exist_ok=True)
            pixels = (both * 255).round().byte().numpy()
            Image.fromarray(pixels).save(args.pictures / f"fisheye_{len(rows)}.png")
    return rows


def show(row: dict[str, Any]) -> None:
    print(" ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("scene", "made", "wide"):
        command = commands.add_parser(name)
        if name == "wide":
            command.add_argument("file", type=Path)
            command.add_argument("--fov", type=float, default=180.0)
            command.add_argument("--side", type=int, default=512)
            command.add_argument("--pictures", type=Path, help="folder for the images side by side")
        else:
            command.add_argument("--method", default="splatkit-3dgs")
            command.add_argument("--steps", type=int, default=1500)
        if name != "made":
            command.add_argument("scene", type=Path)
        if name == "scene":
            command.add_argument("--scale", type=float, default=1.0)
            command.add_argument("--warm-up", type=int, default=0, help="steps of a training before each")
            command.add_argument("--plain", action="store_true", help="also without CUDA graphs")
            command.add_argument("--seeds", type=int, nargs="+", default=[42])
        command.add_argument("--device", default="cpu")
        command.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = {"scene": compare, "made": made, "wide": wide}[args.command](args)
    if args.out is not None:
        settings = {key: str(value) for key, value in vars(args).items() if key not in ("out", "scene", "file")}
        args.out.write_text(json.dumps({"settings": settings, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
