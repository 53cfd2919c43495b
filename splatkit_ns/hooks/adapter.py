"""The one module that carries all hooks: it translates the modules' events into the hooks' thirteen points."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from splatkit_ns.errors import HookFailedError, SplatkitError, hook_failure
from splatkit_ns.hooks.base import Hook, parse_hooks
from splatkit_ns.hooks.view import TrainerView
from splatkit_ns.parts.base import SplatBaseModule, overrides
from splatkit_ns.parts.loading_states import load_states
from splatkit_ns.parts.naming import unique_names
from splatkit_ns.parts.near_misses import near_misses
from splatkit_ns.parts.payload import SplatRenderPayload

EVENTS = {
    "on_checkpoint_loaded": "after_load_checkpoint",
    "on_setup": "before_train",
    "pre_batch": "before_train_iter",
    "post_step": "after_train_iter",
    "pre_validation_image": "before_val_iter",
    "post_validation": "after_val",
    "pre_save_checkpoint": "before_save_checkpoint",
    "post_train": "after_train",
}
"""The events of modules that each correspond to one point of the hooks.

The others need a method: `HookModule.pre_validation`, `post_validation_image`, `on_exception` and `on_cleanup`.
`before_run` comes before there is a dispatcher: see `HookModule.begin`.
"""

POINTS = tuple(name for name in vars(Hook) if not name.startswith("_"))
"""All methods of a hook that a run calls, those of its state included."""

VALIDATION_POINTS = ("before_val", "before_val_iter", "after_val_iter", "after_val")

logger = logging.getLogger("splatkit_ns")


class HookModule(SplatBaseModule[SplatRenderPayload]):
    """A module that runs hooks, as one module among the others.

    Args:
        hooks: instances, or names that `HOOK_REGISTRY` knows.

    Raises:
        SplatkitError: a name is unknown, or an entry is no hook.
    """

    def __init__(self, hooks: Sequence[str | Hook]) -> None:
        self.hooks = parse_hooks(hooks)
        self.trainer = TrainerView(self.call_hook, self.hooks)
        self._runs = False
        for event, point in EVENTS.items():
            if self.listens_to(point):
                setattr(self, event, functools.partial(self._fire, point))
        if any(self.listens_to(point) for point in VALIDATION_POINTS):
            setattr(self, "pre_validation", self._pre_validation)  # noqa: B010 - its signature is its own
            setattr(self, "post_validation_image", self._post_validation_image)  # noqa: B010

    def listens_to(self, point: str) -> bool:
        """Whether any hook has a method of its own for this point."""
        return any(overrides(hook, point, Hook) for hook in self.hooks)

    def call_hook(self, name: str, **kwargs: Any) -> None:
        """Call a method of all hooks that have it: one of the thirteen or a further one.

        Raises:
            HookFailedError: a hook raised; names hook, method and step, and keeps the cause's traceback.
            HookTypeError: the same, and a `TypeError`, if the hook raised one.
        """
        for hook in self.hooks:
            if hasattr(hook, name):
                self._call(hook, name, **kwargs)

    def _call(self, hook: Hook, name: str, **kwargs: Any) -> None:
        try:
            getattr(hook, name)(self.trainer, **kwargs)
        except (SplatkitError, HookFailedError):
            raise
        except Exception as error:
            raise hook_failure(f"{type(hook).__name__}.{name}", self.trainer.global_step, error) from error

    def _fire(self, point: str) -> None:
        self.call_hook(point)

    # ------------------------------------------------------------------ points that need more than a call

    def _pre_validation(self, num_images: int, all_images: bool) -> None:
        self.trainer.val_dataset_size = num_images
        self.trainer.val_is_complete = all_images
        self.call_hook("before_val")

    def _post_validation_image(
        self, metrics: dict[str, float], image_name: str, rendered_frames: Tensor, target_frames: Tensor
    ) -> None:
        names = {"l1": "L1_loss", "psnr": "psnr", "ssim": "ssims", "lpips": "lpips"}
        self.trainer.metric_dict = {
            **{names.get(name, name): value for name, value in metrics.items()},
            "images": rendered_frames,
            "gt_images": target_frames,
            "rgb_file_name": image_name,
        }
        self.call_hook("after_val_iter")

    def begin(self, trainer: Any) -> None:
        """The first point of a run; called by the trainer, because there is no dispatcher yet.

        Warns of methods that look like misspelt points.
        """
        self._runs = True
        for hook in self.hooks:
            for method, near in near_misses(hook, POINTS):
                logger.warning(
                    "%s.%s is called by trainer.call_hook alone. Did you mean %s?", type(hook).__name__, method, near
                )
        self.trainer.connect(trainer)
        self.call_hook("before_run")

    def on_exception(self, exception: BaseException) -> None:
        """Call every hook's `exception`, also those after one that fails; failures are logged."""
        self.trainer.error = exception
        for failure in self._call_all("exception"):
            logger.error("%s", failure)

    def on_cleanup(self) -> None:
        """Run the last point, once a run: it is called on every hook, and then the first failure is raised."""
        if not self._runs:
            return
        self._runs = False
        failures = self._call_all("after_run")
        for failure in failures[1:]:
            logger.error("%s", failure)
        if failures:
            raise failures[0]

    def _call_all(self, point: str) -> list[Exception]:
        failures: list[Exception] = []
        for hook in self.hooks:
            try:
                self._call(hook, point)
            except Exception as error:  # the other hooks still run; the caller reports
                failures.append(error)
        return failures

    # ------------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict[str, Any]:
        """State of every hook that has one, by place and class name."""
        states = {name: hook.state_dict() for name, hook in self._named()}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hand every hook its state.

        Raises:
            HookFailedError: a hook cannot take it; names the hook, and keeps the cause.
        """
        load_states(self._named(), state)

    def _named(self) -> list[tuple[str, Hook]]:
        """The hooks with names that distinguish two of one class: ``LogHook``, ``LogHook_2``."""
        names = unique_names(type(hook).__name__ for hook in self.hooks)
        return list(zip(names, self.hooks, strict=True))
