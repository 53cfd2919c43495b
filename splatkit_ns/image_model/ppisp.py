"""PPISP: a model of a camera's exposure, vignetting, colour correction and response curve."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from splatkit_ns.image_model.photographs import PhotographModel, clipped, kernels_fit
from splatkit_ns.parts.image_frame import ImageFrame
from splatkit_ns.parts.trainables import Trainable
from splatkit_ns.ranges import NonNegative, Share
from splatkit_ns.triton_kernels import LazyKernel, lazy_kernel

EPS = 1e-4
"""Values below count as this in powers, whose slope at 0 may be infinite."""


@dataclass
class PPISP(PhotographModel):
    """The steps of a camera from light to colours: exposure, vignetting, colour correction, response curve.

    Exposure (one number) and colour correction (eight) belong to a photograph, vignetting and response curve to a
    camera: photographs with the same intrinsics are taken to be of one camera. Deutsch et al., "PPISP:
    Physically-Plausible Compensation and Control of Photometric Variations in Radiance Field Reconstruction", 2026
    (https://arxiv.org/abs/2601.18336), sections 4.1 to 4.4, with three differences. The scene has the colours of
    photographs, not of light: renders first go back through the mean response curve, so that a curve changes nothing
    where exposure and colours are the mean ones. The means of exposure and colour correction over all photographs are
    kept at 0, where the paper has a penalty on them. There is no controller that guesses the exposure of new views:
    these show the scene as the mean photograph has it, without vignetting. Held-out photographs are compared with the
    same, with the vignetting if there is one camera.
    """

    capturable: ClassVar[bool] = True
    applies_in_evaluation: ClassVar[bool] = True

    learn_vignetting: bool = True
    """Learn how much darker the edges are."""
    learn_curves: bool = True
    """Learn the response curves."""
    camera_lr: Annotated[float, Share] = 1.0
    """Learning rate of vignetting and response curves, as a share of `lr`."""
    prior: Annotated[float, NonNegative] = 0.01
    """Weight of the squared exposure (in stops) and colour shifts of a photograph."""
    center_reg: Annotated[float, NonNegative] = 0.02
    """Weight of the squared distance of the vignetting's centre from the principal point, in focal lengths."""
    falloff_reg: Annotated[float, NonNegative] = 0.01
    """Weight of coefficients of the vignetting above 0, which would make the edges brighter."""
    channel_reg: Annotated[float, NonNegative] = 0.1
    """Weight of the variance of vignetting and response curve over the three channels."""

    @property
    def gpu_kernels(self) -> tuple[LazyKernel[Any], ...]:
        return (ppisp_kernels,)

    def trainables(self, num_train_images: int) -> Mapping[str, Trainable]:
        num = num_train_images
        self.exposure = nn.Parameter(torch.zeros(num))
        self.colors = nn.Parameter(torch.zeros(num, 4, 2))
        self.centers = nn.Parameter(torch.zeros(num, 3, 2))
        self.falloffs = nn.Parameter(torch.zeros(num, 3, 3))
        self.curves = nn.Parameter(torch.zeros(num, 3, 4))
        rates = dict.fromkeys(("exposure", "colors"), self.lr)
        rates |= dict.fromkeys(("centers", "falloffs", "curves"), self.lr * self.camera_lr)
        return {
            name: Trainable(getattr(self, name), lr=rate, lr_final=rate * self.lr_end) for name, rate in rates.items()
        }

    def parameters_of_model(self) -> list[nn.Parameter]:
        return [self.exposure, self.colors, self.centers, self.falloffs, self.curves]

    def pre_batch(self, step: int, max_steps: int) -> None:
        super().pre_batch(step, max_steps)
        fixed = [self.centers, self.falloffs] * (not self.learn_vignetting) + [self.curves] * (not self.learn_curves)
        for parameter in fixed:
            parameter.requires_grad_(False)

    def photograph_parameters(self) -> list[nn.Parameter]:
        return [self.exposure, self.colors]

    def start_from(self, changes: Tensor) -> None:
        """Take from each map the exposure, and the chromaticity, that it gives to a medium grey."""
        grey = (0.5 + 0.5 * changes[:, :3].sum(1) + changes[:, 3]).clamp(min=0.05)  # (num_train_images, 3)
        self.exposure.copy_((grey.mean(1) / 0.5).log2())
        self.colors[:, 3] = grey[:, :2] / grey.sum(1, keepdim=True) - 1 / 3

    def on_setup(self, logger: logging.Logger, step: int, data_provider: Any) -> None:
        super().on_setup(logger, step, data_provider)
        numbers = getattr(data_provider, "train_camera_numbers", None) or [0] * len(self.exposure)
        if len(set(numbers)) > len(numbers) // 4:  # too few photographs a camera to tell its properties from theirs
            numbers = [0] * len(numbers)
        self._cameras = torch.tensor(numbers, device=self.exposure.device)
        self._camera_shares = torch.bincount(self._cameras, minlength=len(numbers)) / len(numbers)

    def apply(self, rendered: Tensor, frame: ImageFrame) -> Tensor:
        if frame.image_index is None:
            return self._held_out(rendered, frame)
        index, K = frame.image_index, frame.view.Ks[0]
        if kernels_fit(rendered) and (kernels := ppisp_kernels()) is not None:
            image, _ = kernels
            return clipped(image(rendered, *self.parameters_of_model(), self._camera_shares, self._cameras, index, K))
        camera = self._cameras.index_select(0, index)
        mean_curves = self.curves.index_select(0, self._cameras).mean(0)
        light = inverse_response(rendered[0].movedim(-1, 0), mean_curves)
        image = light * self.exposure.index_select(0, index).exp2()[:, None, None]
        centers, falloffs = self.centers.index_select(0, camera)[0], self.falloffs.index_select(0, camera)[0]
        image = image * vignetting(centers, falloffs, K, image.shape[1], image.shape[2])
        image = color_corrected(image, self.colors.index_select(0, index)[0])
        return clipped(response(image, self.curves.index_select(0, camera)[0]).movedim(0, -1)[None])

    def _held_out(self, rendered: Tensor, frame: ImageFrame) -> Tensor:
        """The image that the camera makes with mean exposure and colours: with its vignetting.

        If there are several cameras, which of them took the photograph is not known; then it is the render itself.
        """
        several = any(bool(p[1:].any()) for p in (self.centers, self.falloffs))
        if several or not bool(self.falloffs.any()):
            return rendered
        light = inverse_response(rendered[0].movedim(-1, 0), self.curves[0])
        light = light * vignetting(self.centers[0], self.falloffs[0], frame.view.Ks[0], *rendered.shape[1:3])
        return clipped(response(light, self.curves[0]).movedim(0, -1)[None])

    def regularizers(self, frame: ImageFrame) -> Mapping[str, Tensor]:
        if frame.image_index is None:
            return {}
        index = frame.image_index
        if kernels_fit(self.exposure) and (kernels := ppisp_kernels()) is not None:
            _, penalties = kernels
            weights = (self.prior, self.center_reg, self.falloff_reg, self.channel_reg)
            terms = penalties(*self.parameters_of_model(), self._cameras, index, weights)
            return dict(zip(("prior", "center", "falloff", "channels"), terms.unbind(), strict=True))
        camera = self._cameras.index_select(0, index)
        centers, falloffs, curves = (p.index_select(0, camera) for p in (self.centers, self.falloffs, self.curves))
        exposure, colors = (p.index_select(0, index) for p in (self.exposure, self.colors))
        of_channels = torch.cat([centers, falloffs, curves], dim=-1).var(dim=1, correction=0).mean()
        return {
            "prior": self.prior * (exposure.square().sum() + colors.square().sum()),
            "center": self.center_reg * centers.square().sum(-1).mean(),
            "falloff": self.falloff_reg * falloffs.clamp(min=0).mean(),
            "channels": self.channel_reg * of_channels,
        }


@lazy_kernel(otherwise="PPISP runs without Triton")
def ppisp_kernels() -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The image, and the regularisers, in a few kernels per direction; None if they cannot be used."""
    from splatkit_ns.image_model._ppisp_triton import PPISPImage, PPISPPenalties, first_launches

    first_launches("cuda")
    return PPISPImage.apply, PPISPPenalties.apply


def vignetting(centers: Tensor, falloffs: Tensor, K: Tensor, height: int, width: int) -> Tensor:
    """The share of light that reaches each pixel: 1 + a₁ r² + a₂ r⁴ + a₃ r⁶, in [0, 1].

    Args:
        centers: (3, 2), the optical centre of each channel relative to the principal point, in focal lengths.
        falloffs: (3, 3), a₁, a₂ and a₃ of each channel.
        K: (3, 3) intrinsics; r is the distance from the centre in focal lengths, whatever part of the image is seen.
        height: of the image in pixels.
        width: of the image in pixels.

    Returns:
        (3, H, W).
    """
    x = (torch.arange(width, device=K.device, dtype=K.dtype) + 0.5 - K[0, 2]) / K[0, 0]
    y = (torch.arange(height, device=K.device, dtype=K.dtype) + 0.5 - K[1, 2]) / K[1, 1]
    across, down = (x - centers[:, :1]).square(), (y - centers[:, 1:]).square()
    squared = across[:, None, :] + down[:, :, None]
    first, second, third = (falloffs[:, i, None, None] for i in range(3))
    return (1 + squared * (first + squared * (second + squared * third))).clamp(0, 1)


def color_homography(shifts: Tensor) -> Tensor:
    """The homography of chromaticities that moves four of them: those of blue, red, green and grey.

    It is applied to (R, G, R + G + B) and leaves the sum as it is (`color_corrected`). Finlayson et al., "Color
    Homography: Theory and Applications", 2019.

    Args:
        shifts: (4, 2), by which (R, G) / (R + G + B) of these colours moves.

    Returns:
        (3, 3), whose scale has no meaning.
    """
    before, from_colors = _chromaticities(shifts.dtype, shifts.device)
    after = before + F.pad(shifts.T, (0, 0, 0, 1))
    colors, grey = after[:, :3], after[:, 3:]
    # grey is a sum of the other three with these weights, up to a factor (Cramer's rule); it was their mean before
    weights = (torch.linalg.cross(colors.roll(-1, 1), colors.roll(-2, 1), dim=0) * grey).sum(0)
    return (colors * weights) @ from_colors


@lru_cache(maxsize=8)
def _chromaticities(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Blue, red, green and grey as columns (R, G, R + G + B), (3, 4), and the inverse of the first three."""
    columns = torch.tensor([[0, 1, 0, 1 / 3], [0, 0, 1, 1 / 3], [1, 1, 1, 1]], dtype=dtype)
    return columns.to(device), columns[:, :3].inverse().to(device)


def color_corrected(image: Tensor, shifts: Tensor) -> Tensor:
    """Move the chromaticities of an image (3, H, W) by the homography of shifts (4, 2); R + G + B stays."""
    red, green, blue = image.unbind()
    total = red + green + blue
    colors = torch.stack([red, green, total]).reshape(3, -1)
    red, green, scale = (color_homography(shifts) @ colors).reshape(image.shape).unbind()
    scale = total / scale.clamp(min=EPS)
    red, green = red * scale, green * scale
    return torch.stack([red, green, total - red - green])


def response(image: Tensor, curves: Tensor) -> Tensor:
    """The response curve of a camera: an S of two powers, and a gamma.

    Below the centre c it is a (x / c)^t, above it 1 - (1 - a) ((1 - x) / (1 - c))^s, with the a that makes their
    slopes at c equal, and the whole to the power of g. Values outside [0, 1], where a photograph shows nothing more,
    keep their distance from it.

    Args:
        image: (3, H, W).
        curves: (3, 4), of each channel log t, log s, log g and logit c; a straight line if all are 0.

    Returns:
        (3, H, W).
    """
    toe, shoulder, gamma, center, share = _curve(curves)
    inside = image.clamp(EPS, 1 - EPS)
    below = (inside < center).to(image)
    base = torch.lerp((1 - inside) / (1 - center), inside / center, below)
    power = _power(base, shoulder + below * (toe - shoulder))
    return _power(torch.lerp(1 - (1 - share) * power, share * power, below), gamma) + (image - inside)


def inverse_response(image: Tensor, curves: Tensor) -> Tensor:
    """The inverse of `response`, with the same arguments."""
    toe, shoulder, gamma, center, share = _curve(curves)
    inside = image.clamp(EPS, 1 - EPS)
    value = _power(inside, 1 / gamma)
    below = (value < share).to(image)
    base = torch.lerp((1 - value) / (1 - share), value / share, below)
    power = _power(base, 1 / shoulder + below * (1 / toe - 1 / shoulder))
    return torch.lerp(1 - (1 - center) * power, center * power, below) + (image - inside)


def _curve(curves: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """t, s, g, c and a of each channel, (3, 1, 1)."""
    toe, shoulder, gamma = (curves[:, i, None, None].exp() for i in range(3))
    center = curves[:, 3, None, None].sigmoid()
    return toe, shoulder, gamma, center, shoulder * center / (toe * (1 - center) + shoulder * center)


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    """Base to an exponent that is trained, for a third of the work of `torch.pow` and its gradients on the CPU."""
    return (exponent * base.log()).exp()
