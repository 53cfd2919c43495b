"""nerfstudio's evaluation during training, with the modules' hooks around it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.utils import writer
from nerfstudio.utils.writer import EventName, TimeWriter
from torch import Tensor

from splatkit_ns.parts.dispatch import ModuleDispatcher
from splatkit_ns.parts.steps import reaches


class AnnouncedImages:
    """An evaluation's images, with `pre_validation_image` before each.

    Args:
        images: pairs of camera and batch; with a length.
        dispatcher: runs the hooks of the modules.
    """

    def __init__(self, images: Any, dispatcher: ModuleDispatcher) -> None:
        self._images = images
        self._dispatcher = dispatcher

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Any]:
        for image in self._images:
            self._dispatcher.run("pre_validation_image")
            yield image


class AnnouncedEvaluation(VanillaPipeline):
    """A pipeline whose evaluations during training are announced to the modules."""

    @property
    def _dispatcher(self) -> ModuleDispatcher:
        model: Any = self.model
        return model.dispatcher

    def get_eval_image_metrics_and_images(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Metrics of one evaluation image, and images to look at."""
        dispatcher = self._dispatcher
        with dispatcher.validation(1, all_images=False) as is_heard:
            if is_heard:
                dispatcher.run("pre_validation_image")
            return super().get_eval_image_metrics_and_images(step)

    def get_average_image_metrics(
        self,
        data_loader: Any,
        image_prefix: str,
        step: int | None = None,
        output_path: Path | None = None,
        get_std: bool = False,
    ) -> dict[str, Any]:
        """Mean metrics of many images; none if none of them can be measured, no standard deviations of a single one."""
        get_std = get_std and len(data_loader) > 1  # else NaN, which no other program reads from JSON
        if len(data_loader) == 0:
            return {}
        with self._dispatcher.validation(len(data_loader)) as is_heard:
            images = AnnouncedImages(data_loader, self._dispatcher) if is_heard else data_loader
            return super().get_average_image_metrics(images, image_prefix, step, output_path, get_std)


def evaluate(config: TrainerConfig, pipeline: VanillaPipeline, step: int, images_per_step: int = 1) -> None:
    """Run the evaluations that are due after a step (0-based), and write them like nerfstudio does."""
    if reaches(step, config.steps_per_eval_batch, images_per_step):
        _, losses, metrics = pipeline.get_eval_loss_dict(step=step)
        writer.put_scalar(name="Eval Loss", scalar=functools.reduce(torch.add, losses.values()), step=step)
        writer.put_dict(name="Eval Loss Dict", scalar_dict=losses, step=step)
        writer.put_dict(name="Eval Metrics Dict", scalar_dict=metrics, step=step)
    if reaches(step, config.steps_per_eval_image, images_per_step):
        with TimeWriter(writer, EventName.TEST_RAYS_PER_SEC, write=False) as timer:
            metrics, images = pipeline.get_eval_image_metrics_and_images(step=step)
        rays = metrics["num_rays"] / timer.duration
        writer.put_time(name=EventName.TEST_RAYS_PER_SEC, duration=rays, step=step, avg_over_steps=True)
        writer.put_dict(name="Eval Images Metrics", scalar_dict=metrics, step=step)
        for name, image in images.items():
            writer.put_image(name=f"Eval Images/{name}", image=image, step=step)
    if reaches(step, config.steps_per_eval_all_images, images_per_step):
        metrics = pipeline.get_average_eval_image_metrics(step=step)
        writer.put_dict(name="Eval Images Metrics Dict (all images)", scalar_dict=metrics, step=step)
