"""The base class of renderers."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from splatkit_ns.cameras import LensModel, View
from splatkit_ns.errors import ModuleError
from splatkit_ns.formats import SplatRenderMode
from splatkit_ns.parts.base import SplatBaseModule, payload_type
from splatkit_ns.parts.context import StepContext
from splatkit_ns.parts.nesting import only_held, part_with
from splatkit_ns.parts.payload import PayloadT, SplatRenderPayload
from splatkit_ns.rasterize.tile_list_space import ListSpace
from splatkit_ns.renderer import wide_lenses
from splatkit_ns.splat import MissingRowsError, SplatModel, SplatTrainingState
from splatkit_ns.triton_kernels import LazyKernel

RenderMode = Literal["RGB", "RGB+D", "RGB+ED"]
"""Colours alone, or with accumulated (D) or expected (ED) depth."""
ScreenGradients = Literal["absolute", "signed"]
"""Kinds of gradients by places on the screen: sums over pixels of their absolute values (AbsGS), or plain sums."""


@dataclass(frozen=True, eq=False)
class RenderOptions:
    """Options of the rendering of a view."""

    sh_degree: int | None = None
    """Highest SH degree that is evaluated; None means that of the coefficients."""
    backgrounds: Tensor | None = None
    """Colours behind the Gaussians, (C, 3); None means black."""
    render_mode: RenderMode = "RGB"
    """Whether depth is rendered beside the colours."""
    is_training: bool = False
    """Whether this is the image of a training step, so that dropout and other features for training apply."""
    list_space: ListSpace | None = None
    """The space for tile lists on CUDA; None means as much as they need."""

    def degree_of(self, training_state: SplatTrainingState) -> int:
        """Return the highest SH degree that is evaluated for these Gaussians."""
        highest = training_state.sh_degree
        return highest if self.sh_degree is None else min(self.sh_degree, highest)


class SplatRenderer(SplatBaseModule[PayloadT]):
    """A renderer that turns Gaussians and cameras into images.

    It is also used outside training (viewer, evaluation, export of images), where no hook is called.
    """

    lenses: ClassVar[tuple[LensModel, ...]] = ("pinhole",)
    """The lens models that the class draws itself; depth through opencv_fisheye is the distance from the camera.

    If they include pinhole, other panoramas and fisheye images are made of narrower images, except in training: see
    `wide_lenses`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        render = vars(cls).get("render")
        if inspect.isfunction(render):
            cls.render = _with_checked_arguments(render)

    @property
    def splat_mode(self) -> SplatRenderMode:
        """The way in which Gaussians of this renderer have to be drawn elsewhere; their files store it."""
        held = self._held()
        return "default" if held is None else held.splat_mode

    @property
    def gsplat_need(self) -> str | None:
        """The reason why this renderer needs gsplat's compiled code on a GPU, a sentence; None if it does not."""
        held = self._held()
        return None if held is None else held.gsplat_need

    def lens_kernels(self, lenses: Iterable[LensModel]) -> tuple[LazyKernel[Any], ...]:
        """The kernels that training through lenses of these models needs on a GPU besides `gpu_kernels`."""
        held = self._held()
        return () if held is None else held.lens_kernels(lenses)

    def screen_gradients(self, lenses: Iterable[LensModel] = ("pinhole",)) -> ScreenGradients | None:
        """The gradients by the Gaussians' places on the screen that training images have: absolute ones if they can be
        asked for by a field ``absgrad``, else signed ones; None if there are none.

        Args:
            lenses: the models of the lenses that are trained through.
        """
        held = self._held()
        if held is not None and held.screen_gradients(lenses) is None:
            return None
        offers = part_with(self, "absgrad") is not None and payload_type(self).key_for_gradient == "means2d"
        return "absolute" if offers else "signed"

    def _held(self) -> SplatRenderer[Any] | None:
        """The renderer that this one holds, if it holds exactly one: what it does not say itself, that one says."""
        return only_held(self, SplatRenderer)

    def draws_itself(self, view: View, is_training: bool = False) -> bool:
        """Whether `render` draws the views of a lens, so that they are not made of pinhole images."""
        return view.lens in self.lenses

    @abstractmethod
    def render(
        self, training_state: SplatTrainingState, view: View, options: RenderOptions = RenderOptions()
    ) -> PayloadT:
        """Render all cameras of a view.

        Callers may give a `SplatModel`, too; a class's own `render` gets its `SplatModel.for_rendering` on the device
        of the view.

        Args:
            training_state: the Gaussians.
            view: C cameras.
            options: options of the rendering.

        Returns:
            The images, and the values that densification needs.

        Raises:
            ModuleError: the view has a lens that cannot be drawn.
        """
        raise NotImplementedError


