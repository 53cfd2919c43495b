"""The nerfstudio model: renderer, loss and densification behind nerfstudio's three methods."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor, nn

from splatkit_ns.densification import SplatDefaultDensification, SplatDensification
from splatkit_ns.loss_fn import Splat3DGSLossFn, SplatLossFn
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.context import StepContext
from splatkit_ns.parts.dispatch import ModuleDispatcher
from splatkit_ns.parts.old_configs import FillsInDefaults
from splatkit_ns.plugin.data.backgrounds import BackgroundColor, Backgrounds
from splatkit_ns.plugin.data.cameras import camera_extent, pinhole_view
from splatkit_ns.plugin.data.initial import initial_gaussians, one_gaussian
from splatkit_ns.plugin.run import weights
from splatkit_ns.plugin.run.held import release
from splatkit_ns.plugin.step.frame import TrainingFrame, TrainingFrames
from splatkit_ns.plugin.step.measures import Measures
from splatkit_ns.plugin.step.parts import StepParts
from splatkit_ns.plugin.viewer.attributes import GaussianAttributes
from splatkit_ns.plugin.viewer.views import cropped, view_outputs
from splatkit_ns.ranges import Opacity, Positive, at_most, one_of
from splatkit_ns.ranks import Ranks
from splatkit_ns.renderer import Splat3DGSRenderer, SplatRenderer
from splatkit_ns.splat import SplatTrainingState
from splatkit_ns.splat.schema import KEYS

logger = logging.getLogger("splatkit_ns")


@dataclass
class SplatkitModelConfig(FillsInDefaults, ModelConfig):
    """Settings of a splatkit model."""

    _target: type = field(default_factory=lambda: SplatkitModel)
    renderer: SplatRenderer = field(default_factory=Splat3DGSRenderer)
    """How Gaussians become images."""
    loss_fn: SplatLossFn = field(default_factory=Splat3DGSLossFn)
    """What training minimises."""
    densification: SplatDensification = field(default_factory=SplatDefaultDensification)
    """How Gaussians are added and removed."""
    sh_degree: Annotated[int, one_of(0, 1, 2, 3)] = 3
    """Highest degree of the spherical harmonics that make colours depend on the direction, 0 to 3."""
    sh_degree_interval: Annotated[int, Positive] = 1000
    """One more degree is used every this many steps."""
    background_color: BackgroundColor = "auto"
    """Colour behind the Gaussians. random changes every step, which keeps surfaces opaque; auto is the colour onto
    which the data set lays its images, random for images with an alpha channel, and black otherwise."""
    init_ply: Path | None = None
    """Start from the Gaussians of this file (PLY, SPZ, SOG, …), such as an earlier run exported; its coordinates must
    be those of this data set as nerfstudio orients and scales it."""
    random_init: bool = False
    """Start from random points even if the data has seed points."""
    num_random: Annotated[int, Positive] = 50_000
    """Number of random points."""
    random_scale: Annotated[float, Positive, at_most(10**6)] = 3.0
    """Side of the cube of random points, relative to the scene box."""
    init_opacity: Annotated[float, Opacity] = 0.1
    """Opacity at the start."""
    init_scale: Annotated[float, Positive] = 1.0
    """Size at the start, relative to the mean distance of the three nearest neighbours."""
    global_scale: Annotated[float, Positive] = 1.0
    """Multiplies the scene's scale, which learning rates of positions and sizes in densification are relative to."""
    output_depth_during_training: bool = False
    """Render depth in training, too, for losses that use it."""
    camera_optimizer: CameraOptimizerConfig = field(default_factory=lambda: CameraOptimizerConfig(mode="off"))
    """Correction of the training cameras' poses."""
    lpips: bool = True
    """Report LPIPS in evaluation. Its weights are loaded at first use; without them it is left out."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if state.get("num_downscales"):
            logger.warning(
                "This config has num_downscales = %s, which is a module's setting now and not used here. To resume as "
                "before: --modules.resolution.max-downscale %d --modules.resolution.halve-every %s",
                state["num_downscales"],
                2 ** state["num_downscales"],
                state.get("resolution_schedule", 3000),
            )


class SplatkitModel(GaussianAttributes, SplatfactoModel):
    """Renderer, loss and densification as a nerfstudio model.

    It is a subclass of `SplatfactoModel` because nerfstudio's viewer and exporter ask for one; it takes nothing else
    from it. `get_outputs`, `get_loss_dict` and the training callbacks each run the hooks that belong to them, so that
    nerfstudio's own trainer can train the model, too. Its step is: callback `begin_step`, `get_outputs`,
    `get_loss_dict`, backward, optimizers, callback `finish_step`.
    """

    config: SplatkitModelConfig

    def populate_modules(self) -> None:
        """Make run-time copies of renderer, loss and densification, and a stand-in for the Gaussians.

        The Gaussians themselves come from a checkpoint (`load_state_dict`), or are made when training asks for its
        parameters (`get_param_groups`): to look at a run, no time is spent on those that it started from.
        """
        config = self.config
        metadata: dict[str, Any] = self.kwargs.get("metadata") or {}
        stand_in = one_gaussian(config.sh_degree)
        self.gauss_params = nn.ParameterDict({name: nn.Parameter(value) for name, value in stand_in.items()})
        self.is_stand_in = True
        """Whether the Gaussians have neither been loaded nor made yet."""
        self.training_state = SplatTrainingState(self.gauss_params, {})
        self.renderer: SplatRenderer[Any] = release(config.renderer)
        self.loss_fn: SplatLossFn[Any] = release(config.loss_fn)
        self.densification: SplatDensification[Any] = release(config.densification)
        self.camera_optimizer: CameraOptimizer = config.camera_optimizer.setup(
            num_cameras=self.num_train_data, device="cpu"
        )
        ranks = Ranks.current()
        self.context = StepContext(
            logger=logger,
            max_steps=0,
            training_state=self.training_state,
            world_rank=ranks.rank,
            world_size=ranks.size,
        )
        self.context.scene_scale = (metadata.get("camera_extent") or 1.0) * config.global_scale
        self.parts = StepParts(self.context, self.renderer, self.loss_fn, self.densification)
        self.backgrounds = Backgrounds(config.background_color, metadata.get("background_color"))
        self.frames = TrainingFrames(self.backgrounds, self.camera_optimizer)
        self.measures = Measures(config.lpips, self.camera_optimizer)
        self.crop_box: OrientedBox | None = None
        self._frame: TrainingFrame | None = None

    # ------------------------------------------------------------------ parts

    @property
    def dispatcher(self) -> ModuleDispatcher:
        """Runs the hooks of all parts."""
        return self.parts.dispatcher

    def use_modules(self, modules: list[SplatBaseModule[Any]]) -> None:
        """Let these modules hook into training, after renderer, loss and densification.

        Raises:
            ModuleError: one of them does not fit.
        """
        self.parts.use_modules(modules)

    # ------------------------------------------------------------------ parameters

    def get_gaussian_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group for each parameter of the Gaussians."""
        return {name: [self.gauss_params[name]] for name in KEYS}

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group for each parameter of the Gaussians, and the camera optimizer's.

        Raises:
            SplatkitError: the Gaussians have to be made, and the PLY file to make them from cannot be used.
        """
        if self.is_stand_in:
            self._set_gaussians(initial_gaussians(self.config, self.seed_points, self.scene_box))
        groups = self.get_gaussian_param_groups()
        self.camera_optimizer.get_param_groups(param_groups=groups)
        return groups

    def _set_gaussians(self, values: dict[str, Tensor]) -> None:
        """Put values of any number of Gaussians into the `Parameter` objects, which optimizers know."""
        for name, param in self.gauss_params.items():
            param.data = values[name].to(param.device, param.dtype)
        self.is_stand_in = False

    def load_state_dict(self, dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Load weights of any number of Gaussians; the `Parameter` objects, which optimizers know, stay the same."""
        weights.check(dict, self.gauss_params)
        self._set_gaussians({name: torch.empty(dict[f"gauss_params.{name}"].shape) for name in KEYS})
        return nn.Module.load_state_dict(self, dict, **kwargs)

    @property
    def step(self) -> int:
        """nerfstudio's number of the current step, 0-based; the one count of steps is that of the context."""
        return max(self.context.step - 1, 0)

    def update_to_step(self, step: int) -> None:
        """Take over the step of a checkpoint (0-based), on which the SH degree depends."""
        self.context.step = step + 1

    # ------------------------------------------------------------------ one step

    @property
    def frame(self) -> TrainingFrame | None:
        """The training image of the current step, from `pre_step` on."""
        return self._frame

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """What comes before and after a step's render, loss and backward, and after the last step.

        Under a trainer other than ours, this is also where the model learns of optimizers, data and number of steps.
        """
        attributes = training_callback_attributes
        if not self.training_state.optimizers:
            self._join(attributes)
        return [
            TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self.begin_step),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.finish_step),
            TrainingCallback(
                [TrainingCallbackLocation.AFTER_TRAIN_ITERATION],
                self.pass_on_stop,
                args=[attributes.trainer],
            ),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self.end_training),
        ]

    def _join(self, attributes: TrainingCallbackAttributes) -> None:
        """Take what only a trainer knows."""
        assert attributes.optimizers is not None
        self.training_state.use_optimizers(attributes.optimizers.optimizers)
        if attributes.trainer is not None:
            self.context.max_steps = attributes.trainer.config.max_num_iterations
            self.context.seed = attributes.trainer.config.machine.seed
        data = None if attributes.pipeline is None else attributes.pipeline.datamanager.train_dataset
        if data is not None and self.context.data_provider is None:
            extent = camera_extent(data.cameras)
            self.context.scene_scale = (extent or 1.0) * self.config.global_scale

    def begin_step(self, step: int) -> None:
        """Count the step, and run `pre_batch`; before the first step of a run, set up the modules.

        Args:
            step: nerfstudio's, 0-based.
        """
        if not self.dispatcher.is_training:
            self.dispatcher.setup()
        self._frame = None
        self.context.step = step + 1
        self.parts.run_hooks("pre_batch", after="other")

    def take_frame(self, camera: Cameras, batch: dict[str, Any] | None = None) -> TrainingFrame:
        """Fill the context with the training image of this step, and run `pre_step`.

        Args:
            camera: the camera of the image.
            batch: the image and what comes with it; None if `get_loss_dict` will bring it.
        """
        self.context.start_step(self.context.step)
        self.parts.seed("frame", of_rank=True)
        self.use_frame(self.frames.make(camera, batch))
        self.parts.run_hooks("pre_step", after="data")
        self.reseed_render()
        assert self._frame is not None
        return self._frame

    def reseed_render(self) -> None:
        """Draw the random numbers of this step's render from their beginning."""
        self.parts.seed("render", of_rank=True)

    def use_frame(self, frame: TrainingFrame) -> None:
        """Render this frame, and compare it, from now on."""
        self._frame, context = frame, self.context
        context.image_name = frame.image_name
        context.target_frames, context.masks = frame.target, frame.mask
        context.target_depths, context.target_normals = frame.target_depths, frame.target_normals

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:  # type: ignore[override]
        """Render one camera.

        Returns:
            rgb (H, W, 3), accumulation (H, W, 1), background (3,) in training, (H, W, 3) otherwise, and depth
            (H, W, 1), or None if training renders none; outside training also the payload's `extra_images`.
        """
        if not self.training:
            state = cropped(self.training_state, self.crop_box)
            background = self.backgrounds.of_evaluation(self.device)
            return view_outputs(self.renderer, state, pinhole_view(camera), self.sh_degree_now(), background)
        frame = self._frame
        if frame is None or frame.camera is not camera:
            frame = self.take_frame(camera)
        payload = self.parts.render(frame, self.sh_degree_now(), self.wants_depth_now())
        depth = payload.depths
        return {
            "rgb": payload.renders[0],
            "depth": None if depth is None else depth[0],
            "accumulation": payload.alphas[0],
            "background": frame.background,
        }

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The loss's named terms, and the camera optimizer's regulariser; in training with the hooks around them."""
        if not self.training:
            return {"l1": self.measures.difference(outputs, batch)}
        context = self.context
        if context.target_frames is None and self._frame is not None:
            self.use_frame(self.frames.with_image(self._frame, batch))
        self.parts.run_hooks("pre_compute_loss", after="render")
        terms = self.parts.loss_terms()
        self.camera_optimizer.get_loss_dict(terms)
        self.parts.set_loss(terms)
        self.parts.run_hooks("post_compute_loss", after="loss")
        return terms

    def finish_step(self, step: int) -> None:
        """Densification and the hooks after the optimizers' step.

        After a step that was left out, because it was not finite, only `post_step` and `on_evaluate` run.
        """
        if self.context.is_skipped:
            self.parts.run_hooks("post_step", after="optimizers")
        else:
            self.parts.run_hooks("on_optimize", after="optimizers")
            self.parts.densify()
            self.parts.run_hooks("post_step", after="densify")
        self.dispatcher.run("on_evaluate")

    def pass_on_stop(self, trainer: Any, step: int) -> None:
        """Tell the trainer, which may be nerfstudio's own, that a part has asked the run to stop."""
        if trainer is not None and self.context.stop_reason is not None:
            trainer.stop_training = True

    def end_training(self, step: int) -> None:
        """Clean up after the last step, if nothing else has."""
        if self.dispatcher.is_training:
            self.dispatcher.run("post_train")
            self.dispatcher.cleanup()

    # ------------------------------------------------------------------ figures

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        """PSNR of an image and the number of Gaussians, for the log."""
        if self.training and self.context.target_frames is not None and self.context.rendered_frames is not None:
            return self.measures.of_training_image(self.context)
        return self.measures.of_outputs(outputs, batch, self.context)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR, SSIM and LPIPS of an evaluation image, and ground truth and render side by side."""
        return self.measures.of_evaluation_image(outputs, batch, self.dispatcher)

    # ------------------------------------------------------------------ schedules

    def wants_depth_now(self) -> bool:
        """Whether this step of training renders depth."""
        return self.config.output_depth_during_training or self.loss_fn.wants_depth(self.context.step)

    def sh_degree_now(self) -> int:
        """The degree up to which this step evaluates spherical harmonics."""
        if self.config.init_ply is not None:  # trained before: its colours are used whole from the start
            return self.config.sh_degree
        return min(self.step // self.config.sh_degree_interval, self.config.sh_degree)

    def set_background(self, background_color: Tensor) -> None:
        """Take the viewer's background colour (3,), shown behind models trained on random ones."""
        self.backgrounds.set_viewer_color(background_color)
