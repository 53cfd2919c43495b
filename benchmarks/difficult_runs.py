"""Many trainings side by side, each measured on the held-out photographs."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difficult_data import FIGURES, SEEN, write_inverse_depth

SAME_DEPTH = 0.05
"""The relative difference of depth up to which a photograph shows a seed point."""


@dataclass(frozen=True)
class Run:
    """A training."""

    scene: str
    experiment: str
    changed: str
    """The change of the photographs."""
    part: str
    """The part against it."""
    data: Path
    settings: dict[str, Any]
    seed: int
    align: bool = False
    """Whether the cameras of held-out photographs are aligned, too."""
    depths: Path | None = None
    """The folder into which the depth of all photographs is written."""
    oracle: float | None = None
    """The share of the steps from which on exactly what was painted is masked; None for never."""
    frames: Path | None = None
    """The folder into which renders of a path through the cameras are written."""


def measured(run: Run, args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate in a process of the pool, whose output would mix with that of the others."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        return train(run, args)


def train(run: Run, args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate; returns the held-out metrics, seconds and the number of Gaussians."""
    import torch
    from difficult_masks import OracleMasks, SharesMasked

    from splatkit_ns.data_provider import NerfstudioDataProvider
    from splatkit_ns.modules import SplatEvaluator
    from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig

    torch.set_num_threads(1)
    settings = run.settings | {name: json.loads(value) for name, _, value in (p.partition("=") for p in args.set)}
    rates = settings.pop("learning_rates", {})
    with tempfile.TemporaryDirectory() as folder:
        config = SplatTrainerConfig(
            method=args.method,
            max_steps=args.steps,
            output_dir=folder,
            device=args.device,
            lpips=False,
            seed=run.seed,
            learning_rates=rates,
            steps_per_save=10**6,
            settings={"steps_per_eval_image": 0, "steps_per_eval_all_images": 0, **settings},
        )
        steps = args.steps or config.method_config().max_num_iterations
        figures = run.data / FIGURES
        masks = SharesMasked(figures) if run.oracle is None else OracleMasks(figures, run.oracle)
        evaluator = SplatEvaluator(folder, eval_steps=[steps], save_images=False, save_stats=False)
        trainer = SplatTrainer(config, NerfstudioDataProvider(run.data), modules=[evaluator, masks])
        began, worked = time.perf_counter(), time.process_time()
        result = trainer.run()
        seconds = {"wall_s": time.perf_counter() - began, "work_s": time.process_time() - worked}
        found = {name.removeprefix("eval/"): value for name, value in result.metrics.items() if "eval/" in name}
        if run.align and "aligned_psnr" not in found:
            found |= aligned_metrics(result)
        if run.experiment == "appearance":
            found |= neighbour_metrics(result)
        found |= masked(result)
        if run.experiment == "sky":
            found |= alpha_of_sky(result)
        if run.experiment == "few":
            found |= error_of_depth(result)
        if run.depths is not None:
            write_depths(result, run.depths)
        if run.frames is not None:
            write_frames(result, run.frames)
    row = {"scene": run.scene, "experiment": run.experiment, "changed": run.changed, "part": run.part, "seed": run.seed}
    return {**row, **found, "num_gaussians": len(result.training_state), **seconds}


def aligned_metrics(result: Any) -> dict[str, float]:
    """The means of the held-out metrics after each camera has been aligned with its photograph."""
    from splatkit_ns.modules.evaluator import mean_metrics
    from splatkit_ns.plugin.data.cameras import pinhole_view

    model, rows = result.run_model, list[dict[str, Any]]()
    for camera, batch in model.context.data_provider.datamanager.fixed_indices_eval_dataloader:
        rows.append(model.aligned_metrics(pinhole_view(camera.to(model.device)), batch))
    return {f"aligned_{name}": value for name, value in mean_metrics(rows).items()}


