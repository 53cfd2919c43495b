"""The changes that densification makes at every step, as a part of the graph of the optimizers' step."""

from __future__ import annotations

from collections.abc import Sequence

from splatkit_ns.densification.base import Motion
from splatkit_ns.plugin.step.ours import is_ours
from splatkit_ns.plugin.step.parts import StepParts
from splatkit_ns.plugin.step.updates import ParameterUpdates


def motion_of(parts: StepParts, updates: ParameterUpdates) -> Motion | None:
    """The motion of a run's densification.

    None if there is none, if a hook looks at Gaussians before it, or if only a schedule knows its next learning rate.
    """
    if not is_ours(parts.densification) or parts.dispatcher.listens_to("on_optimize"):
        return None
    if updates.next_rate("means", parts.context.images_per_step) is None:
        return None
    return parts.densification.motion(parts.context.training_state)


def numbers_of(motion: Motion | None, parts: StepParts, updates: ParameterUpdates) -> Sequence[float]:
    """The numbers of this step's motion, whose random ones are those that densification would draw."""
    if motion is None:
        return ()
    parts.seed("densification", of_image=False)
    images = parts.context.images_per_step
    rate = updates.next_rate("means", images)
    assert rate is not None
    return motion.numbers(parts.context.step, images, rate)


def note_done(motion: Motion | None, parts: StepParts) -> None:
    """Let densification know that this step's motion is done."""
    if motion is not None:
        motion.done(parts.context.step, parts.context.images_per_step)
