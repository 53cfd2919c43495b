"""The arguments that hooks may take, and the one object that holds them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.errors import ModuleError
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.splat.training_state import SplatTrainingState

RUN_ARGUMENTS = (
    "logger",
    "renderer",
    "data_provider",
    "loss_fn",
    "densification",
    "modules",
    "max_steps",
    "training_state",
    "step",
    "world_rank",
    "world_size",
    "scene_scale",
    "stop",
    "num_train_images",
    "image_model",
    "images_per_step",
)
"""Known during the whole run."""

PARAMETER_ARGUMENTS = tuple(
    name
    for name in RUN_ARGUMENTS
    if name not in ("training_state", "data_provider", "max_steps", "step", "images_per_step", "stop")
)
"""Known when parts declare their parameters: there are no Gaussians yet, and in an opened run there are no steps."""

BATCH_ARGUMENTS = (
    *RUN_ARGUMENTS,
    "target_frames",
    "masks",
    "pixel_weights",
    "target_depths",
    "target_normals",
    "target_alphas",
    "image_index",
    "image_name",
)
"""Known once a training image has been drawn."""

RENDER_ARGUMENTS = (*BATCH_ARGUMENTS, "view", "cam_to_worlds", "Ks", "rendered_frames", "rend_out")
"""Known once the image has been rendered."""

LOSS_ARGUMENTS = (*RENDER_ARGUMENTS, "loss", "loss_terms")
"""Known once the loss has been computed."""

PHASES = ("other", "data", "modules", "render", "loss", "backward", "optimizers", "densify")
"""The parts of a step that `SplatBaseModule.on_phase` is called for: "other" is everything between steps (logging,
viewer, evaluation, checkpoints), "modules" are the hooks."""


@dataclasses.dataclass
class StepContext:
    """All arguments that hooks may take, filled in as a step goes on.

    Every hook's arguments come out of this one object by name, so that none can be forgotten on the way to a hook.
    """

    logger: logging.Logger
    max_steps: int
    step: int = 0
    """1-based: ``step == max_steps`` is the last. With several ranks it counts images; see `images_per_step`."""
    renderer: SplatBaseModule[Any] | None = None
    data_provider: object = None
    """Gives the images and cameras of the run: `RunData` in a run of nerfstudio. A part checks for what it needs of it,
    such as `EvaluationSource` or `TrainingViewSource`."""
    loss_fn: SplatBaseModule[Any] | None = None
    densification: SplatBaseModule[Any] | None = None
    image_model: SplatBaseModule[Any] | None = None
    modules: Sequence[SplatBaseModule[Any]] = ()
    training_state: SplatTrainingState = None  # type: ignore[reportAssignmentType]  # a run always has one
    """The Gaussians."""
    seed: int = 0
    """The seed of the run, from which the random numbers of each step follow."""
    world_rank: int = 0
    world_size: int = 1
    images_per_step: int = 1
    """The number by which `step` grows, because steps count images: that of the ranks, times that of the images which
    each of them renders in a step."""
    batch_size: int = 1
    """The number of images that each rank renders in a step."""
    number_in_batch: int = 0
    """The number of the present one among them, from 0."""
    scene_scale: float = 1.0
    """Radius of the camera positions around their centre, in world units."""
    num_train_images: int = 0
    """The number of training photographs."""
    target_frames: Tensor | None = None
    """Ground truth, (1, H, W, 3) in [0, 1]."""
    masks: Tensor | None = None
    """(1, H, W) bool, True = use this pixel, or None for all of them."""
    pixel_weights: Tensor | None = None
    """The weight of each pixel in the loss, (1, H, W), or None for 1; `FrameEdit` sets them."""
    target_depths: Tensor | None = None
    """Depth of the data in world units, (1, H, W, 1), NaN where it is unknown; None unless the loss needs it."""
    target_normals: Tensor | None = None
    """Unit normals of the data as they are stored, (1, H, W, 3), NaN where unknown; None unless the loss needs them."""
    target_alphas: Tensor | None = None
    """The alpha that the render should have, (1, H, W, 1); None unless masks or alpha channels tell what is empty."""
    view: View | None = None
    """The training camera, with the size of this step's images."""
    rendered_frames: Tensor | None = None
    """Render, (1, H, W, 3)."""
    rend_out: SplatRenderPayload | None = None
    """The renderer's payload."""
    loss: Tensor | None = None
    """Scalar that is differentiated."""
    loss_terms: dict[str, Tensor] = dataclasses.field(default_factory=dict[str, Tensor])
    """The loss's named terms; their sum is `loss`."""
    is_skipped: bool = False
    """Whether the optimizers left this step out, because its loss or gradients were not finite."""
    image_index: int | None = None
    """The number of this step's training photograph, from 0; None if it is not known."""
    image_name: str = ""
    """The file name of this step's training photograph."""
    names_in_batch: tuple[str, ...] = ()
    """The file names of all photographs that this process has rendered in this step."""
    stop_reason: str | None = None
    """The reason that a part gave to `stop`; None means that the run goes on."""
    exit_request: SystemExit | None = None
    """The `SystemExit` that a hook raised during a step, to be raised once the step is complete and saved."""

    @property
    def place_in_step(self) -> int:
        """The number of the present image among those that all ranks render in the step, from 0."""
        return self.world_rank * self.batch_size + self.number_in_batch

    @property
    def cam_to_worlds(self) -> Tensor | None:
        """Pose of the training camera, (1, 4, 4), OpenCV axes."""
        return None if self.view is None else self.view.cam_to_worlds

    @property
    def Ks(self) -> Tensor | None:
        """Its intrinsics in pixels of this step's images, (1, 3, 3)."""
        return None if self.view is None else self.view.Ks

    def stop(self, reason: str) -> None:
        """End the run after this step as if it were the last: `post_train`, last checkpoint, clean-up, result.

        A run that is resumed from that checkpoint goes on to its ``max_steps``. Before the first step, in `on_setup`,
        it means that no step is trained.

        Args:
            reason: printed at the end; that of the first call counts.
        """
        if self.stop_reason is None:
            self.stop_reason = str(reason)

    def start_step(self, step: int, number_in_batch: int = 0) -> None:
        """Forget the last image and its losses, and begin with an image of a step."""
        self.step, self.number_in_batch = step, number_in_batch
        self.target_frames = self.masks = self.target_depths = self.target_normals = self.pixel_weights = None
        self.target_alphas = None
        self.view = self.rendered_frames = self.rend_out = self.loss = None
        self.loss_terms = {}
        self.image_name, self.image_index = "", None
        self.is_skipped = False


