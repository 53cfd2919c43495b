"""The CPU kernels as differentiable torch functions: projection, spherical harmonics, compositing."""

# torch declares Function.backward in a way that no `once_differentiable` method matches.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..arguments import RasterCameras, RasterSettings
from ..lens_models import lens_limits, padded_coefficients
from .compositing import composite
from .compositing_backward import V_COLOURS, composite_backward, gather_by_gaussian
from .lens_point import FISHEYE, OPENCV
from .parallel import run_parallel
from .projection import project
from .projection_backward import project_backward
from .projection_lens import project_lens
from .projection_lens_backward import project_lens_backward
from .sh import sh_colours, sh_colours_backward
from .tiles import TileLists, build_tile_lists

Array = npt.NDArray[Any]


def array_of(tensor: Tensor) -> Array:
    """The values of a tensor on the CPU as a contiguous array, which shares its memory if it is contiguous."""
    return tensor.detach().contiguous().numpy()


def zeros_like(like: Tensor) -> Tensor:
    """Return contiguous zeros even if `like` is strided: the kernels are compiled for contiguous arrays only."""
    return torch.zeros(like.shape, dtype=like.dtype)


def blocks_of(n: int) -> int:
    """Return the number of blocks that sums over N Gaussians are cut into; it does not depend on threads."""
    return max(1, min(64, n // 64))


class LensOfKernels(NamedTuple):
    """The lenses of C cameras as the kernels take them."""

    kind: int
    """OPENCV or FISHEYE."""
    coefficients: Array
    """(C, K) float64, see `padded_coefficients`."""
    limits: Array
    """(C, 2) float64, see `lens_limits`."""


def lens_of_kernels(cameras: RasterCameras) -> LensOfKernels | None:
    """Return the lenses of cameras; None if they are pinhole cameras."""
    if cameras.lens == "pinhole":
        return None
    coefficients = padded_coefficients(cameras.lens, cameras.distortion, cameras.Ks.detach().double(), len(cameras))
    limits = lens_limits(cameras.lens, coefficients, cameras.Ks, *cameras.size)
    return LensOfKernels(OPENCV if cameras.lens == "opencv" else FISHEYE, array_of(coefficients), array_of(limits))


class Project(torch.autograd.Function):
    """(means, quats, scales, opacities, viewmats, Ks, ...) -> (means2d, depths, conics, compensations, radii).

    The lens is None for a pinhole camera. Opacities only decide which Gaussians are seen: they get no gradient. See
    `projection.project` for shapes.
    """

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, Ks: Tensor,
        size: tuple[int, int], lens: LensOfKernels | None, settings: RasterSettings,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        cameras, n = viewmats.shape[0], means.shape[0]
        means2d, depths = means.new_zeros(cameras, n, 2), means.new_zeros(cameras, n)
        conics, compensations = means.new_zeros(cameras, n, 3), means.new_zeros(cameras, n)
        radii = torch.zeros(cameras, n, 2, dtype=torch.int32)
        limits = (float(settings.near_plane), float(settings.far_plane), float(settings.radius_clip))
        eps2d = float(settings.eps2d)
        kernel = project if lens is None else project_lens
        for camera in range(cameras):
            run_parallel(
                kernel, n, camera, *(lens or ()), array_of(means), array_of(quats), array_of(scales),
                array_of(opacities), array_of(viewmats), array_of(Ks), *size, *limits, eps2d, settings.is_antialiased,
                means2d.numpy(), depths.numpy(), conics.numpy(), compensations.numpy(), radii.numpy(),
            )  # fmt: skip
        ctx.save_for_backward(means, quats, scales, viewmats, Ks, radii)
        ctx.size, ctx.lens, ctx.eps2d = size, lens, eps2d
        ctx.mark_non_differentiable(radii)
        ctx.set_materialize_grads(False)
        return means2d, depths, conics, compensations, radii

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        means, quats, scales, viewmats, Ks, radii = ctx.saved_tensors
        cameras, n = radii.shape[:2]
        v_means2d, v_depths, v_conics, v_compensations = (
            array_of(means.new_zeros(shape) if gradient is None else gradient)
            for gradient, shape in zip(
                gradients, ((cameras, n, 2), (cameras, n), (cameras, n, 3), (cameras, n)), strict=False
            )
        )
        v_means, v_quats, v_scales = zeros_like(means), zeros_like(quats), zeros_like(scales)
        blocks = blocks_of(n)
        v_view_partial = torch.zeros(blocks, cameras, 4, 4, dtype=torch.float64)
        kernel, lens, size = (
            (project_backward, (), ctx.size) if ctx.lens is None else (project_lens_backward, ctx.lens, ())
        )
        run_parallel(
            kernel, blocks, blocks, *lens, array_of(means), array_of(quats), array_of(scales), array_of(viewmats),
            array_of(Ks), *size, ctx.eps2d, array_of(radii), v_means2d, v_depths, v_conics, v_compensations,
            v_means.numpy(), v_quats.numpy(), v_scales.numpy(), v_view_partial.numpy(),
        )  # fmt: skip
        return v_means, v_quats, v_scales, None, v_view_partial.sum(0).to(viewmats), *([None] * 4)


class ShColours(torch.autograd.Function):
    """(means, camera_centres, coefficients, radii, degree) -> colours (C, N, 3); zero for unseen Gaussians."""

    @staticmethod
    def forward(ctx: Any, means: Tensor, centres: Tensor, coefficients: Tensor, radii: Tensor, degree: int) -> Tensor:
        colours = means.new_zeros(centres.shape[0], means.shape[0], 3)
        for camera in range(len(centres)):
            run_parallel(
                sh_colours, len(means), camera, degree, array_of(means), array_of(centres), array_of(coefficients),
                array_of(radii), colours.numpy(),
            )  # fmt: skip
        ctx.save_for_backward(means, centres, coefficients, radii, colours)
        ctx.degree = degree
        return colours

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_colours: Tensor) -> tuple[Tensor | None, ...]:
        means, centres, coefficients, radii, colours = ctx.saved_tensors
        v_means, v_sh = zeros_like(means), zeros_like(coefficients)
        blocks = blocks_of(len(means))
        v_centre_partial = torch.zeros(blocks, len(centres), 3, dtype=torch.float64)
        run_parallel(
            sh_colours_backward, blocks, blocks, ctx.degree, array_of(means), array_of(centres), array_of(coefficients),
            array_of(radii), array_of(colours), array_of(v_colours), v_means.numpy(), v_sh.numpy(),
            v_centre_partial.numpy(),
        )  # fmt: skip
        return v_means, v_centre_partial.sum(0).to(centres), v_sh, None, None


class Composite(torch.autograd.Function):
    """(means2d, conics, opacities, colours, backgrounds, depths, radii, ...) -> (renders, alphas).

    renders is (C, H, W, D), alphas (C, H, W, 1).

    If `absgrad` is set, backward also stores `absgrad` (C, N, 2) on the means2d tensor, as gsplat does.
    """

    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, conics: Tensor, opacities: Tensor, colours: Tensor, backgrounds: Tensor | None,
        depths: Tensor, radii: Tensor, width: int, height: int, absgrad: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        cameras, channels = colours.shape[0], colours.shape[-1]
        renders = means2d.new_empty(cameras, height, width, channels)
        light_left = means2d.new_empty(cameras, height, width)
        last = torch.empty(cameras, height, width, dtype=torch.int32)
        background = means2d.new_zeros(cameras, channels) if backgrounds is None else backgrounds
        lists: list[TileLists] = []
        for camera in range(cameras):
            tiles = build_tile_lists(
                array_of(means2d[camera]), array_of(conics[camera]), array_of(opacities[camera]),
                array_of(depths[camera]), array_of(radii[camera].amax(-1) > 0), width, height,
            )  # fmt: skip
            lists.append(tiles)
            run_parallel(
                composite, len(tiles.schedule), tiles.schedule, tiles.tiles_x, tiles.offsets, tiles.gaussian_ids,
                tiles.rows, tiles.records, array_of(colours[camera]), array_of(background[camera]),
                renders[camera].numpy(), light_left[camera].numpy(), last[camera].numpy(),
            )  # fmt: skip
        ctx.save_for_backward(means2d, conics, opacities, colours, background, light_left, last)
        ctx.lists, ctx.absgrad, ctx.has_background = lists, absgrad, backgrounds is not None
        return renders, (1.0 - light_left)[..., None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_renders: Tensor, v_alphas: Tensor) -> tuple[Tensor | None, ...]:
        means2d, conics, opacities, colours, background, light_left, last = ctx.saved_tensors
        v_means2d, v_conics = zeros_like(means2d), zeros_like(conics)
        v_opacities, v_colours = zeros_like(opacities), zeros_like(colours)
        v_absolute = zeros_like(means2d)
        for camera, tiles in enumerate(ctx.lists):
            row_gradients = array_of(means2d.new_empty(len(tiles.gaussian_ids), V_COLOURS + colours.shape[-1]))
            run_parallel(
                composite_backward, len(tiles.schedule), tiles.schedule, tiles.tiles_x, tiles.offsets,
                tiles.gaussian_ids, tiles.rows, tiles.slots, tiles.records, array_of(conics[camera]),
                array_of(opacities[camera]), array_of(colours[camera]), array_of(background[camera]),
                light_left[camera].numpy(), last[camera].numpy(), array_of(v_renders[camera]),
                array_of(v_alphas[camera, ..., 0]), ctx.absgrad, row_gradients,
            )  # fmt: skip
            run_parallel(
                gather_by_gaussian, len(tiles.slot_offsets) - 1, tiles.slot_offsets, row_gradients,
                ctx.absgrad, v_means2d[camera].numpy(), v_conics[camera].numpy(), v_opacities[camera].numpy(),
                v_colours[camera].numpy(), v_absolute[camera].numpy(),
            )  # fmt: skip
        if ctx.absgrad:
            means2d.absgrad = v_absolute
        v_background = None
        if ctx.has_background and ctx.needs_input_grad[4]:
            v_background = torch.einsum("chwd,chw->cd", v_renders, light_left)
        return v_means2d, v_conics, v_opacities, v_colours, v_background, None, None, None, None, None
