"""A module that measures the Gaussians on the evaluation images at chosen steps."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from PIL import Image

from splatkit_ns.errors import ModuleError
from splatkit_ns.files import atomic_write, atomic_write_text
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.evaluation import EvaluationSource, ImageEvaluation
from splatkit_ns.parts.files import check_output_dir, write_or_warn
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.parts.steps import no_steps, reachable_steps, reaches_one_of
from splatkit_ns.ranges import Steps
from splatkit_ns.splat import SplatTrainingState


@dataclass
class SplatEvaluator(SplatBaseModule[SplatRenderPayload]):
    """Measures PSNR, SSIM and, if its weights are at hand, LPIPS of every evaluation image, at chosen steps; each also
    after a correction of the render's colours (``cc_psnr`` and so on).

    Writes ``stats/step_007000.json`` (the means, each image, and the protocol: split, background, masks, metrics,
    versions), the same as ``stats/step_007000.csv``, and ``images/step_007000/0000_NAME.png`` (photograph left, render
    right). The figures are those of ``ns-eval`` on that step's checkpoint.

    Raises:
        OptionsError: if a step is no whole number of at least 1.
        ModuleError: at set-up, if the data provider cannot evaluate.
        SplatkitError: at set-up, if the output folder cannot be written.
    """

    output_dir: str | Path
    """Folder of the results; its subfolders are stats and images."""
    eval_steps: Annotated[Sequence[int], Steps] = field(default_factory=list[int])
    """Steps after which to evaluate, counted from 1. None: off."""
    save_images: bool = True
    """Save each evaluation image beside its render."""
    save_stats: bool = True
    """Save the metrics as JSON and CSV; they are logged in any case."""

    @property
    def is_idle(self) -> bool:
        return no_steps(self.eval_steps)

    def on_setup(self, logger: logging.Logger, data_provider: Any, max_steps: int, world_rank: int) -> None:
        self._steps = reachable_steps(self.module_name, "eval_steps", self.eval_steps, max_steps, logger)
        self.metrics: dict[str, float] = {}
        """The last evaluation's means, by metric."""
        if not isinstance(data_provider, EvaluationSource):
            raise ModuleError(
                f"{self.module_name} needs a data provider with evaluate() and evaluation_protocol(), found "
                f"{type(data_provider).__name__}."
            )
        if world_rank == 0 and (self.save_images or self.save_stats):
            check_output_dir(self.output_dir, self.module_name)

    def on_evaluate(
        self,
        logger: logging.Logger,
        step: int,
        data_provider: EvaluationSource,
        training_state: SplatTrainingState,
        world_rank: int,
        images_per_step: int = 1,
    ) -> None:
        """Evaluate if this is one of the steps."""
        if world_rank != 0 or not reaches_one_of(step, self._steps, images_per_step):
            return
        what, writes = f"The evaluation of step {step}", True  # the first file that cannot be written is the last tried
        began = time.perf_counter()
        images: list[dict[str, Any]] = []
        for number, result in enumerate(data_provider.evaluate()):
            images.append({"name": result.name, **result.metrics})
            if self.save_images and writes:
                writes = write_or_warn(logger, what, partial(self._save_image, step, number, result))
        if not images:
            logger.warning("%s: there are no evaluation images.", self.module_name)
            return
        self.metrics = mean_metrics(images)
        text = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        logger.info("Step %d, mean of %d evaluation images: %s", step, len(images), text)
        if self.save_stats and writes:
            results = {
                "step": step,
                "num_gaussians": len(training_state),
                "seconds": round(time.perf_counter() - began, 3),
                "mean": self.metrics,
                "images": images,
                "protocol": data_provider.evaluation_protocol(),
            }
            write_or_warn(logger, what, lambda: self._save_stats(step, results))

    def stats_path(self, step: int, suffix: str = ".json") -> Path:
        """The JSON file of a step's metrics, steps counted from 1."""
        return Path(self.output_dir) / "stats" / f"step_{step:06d}{suffix}"

    def images_path(self, step: int) -> Path:
        """Folder of the images of a step (counted from 1)."""
        return Path(self.output_dir) / "images" / f"step_{step:06d}"

    def _save_image(self, step: int, number: int, result: ImageEvaluation) -> None:
        pair = torch.cat([result.target, result.rendered], dim=1).clamp(0, 1)
        pixels = (pair * 255).round().to(torch.uint8).cpu().numpy()
        path = self.images_path(step) / f"{number:04d}_{Path(result.name).stem}.png"
        atomic_write(path, lambda file: Image.fromarray(pixels).save(file, format="PNG"))

    def _save_stats(self, step: int, results: dict[str, Any]) -> None:
        atomic_write_text(self.stats_path(step), json.dumps(_for_json(results), indent=2) + "\n")
        table = io.StringIO(newline="")
        names = ["name", *results["mean"]]
        rows = csv.DictWriter(table, names, lineterminator="\n")
        rows.writeheader()
        rows.writerows(results["images"])
        rows.writerow({"name": "mean", **results["mean"]})
        atomic_write_text(self.stats_path(step, ".csv"), table.getvalue())


def mean_metrics(images: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean over images of every metric that all of them have, computed in float32 as ``ns-eval`` does."""
    names = [name for name in images[0] if name != "name" and all(name in image for image in images)]
    # not `mean`, which adds in another order and may differ in the last digit
    means = {name: torch.std_mean(torch.tensor([image[name] for image in images]), correction=0)[1] for name in names}
    return {name: float(mean) for name, mean in means.items()}


def _for_json(value: Any) -> Any:
    """A value for JSON, which has no infinity (the PSNR of a perfect image): that becomes a string."""
    if isinstance(value, dict):
        return {str(key): _for_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_json(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
