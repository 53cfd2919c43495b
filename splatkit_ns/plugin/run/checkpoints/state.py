"""The state of a run: everything that its checkpoints hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from torch.cuda.amp.grad_scaler import GradScaler
from torch.nn import Parameter

from splatkit_ns.plugin.run.checkpoints.batch_scale import moments_of
from splatkit_ns.plugin.step.interfaces import StepModel


class SampledData(Protocol):
    """A datamanager whose drawing of images can be continued."""

    def sampler_state(self) -> dict[str, Any]:
        """The state of the drawing, as numbers that a checkpoint can hold."""
        ...

    def load_sampler_state(self, state: dict[str, Any]) -> None:
        """Go on drawing from a state."""
        ...


@dataclass(frozen=True, eq=False)
class RunState:
    """References to the objects of a run that hold its state."""

    pipeline: VanillaPipeline
    """Data and model together; their weights are stored."""
    model: StepModel
    data: SampledData
    optimizers: Optimizers
    """Optimizers and schedules."""
    grad_scaler: GradScaler
    """nerfstudio's; it does nothing here, but its checkpoints have one."""
    accumulation: Mapping[str, int]
    """Parameter group -> number of steps to sum up gradients over."""
    images_per_step: int = 1
    """The number by which steps grow, see `batch_scale`."""
    stated_rates: Collection[str] = ()
    """Parameter groups whose rate the user has stated (``learning_rates``)."""
    configured_rates: dict[str, float] = field(init=False)
    """Parameter group -> learning rate in the run's config, at the start of its schedule."""
    configured_moments: dict[str, dict[str, Any]] = field(init=False)
    """Parameter group -> decay rates and eps of its optimizer, for as many images as a step has."""

    def __post_init__(self) -> None:
        groups = {name: optimizer.param_groups[0] for name, optimizer in self.optimizers.optimizers.items()}
        rates = {name: float(group.get("initial_lr", group["lr"])) for name, group in groups.items()}
        object.__setattr__(self, "configured_rates", rates)  # the way to set a field of a frozen dataclass
        moments = {name: moments_of(group) for name, group in groups.items()}
        object.__setattr__(self, "configured_moments", moments)

    def parameters(self) -> dict[str, Parameter]:
        """The one parameter of each group."""
        return {name: params[0] for name, params in self.pipeline.get_param_groups().items()}
