"""The base class of densification strategies."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.nesting import held_parts
from splatkit_ns.parts.payload import PayloadT
from splatkit_ns.ranks import Ranks
from splatkit_ns.splat import RowChange, SplatTrainingState


@dataclass(frozen=True)
class Motion:
    """A change of the Gaussians that a strategy makes at every step, in a form that a CUDA graph can hold."""

    launch: Callable[[Tensor], None]
    """Launches the kernels; the tensor on the device, (M,) float64, has the numbers that change from step to step."""
    numbers: Callable[[int, int, float], Sequence[float]]
    """Gives the numbers of a step. Called with the step, `images_per_step`, and the learning rate that positions have
    when `densify` runs, after the schedules' step."""
    done: Callable[[int, int], None]
    """Called with step and `images_per_step` when the kernels have been launched: `densify` then leaves out what they
    have done."""
    size: int
    """The number M of these numbers."""


class SplatDensification(SplatBaseModule[PayloadT]):
    """A strategy that adds, splits and removes Gaussians in training. It has all hooks of a module, too."""

    @property
    def needs_screen_gradients(self) -> bool:
        """Whether it cannot work without gradients by the Gaussians' places on the screen; then a run whose renders
        have none is refused before it begins. A strategy of your own may say True."""
        return any(strategy.needs_screen_gradients for strategy in self._held())

    @abstractmethod
    def densify(self, *args: Any, **kwargs: Any) -> None:
        """Change the set of Gaussians, after the optimizers' step; called every step.

        Name the arguments that you need: ``step, max_steps, training_state, rend_out, rendered_frames, target_frames,
        masks, world_rank, world_size``, and all others that hooks can have. ``rend_out.densification_gradient`` is this
        step's gradient on the screen, of any renderer. Change the rows with ``training_state.duplicate``,
        ``split``, ``remove`` and ``add``, or with a strategy of gsplat's on ``training_state.params`` and
        ``training_state.optimizers``. A mask made before one of these operations may be used after it.
        """
        raise NotImplementedError

    def measure(self, rend_out: PayloadT) -> None:
        """Compute what `densify` needs of a step's render, after its backward pass, and keep it in the payload.

        The step's CUDA graph holds this, so it has to launch the same kernels at every step.
        """

    def count_image(self, rend_out: PayloadT, step: int) -> None:
        """Count the gradients of an image, after `measure`, if it is not the last of its step.

        A step renders several if ``batch_size`` is more than 1; `densify` gets the last one's render. By default,
        strategies that this one holds count. One that sums up what renders show overrides it.
        """
        for strategy in self._held():
            strategy.count_image(rend_out, step)

    def motion(self, training_state: SplatTrainingState) -> Motion | None:
        """The part of `densify` that is done at every step, if the graph of the optimizers' step can do it instead.

        Parts of users, and hooks that look at Gaussians between optimizers and densification, switch this off.
        """
        return None

    def gather_from_ranks(self, ranks: Ranks) -> None:
        """Replace what each rank has counted by what all ranks have; all ranks call it, before it is used or saved.

        By default, strategies that this one holds do so.
        """
        for strategy in self._held():
            strategy.gather_from_ranks(ranks)

    def forget_gathered(self, ranks: Ranks) -> None:
        """After a checkpoint has been saved or loaded: forget on other ranks than 0 what rank 0 holds, so that it is
        not counted twice.

        By default, strategies that this one holds do so.
        """
        for strategy in self._held():
            strategy.forget_gathered(ranks)

    def _held(self) -> list[SplatDensification[Any]]:
        return [part for part in held_parts(self) if isinstance(part, SplatDensification)]


def warn_if_idle(densification: Any, logger: Any) -> None:
    """Warn if a strategy with ``refine_start_iter`` and ``refine_stop_iter`` has no step between them."""
    start, stop = densification.refine_start_iter, densification.refine_stop_iter
    if start + 1 >= stop:
        logger.warning(
            "%s neither adds nor removes Gaussians: no step is after refine_start_iter (%d) and before "
            "refine_stop_iter (%d).",
            densification.module_name,
            start,
            stop,
        )


def limit_initial_number(
    training_state: SplatTrainingState, max_gaussians: int, logger: Any, cap_before: int | None = None
) -> None:
    """Remove Gaussians at random if a run starts with more than its cap allows.

    Args:
        training_state: the Gaussians that the run starts with.
        max_gaussians: the cap.
        logger: gets a warning if Gaussians are removed.
        cap_before: the cap of the run whose checkpoint is resumed. Parts may have added more than that; these are
            removed only if the cap is lower now, so that a resumed run is the same as one that was not interrupted.
    """
    surplus = len(training_state) - max_gaussians
    if surplus <= 0 or (cap_before is not None and max_gaussians >= cap_before):
        return
    logger.warning(
        "The run starts with %d Gaussians, max_gaussians allows %d: %d of them are removed at random.",
        len(training_state),
        max_gaussians,
        surplus,
    )
    mask = torch.ones(len(training_state), dtype=torch.bool, device=training_state.device)
    mask[torch.randperm(len(mask), device=mask.device)[:surplus]] = False
    # not `remove`, whose warning would say the same again
    training_state.change_rows(RowChange(mask.nonzero(as_tuple=True)[0], len(mask)), {})
