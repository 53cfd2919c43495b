"""The base of image models: the part between render and loss, which imitates a particular camera."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from splatkit_ns.errors import HookFailedError, ModuleError
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.image_frame import ImageFrame
from splatkit_ns.parts.payload import PayloadT, SplatRenderPayload


class SplatImageModel(SplatBaseModule[PayloadT]):
    """The base of parts that turn the render of the scene into the image that a particular camera would have taken.

    They model the properties of a photograph that are not the scene's: exposure, white balance, vignetting. All hooks
    of a module are called on it, too. Exports, the viewer and new views show the scene without it.
    """

    applies_in_evaluation: ClassVar[bool] = False
    """Whether `apply` is also called for held-out images, whose ``frame.image_index`` is None; otherwise photographs
    are compared with the render itself. The report of an evaluation says which."""

    @abstractmethod
    def apply(self, rendered: Tensor, frame: ImageFrame) -> Tensor:
        """The image of a camera.

        Args:
            rendered: the render, (1, H, W, 3) on the background, not clamped.
            frame: the camera, and the photograph that the image will be compared with.

        Returns:
            (1, H, W, 3).
        """
        raise NotImplementedError

    def regularizers(self, frame: ImageFrame) -> Mapping[str, Tensor]:
        """The terms that this model adds to the loss of a training image, weighted, by name; called after `apply`.

        Args:
            frame: the frame that `apply` was given.

        Returns:
            Scalars. They are logged with ``image_`` before their names.
        """
        return {}


@dataclass
class IdentityImageModel(SplatImageModel[SplatRenderPayload]):
    """Images are the renders themselves."""

    capturable: ClassVar[bool] = True

    def apply(self, rendered: Tensor, frame: ImageFrame) -> Tensor:
        return rendered


def check_apply(model: SplatImageModel[Any]) -> None:
    """Check that `SplatImageModel.apply` can be called with the arguments that it always gets.

    Raises:
        ModuleError: it does not accept them.
    """
    try:
        inspect.signature(model.apply).bind(None, None)
    except TypeError as error:
        raise ModuleError(
            f"{model.module_name}.apply does not fit how it is called: {error}. Expected apply(self, rendered, frame); "
            "further arguments need defaults."
        ) from None


def check_image(image: Any, rendered: Tensor, owner: str) -> None:
    """Check what an image model has made of a render.

    Args:
        image: what it returned.
        rendered: the render that it was given.
        owner: its method, for messages.

    Raises:
        ModuleError: this is no image of the same shape and type.
    """
    is_tensor = isinstance(image, Tensor)
    if not is_tensor or image.shape != rendered.shape:
        found = f"a tensor of shape {tuple(image.shape)}" if is_tensor else f"{image!r:.60}"
        raise ModuleError(f"{owner} returned {found}, expected one of {tuple(rendered.shape)}.")
    if image.dtype != rendered.dtype:
        raise ModuleError(
            f"{owner} returned an image of {image.dtype}, expected {rendered.dtype}: image.float() is one."
        )


@contextmanager
def without_photograph() -> Generator[None]:
    """Let the failure of an image model at a view of no training photograph say that there is no `image_index`."""
    try:
        yield
    except HookFailedError as error:
        reason = "This view has no training photograph: its frame.image_index is None."
        raise type(error)(f"{error}. {reason}") from error.__cause__
