"""The Gaussians as the viewer shows them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from nerfstudio.viewer.render_state_machine import RenderStateMachine
from torch import Tensor, nn

from splatkit_ns.splat import SplatTrainingState


@dataclass
class Shown:
    """The choices of the viewer's panel, which renders for evaluation and training do not follow."""

    sh_degree: int = 3
    """The degree up to which spherical harmonics are evaluated."""
    kept: Tensor | None = None
    """The Gaussians to show, (N,) bool; None for all. It is ignored when their number has changed."""
    on_render: Callable[[SplatTrainingState], None] | None = None
    """Called with all Gaussians before the viewer renders."""

    def of(self, state: SplatTrainingState) -> SplatTrainingState:
        """The Gaussians to render: in a thread of the viewer those that it shows, in any other all of them."""
        if not isinstance(threading.current_thread(), RenderStateMachine):
            return state
        if self.on_render is not None:
            self.on_render(state)
        return self.applied(state)

    def applied(self, state: SplatTrainingState) -> SplatTrainingState:
        """The Gaussians that the viewer shows of these."""
        kept = self.kept if self.kept is not None and len(self.kept) == len(state) else None
        coefficients = (self.sh_degree + 1) ** 2 - 1
        shN = state.params["shN"]
        if kept is None and shN.shape[1] <= coefficients:
            return state
        params = {name: p.data if kept is None else p.data[kept.to(p.device)] for name, p in state.params.items()}
        params["shN"] = params["shN"][:, :coefficients]
        return SplatTrainingState({name: nn.Parameter(p, requires_grad=False) for name, p in params.items()}, {})
