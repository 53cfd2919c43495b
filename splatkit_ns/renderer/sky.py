"""A sky behind the Gaussians: colours of the direction alone, which belong to the scene."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from splatkit_ns.cameras import View
from splatkit_ns.formats import Gaussians
from splatkit_ns.formats.gaussians import SH_C0
from splatkit_ns.formats.sh_rotation import basis_functions, sphere_directions
from splatkit_ns.parts.payload import PayloadT
from splatkit_ns.parts.trainables import RowTrainable, Trainable
from splatkit_ns.ranges import Positive, one_of
from splatkit_ns.rasterize.lens_models import rays_of_pixels
from splatkit_ns.renderer.base import RenderOptions
from splatkit_ns.renderer.dropout import DropoutRenderer

STRIDE = 4
"""Pixels between the places at which the sky is computed; between them it is interpolated, because it is smooth."""
OVERLAP = 0.8
"""Standard deviation of the Gaussians of an exported sky, relative to the distance of their neighbours."""
OPACITY = 0.99
"""Their opacity."""
FLATNESS = 0.1
"""Their standard deviation along the line of sight, relative to that across."""


@dataclass
class SkyRenderer(DropoutRenderer[PayloadT]):
    """A renderer that can put a learnt sky behind the Gaussians.

    A sky has no surface: without help, clouds of Gaussians before the cameras take its colours. Spherical harmonics of
    the viewing direction show it on all sides, at no distance, so that the Gaussians can leave it free.
    """

    sky_degree: Annotated[int | None, one_of(0, 1, 2, 3)] = field(default=None, kw_only=True)
    """Highest degree of the spherical harmonics of a sky that is learnt and drawn in place of the background colour: 0
    for one colour, 3 for the smooth gradients of a real one. None for no sky."""
    sky_lr: Annotated[float, Positive] = field(default=0.01, kw_only=True)
    """Learning rate of the sky; it falls to a tenth by the last step."""

    @property
    def may_own_parameters(self) -> bool:
        is_network = isinstance(self, nn.Module)
        return self.sky_degree is not None or is_network or type(self).trainables is not SkyRenderer.trainables

    def trainables(self, *args: Any, **kwargs: Any) -> Mapping[str, Trainable | RowTrainable]:
        own = super().trainables(*args, **kwargs)  # of a subclass that is an `nn.Module`
        if self.sky_degree is None:
            return own
        self.sky = nn.Parameter(torch.zeros((self.sky_degree + 1) ** 2, 3))
        return {**own, "sky": Trainable(self.sky, lr=self.sky_lr, lr_final=self.sky_lr / 10)}

    def backgrounds_of(self, options: RenderOptions) -> Tensor | None:
        """Return the colours that the Gaussians are laid on, (C, 3); None, which is black, if a sky follows."""
        return options.backgrounds if self.sky_degree is None else None

    def before_sky(self, renders: Tensor, alphas: Tensor, view: View) -> dict[str, Tensor | None]:
        """Lay a render on the sky, if there is one.

        Args:
            renders: (C, H, W, 3) on black.
            alphas: (C, H, W, 1).
            view: the cameras.

        Returns:
            The payload's ``renders`` and ``skies``.
        """
        if self.sky_degree is None:
            return {"renders": renders, "skies": None}
        skies = sky_images(self.sky, view)
        return {"renders": renders + (1 - alphas) * skies, "skies": skies.detach()}


def sky_images(coefficients: Tensor, view: View) -> Tensor:
    """The sky that cameras see, (C, H, W, 3), at least 0; black where a lens sees nothing.

    Args:
        coefficients: (K, 3), in the order and with the signs of 3DGS; all 0 is grey.
        view: C cameras, pinhole or with a lens of `lens_models`.
    """
    rows, columns = _places(view.height, view.Ks), _places(view.width, view.Ks)
    if view.lens == "pinhole":
        x = (columns[None] - view.Ks[:, 0, 2, None]) / view.Ks[:, 0, 0, None]
        y = (rows[None] - view.Ks[:, 1, 2, None]) / view.Ks[:, 1, 1, None]
        shape = (len(view), len(rows), len(columns))
        rays = torch.stack([x[:, None].expand(shape), y[:, :, None].expand(shape), x.new_ones(()).expand(shape)], -1)
        is_seen = None
    else:
        rays = _lens_rays(view, len(columns), len(rows))
        is_seen = (rays != 0).any(-1, keepdim=True)
    shape = rays.shape[:3]
    directions = F.normalize(rays.flatten(1, 2) @ view.cam_to_worlds[:, :3, :3].transpose(1, 2), dim=-1)
    degree = math.isqrt(len(coefficients)) - 1
    colors = (sh_basis(directions, degree) @ coefficients + 0.5).clamp(min=0).reshape(*shape, 3)
    if is_seen is not None:
        colors = colors * is_seen
    # products of matrices, because the gradients of torch's interpolation differ from run to run on a GPU
    across = torch.einsum("wj,cijk->ciwk", _weights(view.width, columns), colors)
    return torch.einsum("hi,ciwk->chwk", _weights(view.height, rows), across)


def _lens_rays(view: View, columns: int, rows: int) -> Tensor:
    """The rays (C, rows, columns, 3) through a lens at `_places`: those of the pixels of a smaller image."""
    sides = ((view.width, columns), (view.height, rows))
    spacings = [(length - 1) / max(places - 1, 1) or 1.0 for length, places in sides]
    scaled = [
        torch.cat([view.Ks[:, i : i + 1, :2] / spacing, (view.Ks[:, i : i + 1, 2:] - 0.5) / spacing + 0.5], dim=2)
        for i, spacing in enumerate(spacings)
    ]
    Ks = torch.cat([*scaled, view.Ks[:, 2:]], dim=1)
    return rays_of_pixels(view.lens, view.distortion, Ks, columns, rows)


def _places(length: int, like: Tensor) -> Tensor:
    """Pixel coordinates along a side, at most `STRIDE` apart, from the first pixel's centre to the last one's."""
    number = -(-(length - 1) // STRIDE) + 1
    return 0.5 + torch.arange(number, device=like.device, dtype=like.dtype) * ((length - 1) / max(number - 1, 1))


def _weights(length: int, places: Tensor) -> Tensor:
    """The weights of the places in each pixel along a side, (length, places): linear interpolation."""
    pixels = torch.arange(length, device=places.device, dtype=places.dtype) + 0.5
    spacing = (length - 1) / max(len(places) - 1, 1) or 1.0
    return (1 - (pixels[:, None] - places).abs() / spacing).clamp(min=0)


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """The real spherical harmonics up to a degree of at most 3, with the signs of 3DGS.

    Args:
        directions: unit vectors, (…, 3).
        degree: the highest degree.

    Returns:
        (…, (degree + 1)²).
    """
    x, y, z = directions.unbind(-1)
    found = [torch.full_like(x, SH_C0)]
    for each in range(1, degree + 1):
        found += basis_functions(x, y, z, each)
    return torch.stack(found, dim=-1)


def sky_shell(coefficients: Tensor, centre: Tensor, radius: float, num: int, sh_degree: int) -> Gaussians:
    """A sphere of Gaussians that shows the sky, for files, which have no other way to hold one.

    Args:
        coefficients: (K, 3).
        centre: of the sphere, (3,).
        radius: far behind everything else.
        num: the number of Gaussians, at least 1.
        sh_degree: the degree of the spherical harmonics of each, which are 0 above degree 0.
    """
    directions = sphere_directions(num)
    basis = sh_basis(torch.from_numpy(directions), math.isqrt(len(coefficients)) - 1)
    colors = (basis @ coefficients.detach().double().cpu() + 0.5).clamp(min=0).numpy()
    across = OVERLAP * radius * math.sqrt(4 * math.pi / num)
    # each faces the centre with its own z axis, so that discs are seen, too
    quats = np.stack([1 + directions[:, 2], -directions[:, 1], directions[:, 0], np.zeros(num)], axis=1)
    return Gaussians(
        means=(centre.detach().double().cpu().numpy() + radius * directions).astype(np.float32),
        scales=np.log(np.tile([across, across, FLATNESS * across], (num, 1))).astype(np.float32),
        quats=(quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        opacities=np.full(num, math.log(OPACITY / (1 - OPACITY)), np.float32),
        sh0=((colors - 0.5) / SH_C0)[:, None].astype(np.float32),
        shN=np.zeros((num, (sh_degree + 1) ** 2 - 1, 3), np.float32),
    )
