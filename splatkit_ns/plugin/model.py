"""The nerfstudio model: renderer, loss and densification behind nerfstudio's three methods."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.utils.colors import get_color
from torch import Tensor, nn

from splatkit_ns.cameras import View
from splatkit_ns.densification import SplatDefaultDensification, SplatDensification
from splatkit_ns.errors import SplatkitError
from splatkit_ns.image_metrics.metrics import ImageMetrics
from splatkit_ns.loss_fn import Splat3DGSLossFn, SplatLossFn
from splatkit_ns.loss_fn.base import named_terms
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.context import LOSS_ARGUMENTS, RENDER_ARGUMENTS, StepContext, bind_arguments
from splatkit_ns.parts.dispatch import ModuleDispatcher
from splatkit_ns.parts.old_configs import FillsInDefaults
from splatkit_ns.plugin.data import images
from splatkit_ns.plugin.data.cameras import opencv_cam_to_worlds, pinhole_view
from splatkit_ns.plugin.data.initial import are_stand_ins, initial_gaussians
from splatkit_ns.plugin.options.held import release
from splatkit_ns.plugin.run import weights
from splatkit_ns.plugin.step.graph import StepGraphs
from splatkit_ns.plugin.viewer.views import cropped, view_outputs
from splatkit_ns.renderer import Splat3DGSRenderer, SplatRenderer
from splatkit_ns.renderer.base import check_payload, check_signature
from splatkit_ns.splat import SplatTrainingState
from splatkit_ns.splat.schema import KEYS

VIEWER_BACKGROUND = (0.1490, 0.1647, 0.2157)
"""The viewer's own background colour, shown where a model trained on random backgrounds is transparent."""


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
    sh_degree: int = 3
    """Highest degree of the spherical harmonics that make colours depend on the direction, 0 to 3."""
    sh_degree_interval: int = 1000
    """One more degree is used every this many steps."""
    background_color: Literal["auto", "random", "black", "white"] = "auto"
    """Colour behind the Gaussians. random changes every step, which keeps surfaces opaque; auto is the colour onto
    which the data set lays its images, random for images with an alpha channel, and black otherwise."""
    num_downscales: int = 0
    """Training starts with images whose sides are divided by 2 to this power."""
    resolution_schedule: int = 3000
    """The resolution doubles every this many steps, until it is full."""
    init_ply: Path | None = None
    """Start from the Gaussians of this file (PLY, SPZ, SOG, …), such as an earlier run exported; its coordinates must
    be those of this data set as nerfstudio orients and scales it."""
    random_init: bool = False
    """Start from random points even if the data has seed points."""
    num_random: int = 50_000
    """Number of random points."""
    random_scale: float = 3.0
    """Side of the cube of random points, relative to the scene box."""
    init_opacity: float = 0.1
    """Opacity at the start."""
    init_scale: float = 1.0
    """Size at the start, relative to the mean distance of the three nearest neighbours."""
    global_scale: float = 1.0
    """Multiplies the scene's scale, which learning rates of positions and sizes in densification are relative to."""
    output_depth_during_training: bool = False
    """Render depth in training, too, for losses that use it."""
    camera_optimizer: CameraOptimizerConfig = field(default_factory=lambda: CameraOptimizerConfig(mode="off"))
    """Correction of the training cameras' poses."""
    lpips: bool = True
    """Report LPIPS in evaluation. Its weights are loaded at first use; without them it is left out."""


