"""The calls that a training step makes of renderer, loss, densification and modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from splatkit_ns.densification import SplatDensification
from splatkit_ns.loss_fn import SplatLossFn
from splatkit_ns.loss_fn.base import named_terms
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.context import LOSS_ARGUMENTS, RENDER_ARGUMENTS, StepContext, bind_arguments
from splatkit_ns.parts.dispatch import ModuleDispatcher
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.plugin.step.frame import TrainingFrame
from splatkit_ns.renderer import RenderOptions, SplatRenderer
from splatkit_ns.renderer.base import check_payload, check_signature
from splatkit_ns.splat.rng import seed_generators


class StepParts:
    """The parts of a run, called with what they ask for; their exceptions name part and step.

    Args:
        context: what the parts may ask for; filled in as a step goes on.
        renderer: turns Gaussians into images.
        loss_fn: compares these with photographs.
        densification: adds and removes Gaussians.

    Raises:
        ModuleError: a part does not fit; also from `use_modules`.
    """

    def __init__(
        self,
        context: StepContext,
        renderer: SplatRenderer[Any],
        loss_fn: SplatLossFn[Any],
        densification: SplatDensification[Any],
    ) -> None:
        self.context = context
        self._renderer, self._loss_fn, self._densification = renderer, loss_fn, densification
        context.renderer, context.loss_fn, context.densification = renderer, loss_fn, densification
        self.use_modules([])
        context.training_state.subscribe(self._rows_changed)

    def use_modules(self, modules: Sequence[SplatBaseModule[Any]]) -> None:
        """Let these modules hook into training, after renderer, loss and densification."""
        parts = [self._renderer, self._loss_fn, self._densification, *modules]
        self.dispatcher = ModuleDispatcher(parts, self.context)
        self.context.modules = parts
        check_signature(self._renderer)
        name = f"{self._loss_fn.module_name}.compute_loss"
        self._compute_loss = bind_arguments(self._loss_fn.compute_loss, RENDER_ARGUMENTS, name)
        name = f"{self._densification.module_name}.densify"
        self._densify = bind_arguments(self._densification.densify, LOSS_ARGUMENTS, name)

    def _rows_changed(self, row_change: Any) -> None:
        self.dispatcher.run("on_gaussians_changed", row_change=row_change)

    def run_hooks(self, hook: str, after: str) -> None:
        """Run a hook of all parts, between the end of the phase before it and that of "modules"."""
        self.dispatcher.run("on_phase", phase=after)
        self.dispatcher.run(hook)
        self.dispatcher.run("on_phase", phase="modules")

    def seed(self, purpose: str, of_rank: bool) -> None:
        """Seed the random generators for a part of the step.

        Args:
            purpose: the part of the step.
            of_rank: whether each rank draws numbers of its own, or all draw the same.
        """
        context = self.context
        rank = context.world_rank if of_rank else 0
        seed_generators(context.training_state.device, context.seed, context.step, purpose, rank)

    def render(self, frame: TrainingFrame, sh_degree: int, with_depth: bool) -> SplatRenderPayload:
        """Render a training image, and fill the context with the result.

        Args:
            frame: the camera and the background.
            sh_degree: the degree up to which spherical harmonics are evaluated.
            with_depth: whether depth is rendered, too.
        """
        context, view = self.context, frame.view
        options = RenderOptions(
            sh_degree=sh_degree,
            backgrounds=frame.background[None],
            render_mode="RGB+ED" if with_depth else "RGB",
            is_training=True,
            list_space=frame.list_space,
        )
        state = context.training_state
        payload = self._call(self._renderer, "render", lambda _: self._renderer.render(state, view, options))
        check_payload(payload, self._renderer, context, view.width, view.height)
        payload.retain_gradients()
        context.view, context.rend_out, context.rendered_frames = view, payload, payload.renders
        return payload

    def loss_terms(self) -> dict[str, Tensor]:
        """The named terms of the loss of the rendered image."""
        result = self._call(self._loss_fn, "compute_loss", self._compute_loss)
        return named_terms(result, self._loss_fn.module_name, self.context)

    def set_loss(self, terms: dict[str, Tensor]) -> None:
        """Sum up the terms, and fill the context with them."""
        self.context.loss_terms = terms
        self.context.loss = torch.stack(list(terms.values())).sum() if len(terms) > 1 else next(iter(terms.values()))

    def densify(self) -> None:
        """Let the densification change the set of Gaussians; all ranks draw the same numbers."""
        self.seed("densification", of_rank=False)
        with self.context.training_state.track_row_changes():  # a strategy of gsplat's changes rows itself
            self._call(self._densification, "densify", self._densify)

    def _call(self, part: SplatBaseModule[Any], name: str, call: Callable[[StepContext], Any]) -> Any:
        return self.dispatcher.guarded(part.module_name, name, call)
