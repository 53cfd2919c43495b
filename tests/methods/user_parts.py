"""Parts and a method of a user's own, for the tests of the command line."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from splatkit_ns.densification import SplatDensification
from splatkit_ns.loss_fn import SplatLossFn
from splatkit_ns.methods import make_method
from splatkit_ns.modules import SplatBaseModule, SplatRenderPayload
from splatkit_ns.splat import SplatTrainingState


@dataclass
class WeightedLoss(SplatLossFn[SplatRenderPayload]):
    """A dataclass: its fields become flags."""

    weight: float = 0.5
    """Weight of the difference."""

    def compute_loss(self, rendered_frames: Tensor, target_frames: Tensor) -> Tensor:
        return self.weight * (rendered_frames - target_frames).abs().mean()


class PlainDensification(SplatDensification[SplatRenderPayload]):
    """A plain class: no flags."""

    def __init__(self, every: int = 5) -> None:
        self.every = every

    def densify(self, step: int, training_state: SplatTrainingState) -> None:
        if step % self.every == 0:
            training_state.duplicate(training_state.opacities > 0.0)


class Counter(SplatBaseModule[SplatRenderPayload]):
    """Counts steps."""

    def __init__(self, start: int = 0) -> None:
        self.count = start

    def post_step(self) -> None:
        self.count += 1


class NeedsAnArgument(SplatBaseModule[SplatRenderPayload]):
    """Cannot be made without arguments."""

    def __init__(self, number: int) -> None:
        self.number = number


class HasABug(SplatBaseModule[SplatRenderPayload]):
    """Can be made without arguments, were it not for the mistake in it."""

    def __init__(self) -> None:
        self.every = "every " + 5  # type: ignore[operator]


needs_an_argument = NeedsAnArgument(7)
a_number = 3

method = make_method(
    "users-own",
    loss_fn=WeightedLoss(0.25),
    densification=PlainDensification(4),
    modules=[Counter(100)],
    description="Somebody's own.",
    sh_degree=2,
    max_num_iterations=20,
)
