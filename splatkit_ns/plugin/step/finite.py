"""Detection of NaN and infinite losses and gradients, without reading back from the device at every step."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from splatkit_ns.errors import SplatkitError
from splatkit_ns.loss_fn.base import describe_non_finite
from splatkit_ns.parts.context import StepContext
from splatkit_ns.plugin.step.updates import parameter_of
from splatkit_ns.ranks import ONE_RANK, Ranks

STEPS_PER_CHECK = 100
"""The number of steps on a GPU after which the largest values are read back; they also are before a checkpoint."""

MAX_SKIPPED_IN_A_ROW = 100
"""The number of skipped steps in a row that ends training."""

logger = logging.getLogger("splatkit_ns")


class NotFiniteError(SplatkitError):
    """The loss or a gradient is NaN or infinite."""


class FiniteWatch:
    """Keeps the loss and the largest gradient of every parameter group of each step, on the device.

    Args:
        names: the parameter groups.
        device: the device of the loss.
        every_step: whether every step is checked right away, which waits for the device.
        skips: whether steps that are not finite are skipped, instead of an exception; needs `every_step`.
        ranks: the ranks of this run, which all record the same gradients, and find the same.
    """

    def __init__(
        self,
        names: list[str],
        device: torch.device | str,
        every_step: bool,
        skips: bool = False,
        ranks: Ranks = ONE_RANK,
    ) -> None:
        self.names = names
        self._ranks = ranks
        self._skips = skips
        self.every_step = every_step
        self._capacity = 1 if every_step else STEPS_PER_CHECK
        self._values = torch.zeros(self._capacity, len(names) + 2, device=device)
        """A row for each step; see `row`."""
        self._rows = self._values.unbind()
        self._zero = torch.zeros((), device=device)
        self._steps: list[tuple[int, str]] = []
        self._in_a_row = 0

    @torch.no_grad()
    def largest_gradients(self, optimizers: Mapping[str, Optimizer]) -> Tensor:
        """The largest magnitude of each gradient, NaN if it contains NaN; a CUDA graph can hold this.

        Args:
            optimizers: by parameter group; a parameter without a gradient counts as 0.

        Returns:
            (G,) float32, in the order of `names`.
        """
        grads = [parameter_of(optimizers[name]).grad for name in self.names]
        present = [grad for grad in grads if grad is not None and grad.numel()]
        found = iter(_largest(present) if present else [])
        return torch.stack([next(found).float() if grad is not None and grad.numel() else self._zero for grad in grads])

    @torch.no_grad()
    def row(self, largest: Tensor, own_loss: Tensor, loss: Tensor) -> Tensor:
        """The values that are recorded of a step; a CUDA graph can hold this.

        Args:
            largest: the result of `largest_gradients`.
            own_loss: that of this rank's images, scalar.
            loss: the mean over the ranks.

        Returns:
            (G + 2,) float32: the loss, the largest gradients, and the loss of this rank's images.
        """
        first, last = (each.detach().float().reshape(1) for each in (loss, own_loss))
        return torch.cat([first, largest, last])

    @torch.no_grad()
    def record(self, context: StepContext, row: Tensor) -> None:
        """Record this step's loss and gradients, after backward.

        Args:
            context: the context of the step.
            row: the result of `row`.

        Raises:
            NotFiniteError: a check was due, and a value since the last check was not finite.
        """
        self._rows[len(self._steps)].copy_(row)
        self._steps.append((context.step, " or image ".join(context.names_in_batch) or context.image_name))
        if len(self._steps) == self._capacity:
            try:
                self.check(together=True)
            except NotFiniteError as error:
                terms = describe_non_finite(context.loss_terms) if self.every_step else ""
                if not terms:
                    raise
                raise NotFiniteError(f"{error} Terms of the loss: {terms}.") from None

    def admits(self, context: StepContext, optimizers: Mapping[str, Optimizer], own_loss: Tensor, loss: Tensor) -> bool:
        """Record a step, and say whether the optimizers may step.

        Args:
            context: the context of the step.
            optimizers: by parameter group.
            own_loss: that of this rank's images, scalar.
            loss: the mean over the ranks.

        Raises:
            NotFiniteError: a value is not finite, and such steps are not skipped, or too many in a row were skipped.
        """
        try:
            self.record(context, self.row(self.largest_gradients(optimizers), own_loss, loss))
        except NotFiniteError as error:
            if not self._skips:
                raise
            self._skip(error)
            return False
        if self.every_step:
            self._in_a_row = 0
        return True

    def check(self, together: bool = False) -> None:
        """Check the steps since the last check.

        Args:
            together: whether all ranks check now; then the message names the rank, too.

        Raises:
            NotFiniteError: a loss or gradient was not finite; the message names the first such step, its image and the
                groups.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        rows = self._values[: len(steps)].tolist()
        for (step, image_name), (*row, own_loss) in zip(steps, rows, strict=True):
            labels = ["the loss", *(f"the gradient of {name}" for name in self.names)]
            bad = [f"{label} = {value}" for label, value in zip(labels, row, strict=True) if not math.isfinite(value)]
            if bad:
                where = f"image {image_name}"
                if together and self._ranks.size > 1:
                    where = self._images_of_ranks(image_name, math.isfinite(own_loss))
                raise NotFiniteError(f"Not finite at step {step} on {where}: {', '.join(bad)}.")

    def _images_of_ranks(self, image_name: str, is_finite: bool) -> str:
        """The images of a step, with their ranks; only those whose loss is not finite, if there are such."""
        found = list(enumerate(self._ranks.gather_objects((image_name, is_finite))))
        spoilt = [entry for entry in found if not entry[1][1]] or found
        return " or ".join(f"image {name} (rank {rank})" for rank, (name, _) in spoilt)

    def _skip(self, error: NotFiniteError) -> None:
        self._in_a_row += 1
        if self._in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise NotFiniteError(f"{self._in_a_row} steps in a row had to be skipped. {error}") from error
        logger.warning("%s This step is skipped (--on-nan skip).", error)