def neighbour_metrics(result: Any) -> dict[str, float]:
    """The held-out PSNR of the images that the image model makes, on average, for the photographs next by name.

    In a video these have nearly the exposure of the one held out. Empty without an image model.
    """
    import torch

    from splatkit_ns.image_metrics.color_correction import color_corrected
    from splatkit_ns.image_model.photographs import PhotographModel
    from splatkit_ns.parts.image_frame import ImageFrame
    from splatkit_ns.plugin.data.cameras import pinhole_view

    model, device = result.run_model, result.training_state.device
    image_model = model.parts.image_model
    if not isinstance(image_model, PhotographModel):
        return {}
    data = model.context.data_provider.datamanager
    names = [Path(path).stem for path in data.train_dataset.image_filenames]
    held_out = [Path(path).stem for path in data.eval_dataset.image_filenames]
    errors = list[list[float]]()
    for (camera, batch), name in zip(data.fixed_indices_eval_dataloader, held_out, strict=True):
        view, photograph = pinhole_view(camera.to(device)), batch["image"][..., :3].to(device)
        photograph = photograph / 255 if photograph.dtype == torch.uint8 else photograph
        before = [other for other in names if other < name][-1:]
        after = [other for other in names if other > name][:1]
        with torch.no_grad():
            render = model.renderer.render(result.training_state, view).renders
            frames = [ImageFrame(view, torch.tensor([names.index(o)], device=device)) for o in before + after]
            images = [image_model.apply(render, frame)[0] for frame in frames]
        image = torch.stack(images).mean(0).clamp(0, 1)
        pair = (image, color_corrected(image, photograph, None))
        errors.append([float(-10 * (i - photograph).square().mean().log10()) for i in pair])
    plain, corrected = (sum(column) / len(errors) for column in zip(*errors, strict=True))
    return {"neighbour_psnr": plain, "neighbour_cc_psnr": corrected}


def masked(result: Any) -> dict[str, Any]:
    """The shares that masks of transients left out at the end and at each moment; empty without such masks."""
    from difficult_masks import SharesMasked

    shares = [moment for module in result.modules if isinstance(module, SharesMasked) for moment in module.shares]
    return {**{k: v for k, v in shares[-1].items() if k != "step"}, "moments": shares} if shares else {}


def alpha_of_sky(result: Any) -> dict[str, float]:
    """The mean alpha of the Gaussians in the pixels of held-out photographs that the sky explains alone."""
    import torch

    from splatkit_ns.loss_fn.geometry import is_explained
    from splatkit_ns.plugin.data.cameras import pinhole_view

    model, total, num = result.run_model, 0.0, 0
    for camera, batch in model.context.data_provider.datamanager.fixed_indices_eval_dataloader:
        with torch.no_grad():
            out = model.renderer.render(result.training_state, pinhole_view(camera.to(model.device)))
        if out.skies is None:
            return {}
        photograph = batch["image"][..., :3].to(model.device)
        photograph = photograph / 255 if photograph.dtype == torch.uint8 else photograph
        explained = is_explained(out.skies, photograph[None])
        total, num = total + float(out.alphas[..., 0][explained].sum()), num + int(explained.sum())
    return {"alpha_of_sky": total / max(1, num)}


def write_depths(result: Any, folder: Path) -> None:
    """Write the inverse depth of all photographs of a run, as a network might have guessed it, and what they show.

    SEEN holds, by the photograph's file name, which of the seed points it shows, and nothing in front of them.
    """
    import numpy as np
    import torch

    from splatkit_ns.plugin.data.cameras import pinhole_view
    from splatkit_ns.renderer import RenderOptions

    data, shown = result.run_model.context.data_provider.datamanager, dict[str, Any]()
    points = data.train_dataparser_outputs.metadata["points3D_xyz"].to(result.training_state.device)
    for split in (data.train_dataset, data.eval_dataset):
        for number, path in enumerate(split.image_filenames):
            view = pinhole_view(split.cameras[number : number + 1]).to(result.training_state.device)
            with torch.no_grad():
                options = RenderOptions(render_mode="RGB+ED")
                payload = result.run_model.renderer.render(result.training_state, view, options)
            depths, alphas = payload.depths_expected[0, ..., 0], payload.alphas[0, ..., 0]
            target = folder / f"{Path(path).name}.png"
            write_inverse_depth(depths.cpu().numpy(), alphas.cpu().numpy(), target, number)
            pose = view.cam_to_worlds[0]
            x, y, z = ((points - pose[:3, 3]) @ pose[:3, :3]).unbind(1)
            columns, rows = x / z * view.Ks[0, 0, 0] + view.Ks[0, 0, 2], y / z * view.Ks[0, 1, 1] + view.Ks[0, 1, 2]
            inside = (z > 0) & (columns >= 0) & (columns < view.width) & (rows >= 0) & (rows < view.height)
            there = depths[torch.where(inside, rows, 0).long(), torch.where(inside, columns, 0).long()]
            shown[Path(path).name] = (inside & ((there - z).abs() < SAME_DEPTH * z)).cpu().numpy()
    np.savez(folder / SEEN, **shown)


