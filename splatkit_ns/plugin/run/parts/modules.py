"""The modules of a run: those of the method, the user's own by import path, and the built-in ones."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from splatkit_ns.densification import SplatDensification
from splatkit_ns.errors import ModuleError, SplatkitError
from splatkit_ns.hooks import Hook
from splatkit_ns.image_model import SplatImageModel
from splatkit_ns.importing import import_object, why_not_called
from splatkit_ns.loss_fn import SplatLossFn
from splatkit_ns.modules.builtin import BuiltinModules
from splatkit_ns.modules.progress import SplatProgressTracker
from splatkit_ns.modules.resolution import SplatResolutionSchedule
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.checks import check_instance, check_method, check_modules, check_settings
from splatkit_ns.parts.copying import running_copy
from splatkit_ns.parts.dispatch import named_parts
from splatkit_ns.parts.nesting import with_held_parts
from splatkit_ns.plugin.run.opaque_parts import part_itself
from splatkit_ns.plugin.step.rank_gradients import exchange_kernel
from splatkit_ns.ranks import Ranks
from splatkit_ns.renderer import SplatRenderer
from splatkit_ns.splat.joint_step import joint_kernel
from splatkit_ns.triton_kernels import LazyKernel, load_ahead

CPU_KERNELS = "splatkit_ns.rasterize.cpu.rasterization"
"""The module of the kernels that render on a CPU; its import takes half a second, most of it numba's."""

KINDS: dict[str, tuple[type, str]] = {
    "renderer": (SplatRenderer, "render"),
    "loss_fn": (SplatLossFn, "compute_loss"),
    "densification": (SplatDensification, "densify"),
    "image_model": (SplatImageModel, "apply"),
}
"""The parts of which a run has one: base class, and the method that it is there for."""


class ModulesConfig(Protocol):
    """The part of a run's config that says which parts it has."""

    attached: Any
    """The instances of the method."""
    modules: BuiltinModules
    pipeline: Any


def run_modules(config: ModulesConfig, folder: Path) -> list[SplatBaseModule[Any]]:
    """Run-time instances of a run's modules, in the order of their hooks: method's, own, built-in.

    Args:
        config: the config of the run.
        folder: the run's folder; relative output folders of built-in modules are in it.

    Raises:
        ModuleError: an import path does not lead to a module.
    """
    return [
        *(running_copy(module) for module in config.attached),
        *(import_module(path) for path in config.modules.own),
        *_builtin_modules(config).active(folder),
    ]


def _builtin_modules(config: ModulesConfig) -> BuiltinModules:
    """The built-in modules of the config, with the resolution schedule that splatfacto's options name, if they do."""
    model, modules = config.pipeline.model, config.modules
    if getattr(model, "num_downscales", 0) == 0 or not modules.resolution.is_idle:
        return modules
    schedule = SplatResolutionSchedule(max_downscale=2**model.num_downscales, halve_every=model.resolution_schedule)
    return replace(modules, resolution=schedule)


def load_kernels(config: ModulesConfig, modules: Sequence[SplatBaseModule[Any]], device: str) -> None:
    """Load the kernels of a run: on a GPU in the background, on the CPU at once.

    There it must be done before the viewer starts: numba is left half imported if the viewer's thread and that of the
    training import it at the same time.
    """
    if torch.device(device).type == "cpu":
        importlib.import_module(CPU_KERNELS)
    else:
        load_ahead(gpu_kernels(config, modules), device)


def gpu_kernels(config: ModulesConfig, modules: Sequence[SplatBaseModule[Any]]) -> list[LazyKernel[Any]]:
    """The kernels that a run with these modules uses on a GPU, without duplicates."""
    model = config.pipeline.model
    parts = [part_itself(part) for part in (model.renderer, model.image_model, model.loss_fn, model.densification)]
    kernels = [kernel for module in with_held_parts([*parts, *modules]) for kernel in module.gpu_kernels]
    of_ranks = [exchange_kernel] if Ranks.current().size > 1 else []
    return list(dict.fromkeys([*kernels, joint_kernel, *of_ranks]))


def draws_progress(modules: Sequence[Any]) -> bool:
    """Whether one of the modules draws a progress bar, so that nothing else should."""
    return any(isinstance(module, SplatProgressTracker) and not module.is_idle for module in modules)


def own_module_problems(config: ModulesConfig) -> list[str]:
    """The problems of the import paths of a user's own modules, one line each; no module is made."""
    problems: list[str] = []
    for path in config.modules.own:
        try:
            _find_module(path)
        except SplatkitError as error:
            problems.append(str(error))
    return problems


def import_module(path: str) -> SplatBaseModule[Any]:
    """The module behind ``package.module:Class`` (made without arguments) or ``package.module:instance`` (copied).

    Raises:
        ModuleError: the path does not lead to a module; the message names the path and the reason.
        OptionsError: settings of the module are out of their ranges; the message names all of them.
    """
    found: Any = _find_module(path)
    make: Any = found if inspect.isclass(found) else partial(running_copy, found)
    module: SplatBaseModule[Any] = make()
    check_settings({f"--modules.own {path}: {module.module_name}": module})
    return module


def _find_module(path: str) -> Any:
    """The class or instance behind an import path, from which a module can be made."""
    where = f"--modules.own {path}"
    found, name = import_object(path, where, ModuleError), path.partition(":")[2]
    if inspect.isclass(found) and issubclass(found, SplatBaseModule):
        problem = why_not_called(found)
        if problem is not None:
            raise ModuleError(
                f"{where}: {name}() cannot be made without arguments ({problem}). Give its arguments defaults, or name "
                f"an instance, such as one made by: module = {name}(…)"
            )
    elif not isinstance(found, SplatBaseModule):
        kind = f"the class {name}" if inspect.isclass(found) else f"of type {type(found).__name__}"
        raise ModuleError(f"{where} is {kind}, expected a subclass of SplatBaseModule, or an instance of one.")
    _check_place(found if inspect.isclass(found) else type(found), where)
    return found


def _check_place(kind: type, where: str) -> None:
    """Check that a module is none of the parts of which a run has one.

    Raises:
        ModuleError: it is; among modules its hooks alone would be called.
    """
    for name, (part, method) in KINDS.items():
        if issubclass(kind, part):
            raise ModuleError(
                f"{where} is a {part.__name__}, {kind.__name__}, whose {method}() is not called there: hand it over as "
                f"{name}, to SplatTrainer or make_method."
            )


def check_parts(renderer: Any, loss_fn: Any, densification: Any, modules: Any, image_model: Any = None) -> None:
    """Check the parts of a run that a user passes; None stands for 3DGS's part.

    Raises:
        ModuleError: an argument is not such a part; the message names it, what was expected and what was found.
        OptionsError: settings are out of their ranges; the message names all of them, with their parts.
    """
    given = {"renderer": renderer, "loss_fn": loss_fn, "densification": densification, "image_model": image_model}
    for name, part in given.items():
        if part is not None:
            expected, method = KINDS[name]
            check_instance(part, expected, name)
            check_method(part, method, name)
    hooks = [module for module in modules if isinstance(module, Hook)] if isinstance(modules, Sequence) else []
    if hooks:
        names = ", ".join(f"{type(hook).__name__}(…)" for hook in hooks)
        raise ModuleError(f"modules holds hooks of the trainer, expected modules: write HookModule([{names}]).")
    check_modules(modules)
    for number, module in enumerate(modules):
        _check_place(type(module), f"modules[{number}]")
    parts = [part for part in given.values() if part is not None]
    check_settings(named_parts(parts, modules))
