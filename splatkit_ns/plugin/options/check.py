"""Checks all options of a run at once, before any data is loaded."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import torch

from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.formats import FormatError, find_format, format_names
from splatkit_ns.plugin.run import folder as run_folder
from splatkit_ns.plugin.run.hooks import name_problems
from splatkit_ns.rasterize import check_cuda_backend
from splatkit_ns.renderer import Splat3DGSRenderer

if TYPE_CHECKING:
    from splatkit_ns.plugin.trainer import SplatkitTrainerConfig

POSITIVE = (
    "max_num_iterations",
    "sh_degree_interval",
    "resolution_schedule",
    "num_random",
    "random_scale",
    "init_scale",
    "refine_every",
    "max_gaussians",
    "num_views",
    "far_plane",
    "lr",
    "lr_final",
    "lr_share",
    "max_steps",
    "steps_per_log",
    "camera_res_scale_factor",
    "pixels_per_gaussian",
    "global_scale",
    "max_norm",
    "max_buffer_size",
    "fps_reset_every",
    "optimizer.eps",
    "resolution.max_downscale",
    "dataparser.scale_factor",
    "dataparser.scene_scale",
    "dataparser.depth_unit_scale_factor",
    "dataparser.downscale_factor",
    "dataparser.eval_interval",
)
"""Numbers that must be above 0, wherever they stand; names that others may give another meaning, with their owner's."""

NOT_NEGATIVE = (
    "num_downscales",
    "steps_per_save",
    "reset_every",
    "refine_start_iter",
    "refine_stop_iter",
    "pause_refine_after_reset",
    "noise_lr",
    "max_per_seed",
    "near_plane",
    "eps2d",
    "radius_clip",
    "mse_lambda",
    "opacity_reg",
    "scale_reg",
    "depth_lambda",
    "normal_lambda",
    "normal_consistency_lambda",
    "normal_consistency_start_iter",
    "distortion_lambda",
    "distortion_start_iter",
    "warmup_steps",
    "growth",
    "grow_grad2d",
    "grow_scale2d",
    "grow_scale3d",
    "prune_scale2d",
    "prune_scale3d",
    "machine.seed",
    "steps_per_eval_batch",
    "steps_per_eval_image",
    "steps_per_eval_all_images",
    "trans_l2_penalty",
    "rot_l2_penalty",
    "optimizer.weight_decay",
    "checkpointer.every",
    "checkpointer.keep",
    "timer.every",
    "progress.update_every",
    "tensorboard.scalars_every",
    "tensorboard.images_every",
)
"""Numbers that must be at least 0."""

FRACTIONS = (
    "ssim_lambda",
    "error_threshold",
    "prune_quantile",
    "decay_from",
    "dropout_full_from",
    "dataparser.train_split_fraction",
)
"""Numbers between 0 and 1."""

SHARES = ("resolution.full_from",)
"""Numbers above 0, up to 1."""

BELOW_ONE = ("dropout", "prune_faint", "clamp_opacity")
"""Numbers of at least 0 and below 1."""

AT_MOST = {"random_scale": 10**6, "machine.seed": 2**32 - 1}
"""What numbers may not exceed: squares of distances overflow float32 long before they are of use; NumPy's seeds."""

OPACITIES = {"init_opacity": 1.0, "min_opacity": 1.0, "prune_opa": 0.5}
"""Numbers between 0 and this, both excluded; opacities are reset to twice prune_opa."""


def check_options(config: SplatkitTrainerConfig) -> None:
    """Check a run's options.

    Raises:
        OptionsError: names every option that is out of its range, with its flag and value.
    """
    problems: list[str] = []
    _check_numbers(config, "", problems)
    model = config.pipeline.model
    if model.sh_degree not in (0, 1, 2, 3):
        problems.append(f"--pipeline.model.sh-degree is {model.sh_degree}, expected 0, 1, 2 or 3")
    renderer = model.renderer
    near, far = getattr(renderer, "near_plane", 0.0), getattr(renderer, "far_plane", math.inf)
    if near >= far:
        problems.append(f"--pipeline.model.renderer.near-plane is {near}, expected less than far-plane, which is {far}")
    if isinstance(renderer, Splat3DGSRenderer) and renderer.packed and config.machine.device_type == "cpu":
        problems.append("--pipeline.model.renderer.packed is True, expected False with --machine.device-type cpu")
    _check_modules(config.modules, problems)
    _check_choices(config.pipeline.datamanager.dataparser, problems)
    for name, steps in config.gradient_accumulation_steps.items():
        if name not in config.optimizers:
            problems.append(
                f"--gradient-accumulation-steps names {name!r}, expected groups among: {', '.join(config.optimizers)}"
            )
        if steps < 1:
            problems.append(f"--gradient-accumulation-steps of {name} is {steps}, expected at least 1")
    if config.mixed_precision or config.use_grad_scaler:
        problems.append("--mixed-precision and --use-grad-scaler must be False: Gaussians are trained in float32")
    for name, count in (("devices", config.machine.num_devices), ("machines", config.machine.num_machines)):
        if count != 1:
            problems.append(f"--machine.num-{name} is {count}, expected 1: training on several GPUs is not supported")
    if config.load_checkpoint is not None and not Path(config.load_checkpoint).is_file():
        problems.append(f"--load-checkpoint: there is no file {config.load_checkpoint}")
    if config.load_dir is not None and not Path(config.load_dir).is_dir():
        problems.append(f"--load-dir: there is no folder {config.load_dir}")
    if model.init_ply is not None and not run_folder.goes_on(config):
        problems += _initial_file_problems(Path(model.init_ply))
    problems += name_problems(config)
    if problems:
        raise OptionsError(problems)


