"""Checks of all options of a run at once, before any data is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from splatkit_ns import ranges
from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.formats import FormatError, find_format
from splatkit_ns.parts.nesting import part_with
from splatkit_ns.plugin.options.groups import group_problems
from splatkit_ns.plugin.options.length import possible_lenses
from splatkit_ns.plugin.options.nerfstudio_ranges import nerfstudio_ranges
from splatkit_ns.plugin.run.folder.run_folder import RunFolder
from splatkit_ns.plugin.run.opaque_parts import part_itself
from splatkit_ns.plugin.run.parts.hooks import name_problems
from splatkit_ns.plugin.run.parts.modules import own_module_problems
from splatkit_ns.plugin.run.processes.machines import address_of
from splatkit_ns.rasterize import gsplat_version, require_gsplat
from splatkit_ns.rasterize.unscented import has_unscented_transform
from splatkit_ns.renderer import Splat3DGSRenderer


def option_name(place: str) -> str:
    """The name that an option has on the command line, in messages, from its place in the config of a run."""
    owner, _, name = place.replace("_", "-").rpartition(".")
    return f"--{name} of the dataparser" if owner.endswith("dataparser") else ranges.flag(place)


def check_options(config: Any) -> None:
    """Check a run's options.

    Raises:
        OptionsError: options are out of their ranges; the message names each with its flag and value.
    """
    problems = option_problems(config)
    if problems:
        raise OptionsError(problems)


def check_data_options(config: Any) -> None:
    """Check the ranges of options about data.

    Args:
        config: any object with ``pipeline.datamanager``.

    Raises:
        OptionsError: options are out of their ranges.
    """
    problems = ranges.problems(config, shown=option_name, others=nerfstudio_ranges)
    if problems:
        raise OptionsError(problems)


def option_problems(
    config: Any, shown: Callable[[str], str] = option_name, modules: Sequence[Any] | None = ()
) -> list[str]:
    """The problems of a run's options, one line each.

    Args:
        config: the config of the run.
        shown: gives the name that messages use for an option, from its place in the config.
        modules: the run's modules besides those of the config; None if parts of the run are not known yet.
    """
    problems = ranges.problems(config, shown=shown, others=nerfstudio_ranges)
    model: Any = config.pipeline.model
    problems += _renderer_problems(model.renderer, config.machine.device_type, shown)
    problems += _lens_problems(config, shown) + _gradient_problems(config, shown) + _mask_problems(config, shown)
    problems += _resolution_problems(config, shown) + _home_problems(config, shown)
    problems += _trainer_problems(config, shown) + group_problems(config, shown, modules)
    is_first = config.machine.machine_rank == 0  # which alone reads checkpoints, and knows of them
    if is_first:
        problems += _checkpoint_problems(config, shown)
    if is_first and model.init_ply is not None and not RunFolder(config).is_resuming:
        problems += _initial_file_problems(Path(model.init_ply), shown("pipeline.model.init_ply"))
    return problems + own_module_problems(config) + name_problems(config)


def _home_problems(config: Any, shown: Callable[[str], str]) -> list[str]:
    """The problems of paths that begin with ~, which shells leave as it is in quotes and after =."""
    names = ("output_dir", "data", "load_dir", "load_checkpoint", "load_config")
    paths = [(name, Path(path)) for name in names if (path := getattr(config, name, None)) is not None]
    return [
        f"{shown(name)} is {path}, where the shell has left the ~ for your folder: expected {path.expanduser()}"
        for name, path in paths
        if path.parts[:1] == ("~",)
    ]


def _checkpoint_problems(config: Any, shown: Callable[[str], str]) -> list[str]:
    """The problems of the options that name the checkpoint to start from."""
    problems: list[str] = []
    for name, exists, kind in (("load_checkpoint", Path.is_file, "file"), ("load_dir", Path.is_dir, "folder")):
        path = getattr(config, name)
        if path is not None and not exists(Path(path)):
            other = f": that is a {'file' if kind == 'folder' else 'folder'}" if Path(path).exists() else ""
            problems.append(f"{shown(name)}: there is no {kind} {path}{other}")
    if config.load_dir is not None and config.load_checkpoint is not None:
        problems.append(f"{shown('load_dir')} and {shown('load_checkpoint')}: both are given, expected one of them")
    elif config.load_dir is None and config.load_step is not None:
        problems.append(f"{shown('load_step')} is {config.load_step}, expected {shown('load_dir')} beside it")
    return problems


def _renderer_problems(renderer: Any, device_type: str, shown: Callable[[str], str]) -> list[str]:
    problems: list[str] = []
    near, far = getattr(renderer, "near_plane", 0.0), getattr(renderer, "far_plane", math.inf)
    if near >= far:
        name = shown("pipeline.model.renderer.near_plane")
        problems.append(f"{name} is {near}, expected less than far-plane, which is {far}")
    if device_type == "cpu":
        device = shown("machine.device_type")
        if isinstance(renderer, Splat3DGSRenderer) and renderer.packed:
            problems.append(f"{shown('pipeline.model.renderer.packed')} is True, expected False with {device} cpu")
        if getattr(renderer, "backend", None) == "gsplat":
            name = shown("pipeline.model.renderer.backend")
            problems.append(f"{name} is gsplat, expected splatkit with {device} cpu: gsplat renders on GPUs alone")
    return problems


def _lens_problems(config: Any, shown: Callable[[str], str]) -> list[str]:
    """The problem of photographs with lenses that the renderer does not draw in training."""
    renderer = part_itself(config.pipeline.model.renderer)
    if getattr(config.pipeline.datamanager, "undistort", True):
        return []
    name = shown("pipeline.datamanager.undistort")
    if getattr(renderer, "packed", False):
        return [f"{name} is False, expected True with packed renders, which are for pinhole cameras"]
    if {"opencv", "opencv_fisheye"}.isdisjoint(renderer.lenses):
        return [f"{name} is False, expected True with {renderer.module_name}, which draws no lenses in training"]
    return _unscented_problems(config, shown) if getattr(renderer, "backend", None) == "gsplat" else []


def _unscented_problems(config: Any, shown: Callable[[str], str]) -> list[str]:
    """The problems of photographs with lenses that gsplat's unscented transform draws."""
    model: Any = config.pipeline.model
    name = shown("pipeline.datamanager.undistort")
    if not has_unscented_transform():
        found = ".".join(map(str, gsplat_version()))
        return [
            f"{name} is False, expected True with the backend gsplat {found}, which is for pinhole cameras; the "
            "unscented transform for lenses is in 1.5.3 and newer"
        ]
    problems: list[str] = []
    if model.camera_optimizer.mode != "off":
        mode = shown("pipeline.model.camera_optimizer.mode")
        problems.append(
            f"{mode} is {model.camera_optimizer.mode}, expected off with lenses and the backend gsplat, whose "
            "unscented transform has no gradients of poses"
        )
    return problems


