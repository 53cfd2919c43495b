"""The methods that ``ns-train`` offers.

Every ``ns-train`` imports this file, whichever method it is asked for: what it imports needs no GPU, no compiler and no
optional package.
"""

from __future__ import annotations

from typing import Any

import torch
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.plugins.types import MethodSpecification

from splatkit_ns.densification import SplatMCMCDensification
from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.plugin.datamanager import SplatkitDatamanagerConfig
from splatkit_ns.plugin.model import SplatkitModelConfig
from splatkit_ns.plugin.optimizers import ExponentialDecayConfig, FusedAdamConfig
from splatkit_ns.plugin.pipeline import SplatkitPipelineConfig
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig
from splatkit_ns.splat import LEARNING_RATES


def gaussian_optimizers() -> dict[str, Any]:
    """Optimizers and schedules of the Gaussians' parameters and the cameras' poses, with 3DGS's learning rates."""
    optimizers: dict[str, Any] = {
        name: {"optimizer": FusedAdamConfig(lr=rate), "scheduler": None} for name, rate in LEARNING_RATES.items()
    }
    optimizers["means"]["scheduler"] = ExponentialDecayConfig(lr_final=LEARNING_RATES["means"] / 100)
    optimizers["camera_opt"] = {
        "optimizer": FusedAdamConfig(lr=1e-4),
        "scheduler": ExponentialDecayConfig(lr_final=5e-7, warmup_steps=1000),
    }
    return optimizers


def trainer_config(method_name: str, model: SplatkitModelConfig) -> SplatkitTrainerConfig:
    """A run of 30,000 steps with this model, on the GPU if there is one."""
    return SplatkitTrainerConfig(
        method_name=method_name,
        max_num_iterations=30_000,
        steps_per_save=2000,
        steps_per_eval_batch=0,
        steps_per_eval_image=500,
        steps_per_eval_all_images=5000,
        machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
        logging=LoggingConfig(steps_per_log=50),
        pipeline=SplatkitPipelineConfig(
            datamanager=SplatkitDatamanagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True), cache_images_type="uint8"
            ),
            model=model,
        ),
        optimizers=gaussian_optimizers(),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    )


splatkit_3dgs = MethodSpecification(
    config=trainer_config("splatkit-3dgs", SplatkitModelConfig()),
    description="3D Gaussian Splatting of swappable parts (splatkit-ns).",
)

splatkit_3dgs_mcmc = MethodSpecification(
    config=trainer_config(
        "splatkit-3dgs-mcmc",
        SplatkitModelConfig(
            densification=SplatMCMCDensification(),
            loss_fn=Splat3DGSLossFn(opacity_reg=0.01, scale_reg=0.01),
            init_opacity=0.5,
            init_scale=0.1,
        ),
    ),
    description="3D Gaussian Splatting as Markov Chain Monte Carlo (splatkit-ns).",
)