def check_parameters(parameters: Mapping[str, Tensor], step: int) -> None:
    """Check the parameters themselves: an optimizer with impossible settings, or a module, can spoil them, too.

    On a GPU this waits for the device.

    Args:
        parameters: the parameters, by name.
        step: the last step that was trained, 1-based.

    Raises:
        NotFiniteError: parameters are not finite; the message names them.
    """
    found = torch.stack([(~param.detach().isfinite()).sum() for param in parameters.values()]).tolist()
    bad = [f"{number:,} of the values of {name}" for name, number in zip(parameters, found, strict=True) if number]
    if bad:
        raise NotFiniteError(
            f"Not finite after step {step}: {', '.join(bad)}, although the gradients were. Look at the optimizers' "
            "settings, and at modules that change parameters."
        )


def _largest(grads: list[Tensor]) -> list[Tensor]:
    """The largest magnitude of each gradient; NaN if it contains NaN."""
    if grads[0].device.type != "cpu":
        return torch._foreach_norm(grads, math.inf)  # type: ignore[reportPrivateUsage]  # one launch for all
    # that norm is not vectorised on the CPU; numpy's extremes take a tenth of its time, on this thread alone
    arrays = [grad.detach().float().numpy() for grad in grads]
    return [torch.tensor(max(array.max(), -array.min())) for array in arrays]


def stop_message(error: NotFiniteError, checkpoint: str) -> NotFiniteError:
    """The error with the message for training that stops because of it.

    Args:
        error: says what was not finite.
        checkpoint: a sentence that says which checkpoint there is.
    """
    return NotFiniteError(
        f"{error} {checkpoint} Check that image, its pose and its mask, lower the learning rates, or skip such steps: "
        "--on-nan skip"
    )