def _gradient_problems(config: Any, shown: Callable[[str], str]) -> list[str]:
    """The problem of a densification that needs gradients on the screen, if the renderer has none."""
    model = config.pipeline.model
    renderer, densification = part_itself(model.renderer), part_itself(model.densification)
    if not densification.needs_screen_gradients or renderer.screen_gradients(possible_lenses(config)) is not None:
        return []
    by_gsplat = getattr(renderer, "backend", None) == "gsplat"
    reason = (
        f"{shown('pipeline.datamanager.undistort')} is False with the backend gsplat, whose unscented transform"
        if by_gsplat
        else f"the renderer is {renderer.module_name}, which"
    )
    return [
        f"{reason} has no gradients of places on the screen, expected another densification than "
        f"{densification.module_name}, such as that of splatkit-3dgs or splatkit-3dgs-mcmc"
    ]


def _resolution_problems(config: Any, shown: Callable[[str], str]) -> list[str]:
    """The problem of two schedules of the images' size."""
    model, schedule = config.pipeline.model, config.modules.resolution
    if getattr(model, "num_downscales", 0) == 0 or schedule.is_idle:
        return []
    one, other = shown("pipeline.model.num_downscales"), shown("modules.resolution.max_downscale")
    return [f"{one} is {model.num_downscales} and {other} is {schedule.max_downscale}, expected only one of them"]


def _mask_problems(config: Any, shown: Callable[[str], str]) -> list[str]:
    """The problem of masks that should leave empty space, if nothing in training would."""
    mode: str = getattr(config.pipeline.datamanager, "mask_mode", "ignore")
    model: Any = config.pipeline.model
    weight = getattr(model.loss_fn, "alpha_lambda", None)
    if mode == "sky":
        return _sky_mask_problems(model, weight, shown)
    if mode == "ignore" or weight != 0 or model.background_color in ("auto", "random"):
        return []
    name, background = shown("pipeline.datamanager.mask_mode"), shown("pipeline.model.background_color")
    return [
        f"{name} {mode} has no effect with {shown('pipeline.model.loss_fn.alpha_lambda')} 0 and {background} "
        f"{model.background_color}: raise the one, or set the other to random"
    ]


