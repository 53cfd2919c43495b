"""What a renderer is."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from torch import Tensor

from splatkit_ns.modules.base import SplatBaseModule
from splatkit_ns.modules.frame import PayloadT
from splatkit_ns.splat import SplatTrainingState

RenderMode = Literal["RGB", "RGB+D", "RGB+ED"]
"""Colours alone, or with accumulated (D) or expected (ED) depth."""


class SplatRenderer(SplatBaseModule[PayloadT]):
    """Turns Gaussians and cameras into images.

    It is also used outside training (viewer, evaluation, export of images), where no hook is called.
    """

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
