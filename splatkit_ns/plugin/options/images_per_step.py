"""The images of a step, and what steps count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.context import StepContext
from splatkit_ns.plugin.step.ours import is_ours
from splatkit_ns.ranges import Positive

FEWEST_STEPS, FEWEST_IMAGES = 3250, 10
"""With `batch_size` None, a process takes two images if at least so many steps, and so many training images for each
image of a step, are left then."""
LARGE_IMAGE = 2_000_000
"""Pixels. One image as large as this keeps a GPU busy, and a second one takes memory for nothing."""


@dataclass
class ImagesPerStep:
    """The options that say how many images a step has."""

    batch_size: Annotated[int | None, Positive] = 1
    """Images that each process renders at a step, which takes their mean gradient. None: two with several GPUs in long
    runs, which then exchange gradients half as often, and with pairs_on_one_gpu on one GPU, too; else one."""
    pairs_on_one_gpu: bool = False
    """Without batch_size, render two images of less than 2 million pixels at a step on one GPU, too, which works on
    both at the same time."""
    count_images: bool = True
    """With several images a step (--machine.num-devices, --batch-size), steps of the settings count images: N a step
    take an N-th of the steps, with learning rates times the root of N. False: settings stay, the run sees N times the
    images."""


def batch_size_of(config: Any, context: StepContext, modules: Sequence[SplatBaseModule[Any]]) -> int:
    """The number of images that each process of a run renders at a step.

    Args:
        config: the config of the run, fitted to its images.
        context: that of the run, with its built-in parts.
        modules: those that will be attached; modules of users may expect one image a step.
    """
    if config.batch_size is not None:
        return config.batch_size
    per_step = 2 * context.world_size
    takes_two = (
        (context.world_size > 1 or (config.pairs_on_one_gpu and _mean_pixels(context) < LARGE_IMAGE))
        and config.machine.device_type == "cuda"
        and config.count_images
        and config.on_nan != "skip"
        and config.max_num_iterations >= FEWEST_STEPS * per_step
        and context.num_train_images >= FEWEST_IMAGES * per_step
        and all(map(is_ours, [*context.modules, *modules]))
    )
    return 2 if takes_two else 1


def _mean_pixels(context: StepContext) -> float:
    """The pixels of a training image, on the average."""
    data: Any = context.data_provider
    return data.num_train_pixels / max(1, context.num_train_images)
