"""Hooks: methods that the trainer calls at thirteen points of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from splatkit_ns.errors import ModuleError
from splatkit_ns.hooks.registry import Registry, check_is_list


class Hook:
    """Base of all hooks; override the points you need.

    Every method is called with the trainer (`splatkit_ns.hooks.view.TrainerView`). A hook may have further methods:
    ``trainer.call_hook("my_method", key=value)`` calls them, on all hooks that have them, as
    ``my_method(trainer, key=value)``.
    """

    def before_run(self, trainer: Any) -> None:
        """Once, before data and model are loaded."""

    def after_load_checkpoint(self, trainer: Any) -> None:
        """After a checkpoint has been loaded; not in a run that starts afresh."""

    def before_train(self, trainer: Any) -> None:
        """Once, before the first step."""

    def before_train_iter(self, trainer: Any) -> None:
        """At the beginning of every step, before the training image is drawn."""

    def after_train_iter(self, trainer: Any) -> None:
        """At the end of every step, after the optimizers and densification."""

    def before_val(self, trainer: Any) -> None:
        """Before an evaluation during training."""

    def before_val_iter(self, trainer: Any) -> None:
        """Before every image of an evaluation is rendered."""

    def after_val_iter(self, trainer: Any) -> None:
        """After every image of an evaluation; ``trainer.metric_dict`` has its metrics."""

    def after_val(self, trainer: Any) -> None:
        """After the last image of an evaluation."""

    def before_save_checkpoint(self, trainer: Any) -> None:
        """Before every checkpoint is written."""

    def after_train(self, trainer: Any) -> None:
        """Once, after the last step; not when training ends by an exception."""

    def after_run(self, trainer: Any) -> None:
        """Once, at the very end, also when the run ends by an exception."""

    def exception(self, trainer: Any) -> None:
        """When the run ends by an exception, before `after_run`; ``trainer.error`` is what was raised."""

    def state_dict(self) -> dict[str, Any]:
        """The state of this hook for a checkpoint: tensors, numbers, strings, and lists or dicts of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""


HOOK_REGISTRY: Registry[Hook] = Registry("hook", Hook)
"""Hooks that a config can name."""


def parse_hooks(hooks: Sequence[Any]) -> list[Hook]:
    """Make hooks from their names (str); instances of `Hook` stay as they are.

    Raises:
        SplatkitError: a name is unknown, or an entry is no hook.
    """
    check_is_list(hooks, "hooks")
    made: list[Hook] = []
    for hook in hooks:
        if isinstance(hook, str):
            made.append(HOOK_REGISTRY.build(hook))
        elif isinstance(hook, Hook):
            made.append(hook)
        else:
            what = f"the class {hook.__name__} itself" if isinstance(hook, type) else repr(hook)
            raise ModuleError(f"hooks holds {what}, expected the name of a hook or an instance of one.")
    return made