def _sky_mask_problems(model: Any, weight: float | None, shown: Callable[[str], str]) -> list[str]:
    """The problems of masks that mark the sky, if there is none to learn, or nothing keeps Gaussians out of it."""
    name, problems = f"{shown('pipeline.datamanager.mask_mode')} sky", list[str]()
    if getattr(part_with(part_itself(model.renderer), "sky_degree"), "sky_degree", 0) is None:
        problems.append(f"{name} needs a sky: set {shown('pipeline.model.renderer.sky_degree')} to 3")
    if weight == 0:
        problems.append(f"{name} has no effect with {shown('pipeline.model.loss_fn.alpha_lambda')} 0: raise it")
    return problems


def _trainer_problems(config: Any, shown: Callable[[str], str]) -> list[str]:
    """The problems of nerfstudio's options with values that Gaussians cannot be trained with."""
    problems: list[str] = []
    if config.mixed_precision or config.use_grad_scaler:
        names = f"{shown('mixed_precision')} and {shown('use_grad_scaler')}"
        problems.append(f"{names} must be False: Gaussians are trained in float32")
    size = config.batch_size
    if ranges.is_number(size) and size > 1 and config.on_nan == "skip":
        name = shown("on_nan")
        problems.append(
            f"{name} is skip, expected stop with {shown('batch_size')} {size}: densification has counted the first "
            "images of a step when the last one turns out not to be finite"
        )
    return problems + machine_problems(config.machine, shown) + _gpu_problems(config.machine, shown)


def _gpu_problems(machine: Any, shown: Callable[[str], str]) -> list[str]:
    count = machine.num_devices
    if machine.device_type != "cuda" or not ranges.is_number(count) or count <= 1:
        return []
    found = torch.cuda.device_count()
    name = shown("machine.num_devices")
    return [f"{name} is {count}, but PyTorch finds {found} GPU(s) on this machine"] if count > found else []


def machine_problems(machine: Any, shown: Callable[[str], str] = option_name) -> list[str]:
    """The problems of the numbers of devices and machines, one line each, whatever this machine has.

    Args:
        machine: of the config of a run.
        shown: see `option_problems`.
    """
    numbers = {name: getattr(machine, name) for name in ("num_devices", "num_machines", "machine_rank")}
    wrong = [name for name, number in numbers.items() if not ranges.is_number(number)]
    problems = [f"{shown(f'machine.{name}')} is {numbers[name]!r}, expected a whole number" for name in wrong]
    if problems:
        return problems
    count, machines, rank = numbers.values()
    if count < 1:
        problems.append(f"{shown('machine.num_devices')} is {count}, expected at least 1")
    name = shown("machine.num_machines")
    if machines < 1:
        return [*problems, f"{name} is {machines}, expected at least 1"]
    if not 0 <= rank < machines:
        expected = f"0 to {machines - 1}" if machines > 1 else "0"
        problems.append(f"{shown('machine.machine_rank')} is {rank}, expected {expected} with {name} {machines}")
    if machines > 1 and address_of(machine.dist_url) is None:
        problems.append(
            f"{shown('machine.dist_url')} is {machine.dist_url}, expected tcp://HOST:PORT with several machines: an "
            "address of machine 0 that the others can reach, and a free port there, the same on all machines"
        )
    return problems


def _initial_file_problems(path: Path, option: str) -> list[str]:
    if not path.exists():
        return [f"{option}: there is no file {path}"]
    try:
        reason = find_format(path).why_unavailable()
    except FormatError as error:
        return [f"{option}: {error}"]
    return [] if reason is None else [f"{option}: {path}: {reason}"]


def check_device(device_type: str, option: str = "--machine.device-type") -> None:
    """Check that this machine has the device.

    Args:
        device_type: "cuda", "cpu" or "mps".
        option: the name of the option on the command line, for messages.

    Raises:
        SplatkitError: the device is missing; the message says what was found.
    """
    if device_type == "mps":
        raise SplatkitError(f"{option} mps is not supported: use cpu.")
    if device_type != "cuda":
        return
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise SplatkitError(
            f"{option} is cuda, but PyTorch {torch.__version__} ({built}) finds no CUDA device. "
            f"Check nvidia-smi and the driver, or use the CPU: {option} cpu"
        )


def check_renderer(renderer: Any, device_type: str) -> None:
    """Load gsplat's CUDA code, which may compile it, if this renderer needs it on this device.

    Raises:
        BackendUnavailableError: it cannot be used; the message says why it is needed, and what was found.
    """
    reason = part_itself(renderer).gsplat_need if device_type == "cuda" else None
    if reason is not None:
        require_gsplat(reason)
