"""Configs of a run, from which methods and `SplatTrainer` start."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from splatkit_ns.parts.fitting import poses_warmup
from splatkit_ns.plugin.data.scenes.parse_outputs import DEFAULT_LIMIT
from splatkit_ns.plugin.datamanager import SplatkitDatamanagerConfig
from splatkit_ns.plugin.model import SplatkitModelConfig
from splatkit_ns.plugin.optimizers import ExponentialDecayConfig, FusedAdamConfig, LateDecayConfig
from splatkit_ns.plugin.pipeline import SplatkitPipelineConfig
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig
from splatkit_ns.splat import LEARNING_RATES


def gaussian_optimizers(
    learning_rates: Mapping[str, float] | None = None,
    *,
    lr_share: float = 1.0,
    decay_from: float = 0.9,
    beta2: float = 0.999,
) -> dict[str, Any]:
    """Optimizers and schedules of the Gaussians' parameters and the cameras' poses.

    Args:
        learning_rates: by parameter name; the default is 3DGS's. The rate of the means falls to a hundredth.
        lr_share: the other rates fall to this share of themselves by the end of training; 1 keeps them constant.
        decay_from: the share of the steps after which these rates begin to fall.
        beta2: the decay rate of Adam's second moments, but for those of the means and the cameras.
    """
    rates = {**LEARNING_RATES, **(learning_rates or {})}
    late = LateDecayConfig(lr_share=lr_share, decay_from=decay_from) if lr_share != 1.0 else None
    optimizers: dict[str, Any] = {
        name: {"optimizer": FusedAdamConfig(lr=rate, beta2=beta2), "scheduler": deepcopy(late)}
        for name, rate in rates.items()
    }
    optimizers["means"] = {
        "optimizer": FusedAdamConfig(lr=rates["means"]),
        "scheduler": ExponentialDecayConfig(lr_final=rates["means"] / 100),
    }
    optimizers["camera_opt"] = {
        "optimizer": FusedAdamConfig(lr=1e-4),
        "scheduler": ExponentialDecayConfig(lr_final=5e-7, warmup_steps=poses_warmup(1000)),
    }
    return optimizers


def trainer_config(
    method_name: str, model: SplatkitModelConfig, *, max_seed_points: int = DEFAULT_LIMIT, **settings: Any
) -> SplatkitTrainerConfig:
    """A run of 30,000 steps with this model, on the GPU if there is one.

    Args:
        method_name: the name of the method in ``ns-train``.
        model: the settings of the model.
        max_seed_points: that of the datamanager.
        settings: fields of `SplatkitTrainerConfig` that replace the values chosen here; of ``optimizers``, the groups
            that are given.

    Raises:
        TypeError: a setting is not a field of `SplatkitTrainerConfig`.
    """
    chosen: dict[str, Any] = {
        "max_num_iterations": 30_000,
        "steps_per_save": 2000,
        "steps_per_eval_batch": 0,
        "steps_per_eval_image": 500,
        "steps_per_eval_all_images": 5000,
        "machine": MachineConfig(device_type="cuda" if torch.cuda.device_count() else "cpu"),
        "logging": LoggingConfig(steps_per_log=50),
        "pipeline": SplatkitPipelineConfig(
            datamanager=SplatkitDatamanagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True),
                cache_images_type="uint8",
                max_seed_points=max_seed_points,
            ),
            model=model,
        ),
        "optimizers": gaussian_optimizers(),
        "viewer": ViewerConfig(num_rays_per_chunk=1 << 15),
        "vis": "viewer",
    }
    optimizers = {**chosen["optimizers"], **settings.get("optimizers", {})}
    chosen |= {**settings, "optimizers": optimizers}
    config = SplatkitTrainerConfig(method_name=method_name, **chosen)
    if "full_length" not in chosen:
        config.full_length = int(config.max_num_iterations)
    return config
