"""The dispatcher, which calls the modules' hooks in order, with the arguments they name."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from splatkit_ns.errors import HookFailedError, ModuleError, SplatkitError, hook_failure
from splatkit_ns.parts.base import SplatBaseModule, overrides, payload_type
from splatkit_ns.parts.checks import check_instance, check_settings
from splatkit_ns.parts.context import (
    BATCH_ARGUMENTS,
    LOSS_ARGUMENTS,
    RENDER_ARGUMENTS,
    RUN_ARGUMENTS,
    StepContext,
    bind_arguments,
)
from splatkit_ns.parts.loading_states import load_states
from splatkit_ns.parts.naming import unique_names
from splatkit_ns.parts.near_misses import foreign_hooks, near_misses, replaced_methods
from splatkit_ns.parts.nesting import passed_on, with_held_parts
from splatkit_ns.parts.trainables import parameter_ids, undeclared_parameters

HOOKS: dict[str, tuple[str, ...]] = {
    "on_checkpoint_loaded": RUN_ARGUMENTS,
    "on_setup": RUN_ARGUMENTS,
    "pre_batch": RUN_ARGUMENTS,
    "pre_step": BATCH_ARGUMENTS,
    "pre_compute_loss": RENDER_ARGUMENTS,
    "post_compute_loss": LOSS_ARGUMENTS,
    "on_optimize": LOSS_ARGUMENTS,
    "post_step": LOSS_ARGUMENTS,
    "on_evaluate": LOSS_ARGUMENTS,
    "on_gaussians_changed": RUN_ARGUMENTS,
    "pre_validation": RUN_ARGUMENTS,
    "pre_validation_image": RUN_ARGUMENTS,
    "post_validation_image": RUN_ARGUMENTS,
    "post_validation": RUN_ARGUMENTS,
    "pre_save_checkpoint": RUN_ARGUMENTS,
    "post_train": RUN_ARGUMENTS,
    "on_exception": RUN_ARGUMENTS,
    "on_phase": RUN_ARGUMENTS,
    "on_cleanup": RUN_ARGUMENTS,
}
"""Every hook with the arguments that exist when it runs."""

VALIDATION_HOOKS = ("pre_validation", "pre_validation_image", "post_validation_image", "post_validation")
"""The hooks around an evaluation during training."""

EXTRA_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "on_gaussians_changed": ("row_change",),
    "on_phase": ("phase",),
    "pre_validation": ("num_images", "all_images"),
    "post_validation_image": ("metrics", "image_name", "rendered_frames", "target_frames"),
    "on_exception": ("exception",),
}
"""Arguments that only one hook has."""

OUTSIDE_STEPS = ("on_checkpoint_loaded", "on_setup", "post_train", "on_exception", "on_cleanup")
"""Hooks in which a `SystemExit` ends the run at once; in the others, and in `densify`, the step is completed first."""


class ModuleDispatcher:
    """Runs one hook of all modules: renderer, image model, loss, densification, then the others as listed.

    A module that another one holds takes part, too, right before that. A hook that a module does not override costs
    nothing, nor does a module that is idle.

    Two instances of one class are distinguished by a number: ``SplatExporter``, ``SplatExporter_2``. Those of `further`
    come last, and change no name of the others.

    Raises:
        ModuleError: on construction, when something that is no module instance is among the modules, a hook takes
            an argument that does not exist, or a module reads a payload that the renderer does not return.
    """

    def __init__(
        self,
        modules: Sequence[SplatBaseModule[Any]],
        context: StepContext,
        further: Sequence[SplatBaseModule[Any]] = (),
    ) -> None:
        for module in (*modules, *further):
            check_instance(module, SplatBaseModule, "an entry of modules")
        if context.renderer is not None:
            _check_payloads([*modules, *further], context.renderer)
        self.modules = named_parts(modules, further)
        for name, module in self.modules.items():
            wants: Any = module.wants_depth
            if not callable(wants):
                raise ModuleError(
                    f"{name}.wants_depth is {wants!r:.60}, expected a method: def wants_depth(self, step)."
                )
        self.context = context
        self._set_up: set[str] = set()
        self._restored: set[str] = set()
        """The modules that have got a state from a checkpoint."""
        self._waiting: set[str] = set()
        """The modules that know of no Gaussians yet, while `setup` runs."""
        self._returning: set[tuple[str, str]] = set()
        """The hooks that have been told of because they return something, by module and hook."""
        self._known_parameters: dict[str, set[int]] = {}
        """The ids of the parameters that each module held at the end of `setup`."""
        self.is_validating = False
        """Whether the hooks around evaluation images are called now."""
        self._calls: dict[str, list[tuple[str, Callable[..., Any]]]] = {
            hook: [
                (
                    name,
                    bind_arguments(getattr(module, hook), available, f"{name}.{hook}", EXTRA_ARGUMENTS.get(hook, ())),
                )
                for name, module in self.modules.items()
                if overrides(module, hook, SplatBaseModule) and not module.is_idle
            ]
            for hook, available in HOOKS.items()
        }

    def listens_to(self, hook: str) -> bool:
        """Whether any module overrides this hook."""
        return bool(self._calls[hook])

    def listeners(self, hook: str) -> list[SplatBaseModule[Any]]:
        """The modules that override this hook."""
        return [self.modules[name] for name, _ in self._calls[hook]]

    @property
    def is_training(self) -> bool:
        """Whether `setup` has begun and `cleanup` has not."""
        return bool(self._set_up)

    def setup(self, seed: Callable[[str], None] = lambda name: None) -> None:
        """Run `on_setup` of all modules, and warn of methods that look like misspelt hooks, or that are passed on.

        Args:
            seed: seeds the random generators for the `on_setup` of the module of a name.

        Raises:
            OptionsError: names every setting of a module that is out of its range; no `on_setup` has run then.
        """
        check_settings(self.modules)
        for name, module in self.modules.items():
            misspelt = dict(near_misses(module, HOOKS))
            for method, near in misspelt.items():
                self.context.logger.warning("%s.%s is never called. Did you mean %s?", name, method, near)
            for method in foreign_hooks(module, (*HOOKS, *misspelt)):
                self.context.logger.warning(
                    "%s.%s is never called, if not by your own code. A run calls: %s.", name, method, ", ".join(HOOKS)
                )
            for method, base in replaced_methods(module, (*HOOKS, "state_dict", "load_state_dict"), SplatBaseModule):
                self.context.logger.warning(
                    "%s.%s takes the place of %s.%s, which does not run: call super().%s with what it takes.",
                    name, method, base, method, method,
                )  # fmt: skip
            for method, held in passed_on(module, (*HOOKS, "trainables", "state_dict", "load_state_dict")):
                self.context.logger.warning(
                    "%s.%s seems to call %s.%s: it is called of held parts anyway, so that it would run twice.",
                    name, method, held, method,
                )  # fmt: skip
        calls = dict(self._calls["on_setup"])
        self._waiting = set(self.modules) - self._restored
        for name, module in self.modules.items():
            self._waiting.discard(name)
            self._set_up.add(name)  # before the call: `on_setup` may fail after it has opened something
            if name in calls:
                known = parameter_ids(module)
                seed(name)
                self.guarded(name, "on_setup", calls[name])
                self._warn_of_new_parameters(module, known, f"{name}.on_setup has made parameters that are not trained")
        self._known_parameters = {name: parameter_ids(module) for name, module in self.modules.items()}

    def warn_of_late_parameters(self) -> None:
        """Warn at the end of a run of parameters that modules have made after `setup`: no optimizer has them."""
        for name, known in self._known_parameters.items():
            what = f"{name} has made parameters during the run, which were not trained"
            self._warn_of_new_parameters(self.modules[name], known, what, kind=nn.Parameter)

    def _warn_of_new_parameters(
        self, module: SplatBaseModule[Any], known: set[int], what: str, kind: type[Tensor] = Tensor
    ) -> None:
        """Warn of the parameters of a kind that a module holds besides the known ones, by their ids, and besides those
        of the Gaussians and of other parts, which it may keep."""
        others = [parameter_ids(other) for other in self.modules.values() if other is not module]
        gaussians = getattr(self.context.training_state, "params", {})
        kept = known.union(map(id, gaussians.values()), *others)
        if made := undeclared_parameters(module, {}, kept, kind):
            self.context.logger.warning(
                "%s: %s. Make them in trainables, which is asked before the optimizers are made, or say "
                "requires_grad_(False) if they are to stay.",
                what, ", ".join(made[:5]),
            )  # fmt: skip

    def cleanup(self) -> None:
        """Run `on_cleanup` once of every module whose set-up has begun, also of those after one that fails.

        Raises:
            HookFailedError: the first failure.
        """
        ready, self._set_up = self._set_up, set()
        failures: list[Exception] = []
        for name, call in self._calls["on_cleanup"]:
            if name not in ready:
                continue
            try:
                call(self.context)
            except HookFailedError as error:  # names the hook already
                failures.append(error)
            except Exception as error:  # every module gets its clean-up; reported below
                failures.append(hook_failure(f"{name}.on_cleanup", self.context.step, error))
        for failure in failures[1:]:
            self.context.logger.error("%s: %r", failure, failure.__cause__)
        if failures:
            raise failures[0] from failures[0].__cause__

    @contextmanager
    def validation(self, num_images: int, all_images: bool = True) -> Generator[bool]:
        """Run the modules' hooks before and after an evaluation; outside training none is called.

        Args:
            num_images: the number of images.
            all_images: whether these are all evaluation images.

        Yields:
            Whether the hooks are called; then `pre_validation_image` is to be run before each image.
        """
        if not self.is_training:
            yield False
            return
        self.run("pre_validation", num_images=num_images, all_images=all_images)
        self.is_validating = True
        try:
            yield True
        finally:
            self.is_validating = False
        self.run("post_validation")

    def report_exception(self, exception: BaseException) -> None:
        """Run `on_exception` of all modules; a failure there is logged, so that it does not hide the exception."""
        for name, call in self._calls["on_exception"]:
            try:
                call(self.context, exception=exception)
            except Exception as error:
                self.context.logger.error("%s", hook_failure(f"{name}.on_exception", self.context.step, error))

    def run(self, hook: str, **extra: Any) -> None:
        """Run one hook of all modules that override it.

        If the `on_setup` of a module changes rows, modules after it are not told, unless a checkpoint has given them
        values of the rows: they find the Gaussians of that moment in their own `on_setup`.

        Raises:
            HookFailedError: a hook raised; names module, hook and step, and keeps the cause's traceback.
        """
        for name, call in self._calls[hook]:
            if name in self._waiting:
                continue
            self.call_for_effect(name, hook, call, **extra)

    def call_for_effect(self, name: str, method: str, call: Callable[..., Any], **extra: Any) -> None:
        """Call a method of a module; a warning says once if it returns something, which nothing uses."""
        result = self.guarded(name, method, call, **extra)
        if result is None or (name, method) in self._returning:
            return
        self._returning.add((name, method))
        instead = "of all hooks pre_step alone may return something, a FrameEdit"
        if method == "densify":
            instead = "give masks to training_state.duplicate, split or remove"
        found = type(result).__name__
        self.context.logger.warning(
            "%s.%s returned an object of type %s, which nothing uses: %s.", name, method, found, instead
        )

    def results(self, hook: str) -> Iterator[tuple[str, Any]]:
        """Run one hook of all modules that override it; yields the name and the result of each that returns one.

        The caller uses each result before the next module's hook runs.
        """
        for name, call in self._calls[hook]:
            result = self.guarded(name, hook, call)
            if result is not None:
                yield name, result

    def guarded(self, name: str, method: str, call: Callable[..., Any], **extra: Any) -> Any:
        """Call a bound method of a module; see `run` for what happens to its exceptions.

        A `SystemExit` during a step is kept as the context's `exit_request`: the state in the middle of a step cannot
        be saved, so the step is completed first.
        """
        try:
            return call(self.context, **extra)
        except (SplatkitError, HookFailedError):
            raise
        except SystemExit as error:
            if method in OUTSIDE_STEPS or method not in (*HOOKS, "densify"):  # `render` and others have to return
                raise
            self.context.exit_request = self.context.exit_request or error
            self.context.stop(f"{name}.{method} raised SystemExit")
        except Exception as error:
            raise hook_failure(f"{name}.{method}", self.context.step, error) from error

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """State of every module that has one, by module name."""
        states = {name: module.state_dict() for name, module in self.modules.items() if _keeps_a_state(module)}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, states: dict[str, dict[str, Any]], device: torch.device) -> None:
        """Hand every module its state; modules that are new since the checkpoint keep theirs, and a note names those of
        the checkpoint that are gone.

        Args:
            states: by the modules' names.
            device: that of training, to which all tensors are moved.

        Raises:
            HookFailedError: a module cannot take its state; names it, and keeps the cause.
        """
        ours = {name: _on_device(state, device) for name, state in states.items() if name in self.modules}
        self._restored |= ours.keys()
        if gone := [name for name in states if name not in ours]:
            self.context.logger.info(
                "The checkpoint has a state of %s, which this run does not have; it is not used.", ", ".join(gone)
            )
        load_states(self.modules.items(), ours)


def _keeps_a_state(module: SplatBaseModule[Any]) -> bool:
    """Whether a module may have a state of its own; that of PyTorch's modules is saved with the parameters."""
    return getattr(type(module), "state_dict", None) is not nn.Module.state_dict


