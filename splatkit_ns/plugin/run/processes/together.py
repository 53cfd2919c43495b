"""The common work of a run's ranks besides their gradients: sharing images, stopping, comparing, and saving."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from splatkit_ns.densification import SplatDensification
from splatkit_ns.errors import SplatkitError
from splatkit_ns.parts.context import StepContext
from splatkit_ns.parts.steps import is_due
from splatkit_ns.plugin.data.checks.same_data import DataSummary
from splatkit_ns.plugin.data.sampling.dealing import DealtImages
from splatkit_ns.plugin.run.ending.signals import StopRequest
from splatkit_ns.plugin.run.processes.roll_call import RollCall
from splatkit_ns.plugin.step.finite import FiniteWatch
from splatkit_ns.plugin.step.interfaces import FrameSource
from splatkit_ns.plugin.step.parts import StepParts
from splatkit_ns.plugin.step.rank_gradients import GradientExchange, OwnGradients, RankGradients
from splatkit_ns.plugin.step.training_step import TrainingStep
from splatkit_ns.ranks import Ranks

T = TypeVar("T")

IMAGES_PER_COMPARISON = 100
"""The number of images after which the ranks compare their parameters."""
COMPARED_AT_ONCE = 2**21
"""The number of numbers that are compared at once: each takes 8 bytes more meanwhile."""


class Together:
    """Decides for all ranks of a run: which images they render, when they stop, whether they are still alike.

    With one rank, nothing waits.

    Args:
        ranks: the ranks.
        count_images: whether steps count the images of all ranks.
    """

    def __init__(self, ranks: Ranks, count_images: bool) -> None:
        self.ranks, self._count_images = ranks, count_images
        self.batch_size = 1
        """The number of images that each rank renders in a step."""
        self._roll_call: RollCall | None = None
        """None if the ranks agree at every step, and wait for each other to do so."""
        self._dealt: DealtImages | None = None
        self._compares_first = ranks.are_on_several_machines
        self._compared: BitSums | None = None
        """The last comparison, if its outcome is not known yet."""

    @property
    def images_per_step(self) -> int:
        """The number by which steps grow."""
        return self.ranks.size * self.batch_size if self._count_images else 1

    def start(self, data: Any, read: Callable[[], T]) -> T:
        """The checkpoint to go on from, which all ranks of this machine read. Other machines get that of rank 0.

        Args:
            data: the datamanager.
            read: reads the checkpoint, if there is one.

        Raises:
            SplatkitError: the machines have different data, or the checkpoint cannot be read.
        """
        if not self.ranks.are_on_several_machines:
            return read()
        summaries = self.ranks.gather_objects(DataSummary.of(data))
        for rank, summary in enumerate(summaries):
            difference = summary.difference(summaries[0])
            if difference is not None:
                raise SplatkitError(
                    f"The data of machine {rank // self.ranks.on_machine} are not those of machine 0: {difference}. "
                    "All machines need the same files, at the same place or at the place that each names with --data."
                )
        return self.ranks.message_of_first(read() if self.ranks.is_first else None)

    def last_step(self, start: int, max_steps: int) -> int:
        """The last step of a run, 1-based.

        Args:
            start: the number of steps that have been trained.
            max_steps: the wanted number; the last step may go beyond it, by fewer images than a step has.
        """
        return max(start, start - (start - max_steps) // self.images_per_step * self.images_per_step)

    def gradients(self, parts: StepParts) -> GradientExchange:
        """Makes the gradients of each rank those of all.

        Args:
            parts: those of this run. If all of them are ours, every rank has gradients of the same parameters, and
                stops only because of a signal or the viewer; then the ranks need not agree on that at every step.
        """
        if self.ranks.size == 1:
            return OwnGradients()
        self._roll_call = RollCall(self.ranks, self._learn) if parts.are_ours else None
        return RankGradients(self.ranks, self._roll_call, self.batch_size)

    def images(self, data: Any) -> FrameSource:
        """The source of this rank's training images.

        Args:
            data: the datamanager.

        Raises:
            SplatkitError: there are fewer training images than a step renders.
        """
        number, wanted = len(data.train_dataset), self.ranks.size * self.batch_size
        if wanted == 1:
            return data
        if number < wanted:
            machines, size = self.ranks.size // self.ranks.on_machine, self.batch_size
            devices = f"--machine.num-devices is {self.ranks.on_machine}{f' on {machines} machines' * (machines > 1)}"
            given = [devices] * (self.ranks.size > 1) + [f"--batch-size is {size}"] * (size > 1)
            raise SplatkitError(
                f"{' and '.join(given)}, but there are {number} training images: each process needs "
                f"{'one' if size == 1 else size} of its own at every step."
            )
        self._dealt = DealtImages(data, self.ranks, self.batch_size)
        return self._dealt

    def _learn(self, work: list[int]) -> None:
        """Take the work of the images of a step, rank by rank."""
        if self._dealt is not None:
            self._dealt.learn(work)

    def agree_to_stop(self, wants: bool, request: StopRequest, context: StepContext, step: TrainingStep) -> bool:
        """Whether the run stops now: whether any rank wants that; then all have its reasons.

        If all parts are ours, the answer is that of the step before, which has come in the meantime. The ranks also
        tell each other the work of their images in the last step but one.

        Args:
            wants: whether this rank does.
            request: the signal that this rank has received; set if another rank has received one.
            context: the reasons of parts; set if a part has given them on another rank.
            step: runs the steps of this rank.
        """
        if self.ranks.size == 1:
            self._learn(step.works)
            return wants
        if self._roll_call is None:
            found = self.ranks.gather([int(wants), *step.works])
            stops = any(flag for flag, *_ in found)
            self._learn([work for _, *works in found for work in works])
        else:
            stops = self._roll_call.is_last
        if not stops:
            if self._roll_call is not None:
                self._roll_call.call(wants, step.works, step.steps_alike())
            return False
        code = None if context.exit_request is None else (context.exit_request.code,)
        for signum, reason, exit_code in self.ranks.gather_objects((request.signum, context.stop_reason, code)):
            request.signum = request.signum or signum
            context.stop_reason = context.stop_reason or reason
            if exit_code is not None:
                context.exit_request = context.exit_request or SystemExit(*exit_code)
        return True

    def compare(self, step: int, parameters_of_run: Callable[[], Mapping[str, Tensor]]) -> None:
        """Compare the parameters of the ranks, which have to be the same bits, if that is due.

        A difference is told after the next step, or when the ranks save, so that no rank waits for its GPU. Ranks of
        several machines, which may have begun with other files, compare after their first step, too.

        Args:
            step: the number of images that have been trained.
            parameters_of_run: gives them, by name.

        Raises:
            SplatkitError: a rank has others than rank 0.
        """
        if self.ranks.size == 1:
            return
        self._tell_difference()
        if self._compares_first or is_due(step, IMAGES_PER_COMPARISON, self.images_per_step):
            self._compares_first, self._compared = False, BitSums(step, parameters_of_run())

    def _tell_difference(self) -> None:
        """Raise the error of `compare` if the last comparison has found a difference that has not been told."""
        ours, self._compared = self._compared, None
        if ours is None:
            return
        found = self.ranks.gather(ours.values())
        for rank, theirs in enumerate(found):
            names = [name for name, a, b in zip(ours.names, found[0], theirs, strict=True) if a != b]
            if names:
                raise SplatkitError(
                    f"The ranks differ after step {ours.step}: {', '.join(names)} of rank {rank} are not those of rank "
                    "0. A part changes values on one rank alone, or by what its rank has seen. Let it change them "
                    "alike on all ranks, or train in one process."
                    + " Or the machines have other processors or files."
                    * self.ranks.are_on_several_machines
                )

    @contextmanager
    def saving(
        self, densification: SplatDensification[Any], watch: FiniteWatch, works: Callable[[], list[int]]
    ) -> Generator[None]:
        """A block in which rank 0 saves what all ranks have counted; all ranks run it.

        Args:
            densification: counts.
            watch: of this rank.
            works: gives the work of this rank's images in the last two steps, in their order.

        Raises:
            NotFiniteError: a step since the last check was not finite.
            SplatkitError: see `compare`.
        """
        if self.ranks.size > 1:
            self._tell_difference()
            watch.check(together=True)
            densification.gather_from_ranks(self.ranks)
        if self._dealt is not None:
            found, size = self.ranks.gather(works()), self.batch_size
            before, last = ([work for each in found for work in each[a : a + size]] for a in (0, size))
            self._dealt.keep_newest(before, last)
        try:
            yield
        finally:
            if self.ranks.size > 1:
                densification.forget_gathered(self.ranks)


class BitSums:
    """Numbers that depend on all bits of parameters, for a comparison; the host does not wait for them at first.

    Args:
        step: the number of images that have been trained.
        parameters: by name, on one device.
    """

    @torch.no_grad()
    def __init__(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        self.step, self.names = step, list(parameters)
        sums = torch.stack([_bit_sum(param) for param in parameters.values()])
        self._values = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=sums.is_cuda)
        self._values.copy_(sums, non_blocking=True)
        self._copied = torch.cuda.Event() if sums.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def values(self) -> list[int]:
        """The numbers, in the order of `names`; waits for the device."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()


def _bit_sum(tensor: Tensor) -> Tensor:
    """A number that depends on all bits of a tensor and on the order of its rows, scalar int64; it wraps around."""
    bits = tensor.detach().contiguous().view(torch.int32)
    bits = bits.reshape(len(bits) if bits.dim() else 1, -1)
    some = max(1, COMPARED_AT_ONCE // max(1, bits.shape[1]))
    rows = torch.cat([part.sum(1, dtype=torch.int64) for part in bits.split(some)])
    return (rows * torch.arange(1, 2 * len(rows), 2, device=rows.device)).sum()
