"""Front-to-back blending of Gaussians along each pixel's ray on CUDA, with gradients that are the same in every run.

The formulas are those of 3D Gaussian Splatting (https://arxiv.org/abs/2308.04079, equation 3 and appendix C) and of
gsplat, whose compositing this replaces: its backward pass adds up gradients within each warp of 32 pixels, and then,
by atomic additions in an arbitrary order, over all warps of all tiles. Here one warp has a whole tile, so that a thread
adds up several pixels before it exchanges sums with others; each list entry's sum is stored in a place of its own, and
a second kernel adds up the places of each Gaussian in a fixed order.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatkit_ns.rasterize._blending_backward_triton import backward, backward_in_groups, gather
from splatkit_ns.rasterize._blending_triton import MAX_CHANNELS, SIZES, alpha_at, load_gaussian, pixels
from splatkit_ns.rasterize._tile_lists_triton import TileLists

GATHERED, TOGETHER, MANY = 8, 4, 32
"""The number of Gaussians whose list entries are added up together, the number of entries of each that are at once, and
the number of entries after which those of one Gaussian are added up alone."""
SMALL_TILE = 8
"""The side of a tile, in pixels, whose entries' gradients are added up in groups."""


@triton.jit(do_not_specialize=SIZES)
def _forward(
    means_ptr, conics_ptr, opacities_ptr, colors_ptr, backgrounds_ptr, offsets_ptr, ids_ptr,
    images_ptr, alphas_ptr, lights_ptr, lasts_ptr, width, height, tiles_x, tiles_y,
    X: tl.constexpr, BACKGROUND: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Write colours, alpha, remaining light, and the number of entries of its tile's list that each pixel has read."""
    tile, camera, px, py, place, inside = pixels(width, height, tiles_x, tiles_y, T)
    start = tl.load(offsets_ptr + tile)
    end = tl.load(offsets_ptr + tile + 1)
    light = tl.full((T * T,), 1.0, tl.float32)
    i0 = tl.zeros((T * T,), tl.float32)
    i1 = tl.zeros((T * T,), tl.float32)
    i2 = tl.zeros((T * T,), tl.float32)
    i3 = tl.zeros((T * T,), tl.float32)
    last = tl.zeros((T * T,), tl.int32)
    open_ = inside
    i = start
    g = tl.load(ids_ptr + i, mask=i < end, other=0)
    mx, my, a, b, c, opacity, c0, c1, c2, c3 = load_gaussian(means_ptr, conics_ptr, opacities_ptr, colors_ptr, g, X)
    g = tl.load(ids_ptr + i + 1, mask=i + 1 < end, other=0)
    while (i < end) & (tl.max(open_.to(tl.int32)) > 0):
        n_mx, n_my, n_a, n_b, n_c, n_opacity, n_c0, n_c1, n_c2, n_c3 = load_gaussian(
            means_ptr, conics_ptr, opacities_ptr, colors_ptr, g, X
        )
        g = tl.load(ids_ptr + i + 2, mask=i + 2 < end, other=0)
        _dx, _dy, alpha, counts = alpha_at(px, py, mx, my, a, b, c, opacity)
        alpha = tl.minimum(alpha, 0.999)
        rest = light * (1.0 - alpha)
        open_ = open_ & ((rest > 1e-4) | (counts == 0))
        counts = counts & open_
        weight = tl.where(counts, alpha * light, 0.0)
        i0 += weight * c0
        if X > 1:
            i1 += weight * c1
        if X > 2:
            i2 += weight * c2
        if X > 3:
            i3 += weight * c3
        light = tl.where(counts, rest, light)
        i += 1
        last = tl.where(counts, i - start, last)
        mx, my, a, b, c, opacity = n_mx, n_my, n_a, n_b, n_c, n_opacity
        c0, c1, c2, c3 = n_c0, n_c1, n_c2, n_c3
    if BACKGROUND:
        i0 += light * tl.load(backgrounds_ptr + X * camera)
        if X > 1:
            i1 += light * tl.load(backgrounds_ptr + X * camera + 1)
        if X > 2:
            i2 += light * tl.load(backgrounds_ptr + X * camera + 2)
        if X > 3:
            i3 += light * tl.load(backgrounds_ptr + X * camera + 3)
    tl.store(images_ptr + X * place, i0, mask=inside)
    if X > 1:
        tl.store(images_ptr + X * place + 1, i1, mask=inside)
    if X > 2:
        tl.store(images_ptr + X * place + 2, i2, mask=inside)
    if X > 3:
        tl.store(images_ptr + X * place + 3, i3, mask=inside)
    tl.store(alphas_ptr + place, 1.0 - light, mask=inside)
    tl.store(lights_ptr + place, light, mask=inside)
    tl.store(lasts_ptr + place, last, mask=inside)


def backward_of(tile_size: int) -> Any:
    """The kernel that is faster for tiles of this size, in pixels."""
    return backward_in_groups if tile_size <= SMALL_TILE else backward


class Composite(torch.autograd.Function):
    """(means2d, conics, colors, opacities, backgrounds, …) -> (images, alphas). All float32, contiguous, on CUDA."""

    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, backgrounds: Tensor | None,
        width: int, height: int, tile_size: int, lists: TileLists, absgrad: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        cameras, tiles_y, tiles_x = lists.offsets.shape
        channels, device = colors.shape[-1], colors.device
        images = torch.empty(cameras, height, width, channels, device=device)
        alphas = torch.empty(cameras, height, width, 1, device=device)
        lights, lasts = torch.empty_like(alphas), torch.empty_like(alphas, dtype=torch.int32)
        behind = colors if backgrounds is None else backgrounds
        _forward[(cameras * tiles_y * tiles_x,)](
            means2d, conics, opacities, colors, behind, lists.bounds, lists.ids, images, alphas, lights, lasts,
            width, height, tiles_x, tiles_y, channels, backgrounds is not None, tile_size, num_warps=1,
        )  # fmt: skip
        ctx.save_for_backward(means2d, conics, colors, opacities, behind, lights, lasts)
        ctx.lists, ctx.tile_size, ctx.absgrad, ctx.background = lists, tile_size, absgrad, backgrounds is not None
        return images, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_images: Tensor, v_alphas: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        means2d, conics, colors, opacities, behind, lights, lasts = ctx.saved_tensors
        lists, absgrad, background, tile_size = ctx.lists, ctx.absgrad, ctx.background, ctx.tile_size
        cameras, tiles_y, tiles_x = lists.offsets.shape
        height, width, channels = *lasts.shape[1:3], colors.shape[-1]
        v_images = v_images.contiguous()
        sums = torch.empty(len(lists.ids), 6 + channels + 2 * absgrad, device=colors.device)
        backward_of(tile_size)[(cameras * tiles_y * tiles_x,)](
            means2d, conics, opacities, colors, behind, lists.bounds, lists.ids, lists.places, lights, lasts,
            v_images, v_alphas.contiguous(), sums, width, height, tiles_x, tiles_y, channels, background, absgrad,
            tile_size, num_warps=1,
        )  # fmt: skip
        v_means, v_conics = torch.empty_like(means2d), torch.empty_like(conics)
        v_opacities, v_colors = torch.empty_like(opacities), torch.empty_like(colors)
        v_abs = torch.empty_like(means2d) if absgrad else v_means
        number = opacities.numel()
        gather[(triton.cdiv(number, GATHERED),)](
            lists.order, lists.ends, lists.counts, sums, number, len(sums), v_means, v_conics, v_opacities, v_colors,
            v_abs, channels, absgrad, GATHERED, TOGETHER, MANY, num_warps=1,
        )  # fmt: skip
        if absgrad:
            means2d.absgrad = v_abs
        v_background = (lights * v_images).sum((1, 2)) if background and ctx.needs_input_grad[4] else None
        return v_means, v_conics, v_colors, v_opacities, v_background, None, None, None, None, None


def composite(
    means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, backgrounds: Tensor | None,
    width: int, height: int, tile_size: int, lists: TileLists, absgrad: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Blend Gaussians front to back. Differentiable in all tensors; the gradients are the same in every run.

    Args:
        means2d: (C, N, 2) pixels; gets ``.absgrad`` in backward if ``absgrad`` is set, as in gsplat.
        conics: (C, N, 3) upper triangle of the inverse covariance, 1/pixels².
        colors: (C, N, X); more than 4 channels are blended in groups.
        opacities: (C, N).
        backgrounds: (C, X), or None for black.
        width: pixels.
        height: pixels.
        tile_size: pixels, a power of two.
        lists: the Gaussians on each tile.
        absgrad: also add up absolute gradients of the means (AbsGS); for at most 4 channels.

    Returns:
        Images (C, H, W, X) and alphas (C, H, W, 1).
    """
    first = colors.shape[-1] - MAX_CHANNELS
    if first > 0:
        parts = []
        for group in (slice(first), slice(first, None)):
            behind = None if backgrounds is None else backgrounds[:, group]
            values = (colors[..., group], opacities, behind)
            parts.append(composite(means2d, conics, *values, width, height, tile_size, lists, absgrad))
        return torch.cat([image for image, _ in parts], dim=-1), parts[1][1]
    return Composite.apply(  # type: ignore[return-value]
        means2d.contiguous(), conics.contiguous(), colors.contiguous(), opacities.contiguous(),
        None if backgrounds is None else backgrounds.contiguous(), width, height, tile_size, lists, absgrad,
    )  # fmt: skip


def first_launches(device: str, tile_size: int) -> list[Callable[[], object]]:
    """Return a launch of each kernel with the kinds of arguments that training has, for Triton to compile it.

    The launches draw one Gaussian on the only tile of an image.
    """
    one, bounds = torch.ones(1, device=device), torch.tensor([0, 1], dtype=torch.int32, device=device)
    sums, images, first = torch.ones(11, device=device), torch.zeros(3, device=device), one.int() - 1
    gaussian = (sums[:2].clone(), torch.tensor([1.0, 0.0, 1.0], device=device), one, sums[:3].clone(), images)
    shape = (1, 1, 1, 1, 3, True)
    forward = (*gaussian, bounds, first, images.clone(), one.clone(), one.clone(), first.clone(), *shape, tile_size)
    gradients = (*gaussian, bounds, first, first, one, one.int(), images, one, sums, *shape)
    entries = (one.long() - 1, one.long(), one.int(), sums, 1, 1, *(torch.empty_like(sums) for _ in range(5)), 3)
    kernel = backward_of(tile_size)
    launches = [partial(kernel[(1,)], *gradients, absgrad, tile_size, num_warps=1) for absgrad in (True, False)]
    launches += [partial(_forward[(1,)], *forward, num_warps=1)]
    sizes = (GATHERED, TOGETHER, MANY)
    return launches + [partial(gather[(1,)], *entries, absgrad, *sizes, num_warps=1) for absgrad in (True, False)]