def _on_device(value: Any, device: torch.device) -> Any:
    """The same dicts, lists and tuples with all tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _on_device(entry, device) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_device(entry, device) for entry in value)
    return value


def named_parts(
    modules: Sequence[SplatBaseModule[Any]], further: Sequence[SplatBaseModule[Any]] = ()
) -> dict[str, SplatBaseModule[Any]]:
    """Modules and what they hold, in the order of their hooks, by name; what is held changes no name of a holder.

    Args:
        modules: those whose names, and the names of what they hold, do not depend on others.
        further: others, which come after them.
    """
    parts, own = with_held_parts([*modules, *further]), {id(part) for part in with_held_parts(modules)}
    given = {id(module) for module in (*modules, *further)}
    ordered = sorted(parts, key=lambda part: (id(part) not in own, id(part) not in given))
    unique = unique_names(module.module_name for module in ordered)
    names = dict(zip(map(id, ordered), unique, strict=True))
    return {names[id(part)]: part for part in parts}


def _check_payloads(modules: Sequence[SplatBaseModule[Any]], renderer: SplatBaseModule[Any]) -> None:
    given = payload_type(renderer)
    for module in modules:
        wanted = payload_type(module)
        if not issubclass(given, wanted):
            raise ModuleError(
                f"{module.module_name} reads {wanted.__name__}, but {renderer.module_name} returns {given.__name__}. "
                f"Use a renderer that returns {wanted.__name__}, or a module that reads {given.__name__}."
            )
