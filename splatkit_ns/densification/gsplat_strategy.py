"""Any of gsplat's strategies, or one with the same methods, as a densification strategy."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from splatkit_ns.densification.base import SplatDensification
from splatkit_ns.densification.screen_gradients import request_absgrad
from splatkit_ns.errors import ModuleError
from splatkit_ns.parts.base import payload_type
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.splat import RowChange, SplatTrainingState

ARGUMENTS = ("params", "optimizers", "state", "step", "info")
"""The arguments that both methods of every strategy get."""
OPTIONAL_ARGUMENTS = ("packed", "lr")
"""The arguments that `step_post_backward` gets if it names them."""


@dataclass
class GsplatStrategy(SplatDensification[SplatRenderPayload]):
    """A wrapper for a strategy of gsplat that adds, splits and removes Gaussians.

    The strategy's methods get the arguments they name, as in gsplat's own training loop: steps count from 0, and ``lr``
    is the learning rate of the means. All other modules are notified of the strategy's changes of rows; its state
    follows changes by other modules, and is saved in checkpoints. A strategy's `step_pre_backward` runs between render
    and backward pass, so that steps are not CUDA graphs.

    Raises:
        ModuleError: at set-up, if the strategy lacks a method, names an argument that does not exist, or needs
            absolute gradients that the renderer does not compute; also with several processes.
    """

    strategy: Any
    """An object with ``initialize_state`` and ``step_post_backward``, and perhaps ``step_pre_backward``, such as
    ``gsplat.strategy.DefaultStrategy()``. If it has fields ``absgrad`` and ``key_for_gradient``, the renderer computes
    absolute gradients on request, and the key is set to that of the renderer."""

    @property
    def needs_screen_gradients(self) -> bool:
        return hasattr(self.strategy, "key_for_gradient")

    def on_setup(
        self, renderer: Any, training_state: SplatTrainingState, scene_scale: float, world_size: int = 1
    ) -> None:
        self._check_strategy()
        if world_size > 1:
            raise ModuleError(
                f"{self.module_name} cannot be used with several processes: a strategy of gsplat's counts the images "
                "of its own process only. Use a densification of splatkit-ns, or one process."
            )
        if getattr(self.strategy, "absgrad", False):
            request_absgrad(renderer, self.module_name)
        if renderer is not None and hasattr(self.strategy, "key_for_gradient"):
            self.strategy.key_for_gradient = payload_type(renderer).key_for_gradient
        if hasattr(self.strategy, "check_sanity"):
            self.strategy.check_sanity(training_state.params, training_state.optimizers)
        if not hasattr(self, "_state"):
            names = inspect.signature(self.strategy.initialize_state).parameters
            self._state: dict[str, Any] = self.strategy.initialize_state(
                **({"scene_scale": scene_scale} if "scene_scale" in names else {})
            )
        self._is_densifying = False

    def _check_strategy(self) -> None:
        for method in ("initialize_state", "step_post_backward"):
            if isinstance(self.strategy, type) or not callable(getattr(self.strategy, method, None)):
                raise ModuleError(
                    f"{self.module_name}.strategy is {self.strategy!r}, expected an object with {method}(), such as "
                    "gsplat.strategy.DefaultStrategy()."
                )
        available = (*ARGUMENTS, *OPTIONAL_ARGUMENTS)
        parameters = inspect.signature(self.strategy.step_post_backward).parameters
        self._optional = [name for name in OPTIONAL_ARGUMENTS if name in parameters]
        for name, parameter in parameters.items():
            is_named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if is_named and parameter.default is parameter.empty and name not in available:
                raise ModuleError(
                    f"{type(self.strategy).__name__}.step_post_backward of {self.module_name} has a parameter "
                    f"{name!r}, which is not available; available are: {', '.join(available)}."
                )

    def state_dict(self) -> dict[str, Any]:
        return {"strategy": dict(self._state)} if hasattr(self, "_state") else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = dict(state["strategy"])

    def on_gaussians_changed(self, row_change: RowChange) -> None:
        if self._is_densifying:  # gsplat updates the state itself
            return
        for name, value in self._state.items():
            # MCMC's binoms are a table unrelated to rows, even if its length is the same
            if isinstance(value, Tensor) and value.dim() > 0 and name != "binoms":
                self._state[name] = row_change.apply(value)

    def count_image(self, rend_out: SplatRenderPayload, step: int) -> None:
        raise ModuleError(
            f"{self.module_name} cannot be used with several images a step (--batch-size): a strategy of gsplat's "
            "counts one. Use a densification of splatkit-ns."
        )

    def post_compute_loss(self, training_state: SplatTrainingState, step: int, rend_out: SplatRenderPayload) -> None:
        method = getattr(self.strategy, "step_pre_backward", None)
        if method is not None:
            method(**self._arguments(training_state, step, rend_out))

    def densify(
        self, training_state: SplatTrainingState, step: int, rend_out: SplatRenderPayload, **others: Any
    ) -> None:
        """Call the strategy with the results of this step."""
        more = {
            "packed": rend_out.gaussian_ids is not None,
            "lr": float(training_state.optimizers["means"].param_groups[0]["lr"]),
        }
        arguments = self._arguments(training_state, step, rend_out)
        arguments |= {name: more[name] for name in self._optional}
        self._is_densifying = True
        try:
            with training_state.track_row_changes():
                self.strategy.step_post_backward(**arguments)
        finally:
            self._is_densifying = False

    def _arguments(self, training_state: SplatTrainingState, step: int, rend_out: SplatRenderPayload) -> dict[str, Any]:
        values = (training_state.params, training_state.optimizers, self._state, step - 1, rend_out.info)
        return dict(zip(ARGUMENTS, values, strict=True))
