"""nerfstudio's pipeline with our datamanager and model."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from torch import Tensor

from splatkit_ns.loss_fn.base import check_wanted_targets
from splatkit_ns.memory import let_gpu_memory_grow
from splatkit_ns.parts.old_configs import FillsInDefaults
from splatkit_ns.plugin.data.cameras import lens_models
from splatkit_ns.plugin.data.checks.placement import note_if_opened_elsewhere
from splatkit_ns.plugin.data.checks.plausible import note_clipped_points
from splatkit_ns.plugin.data.loader.targets import note_depth_unit
from splatkit_ns.plugin.datamanager import SplatkitDatamanager, SplatkitDatamanagerConfig
from splatkit_ns.plugin.model import SplatkitModel, SplatkitModelConfig
from splatkit_ns.plugin.run.folder.command_line import (
    OPENING,
    check_camera_path,
    check_export_box,
    check_export_name,
    opened_folder,
    pass_over_imports,
)
from splatkit_ns.plugin.run.parts.run_data import RunData
from splatkit_ns.plugin.run.parts.validation import AnnouncedEvaluation
from splatkit_ns.plugin.viewer.panel import ViewerPanel
from splatkit_ns.triton_kernels import load_ahead


@dataclass
class SplatkitPipelineConfig(FillsInDefaults, VanillaPipelineConfig):
    """Settings of the pipeline."""

    _target: type = field(default_factory=lambda: SplatkitPipeline)
    datamanager: SplatkitDatamanagerConfig = field(default_factory=SplatkitDatamanagerConfig)
    """The source of images and cameras."""
    model: SplatkitModelConfig = field(default_factory=SplatkitModelConfig)
    """The Gaussians, and how they are rendered and trained."""


class SplatkitPipeline(AnnouncedEvaluation):
    """Datamanager and model."""

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
        pass_over_imports(OPENING)
        if test_mode == "val":
            let_gpu_memory_grow(torch.device(device))
        super().__init__(config, device, test_mode, *args, **kwargs)
        folder = opened_folder(sys.argv)
        if folder is not None:
            note_if_opened_elsewhere(self.datamanager, folder)
        check_export_box(sys.argv)  # the datamanager has seen to it that the message is printed alone
        check_export_name(sys.argv)
        check_camera_path(sys.argv)
        self.run_data = self.model.context.data_provider = RunData(self.datamanager, self.model)
        if test_mode == "inference":  # the command will make its own datamanager of this config
            background: Any = self.model.backgrounds.of_evaluation(self.model.device).cpu()
            config.datamanager.render_background = background
        self.panel = ViewerPanel(self.model, self.datamanager)  # nerfstudio's viewer looks for elements here
        self.model.shown = self.panel.shown
        if test_mode == "val":
            near = getattr(self.model.renderer, "near_plane", 0.0)
            note_clipped_points(self.datamanager.train_dataparser_outputs, near)
            loss_fn: Any = self.model.loss_fn
            wanted = check_wanted_targets(loss_fn)
            self.datamanager.use_targets(wanted)
            if "target_depths" in wanted and getattr(loss_fn, "depth_kind", "inverse") != "inverse":
                note_depth_unit(self.datamanager.train_dataparser_outputs)
            lenses = lens_models(self.datamanager.train_dataset.cameras)
            load_ahead(self.model.renderer.lens_kernels(lenses), device)  # while the images are loaded

    def get_train_loss_dict(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        """Draw an image, render it and compute the loss, with the hooks in between; for trainers other than ours."""
        if self.model.context.step != step + 1:  # no callback has begun the step
            self.model.parts.begin_step(step)
        camera, batch = self.datamanager.next_train(step)
        self.model.parts.take_frame(camera, batch)
        outputs = self._model(camera)
        loss_dict = self.model.get_loss_dict(outputs, batch)
        return outputs, loss_dict, self.model.get_metrics_dict(outputs, batch)