def _initial_file_problems(path: Path) -> list[str]:
    if not path.exists():
        return [f"--pipeline.model.init-ply: there is no file {path}"]
    try:
        find_format(path)
    except FormatError as error:
        return [f"--pipeline.model.init-ply: {error}"]
    return []


def _check_numbers(value: Any, path: str, problems: list[str]) -> None:
    """Walk through nested dataclasses and dicts, and check every number whose name is known."""
    if dataclasses.is_dataclass(value):
        items = [(field.name, getattr(value, field.name, None), field.type) for field in dataclasses.fields(value)]
    elif isinstance(value, dict):
        items = [(str(name), entry, None) for name, entry in value.items()]
    else:
        return
    for name, entry, kind in items:
        place = f"{path}.{name}" if path else name
        if isinstance(entry, (int, float)) and not isinstance(entry, bool):
            whole = kind not in (int, "int") or isinstance(entry, int)  # the command line sees to it, Python does not
            expected = _expectation(place, entry) if whole else "a whole number"
            if expected:
                problems.append(f"{_flag(place)} is {entry}, expected {expected}")
        else:
            _check_numbers(entry, place, problems)


def _flag(place: str) -> str:
    """How the command line calls an option."""
    owner, _, name = place.replace("_", "-").rpartition(".")
    return f"--{name} of the dataparser" if owner.endswith("dataparser") else f"--{place.replace('_', '-')}"


def _expectation(place: str, number: float) -> str | None:
    """What the number at this path should have been; None when it is fine."""
    parts = place.split(".")
    names = {parts[-1], ".".join(parts[-2:])}
    if not names.isdisjoint(POSITIVE) and not (number > 0 and math.isfinite(number)):
        return "a number above 0"
    if not names.isdisjoint(NOT_NEGATIVE) and not (number >= 0 and math.isfinite(number)):
        return "a number of at least 0"
    if not names.isdisjoint(FRACTIONS) and not 0 <= number <= 1:
        return "a number between 0 and 1"
    if not names.isdisjoint(SHARES) and not 0 < number <= 1:
        return "a number above 0, up to 1"
    if not names.isdisjoint(BELOW_ONE) and not 0 <= number < 1:
        return "a number of at least 0 and below 1"
    for name in names & OPACITIES.keys():
        if not 0 < number < OPACITIES[name]:
            return f"a number between 0 and {OPACITIES[name]:g}, both excluded"
    for name in names & AT_MOST.keys():
        if number > AT_MOST[name]:
            return f"at most {AT_MOST[name]}"
    return None


def _check_modules(modules: Any, problems: list[str]) -> None:
    """Check those settings of the built-in modules that are no single numbers."""
    for name in ("evaluator.eval_steps", "exporter.export_steps"):
        owner, _, setting = name.partition(".")
        for step in getattr(getattr(modules, owner, None), setting, None) or ():
            if isinstance(step, bool) or not isinstance(step, int) or step < 1:
                problems.append(f"{_flag(f'modules.{name}')} holds {step!r}, expected whole numbers of at least 1")
    splat_format = getattr(getattr(modules, "exporter", None), "splat_format", "ply")
    if splat_format not in format_names():
        problems.append(
            f"--modules.exporter.splat-format is {splat_format!r}, expected one of: {', '.join(format_names())}"
        )


def _check_choices(parser: Any, problems: list[str]) -> None:
    """Check a dataparser's words against their types, as the command line does, and Python and YAML do not."""
    try:
        kinds = get_type_hints(type(parser))
    except NameError:  # a plugin's own, with types that are imported for checkers alone
        return
    for name, kind in kinds.items():
        value = getattr(parser, name, None)
        if get_origin(kind) is Literal and value not in get_args(kind):
            problems.append(
                f"{_flag(f'dataparser.{name}')} is {value!r}, expected one of: {', '.join(map(str, get_args(kind)))}"
            )


def check_device(device_type: str, option: str = "--machine.device-type") -> None:
    """Check that this machine has the device, and that gsplat's CUDA code can be used on it.

    Args:
        device_type: "cuda", "cpu" or "mps".
        option: the command line's name for it, for messages.

    Raises:
        SplatkitError: it does not, or cannot; says what was found.
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
    check_cuda_backend()
