"""Checks all options of a run at once, before any data is loaded."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.plugin import run_folder
from splatkit_ns.plugin.run_hooks import check_names
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
)
"""Numbers that must be above 0, wherever they stand."""

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
)
"""Numbers that must be at least 0."""

FRACTIONS = ("ssim_lambda", "error_threshold", "prune_quantile", "decay_from", "dropout_full_from")
"""Numbers between 0 and 1."""

BELOW_ONE = ("dropout", "prune_faint", "clamp_opacity")
"""Numbers of at least 0 and below 1."""

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
    for name, steps in config.gradient_accumulation_steps.items():
        if steps < 1:
            problems.append(f"--gradient-accumulation-steps of {name} is {steps}, expected at least 1")
    if config.mixed_precision or config.use_grad_scaler:
        problems.append("--mixed-precision and --use-grad-scaler must be False: Gaussians are trained in float32")
    if config.machine.num_devices * config.machine.num_machines != 1:
        problems.append(
            f"--machine.num-devices is {config.machine.num_devices}, expected 1: training on several GPUs is not "
            "supported"
        )
    if config.load_checkpoint is not None and not Path(config.load_checkpoint).is_file():
        problems.append(f"--load-checkpoint: there is no file {config.load_checkpoint}")
    if config.load_dir is not None and not Path(config.load_dir).is_dir():
        problems.append(f"--load-dir: there is no folder {config.load_dir}")
    resumes = config.load_checkpoint is not None or config.load_dir is not None
    resumes = resumes or run_folder.continues(config.get_base_dir())
    if model.init_ply is not None and not resumes and not Path(model.init_ply).is_file():
        problems.append(f"--pipeline.model.init-ply: there is no file {model.init_ply}")
    try:
        check_names(config)
    except SplatkitError as error:
        problems.append(str(error))
    if problems:
        raise OptionsError(problems)


def _check_numbers(value: Any, path: str, problems: list[str]) -> None:
    """Walk through nested dataclasses and dicts, and check every number whose name is known."""
    if dataclasses.is_dataclass(value):
        items = [(field.name, getattr(value, field.name, None), field.type) for field in dataclasses.fields(value)]
    elif isinstance(value, dict):
        items = [(str(name), entry, None) for name, entry in value.items()]
    else:
        return
    for name, entry, kind in items:
        flag = f"{path}.{name}" if path else name
        if isinstance(entry, (int, float)) and not isinstance(entry, bool):
            whole = kind not in (int, "int") or isinstance(entry, int)  # the command line sees to it, Python does not
            expected = _expectation(name, entry) if whole else "a whole number"
            if expected:
                problems.append(f"--{flag.replace('_', '-')} is {entry}, expected {expected}")
        elif name != "dataparser":
            _check_numbers(entry, flag, problems)


def _expectation(name: str, number: float) -> str | None:
    """What this number should have been; None when it is fine."""
    if name in POSITIVE and not (number > 0 and math.isfinite(number)):
        return "a number above 0"
    if name in NOT_NEGATIVE and not (number >= 0 and math.isfinite(number)):
        return "a number of at least 0"
    if name in FRACTIONS and not 0 <= number <= 1:
        return "a number between 0 and 1"
    if name in BELOW_ONE and not 0 <= number < 1:
        return "a number of at least 0 and below 1"
    if name in OPACITIES and not 0 < number < OPACITIES[name]:
        return f"a number between 0 and {OPACITIES[name]:g}, both excluded"
    return None


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
