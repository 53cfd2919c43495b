"""The length of runs that a method is made for, and settings that fit a shorter run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from splatkit_ns.cameras import LensModel
from splatkit_ns.densification import SplatFittingDensification
from splatkit_ns.parts.fitting import SceneSteps, fitted, fitted_to_scene
from splatkit_ns.plugin.run.opaque_parts import part_itself
from splatkit_ns.ranges import NonNegative, is_number


@dataclass
class RunLength:
    """The length of runs that a method is made for."""

    full_length: Annotated[int, NonNegative] = 0
    """The number of steps that the method is made for. A run of fewer steps takes schedules that fit it, unless their
    numbers are given; 0 = never."""


def is_short(config: Any) -> bool:
    """Whether a run has fewer steps than its method is made for.

    Args:
        config: of the run; its options need not be in their ranges.
    """
    steps, length = config.max_num_iterations, config.full_length
    return is_number(steps) and is_number(length) and 0 < steps < length


def fit_to_length(config: Any) -> None:
    """Set the settings of a short run to the values that fit it; see `splatkit_ns.parts.fitting`.

    What has been set is plain numbers, so a second call changes nothing, and ``config.yml`` holds what the run uses.
    """
    if is_short(config):
        _keep_mcmc_if_needed(config)
        config.pipeline = fitted(config.pipeline, config.max_num_iterations)
        config.optimizers = fitted(config.optimizers, config.max_num_iterations)


def _keep_mcmc_if_needed(config: Any) -> None:
    """Leave a short run its strategy if the renderer does not compute what the one of short runs needs."""
    model = config.pipeline.model
    strategy, renderer = model.densification, part_itself(model.renderer)
    offers = renderer.screen_gradients(possible_lenses(config)) == "absolute"
    if isinstance(strategy, SplatFittingDensification) and not offers:
        model.densification = strategy.as_mcmc()


def possible_lenses(config: Any) -> tuple[LensModel, ...]:
    """The models of the lenses that a run may train through, before its data is known."""
    return ("pinhole",) if getattr(config.pipeline.datamanager, "undistort", True) else ("opencv", "opencv_fisheye")


def fit_to_scene(config: Any, photographs: int) -> bool:
    """Set the settings of the pipeline that follow the number of photographs, and the number of steps if it is the
    method's own and too large.

    A run with fewer steps then counts as one of full length, with settings that fit it. What has been set is plain
    numbers. Nothing changes if ``full_length`` is 0.

    Args:
        config: of the run.
        photographs: the number of training photographs.

    Returns:
        Whether the config has changed.
    """
    if config.full_length == 0:
        return False
    pipeline, steps = config.pipeline, config.max_num_iterations
    config.pipeline = fitted_to_scene(pipeline, photographs)
    if isinstance(steps, SceneSteps) and steps.of_scene(photographs) < steps:
        config.max_num_iterations = steps.of_scene(photographs)
        fit_to_length(config)
        config.full_length = config.max_num_iterations
    return config.pipeline is not pipeline or config.max_num_iterations != steps
