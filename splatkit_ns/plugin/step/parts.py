"""The calls that a training step makes of the parts of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallbackAttributes
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.densification import SplatDensification
from splatkit_ns.errors import ModuleError, SplatkitError
from splatkit_ns.image_model import IdentityImageModel, SplatImageModel
from splatkit_ns.image_model.base import check_apply, check_image, without_photograph
from splatkit_ns.loss_fn import SplatLossFn
from splatkit_ns.loss_fn.base import named_terms, scalar_terms
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.context import LOSS_ARGUMENTS, RENDER_ARGUMENTS, StepContext, bind_arguments
from splatkit_ns.parts.dispatch import ModuleDispatcher
from splatkit_ns.parts.frame_edit import FrameEdit
from splatkit_ns.parts.image_frame import ImageFrame
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.plugin.data.cameras import camera_extent
from splatkit_ns.plugin.step.frame import TrainingFrame, TrainingFrames
from splatkit_ns.plugin.step.measures import CAMERA_IMAGE
from splatkit_ns.plugin.step.ours import is_ours
from splatkit_ns.ranks import ONE_RANK, Ranks
from splatkit_ns.renderer import RenderOptions, SplatRenderer
from splatkit_ns.renderer.base import check_payload, check_signature
from splatkit_ns.splat.leading import led_by
from splatkit_ns.splat.rng import seed_generators

FIXED_ROWS = (
    "Gaussians cannot be added or removed between rendering and densification: the gradients and rend_out belong to "
    "those that were rendered. Do it in pre_batch, pre_step of a step's first image, densify, post_step or on_evaluate."
)


class StepParts:
    """The parts of a run, called with the arguments that they name; their exceptions name part and step.

    Args:
        context: the arguments that parts may name; filled in as a step goes on.
        frames: makes the training image of a step.
        renderer: turns Gaussians into images.
        image_model: turns these into the images that a camera would have taken.
        loss_fn: compares them with photographs.
        densification: adds and removes Gaussians.
        ranks: the ranks of this run.

    Raises:
        ModuleError: a part does not fit, or returns what it must not; also from methods.
    """

    def __init__(
        self,
        context: StepContext,
        frames: TrainingFrames,
        renderer: SplatRenderer[Any],
        image_model: SplatImageModel[Any],
        loss_fn: SplatLossFn[Any],
        densification: SplatDensification[Any],
        ranks: Ranks = ONE_RANK,
    ) -> None:
        self.context, self.frames, self._ranks = context, frames, ranks
        self.renderer, self.image_model = renderer, image_model
        self.loss_fn, self.densification = loss_fn, densification
        context.renderer, context.image_model = renderer, image_model
        context.loss_fn, context.densification = loss_fn, densification
        self.frame: TrainingFrame | None = None
        """The training image of the current step, from `take_frame` on."""
        self._seen: ImageFrame | None = None  # by the image model in this step
        self.use_modules([])
        context.training_state.subscribe(self._rows_changed)

    def use_modules(self, modules: Sequence[SplatBaseModule[Any]]) -> None:
        """Let these modules hook into training, after renderer, image model, loss and densification.

        A part that another one holds comes right before that.
        """
        given = [self.renderer, self.image_model, self.loss_fn, self.densification]
        parts = [part for part in given if type(part) is not IdentityImageModel]
        self.dispatcher = ModuleDispatcher(parts, self.context, modules)
        self.context.modules = list(self.dispatcher.modules.values())
        check_signature(self.renderer)
        check_apply(self.image_model)
        name = f"{self.loss_fn.module_name}.compute_loss"
        self._compute_loss = bind_arguments(self.loss_fn.compute_loss, RENDER_ARGUMENTS, name)
        name = f"{self.densification.module_name}.densify"
        self._densify = bind_arguments(self.densification.densify, LOSS_ARGUMENTS, name)

    def _rows_changed(self, row_change: Any) -> None:
        self.dispatcher.run("on_gaussians_changed", row_change=row_change)

    def _call(self, part: SplatBaseModule[Any], name: str, call: Callable[[StepContext], Any]) -> Any:
        return self.dispatcher.guarded(part.module_name, name, call)

    def join(self, attributes: TrainingCallbackAttributes, global_scale: float) -> None:
        """Take optimizers, number of steps, seed and the size of the scene from a trainer other than ours.

        Args:
            attributes: nerfstudio's attributes of training callbacks.
            global_scale: multiplies the scene's scale.

        Raises:
            SplatkitError: there are several processes.
        """
        context = self.context
        if context.world_size > 1:
            raise SplatkitError("Several processes can train together with the trainer of splatkit-ns only.")
        assert attributes.optimizers is not None
        context.training_state.use_optimizers(attributes.optimizers.optimizers)
        if attributes.trainer is not None:
            config = attributes.trainer.config
            context.max_steps, context.seed = config.max_num_iterations, config.machine.seed
        data = None if attributes.pipeline is None else attributes.pipeline.datamanager.train_dataset
        if data is not None and context.data_provider is None:
            context.scene_scale = (camera_extent(data.cameras) or 1.0) * global_scale

    @property
    def are_ours(self) -> bool:
        """Whether this package defines all parts, and no code of users runs in a step."""
        return all(map(is_ours, self.context.modules))

    def run_hooks(self, hook: str, after: str) -> None:
        """Run a hook of all parts, between the end of the phase before it and that of "modules"."""
        self.dispatcher.run("on_phase", phase=after)
        with self._led(self.dispatcher.listeners(hook)):
            self.dispatcher.run(hook)
        self.dispatcher.run("on_phase", phase="modules")

    def set_up(self) -> None:
        """Set up the parts, before the first step."""
        with self._led(self.dispatcher.context.modules):
            device, seed = self.context.training_state.device, self.context.seed  # no step: alike in a resumed run
            self.dispatcher.setup(lambda name: seed_generators(device, seed, "set-up", name))

    def _led(self, parts: Sequence[SplatBaseModule[Any]]) -> AbstractContextManager[None]:
        """Let all ranks have what these parts do to the rows on rank 0; our own do the same on all ranks anyway."""
        if self._ranks.size == 1 or all(map(is_ours, parts)):
            return nullcontext()
        self.seed("hooks", of_image=False)
        return led_by(self._ranks, self.context.training_state)

    def seed(self, purpose: str, of_image: bool) -> None:
        """Seed the random generators for a part of the step.

        Args:
            purpose: the part of the step.
            of_image: whether they are those of this image alone; False if they are those of the step, on all ranks.
        """
        context, place = self.context, self.context.place_in_step if of_image else 0
        seed_generators(context.training_state.device, context.seed, context.step, purpose, place)

    # ------------------------------------------------------------------ the calls, in the order of a step

    def begin_step(self, step: int) -> None:
        """Count the step, and run `pre_batch`; before the first step of a run, set up the modules.

        Args:
            step: nerfstudio's, 0-based.
        """
        if not self.dispatcher.is_training:
            self.set_up()
        self.frame, self.context.step = None, step + self.context.images_per_step
        self.run_hooks("pre_batch", after="other")

    def frame_of(self, camera: Cameras) -> TrainingFrame:
        """The training image of this camera, taken already with its batch or now without one."""
        if self.frame is not None and self.frame.camera is camera:
            return self.frame
        return self.take_frame(camera)

    def take_frame(self, camera: Cameras, batch: dict[str, Any] | None = None, number: int = 0) -> TrainingFrame:
        """Fill the context with a training image of this step, and run `pre_step`, which may change it.

        Args:
            camera: the camera of the image.
            batch: the image, with its mask and other data; None if it will come with `add_image`.
            number: that of the image among those that this process renders in the step.
        """
        self.context.start_step(self.context.step, number)
        self._seen = None  # or gradients to poses would flow on the stream of the last step, which no graph can hold
        self.seed("frame", of_image=True)
        frame = self.use_frame(self.frames.make(camera, batch))
        self.dispatcher.run("on_phase", phase="data")
        for owner, edit in self.dispatcher.results("pre_step"):
            if not isinstance(edit, FrameEdit):
                raise ModuleError(f"{owner}.pre_step returned a {type(edit).__name__}, expected None or a FrameEdit.")
            frame = self.use_frame(frame.edited(edit, f"{owner}.pre_step"))
        self.dispatcher.run("on_phase", phase="modules")
        self.context.training_state.fixed_rows_reason = FIXED_ROWS
        self.reseed_render()
        return frame

    def reseed_render(self) -> None:
        """Set the random generators to the beginning of this step's render."""
        self.seed("render", of_image=True)

    def use_frame(self, frame: TrainingFrame) -> TrainingFrame:
        """Make this the frame that is rendered and compared from now on."""
        self.frame, context = frame, self.context
        context.image_name, context.image_index = frame.image_name, frame.image_index
        context.target_frames, context.masks, context.pixel_weights = frame.target, frame.mask, frame.pixel_weights
        context.target_depths, context.target_normals = frame.target_depths, frame.target_normals
        context.target_alphas = frame.target_alphas
        return frame

    def add_image(self, batch: dict[str, Any]) -> None:
        """Take the photograph of the frame, if only its camera was known."""
        if self.context.target_frames is None and self.frame is not None:
            self.use_frame(self.frames.with_image(self.frame, batch))

    def render(self, frame: TrainingFrame, sh_degree: int, with_depth: bool) -> SplatRenderPayload:
        """Render a training image, and fill the context with the result.

        Args:
            frame: the camera and the background.
            sh_degree: the degree up to which spherical harmonics are evaluated.
            with_depth: whether depth is rendered, too.
        """
        context, view = self.context, self.frames.corrected(frame)
        options = RenderOptions(
            sh_degree=sh_degree,
            backgrounds=frame.background[None],
            render_mode="RGB+ED" if with_depth else "RGB",
            is_training=True,
            list_space=frame.list_space,
        )
        state = context.training_state
        payload = self._call(self.renderer, "render", lambda _: self.renderer.render(state, view, options))
        check_payload(payload, self.renderer, context, view.width, view.height)
        payload.retain_gradients()
        context.view, context.rend_out = view, payload
        seen = ImageFrame(view, frame.index_on_device, frame.image_name, context.step)
        context.rendered_frames, self._seen = self.image_of(payload.renders, seen), seen
        return payload

    def image_of(self, rendered: Tensor, frame: ImageFrame) -> Tensor:
        """The image that the image model makes from a render of a frame, (1, H, W, 3).

        Raises:
            ModuleError: the image model returned something else.
        """
        model = self.image_model
        if type(model) is IdentityImageModel:
            return rendered
        image = self._call(model, "apply", lambda _: model.apply(rendered, frame))
        check_image(image, rendered, f"{model.module_name}.apply")
        return image

    @torch.no_grad()
    def images_of_new_view(self, rendered: Tensor, view: View) -> dict[str, Tensor]:
        """The image that an image model makes of the render (H, W, 3) of a view without a training photograph.

        Returns:
            It as `CAMERA_IMAGE`; nothing if the model does not apply to such views.
        """
        if not self.image_model.applies_in_evaluation:
            return {}
        with without_photograph():
            return {CAMERA_IMAGE: self.image_of(rendered[None], ImageFrame(view))[0].clamp(0, 1)}

    def loss_terms(self) -> dict[str, Tensor]:
        """The named terms of the loss of the rendered image."""
        result = self._call(self.loss_fn, "compute_loss", self._compute_loss)
        terms, model, seen = named_terms(result, self.loss_fn.module_name, self.context), self.image_model, self._seen
        if seen is None:
            return terms
        added = self._call(model, "regularizers", lambda _: model.regularizers(seen))
        found = scalar_terms(added, f"{model.module_name}.regularizers")
        return terms | {f"image_{name}": term for name, term in found.items()}

    def set_loss(self, terms: dict[str, Tensor]) -> None:
        """Sum up the terms, and put them and the sum into the context."""
        self.context.loss_terms = terms
        self.context.loss = torch.stack(list(terms.values())).sum() if len(terms) > 1 else next(iter(terms.values()))

    def measure(self) -> None:
        """Let densification measure the step's gradients, after the backward pass."""
        self._call(self.densification, "measure", lambda context: self.densification.measure(context.rend_out))

    def count_image(self) -> None:
        """Let densification count the image that has just been rendered, if it is not the last of the step."""
        count = self.densification.count_image
        self._call(self.densification, "count_image", lambda now: count(now.rend_out, now.step))

    def finish_step(self, step: int) -> None:
        """Run densification and the hooks after the optimizers' step.

        After a step that was skipped because it was not finite, only `post_step` and `on_evaluate` run.
        """
        state = self.context.training_state
        if self.context.is_skipped:
            state.fixed_rows_reason = None
            self.run_hooks("post_step", after="optimizers")
        else:
            self.run_hooks("on_optimize", after="optimizers")
            state.fixed_rows_reason = None
            self.seed("densification", of_image=False)
            tracked = nullcontext() if is_ours(self.densification) else state.track_row_changes()
            with self._led([self.densification]), tracked:
                self.dispatcher.call_for_effect(self.densification.module_name, "densify", self._densify)
            self.run_hooks("post_step", after="densify")
        self.dispatcher.run("on_evaluate")

    def pass_on_stop(self, trainer: Any, step: int) -> None:
        """Tell the trainer, nerfstudio's or ours, if it is known, that a part has requested the run to stop."""
        if trainer is not None and self.context.stop_reason is not None:
            trainer.stop_training = True

    def end_training(self, step: int) -> None:
        """Clean up after the last step, unless it has been done."""
        if self.dispatcher.is_training:
            self.dispatcher.run("post_train")
            self.dispatcher.cleanup()