def _with_checked_arguments(render: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the `render` of a class: make a training state of a `SplatModel`, and put together wide images."""

    @functools.wraps(render)
    def checked(
        self: SplatRenderer[Any],
        training_state: Any,
        view: Any,
        options: RenderOptions = RenderOptions(),
        *rest: Any,
        **named: Any,
    ) -> Any:
        if isinstance(training_state, SplatModel):
            training_state = training_state.for_rendering(view.device)

        def drawn(view: Any, options: RenderOptions) -> Any:
            try:
                return render(self, training_state, view, options, *rest, **named)
            except MissingRowsError as error:
                raise ModuleError(f"{self.module_name}.render: {error}") from error
            except AttributeError as error:
                if error.obj is self and _waits_for_a_run(self):
                    raise ModuleError(
                        f"{self.module_name}.render reads {error.name!r}, which trainables() makes when a run begins "
                        "or is opened; this object is in no run. Use render(view) of what SplatTrainer.run or open_run "
                        "returns."
                    ) from error
                raise

        if not isinstance(view, View) or self.draws_itself(view, options.is_training):
            return drawn(view, options)
        if view.lens not in wide_lenses.LENSES or "pinhole" not in self.lenses or options.is_training:
            raise ModuleError(
                f"{self.module_name} draws views through lenses of the model {' or '.join(self.lenses)}"
                f"{' in training' if options.is_training else ''}, found {view.lens}. Undistort the images "
                "(--pipeline.datamanager.undistort True), or use a renderer whose `lenses` name this model."
            )

        def draw(pinhole: View, background: Tensor | None) -> Any:
            return drawn(pinhole, dataclasses.replace(options, backgrounds=background))

        return wide_lenses.render_wide(draw, view, options.backgrounds, self.draws_itself(view.fisheye(90.0)))

    return checked


def checked_state(renderer: SplatRenderer[Any], training_state: Any) -> SplatTrainingState:
    """Return the Gaussians that a built-in renderer was given, which the base class has made of a `SplatModel`.

    Raises:
        ModuleError: it is something else.
    """
    if isinstance(training_state, SplatTrainingState):
        return training_state
    raise ModuleError(
        f"{renderer.module_name}.render got a {type(training_state).__name__}, expected a SplatTrainingState or a "
        "SplatModel. The same Gaussians with other values are SplatTrainingState({**training_state.params, 'means': "
        "means}, {}), which passes gradients on."
    )


def _waits_for_a_run(renderer: SplatRenderer[Any]) -> bool:
    """Whether a renderer has parameters of its own that have not been made yet."""
    is_made = any(isinstance(value, nn.Parameter) for value in vars(renderer).values())
    return renderer.may_own_parameters and not is_made


def check_signature(renderer: SplatRenderer[Any]) -> None:
    """Check that `SplatRenderer.render` can be called with the arguments that it always gets.

    Raises:
        ModuleError: it does not accept them.
    """
    signature = inspect.signature(renderer.render)
    loose = {"cam_to_worlds", "Ks"} & set(signature.parameters)
    try:
        signature.bind(None, None, None)
        problem = f"it takes {' and '.join(sorted(loose))}" if loose else None
    except TypeError as error:
        problem = str(error)
    if problem is None:
        return
    hint = (
        " Pose, intrinsics and size are passed as one value: view.cam_to_worlds, view.Ks, view.width and view.height; "
        "sh_degree, backgrounds and render_mode are fields of options."
        if loose
        else ""
    )
    raise ModuleError(
        f"{renderer.module_name}.render does not fit how it is called: {problem}. Expected "
        f"render(self, training_state, view, options); further arguments need defaults.{hint}"
    )


def check_payload(result: Any, renderer: SplatRenderer[Any], context: StepContext, width: int, height: int) -> None:
    """Check what `SplatRenderer.render` returned for one camera; it reads types and shapes alone, no values.

    Raises:
        ModuleError: the result is not the payload that the renderer's class declares, or its shapes are wrong.
    """
    where = f"{renderer.module_name}.render at step {context.step} on image {context.image_name}"
    declared = payload_type(renderer)
    if not isinstance(result, declared):
        needed = ", ".join(f"{f.name}=…" for f in dataclasses.fields(declared) if _is_required(f))
        found = "None" if result is None else f"an object of type {type(result).__name__}"
        raise ModuleError(f"{where} returned {found}, expected {declared.__name__}({needed}).")
    _check_image(result, "renders", (1, height, width, 3), where)
    _check_image(result, "alphas", (1, height, width, 1), where)
    for name in ("depths_expected", "depths_accumulated"):
        if result[name] is not None:
            _check_image(result, name, (1, height, width, 1), where)
    for name in ("means2d", result.key_for_gradient):
        found = getattr(result, name, None)
        if not isinstance(found, Tensor):
            raise ModuleError(
                f"{where}: {name} of its payload is {type(found).__name__}, expected a tensor of shape (1, N, 2), "
                "whose gradient densification uses."
            )


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.init and field.default is field.default_factory is dataclasses.MISSING


def _check_image(payload: SplatRenderPayload, name: str, shape: tuple[int, ...], where: str) -> None:
    image = payload[name]
    if not isinstance(image, Tensor):
        raise ModuleError(f"{where}: {name} of its payload is {type(image).__name__}, expected a tensor.")
    if tuple(image.shape) != shape or not image.is_floating_point():
        raise ModuleError(
            f"{where}: {name} of its payload is {image.dtype} of shape {tuple(image.shape)}, expected floats of shape "
            f"{shape}: (cameras, height, width, channels)."
        )