class SplatkitModel(SplatfactoModel):
    """Renderer, loss and densification as a nerfstudio model.

    A subclass of `SplatfactoModel` because nerfstudio's viewer and exporter ask for one; it takes nothing else from it.
    """

    config: SplatkitModelConfig

    def populate_modules(self) -> None:
        """Make the Gaussians, and run-time copies of renderer, loss and densification."""
        config = self.config
        self.gauss_params = nn.ParameterDict(
            {
                name: nn.Parameter(value)
                for name, value in initial_gaussians(config, self.seed_points, self.scene_box).items()
            }
        )
        self.awaits_weights = are_stand_ins()
        """Whether the Gaussians only stand in for those of a checkpoint, until `load_state_dict`."""
        self.training_state = SplatTrainingState(self.gauss_params, {})
        self.renderer: SplatRenderer[Any] = release(config.renderer)
        self.loss_fn: SplatLossFn[Any] = release(config.loss_fn)
        self.densification: SplatDensification[Any] = release(config.densification)
        self.context = StepContext(
            logger=logging.getLogger("splatkit_ns"),
            max_steps=0,
            training_state=self.training_state,
            renderer=self.renderer,
            loss_fn=self.loss_fn,
            densification=self.densification,
        )
        self.use_modules([])
        self.training_state.subscribe(self._rows_changed)
        self.camera_optimizer: CameraOptimizer = config.camera_optimizer.setup(
            num_cameras=self.num_train_data, device="cpu"
        )
        self.metrics = ImageMetrics(lpips=config.lpips)
        self.announces_images = False
        """Whether modules hear of evaluation images; the pipeline's `validation` sets it."""
        self.step = 0
        self.skips_step = False
        self.downscale = 1
        """What the sides of training images are divided by, if not by more; a module may change it."""
        self.graphs: StepGraphs | None = None
        """What may do a step's render, loss and backward pass together; the trainer sets it."""
        self.has_gradients = False
        """Whether it did so in this step."""
        self.crop_box: OrientedBox | None = None
        self.background_color = torch.tensor(VIEWER_BACKGROUND)
        self.dataset_background = torch.zeros(3)
        """Colour onto which the data set lays images with transparency; black if it leaves them as they are."""
        self._views: dict[int, View] = {}
        """Of the training cameras, in full size, by index."""
        self._backgrounds: dict[str, Tensor] = {}

    # ------------------------------------------------------------------ modules

    def use_modules(self, modules: list[SplatBaseModule[Any]]) -> None:
        """Let these modules hook into training, after renderer, loss and densification.

        Raises:
            ModuleError: one of them does not fit.
        """
        everyone = [self.renderer, self.loss_fn, self.densification, *modules]
        self.dispatcher = ModuleDispatcher(everyone, self.context)
        self.context.modules = everyone
        check_signature(self.renderer)
        self._compute_loss = bind_arguments(
            self.loss_fn.compute_loss, RENDER_ARGUMENTS, f"{self.loss_fn.module_name}.compute_loss"
        )
        self._densify = bind_arguments(
            self.densification.densify, LOSS_ARGUMENTS, f"{self.densification.module_name}.densify"
        )

    def _rows_changed(self, row_change: Any) -> None:
        self.dispatcher.run("on_gaussians_changed", row_change=row_change)

    # ------------------------------------------------------------------ what nerfstudio's viewer and exporter read

    @property
    def features_dc(self) -> Tensor:
        """SH coefficients of degree 0, (N, 3)."""
        return self.gauss_params["sh0"][:, 0]

    @property
    def features_rest(self) -> Tensor:
        """SH coefficients of degrees 1 and up, (N, K - 1, 3)."""
        return self.gauss_params["shN"]

    @property
    def colors(self) -> Tensor:
        """Colours seen from no direction in particular, (N, 3)."""
        return images.sh_to_rgb(self.features_dc)

    @property
    def shs_0(self) -> Tensor:
        """See `features_dc`."""
        return self.features_dc

    @property
    def shs_rest(self) -> Tensor:
        """See `features_rest`."""
        return self.features_rest

    @property
    def opacities(self) -> Tensor:
        """Logits, (N, 1)."""
        return self.gauss_params["opacities"][:, None]

    # ------------------------------------------------------------------ parameters

    def get_gaussian_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group a parameter of the Gaussians."""
        return {name: [self.gauss_params[name]] for name in KEYS}

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group a parameter of the Gaussians, and the camera optimizer's."""
        groups = self.get_gaussian_param_groups()
        self.camera_optimizer.get_param_groups(param_groups=groups)
        return groups

    def use_optimizers(self, optimizers: dict[str, torch.optim.Optimizer]) -> None:
        """Tell the training state which optimizers train its parameters.

        Raises:
            SplatkitError: the parameters should have been loaded, and were not.
        """
        if self.awaits_weights:
            raise SplatkitError("This run was to go on from a checkpoint, and none was loaded: start it again.")
        self.training_state.optimizers = {name: optimizers[name] for name in KEYS}

    def load_state_dict(self, dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Load weights of any number of Gaussians; the `Parameter` objects, which optimizers know, stay the same."""
        weights.check(dict, self.gauss_params)
        for name, param in self.gauss_params.items():
            stored = dict[f"gauss_params.{name}"]
            param.data = torch.empty(stored.shape, dtype=param.dtype, device=param.device)
        self.awaits_weights = False
        return nn.Module.load_state_dict(self, dict, **kwargs)

    def update_to_step(self, step: int) -> None:
        """Take over the step of a checkpoint, on which the SH degree depends."""
        self.step = step

    # ------------------------------------------------------------------ one step

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Densification and the hooks after the optimizers' step."""
        return [TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.finish_step)]

    def close_graphs(self) -> None:
        """Give back what steps as CUDA graphs hold; the last step's images stay."""
        if self.graphs is not None:
            self.graphs.close()

    def start_step(self, step: int, camera: Cameras, batch: dict[str, Any]) -> None:
        """Fill the step's context with the training image, and run `pre_step`.

        Args:
            step: nerfstudio's, 0-based.
            camera: of the image.
            batch: the image, and its mask where there is one.
        """
        self.step = step
        context = self.context
        context.start_step(step + 1)
        context.image_name = str(batch.get("image_name", batch.get("image_idx", "")))
        self.step_background = self._background(has_alpha=batch["image"].shape[-1] == 4)
        context.target_frames, context.masks = self.training_target(batch)
        downscale = self._get_downscale_factor()
        if "target_depths" in batch:
            context.target_depths = images.mean_depths(self._on_device(batch["target_depths"]), downscale)[None]
        if "target_normals" in batch:
            context.target_normals = images.mean_normals(self._on_device(batch["target_normals"]), downscale)[None]
        self.run_hooks("pre_step", after="data")

    def training_target(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """What this step compares renders of an image with.

        Returns:
            The image on the step's background, (1, H, W, 3), and where it is valid, (1, H, W) bool or None.
        """
        downscale = self._get_downscale_factor()
        image = images.ground_truth(self._on_device(batch["image"]), downscale)
        mask = images.valid_pixels(self._on_device(batch["mask"]), downscale)[None] if "mask" in batch else None
        return images.composite(image, self.step_background)[None], mask

    def _on_device(self, pixels: Tensor) -> Tensor:
        """Pixels of a training image; those in pinned memory are copied without waiting, as nobody writes there."""
        return pixels.to(self.device, non_blocking=True)

    def finish_step(self, step: int) -> None:
        """Densification and the hooks after the optimizers' step.

        After a step that was left out, because it was not finite, only `post_step` runs.
        """
        if self.skips_step:
            self.run_hooks("post_step", after="optimizers")
            return
        self.run_hooks("on_optimize", after="optimizers")
        if self.densification.changes_rows_itself:
            with self.training_state.track_row_changes():
                self._guarded(self.densification, "densify", self._densify)
        else:
            self._guarded(self.densification, "densify", self._densify)
        self.run_hooks("post_step", after="densify")

    def run_hooks(self, hook: str, after: str) -> None:
        """Run a hook of all modules, between the end of the phase before it and that of "modules"."""
        self.dispatcher.run("on_phase", phase=after)
        self.dispatcher.run(hook)
        self.dispatcher.run("on_phase", phase="modules")

    def _guarded(self, module: SplatBaseModule[Any], name: str, call: Callable[[StepContext], Any]) -> Any:
        return self.dispatcher.guarded(module.module_name, name, call)

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:  # type: ignore[override]
        """Render one camera.

        Returns:
            rgb (H, W, 3), accumulation (H, W, 1), background (3,) in training, (H, W, 3) otherwise, and depth
            (H, W, 1), or None where training renders none; outside training also what the payload's `extra_images`
            has.
        """
        if self.training:
            return self.render_for_training(self.training_view(camera), self.step_background)
        state = cropped(self.training_state, self.crop_box)
        return view_outputs(self.renderer, state, pinhole_view(camera), self.sh_degree_now(), self._background())

    def render_for_training(self, view: View, background: Tensor) -> dict[str, Any]:
        """Render a view, and fill the step's context with it.

        Args:
            view: of the training image.
            background: (3,).
        """
        context = self.context
        payload = self._guarded(
            self.renderer,
            "render",
            lambda _: self.renderer.render(
                self.training_state,
                view.cam_to_worlds,
                view.Ks,
                view.width,
                view.height,
                sh_degree=self.sh_degree_now(),
                backgrounds=background[None],
                render_mode="RGB+ED" if self.wants_depth_now() else "RGB",
            ),
        )
        check_payload(payload, self.renderer, context, view.width, view.height)
        payload.retain_gradients()
        context.cam_to_worlds, context.Ks = view.cam_to_worlds, view.Ks
        context.rend_out = payload
        context.rendered_frames = payload.renders
        depth = payload.depths
        return {
            "rgb": payload.renders[0],
            "depth": None if depth is None else depth[0],
            "accumulation": payload.alphas[0],
            "background": background,
        }

    def training_view(self, camera: Cameras) -> View:
        """The view of a training camera, read from its device only once, whatever the resolution."""
        index = (camera.metadata or {}).get("cam_idx")
        view = None if index is None else self._views.get(index)
        if view is None:
            view = pinhole_view(camera)
            if index is not None:
                self._views[index] = view
        view = view.smaller(self._get_downscale_factor())
        if self.config.camera_optimizer.mode != "off":
            corrected = self.camera_optimizer.apply_to_camera(camera)
            view = dataclasses.replace(view, cam_to_worlds=opencv_cam_to_worlds(corrected))
        return view

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The loss's named terms, and the camera optimizer's regulariser."""
        context = self.context
        if not self.training:
            return self._evaluation_loss(outputs, batch)
        result = self._guarded(self.loss_fn, "compute_loss", self._compute_loss)
        terms = named_terms(result, self.loss_fn.module_name, context)
        self.camera_optimizer.get_loss_dict(terms)
        context.loss_terms = terms
        context.loss = torch.stack(list(terms.values())).sum() if len(terms) > 1 else next(iter(terms.values()))
        return terms

    def _evaluation_loss(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        target, mask = self._evaluation_target(outputs, batch)
        return {"l1": self.metrics.l1(outputs["rgb"], target, mask)}

    # ------------------------------------------------------------------ evaluation

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        """PSNR of this step's image and the number of Gaussians, for the log."""
        context = self.context
        if self.training and context.target_frames is not None and context.rendered_frames is not None:
            target, rendered, mask = context.target_frames[0], context.rendered_frames[0].detach(), context.masks
            mask = None if mask is None else mask[0]
        else:
            rendered = outputs["rgb"]
            target, mask = self._evaluation_target(outputs, batch)
        metrics: dict[str, Any] = {
            "psnr": self.metrics.psnr(rendered.clamp(0, 1), target, mask),
            "gaussian_count": self.num_points,
        }
        self.camera_optimizer.get_metrics_dict(metrics)
        return metrics

    def _evaluation_target(self, outputs: dict[str, Any], batch: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        image = images.ground_truth(batch["image"].to(self.device), 1)
        mask = images.valid_pixels(batch["mask"].to(self.device), 1) if "mask" in batch else None
        return images.composite(image, outputs["background"]), mask

    def get_image_metrics_and_images(
        self, outputs: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR, SSIM and LPIPS over the valid pixels, and ground truth and render side by side."""
        target, mask = self._evaluation_target(outputs, batch)
        rendered = outputs["rgb"]
        metrics = self.metrics.all(rendered, target, mask)
        if self.announces_images and self.dispatcher.listens_to("post_validation_image"):
            self.dispatcher.run(
                "post_validation_image",
                metrics={"l1": float(self.metrics.l1(rendered, target, mask)), **metrics},
                image_name=str(batch.get("image_name", batch.get("image_idx", ""))),
                rendered_frames=rendered[None],
                target_frames=target[None],
            )
        return metrics, {"img": torch.cat([target, rendered], dim=1)}

    # ------------------------------------------------------------------ schedules

    def wants_depth_now(self) -> bool:
        """Whether this step of training renders depth."""
        return self.config.output_depth_during_training or self.loss_fn.wants_depth(self.context.step)

    def sh_degree_now(self) -> int:
        """Up to which degree this step evaluates spherical harmonics."""
        if self.config.init_ply is not None:  # trained before: its colours are used whole from the start
            return self.config.sh_degree
        return min(self.step // self.config.sh_degree_interval, self.config.sh_degree)

    def _get_downscale_factor(self) -> int:
        if not self.training:
            return 1
        halvings = max(self.config.num_downscales - self.step // self.config.resolution_schedule, 0)
        return max(self.downscale, 2**halvings)

    def _background(self, has_alpha: bool = False) -> Tensor:
        """Colour behind the Gaussians, (3,).

        Args:
            has_alpha: whether this step's training image is RGBA.
        """
        mode = self.config.background_color
        if self.training and (mode == "random" or (mode == "auto" and has_alpha)):
            return torch.rand(3, device=self.device)
        return self.evaluation_background()

    def evaluation_background(self) -> Tensor:
        """Colour behind the Gaussians outside training, (3,)."""
        mode = self.config.background_color
        if mode not in self._backgrounds:
            colors = {"random": self.background_color, "auto": self.dataset_background}
            self._backgrounds[mode] = (colors[mode] if mode in colors else get_color(mode)).to(self.device)
        return self._backgrounds[mode]

    def set_background(self, background_color: Tensor) -> None:
        """Take the viewer's background colour (3,), shown behind models trained on random ones."""
        self.background_color = background_color
        self._backgrounds.pop("random", None)