def error_of_depth(result: Any) -> dict[str, float]:
    """The relative error of the inverse depth of held-out photographs up to scale and shift; empty without depth."""
    import torch

    from splatkit_ns.loss_fn.geometry import inverse_depth_error
    from splatkit_ns.plugin.data.cameras import pinhole_view
    from splatkit_ns.plugin.data.loader.targets import read_target
    from splatkit_ns.renderer import RenderOptions

    data, errors = result.run_model.context.data_provider.datamanager, list[float]()
    files = data.eval_dataset.metadata.get("depth_filenames") or []
    for number, path in enumerate(files):
        device = result.training_state.device
        view = pinhole_view(data.eval_dataset.cameras[number : number + 1]).to(device)
        depth = torch.from_numpy(read_target("target_depths", Path(path), 1.0, data.eval_dataset, number)).to(device)
        with torch.no_grad():
            out = result.run_model.renderer.render(result.training_state, view, RenderOptions(render_mode="RGB+ED"))
        everywhere = torch.ones_like(out.alphas[..., 0], dtype=torch.bool)
        errors.append(float(inverse_depth_error(out.depths_expected, depth[None], out.alphas, everywhere)))
    return {"depth_error": sum(errors) / len(errors)} if errors else {}


def write_frames(result: Any, folder: Path, keys: int = 8, num: int = 24) -> None:
    """Write the scene along a smooth path through a few of the cameras, and its Gaussians and sky."""
    import numpy as np
    from PIL import Image

    from splatkit_ns.camera_paths import path
    from splatkit_ns.plugin.data.cameras import pinhole_view

    cameras = result.run_model.context.data_provider.datamanager.train_dataset.cameras
    chosen = [round(i) for i in np.linspace(0, len(cameras) - 1, keys)]
    views = [pinhole_view(cameras[i : i + 1]).to(result.training_state.device) for i in chosen]
    folder.mkdir(parents=True, exist_ok=True)
    for number, view in enumerate(path(views, num)):
        payload = result.run_model.renderer.render(result.training_state, view)
        pixels = (payload.renders[0, ..., :3].detach().clamp(0, 1) * 255).round().byte().cpu().numpy()
        Image.fromarray(pixels).save(folder / f"{number:02d}.jpg", quality=92)
    renderer = result.run_model.renderer
    result.training_state.to_splat_model(renderer.splat_mode).save(folder / "scene.spz")
    if renderer.sky_degree is not None:
        np.save(folder / "sky.npy", renderer.sky.detach().cpu().numpy())


def run_all(runs: Sequence[Run], after: Callable[[Run], Sequence[Run]], args: argparse.Namespace) -> None:
    """Run trainings in processes, print a line for each, and write the results after each.

    Args:
        runs: the trainings, in the order in which they begin.
        after: the trainings that can begin once one has ended.
        args: the command's.
    """
    began, rows, waiting = time.perf_counter(), list[dict[str, Any]](), list(runs)
    running: dict[Future[dict[str, Any]], Run] = {}
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        while waiting or running:
            while waiting and len(running) < args.jobs and time.perf_counter() - began < args.budget:
                run = waiting.pop(0)
                running[pool.submit(measured, run, args)] = run
            if not running:
                print(f"No time for {len(waiting)} runs.")
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                try:
                    rows.append(future.result())
                except Exception as error:  # the others go on
                    print(f"{run} failed: {type(error).__name__}: {error}", flush=True)
                    continue
                shown = {name: value for name, value in rows[-1].items() if name != "moments"}
                print(" ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()))
                waiting += after(run)
                write(rows, args)
    print_table(rows)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the means over seeds, by scene, experiment, change and part."""
    names = (
        "psnr",
        "cc_psnr",
        "neighbour_psnr",
        "neighbour_cc_psnr",
        "aligned_psnr",
        "figures_masked",
        "others_masked",
        "alpha_of_sky",
        "depth_error",
        "ssim",
        "num_gaussians",
        "wall_s",
    )
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in ("scene", "experiment", "changed", "part")), []).append(row)
    print("| scene | experiment | photographs | part | runs |", " | ".join(names), "|")
    for key, group in sorted(found.items()):
        means = [sum(row[name] for row in group) / len(group) if name in group[0] else None for name in names]
        print("|", " | ".join([*key, str(len(group)), *("" if m is None else f"{m:.3f}" for m in means)]), "|")


def write(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Write what has been measured so far."""
    if args.out is not None:
        kept = ("method", "steps", "points", "set", "device", "jobs")
        settings = {key: str(value) for key, value in vars(args).items() if key in kept}
        args.out.write_text(json.dumps({"settings": settings, "runs": rows}, indent=1) + "\n")
