"""One training step as the modules see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from torch import Tensor

from splatkit_ns.plugin.cameras import camera_extent
from splatkit_ns.plugin.datamanager import SplatkitDatamanager, SplatkitDatamanagerConfig
from splatkit_ns.plugin.model import SplatkitModel, SplatkitModelConfig


@dataclass
class SplatkitPipelineConfig(VanillaPipelineConfig):
    """Settings of the pipeline."""

    _target: type = field(default_factory=lambda: SplatkitPipeline)
    datamanager: SplatkitDatamanagerConfig = field(default_factory=SplatkitDatamanagerConfig)
    """Where images and cameras come from."""
    model: SplatkitModelConfig = field(default_factory=SplatkitModelConfig)
    """The Gaussians, and how they are rendered and trained."""


class SplatkitPipeline(VanillaPipeline):
    """Datamanager and model, with the modules' hooks between them."""

    config: SplatkitPipelineConfig
    datamanager: SplatkitDatamanager
    model: SplatkitModel

    def __init__(self, config: SplatkitPipelineConfig, device: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, device, *args, **kwargs)
        context = self.model.context
        context.world_size = self.world_size
        context.data_provider = self.datamanager
        alpha_color = self.datamanager.train_dataparser_outputs.alpha_color
        if alpha_color is not None:
            self.model.dataset_background = torch.as_tensor(alpha_color, dtype=torch.float32)
        extent = camera_extent(self.datamanager.train_dataset.cameras)
        context.scene_scale = extent if extent > 0 else 1.0
        self.wants_metrics: Callable[[int], bool] = lambda step: True
        """Whether a step's metrics will be looked at; the trainer sets it, so that others cost nothing."""

    def get_train_loss_dict(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        """Draw an image, render it and compute the loss, calling the hooks in between."""
        model = self.model
        camera, batch = self.datamanager.next_train(step)
        model.start_step(step, camera, batch)
        outputs = self._model(camera)
        model.dispatcher.run("pre_compute_loss")
        loss_dict = model.get_loss_dict(outputs, batch)
        model.dispatcher.run("post_compute_loss")
        metrics = model.get_metrics_dict(outputs, batch) if self.wants_metrics(step) else {}
        return outputs, loss_dict, metrics
