"""Where a run's Gaussians come from: a trained PLY file, the data's seed points, or chance."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from splatkit_ns.plugin.reporting.console import report_once
from splatkit_ns.splat import random_points
from splatkit_ns.splat.initialization import gaussians_from_file, gaussians_from_points

if TYPE_CHECKING:
    from splatkit_ns.plugin.model import SplatkitModelConfig

_weights_follow: ContextVar[bool] = ContextVar("weights_follow", default=False)


@contextmanager
def weights_follow(follow: bool) -> Generator[None]:
    """While a model is made in here, it is known whether a checkpoint will be loaded into it.

    Models are made by nerfstudio's code, which hands on nothing of the kind.
    """
    token = _weights_follow.set(follow or _weights_follow.get())
    try:
        yield
    finally:
        _weights_follow.reset(token)


def are_stand_ins() -> bool:
    """Whether `initial_gaussians` now gives no more than a stand-in for those of a checkpoint."""
    return _weights_follow.get()


def initial_gaussians(
    config: SplatkitModelConfig, seed_points: tuple[Tensor, Tensor] | None, scene_box: SceneBox
) -> dict[str, Tensor]:
    """Raw parameters of the Gaussians that a run starts with; of a single one where weights follow.

    Args:
        config: says which of the three it is.
        seed_points: the data's points (M, 3) in world units and their colours (M, 3) in 0…255, if it has some.
        scene_box: random points fill it, enlarged by ``config.random_scale``.

    Returns:
        The six parameters, float32 on the CPU.

    Raises:
        SplatkitError: the file to start from cannot be used.
    """
    if config.init_ply is not None:
        if Path(config.init_ply).exists():
            if are_stand_ins():
                return _one_gaussian(config)
            return gaussians_from_file(config.init_ply, config.sh_degree)
        # evaluation and resuming load a checkpoint anyway; starting without one is refused by check_options
        report_once(f"The file {config.init_ply} that this run started from is not there any more.")
    if seed_points is not None and not config.random_init and len(seed_points[0]) > 0:
        points, colors = seed_points[0], seed_points[1].float() / 255
    else:
        points, colors = _random_points(config, scene_box), None
    if are_stand_ins():
        # a run goes on with the same random numbers, also from a checkpoint that has no state of the generators
        if colors is None:
            torch.rand(len(points), 3)
        torch.randn(len(points), 4)
        return _one_gaussian(config)
    return gaussians_from_points(
        points.float(),
        colors,
        sh_degree=config.sh_degree,
        init_opacity=config.init_opacity,
        init_scale=config.init_scale,
    )


def _random_points(config: SplatkitModelConfig, scene_box: SceneBox) -> Tensor:
    lower, upper = scene_box.aabb.float()
    extent = float((upper - lower).max()) / 2 * config.random_scale
    return random_points(config.num_random, extent) + (lower + upper) / 2


def _one_gaussian(config: SplatkitModelConfig) -> dict[str, Tensor]:
    """What costs no search for neighbours, and draws nothing from the global generator."""
    zeros = torch.zeros(1, 3)
    return gaussians_from_points(zeros, zeros, sh_degree=config.sh_degree, generator=torch.Generator())
