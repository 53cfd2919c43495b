"""What a renderer is."""

from __future__ import annotations

import dataclasses
import inspect
from abc import abstractmethod
from typing import Any, Literal

from torch import Tensor

from splatkit_ns.errors import ModuleError
from splatkit_ns.formats import SplatRenderMode
from splatkit_ns.parts.base import SplatBaseModule, payload_type
from splatkit_ns.parts.context import StepContext
from splatkit_ns.parts.payload import PayloadT, SplatRenderPayload
from splatkit_ns.splat import SplatTrainingState

RenderMode = Literal["RGB", "RGB+D", "RGB+ED"]
"""Colours alone, or with accumulated (D) or expected (ED) depth."""


class SplatRenderer(SplatBaseModule[PayloadT]):
    """Turns Gaussians and cameras into images.

    It is also used outside training (viewer, evaluation, export of images), where no hook is called.
    """

    @property
    def splat_mode(self) -> SplatRenderMode:
        """How Gaussians that are trained with this renderer have to be drawn elsewhere, which their files say."""
        return "default"

    @abstractmethod
    def render(
        self,
        training_state: SplatTrainingState,
        cam_to_worlds: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        *,
        sh_degree: int | None = None,
        backgrounds: Tensor | None = None,
        render_mode: RenderMode = "RGB",
    ) -> PayloadT:
        """Render all cameras.

        Args:
            training_state: the Gaussians.
            cam_to_worlds: camera-to-world matrices, (C, 4, 4), OpenCV axes (x right, y down, z forward).
            Ks: intrinsics in pixels, (C, 3, 3).
            width: of the images, in pixels.
            height: of the images, in pixels.
            sh_degree: degree up to which spherical harmonics are evaluated; None means all that there are.
            backgrounds: colour behind the Gaussians, (C, 3); None means black.
            render_mode: whether depth is rendered beside the colours.

        Returns:
            The images and what densification needs to know of them.
        """
        raise NotImplementedError


def check_signature(renderer: SplatRenderer[Any]) -> None:
    """Check that `SplatRenderer.render` can be called with what it is always given.

    Raises:
        ModuleError: it does not take that.
    """
    options = {"sh_degree": None, "backgrounds": None, "render_mode": None}
    try:
        inspect.signature(renderer.render).bind(None, None, None, None, None, **options)
    except TypeError as error:
        raise ModuleError(
            f"{renderer.module_name}.render does not fit how it is called: {error}. Expected "
            "render(self, training_state, cam_to_worlds, Ks, width, height, *, sh_degree, backgrounds, render_mode); "
            "**options may stand for the last three, and further arguments need defaults."
        ) from error


def check_payload(result: Any, renderer: SplatRenderer[Any], context: StepContext, width: int, height: int) -> None:
    """Check what `SplatRenderer.render` returned for one camera; looks at types and shapes alone, not at the device.

    Raises:
        ModuleError: not the payload that the renderer's class declares, or one of another shape.
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
                "whose gradient densification looks at."
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