def bind_arguments(
    method: Callable[..., Any], available: Sequence[str], owner: str, extra: Sequence[str] = ()
) -> Callable[..., Any]:
    """Make a function of the context that calls ``method`` with the arguments its signature names.

    Args:
        method: a bound method.
        available: names of arguments that ``method`` may take, attributes of `StepContext`.
        owner: how errors call the method, like ``"MyLoss.compute_loss"``.
        extra: further names, given as keywords to the returned function.

    Returns:
        ``call(context, **extra) -> result of method``.

    Raises:
        ModuleError: the signature names an argument that does not exist, takes one by position only, or lacks `self`;
            or the method is ``async``, so that a call would not run it; or it is no method at all.
    """
    known = (*available, *extra)
    if not callable(method):
        raise ModuleError(f"{owner} is {method!r:.60}, expected a method: give the attribute another name.")
    if inspect.iscoroutinefunction(method):
        raise ModuleError(f"{owner} is async, and would never run; write def instead of async def.")
    if inspect.ismethod(method):
        first = next(iter(inspect.signature(method.__func__).parameters.values()), None)
        if first is not None and first.name in known and first.kind is not first.VAR_KEYWORD:
            raise ModuleError(f"{owner} has no self: its first argument is {first.name!r}; write self before it.")
    parameters = inspect.signature(method).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    unknown = [p.name for p in named if p.name not in known]
    if unknown:
        raise ModuleError(
            f"{owner} takes {', '.join(_with_near(name, known) for name in unknown)}, which does not exist there.\n"
            f"  It may take: {', '.join(known)}\n"
            "  Arguments are passed by name: rename the argument, leave it out, or take **kwargs."
        )
    if any(p.kind is p.POSITIONAL_ONLY for p in named):
        raise ModuleError(f"{owner} takes an argument by position only ('/'); arguments are passed by name.")
    names = _named(method, known)
    from_context = tuple(name for name in names if name not in extra)
    from_extra = tuple(name for name in names if name in extra)

    def call(context: StepContext, **given: Any) -> Any:
        arguments = {name: getattr(context, name) for name in from_context}
        for name in from_extra:
            arguments[name] = given[name]
        return method(**arguments)

    return call


def call_named(method: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a method of a part with those of the arguments that its signature names, as a run calls it.

    Args:
        method: such as `compute_loss` of a loss that another one holds.
        arguments: by name.

    Returns:
        What the method returns.
    """
    return method(**{name: arguments[name] for name in _named(method, tuple(arguments))})


def _named(method: Callable[..., Any], known: Sequence[str]) -> tuple[str, ...]:
    """Those of the known arguments that a method's signature names; all of them if it takes ``**kwargs``."""
    parameters = inspect.signature(method).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return tuple(known)
    return tuple(p.name for p in parameters if p.kind is not p.VAR_POSITIONAL and p.name in known)


def _with_near(name: str, known: Sequence[str]) -> str:
    """A name that is not known, and the one that may be meant if it is a slip of the pen."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"{name!r} (did you mean {near[0]}?)" if near else repr(name)


def is_finite(loss: Tensor) -> bool:
    """Whether a scalar is neither NaN nor infinite; reads the value back from the device."""
    return bool(torch.isfinite(loss.detach()).all())
