"""The initial Gaussians of a run: from a trained file, from the data's seed points, or random."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from splatkit_ns.plugin.reporting.console import report_once
from splatkit_ns.splat import random_points
from splatkit_ns.splat.initialization import gaussians_from_file, gaussians_from_points


class StartSettings(Protocol):
    """The settings of a run's initial Gaussians; see the model's config."""

    init_ply: Path | None
    random_init: bool
    num_random: int
    random_scale: float
    sh_degree: int
    init_opacity: float
    init_scale: float


def initial_gaussians(
    config: StartSettings,
    seed_points: tuple[Tensor, Tensor] | None,
    scene_box: SceneBox,
    row_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Tensor]:
    """Raw parameters of the Gaussians that a run starts with.

    Args:
        config: selects one of the three sources.
        seed_points: the data's points (M, 3) in world units and their colours (M, 3) in 0…255; None if it has none.
        scene_box: random points fill it, enlarged by ``config.random_scale``.
        row_shapes: name -> shape of a row, of the parameters that parts declare; they start as the file says, if it
            has them.

    Returns:
        The six parameters, and those of parts that a file has, float32 on the CPU.

    Raises:
        SplatkitError: the file to start from cannot be used.
    """
    if config.init_ply is not None:
        if Path(config.init_ply).exists():
            return gaussians_from_file(config.init_ply, config.sh_degree, row_shapes)
        # evaluation and resuming load a checkpoint anyway; starting without one is refused by check_options
        report_once(f"The file {config.init_ply} that this run started from is not there any more.")
    if seed_points is not None and not config.random_init and len(seed_points[0]) > 0:
        points, colors = seed_points[0], seed_points[1].float() / 255
    else:
        points, colors = _random_points(config, scene_box), None
    return gaussians_from_points(
        points.float(),
        colors,
        sh_degree=config.sh_degree,
        init_opacity=config.init_opacity,
        init_scale=config.init_scale,
    )


def _random_points(config: StartSettings, scene_box: SceneBox) -> Tensor:
    lower, upper = scene_box.aabb.float()
    extent = float((upper - lower).max()) / 2 * config.random_scale
    return random_points(config.num_random, extent) + (lower + upper) / 2


def one_gaussian(sh_degree: int) -> dict[str, Tensor]:
    """Raw parameters of one Gaussian at the origin; draws nothing from the global random generator."""
    zeros = torch.zeros(1, 3)
    return gaussians_from_points(zeros, zeros, sh_degree=sh_degree, generator=torch.Generator())
