"""The nerfstudio model: renderer, loss and densification behind nerfstudio's three methods."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor
from torch.optim import Optimizer

from splatkit_ns.cameras import View
from splatkit_ns.densification import SplatDefaultDensification, SplatDensification
from splatkit_ns.errors import SplatkitError
from splatkit_ns.image_model import ImageModelChoice, SplatImageModel
from splatkit_ns.loss_fn import Splat3DGSLossFn, SplatLossFn
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.context import StepContext
from splatkit_ns.parts.fitting import fitted, fitted_to_scene, sh_interval
from splatkit_ns.parts.old_configs import FillsInDefaults
from splatkit_ns.plugin.data.backgrounds import BackgroundColor, Backgrounds
from splatkit_ns.plugin.data.cameras import lens_view
from splatkit_ns.plugin.data.photographs.images import evaluation_target
from splatkit_ns.plugin.run.checkpoints.model_parameters import ModelParameters
from splatkit_ns.plugin.run.opaque_parts import instances
from splatkit_ns.plugin.step.frame import TrainingFrames
from splatkit_ns.plugin.step.measures import Measures, compared
from splatkit_ns.plugin.step.part_attributes import PartAttributes
from splatkit_ns.plugin.step.part_parameters import PartParameters
from splatkit_ns.plugin.step.parts import StepParts
from splatkit_ns.plugin.viewer.attributes import GaussianAttributes
from splatkit_ns.plugin.viewer.views import cropped, view_outputs
from splatkit_ns.ranges import InnerFraction, NonNegative, Positive, at_most, one_of
from splatkit_ns.ranks import Ranks
from splatkit_ns.renderer import RenderOptions, Splat3DGSRenderer, SplatRenderer
from splatkit_ns.renderer.alignment import aligned_view


@dataclass
class SplatkitModelConfig(FillsInDefaults, ModelConfig):
    """Settings of a splatkit model."""

    _target: type = field(default_factory=lambda: SplatkitModel)
    renderer: SplatRenderer = field(default_factory=Splat3DGSRenderer)
    """The renderer, which turns Gaussians into images."""
    image_model: SplatImageModel = field(default_factory=ImageModelChoice)
    """The model of what a camera makes of the scene: none, or a part that changes colours for each photograph."""
    loss_fn: SplatLossFn = field(default_factory=Splat3DGSLossFn)
    """The loss, which training minimises."""
    densification: SplatDensification = field(default_factory=SplatDefaultDensification)
    """The strategy that adds and removes Gaussians."""
    sh_degree: Annotated[int, one_of(0, 1, 2, 3)] = 3
    """Highest degree of the spherical harmonics that make colours depend on the direction, 0 to 3."""
    sh_degree_interval: Annotated[int, Positive] = sh_interval(1000)
    """The number of steps after which one more degree is used."""
    background_color: BackgroundColor = "auto"
    """Colour behind the Gaussians. random changes every step, which keeps surfaces opaque; auto is the colour onto
    which the data set lays its images, random for images with an alpha channel, and black otherwise."""
    init_ply: Path | None = None
    """Start from the Gaussians of this file (PLY, SPZ, SOG, …), such as the export of an earlier run; its coordinates
    must be those of this data set as nerfstudio orients and scales it."""
    random_init: bool = False
    """Start from random points even if the data has seed points."""
    num_random: Annotated[int, Positive] = 50_000
    """Number of random points."""
    random_scale: Annotated[float, Positive, at_most(10**6)] = 3.0
    """Side of the cube of random points, relative to the scene box."""
    init_opacity: Annotated[float, InnerFraction] = 0.1
    """Opacity at the start."""
    init_scale: Annotated[float, Positive] = 1.0
    """Size at the start, relative to the mean distance of the three nearest neighbours."""
    global_scale: Annotated[float, Positive] = 1.0
    """Factor of the scene's scale. The learning rate of positions and the sizes in densification are relative to it."""
    output_depth_during_training: bool = False
    """Render depth in training, too, for losses that use it."""
    camera_optimizer: CameraOptimizerConfig = field(default_factory=lambda: CameraOptimizerConfig(mode="off"))
    """Correction of the training cameras' poses."""
    lpips: bool = True
    """Report LPIPS in evaluation. Its weights are loaded at first use; without them it is left out."""
    num_downscales: Annotated[int, NonNegative] = 0
    """As in splatfacto: sides of training images are divided by 2 to this power at first, and doubled again every
    resolution-schedule steps. Short for --modules.resolution.max-downscale and halve-every."""
    resolution_schedule: Annotated[int, Positive] = 3000
    """The number of steps between doublings; see num-downscales."""


