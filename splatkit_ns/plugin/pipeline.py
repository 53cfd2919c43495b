"""One training step as the modules see it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from torch import Tensor

from splatkit_ns.parts.dispatch import ModuleDispatcher
from splatkit_ns.parts.old_configs import FillsInDefaults
from splatkit_ns.plugin.data.cameras import camera_extent
from splatkit_ns.plugin.data.initial import weights_follow
from splatkit_ns.plugin.datamanager import SplatkitDatamanager, SplatkitDatamanagerConfig
from splatkit_ns.plugin.model import SplatkitModel, SplatkitModelConfig
from splatkit_ns.plugin.run.run_data import RunData
from splatkit_ns.plugin.run.validation import AnnouncedImages


@dataclass
class SplatkitPipelineConfig(FillsInDefaults, VanillaPipelineConfig):
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

    def __init__(
        self,
        config: SplatkitPipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        with weights_follow(test_mode != "val"):  # to look at a run, that is; "val" is to train
            super().__init__(config, device, test_mode, *args, **kwargs)
        context = self.model.context
        context.world_size = self.world_size
        context.data_provider = RunData(self)
        alpha_color = self.datamanager.train_dataparser_outputs.alpha_color
        if alpha_color is not None:
            self.model.dataset_background = torch.as_tensor(alpha_color, dtype=torch.float32)
        if self.test_mode == "val":
            self.datamanager.use_targets(self.model.loss_fn.wanted_targets)
        extent = camera_extent(self.datamanager.train_dataset.cameras)
        context.scene_scale = (extent if extent > 0 else 1.0) * config.model.global_scale
        self.wants_metrics: Callable[[int], bool] = lambda step: True
        """Whether a step's metrics will be looked at; the trainer sets it, so that others cost nothing."""

    def get_train_loss_dict(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        """Draw an image, render it and compute the loss, calling the hooks in between."""
        model = self.model
        model.context.step = step + 1
        model.run_hooks("pre_batch", after="other")
        camera, batch = self.datamanager.next_train(step)
        model.start_step(step, camera, batch)
        model.has_gradients = model.graphs is not None and model.graphs.run(model.training_view(camera))
        outputs = {} if model.has_gradients else self._model(camera)
        model.run_hooks("pre_compute_loss", after="render")
        loss_dict = model.context.loss_terms if model.has_gradients else model.get_loss_dict(outputs, batch)
        model.run_hooks("post_compute_loss", after="loss")
        metrics = model.get_metrics_dict(outputs, batch) if self.wants_metrics(step) else {}
        return outputs, loss_dict, metrics

    def get_eval_image_metrics_and_images(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Metrics of one evaluation image, and images to look at."""
        with self.validation(1, all_images=False) as dispatcher:
            if dispatcher is not None:
                dispatcher.run("pre_validation_image")
            return super().get_eval_image_metrics_and_images(step)

    def get_average_image_metrics(self, data_loader: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Mean metrics of many images."""
        with self.validation(len(data_loader)) as dispatcher:
            images = data_loader if dispatcher is None else AnnouncedImages(data_loader, dispatcher)
            return super().get_average_image_metrics(images, *args, **kwargs)

    @contextmanager
    def validation(self, num_images: int, all_images: bool = True) -> Generator[ModuleDispatcher | None]:
        """Around an evaluation; gives the dispatcher during training, None otherwise, when modules hear nothing."""
        model = self.model
        if not model.dispatcher.is_training:
            yield None
            return
        model.dispatcher.run("pre_validation", num_images=num_images, all_images=all_images)
        model.announces_images = True
        try:
            yield model.dispatcher
        finally:
            model.announces_images = False
        model.dispatcher.run("post_validation")