class SplatkitModel(PartAttributes, GaussianAttributes, ModelParameters, SplatfactoModel):
    """Renderer, loss and densification as a nerfstudio model.

    It is a subclass of `SplatfactoModel` only because nerfstudio's viewer and exporter require one. `get_outputs`,
    `get_loss_dict` and the training callbacks each run the hooks that belong to them, so that nerfstudio's own trainer
    can train the model, too.
    """

    config: SplatkitModelConfig

    def populate_modules(self) -> None:
        """Make run-time copies of the parts, and a stand-in for the Gaussians; see `ModelParameters`."""
        config, metadata = self.config, self.kwargs.get("metadata") or {}
        self._make_stand_in(config.sh_degree)
        self.camera_optimizer: CameraOptimizer = config.camera_optimizer.setup(
            num_cameras=self.num_train_data, device="cpu"
        )
        ranks = Ranks.current()
        self.context = StepContext(
            logger=logging.getLogger("splatkit_ns"),
            max_steps=0,
            training_state=self.training_state,
            world_rank=ranks.rank,
            world_size=ranks.size,
            scene_scale=(metadata.get("camera_extent") or 1.0) * config.global_scale,
            num_train_images=self.num_train_data,
        )
        self.backgrounds = Backgrounds(config.background_color, metadata.get("background_color"))
        frames = TrainingFrames(self.backgrounds, self.camera_optimizer, self.num_train_data)
        parts = (config.renderer, config.image_model, config.loss_fn, config.densification)
        self.parts = StepParts(self.context, frames, *instances(parts), ranks=ranks)
        self.part_params = PartParameters(self.gauss_params)
        self.part_params.add_parts(self.dispatcher, self.context)
        self.measures = Measures(config.lpips, self.camera_optimizer)
        self._evaluated: tuple[Tensor, View] | None = None
        self.crop_box: OrientedBox | None = None

    def use_modules(self, modules: list[SplatBaseModule[Any]]) -> None:
        """Let these modules hook into training, and train the parameters that they own.

        Raises:
            ModuleError: one of them does not fit.
        """
        self.parts.use_modules(modules)
        self.part_params.add_parts(self.dispatcher, self.context)

    def take_settings(self, config: SplatkitModelConfig, photographs: int, steps: int | None) -> None:
        """Train with settings that have been fitted to so many photographs, and to a run of so many steps unless that
        is None; call it before the parts are set up."""
        self.config = config
        for part in (self.renderer, self.image_model, self.loss_fn, self.densification):
            vars(part).update(vars(fitted_to_scene(part, photographs)))
            if steps is not None:
                vars(part).update(vars(fitted(part, steps)))

    @property
    def step(self) -> int:
        """nerfstudio's number of the current step, 0-based, computed from the step of the context."""
        return max(self.context.step - 1, 0)

    def update_to_step(self, step: int) -> None:
        """Set the step to that of a checkpoint (0-based), because the SH degree depends on it."""
        self.context.step = step + 1

    # ------------------------------------------------------------------ one step

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """The calls before and after a step's render, loss and backward, and after the last step.

        With a trainer other than ours, this call also gives the model the optimizers, the data and the number of steps.
        """
        attributes = training_callback_attributes
        if not self.training_state.optimizers:
            self.parts.join(attributes, self.config.global_scale)
        return [
            TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self.parts.begin_step),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.parts.finish_step),
            TrainingCallback(
                [TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.parts.pass_on_stop, args=[attributes.trainer]
            ),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self.parts.end_training),
        ]

    def run_post_train(self, optimizers: Mapping[str, Optimizer]) -> None:
        """Run `post_train` of all parts, and warn of parameters of parts that were not trained.

        Args:
            optimizers: all of the run, by group.
        """
        self.part_params.warn_of_untrained(optimizers, self.context)
        self.dispatcher.warn_of_late_parameters()
        self.dispatcher.run("post_train")

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:
        """Render one camera.

        Returns:
            rgb (H, W, 3), accumulation (H, W, 1), background (3,) in training, (H, W, 3) otherwise, and depth
            (H, W, 1), or None if training renders none; outside training also the payload's `extra_images`.

        Raises:
            SplatkitError: it gets rays, not a camera.
        """
        parts = self.parts
        if isinstance(camera, RayBundle):
            raise SplatkitError(
                "This command, or --render-nearest-camera of ns-render, renders single rays, and Gaussians are drawn "
                "as whole images. For a mesh: splatkit mesh --load-config CONFIG --output FILE.ply"
            )
        if not self.training:
            state, view = cropped(self.shown.of(self.training_state), self.crop_box), lens_view(camera)
            background = self.backgrounds.of_evaluation(self.device)
            outputs = view_outputs(self.renderer, state, view, self.sh_degree_now(), background)
            self._evaluated = (outputs["rgb"], view)
            return outputs | parts.images_of_new_view(outputs["rgb"], view)
        frame = parts.frame_of(camera)
        payload = parts.render(frame, self.sh_degree_now(), self.wants_depth_now())
        assert self.context.rendered_frames is not None
        return {
            "rgb": self.context.rendered_frames[0],
            "depth": None if payload.depths is None else payload.depths[0],
            "accumulation": payload.alphas[0],
            "background": frame.background,
        }

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The loss's named terms, and the camera optimizer's regulariser; in training with the hooks around them."""
        parts = self.parts
        if not self.training:
            return {"l1": self.measures.difference(outputs, batch)}
        parts.add_image(batch)
        parts.run_hooks("pre_compute_loss", after="render")
        terms = parts.loss_terms()
        self.camera_optimizer.get_loss_dict(terms)
        parts.set_loss(terms)
        parts.run_hooks("post_compute_loss", after="loss")
        return terms

    # ------------------------------------------------------------------ figures

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        """PSNR of an image and the number of Gaussians, for the log."""
        if self.training and self.context.target_frames is not None and self.context.rendered_frames is not None:
            return self.measures.of_training_image(self.context)
        return self.measures.of_outputs(outputs, batch, self.context)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The metrics of an evaluation image (`ImageMetrics.all`), and a picture of photograph and render.

        If training corrects poses, the metrics are there twice: the second time, as ``aligned_psnr`` and so on, after
        `aligned_metrics`.
        """
        found, images = self.measures.of_evaluation_image(outputs, batch, self.dispatcher)
        rendered, view = self._evaluated or (None, None)
        if view is not None and rendered is outputs["rgb"] and self.measures.aligns:
            found |= {f"aligned_{name}": value for name, value in self.aligned_metrics(view, batch).items()}
        return found, images

    def aligned_metrics(self, view: View, batch: dict[str, Any]) -> dict[str, float]:
        """The metrics of an evaluation image after its camera has been aligned with the photograph (`aligned_view`)."""
        parts, state, degree = self.parts, self.training_state, self.sh_degree_now()
        background = self.backgrounds.of_evaluation(self.device)
        options = RenderOptions(sh_degree=degree, backgrounds=background[None])
        target, mask = evaluation_target(batch, background.expand(view.height, view.width, 3))
        view = aligned_view(self.renderer, state, view, target, mask, options)
        outputs = view_outputs(self.renderer, state, view, degree, background)
        outputs |= parts.images_of_new_view(outputs["rgb"], view)
        return self.measures.metrics.all(compared(outputs), target, mask)

    # ------------------------------------------------------------------ schedules

    def wants_depth_now(self) -> bool:
        """Whether this step of training renders depth."""
        step = self.context.step
        others = (part for part in self.context.modules if not isinstance(part, SplatLossFn))
        wanted = self.loss_fn.wants_depth(step) or any(part.wants_depth(step) for part in others)
        return wanted or self.config.output_depth_during_training

    def sh_degree_now(self) -> int:
        """The degree up to which this step evaluates spherical harmonics."""
        if self.config.init_ply is not None:  # these Gaussians were trained before: all degrees are used from the start
            return self.config.sh_degree
        return min(self.step // self.config.sh_degree_interval, self.config.sh_degree)

    def set_background(self, background_color: Tensor) -> None:
        """Take the viewer's background colour (3,), shown behind models trained on random backgrounds."""
        self.backgrounds.set_viewer_color(background_color)
