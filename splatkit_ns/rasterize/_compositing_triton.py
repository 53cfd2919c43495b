"""Front-to-back blending of Gaussians along each pixel's ray on CUDA, with gradients that are the same in every run.

The formulas are those of 3D Gaussian Splatting (https://arxiv.org/abs/2308.04079, equation 3 and appendix C) and of
gsplat, whose compositing this replaces: its backward pass adds up gradients within each warp of 32 pixels, and then,
by atomic additions in an arbitrary order, over all warps of all tiles. Here one warp has a whole tile, so that a thread
adds up several pixels before it exchanges sums with others; each list entry's sum is stored in a place of its own, and
`_entry_sums_triton` adds up the places of each Gaussian in a fixed order.

Lists of some tiles are ten times as long as those of others. So a backward pass goes through segments of them, each by
a warp of its own, which begins with what the forward pass had there; Taming 3DGS (https://arxiv.org/abs/2406.15643)
keeps that, too, for threads that have one Gaussian each.
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

from splatkit_ns.rasterize._absolute_gradients_triton import WithAbsoluteGradients
from splatkit_ns.rasterize._blending_triton import (
    ALPHA_MAX,
    MAX_CHANNELS,
    SIZES,
    alpha_at,
    blend,
    clear_unseen,
    forward,
    forward_warps,
    light_before,
    load_gaussian,
    mark_places,
    pixels,
    segment_length,
    segment_of,
)
from splatkit_ns.rasterize._entry_sums_triton import add_up
from splatkit_ns.rasterize._entry_sums_triton import first_launches as first_sums
from splatkit_ns.rasterize._tile_lists_triton import TileLists
from splatkit_ns.rasterize.tile_list_space import blending_work


@triton.jit(do_not_specialize=[*SIZES, "num_tiles"])
def _backward(
    means_ptr, conics_ptr, opacities_ptr, colors_ptr, backgrounds_ptr, offsets_ptr, ids_ptr, places_ptr,
    images_ptr, lights_ptr, lasts_ptr, marks_ptr, v_images_ptr, v_alphas_ptr, sums_ptr,
    width, height, tiles_x, tiles_y, num_tiles,
    X: tl.constexpr, BACKGROUND: tl.constexpr, ABS: tl.constexpr, T: tl.constexpr, SEGMENT: tl.constexpr,
):  # fmt: skip
    """Write the gradients of each entry of a segment of a tile's list, added up over the tile's pixels.

    Their order is means (2), conics (3), opacity (1), colours (X), and absolute means (2) if wanted.
    """
    tile, segment = segment_of(tl.program_id(0), offsets_ptr, num_tiles, SEGMENT)
    start = tl.load(offsets_ptr + tile)
    length = tl.load(offsets_ptr + tile + 1) - start
    first = segment * SEGMENT
    if first >= length:
        return
    end = tl.minimum(first + SEGMENT, length)
    camera, px, py, place, inside = pixels(tile, width, height, tiles_x, tiles_y, T)
    light = tl.load(lights_ptr + place, mask=inside, other=1.0)
    last = tl.load(lasts_ptr + place, mask=inside, other=0)
    v0 = tl.load(v_images_ptr + X * place, mask=inside, other=0.0)
    v1 = tl.load(v_images_ptr + X * place + 1, mask=inside, other=0.0) if X > 1 else v0
    v2 = tl.load(v_images_ptr + X * place + 2, mask=inside, other=0.0) if X > 2 else v0
    v3 = tl.load(v_images_ptr + X * place + 3, mask=inside, other=0.0) if X > 3 else v0
    behind = -tl.load(v_alphas_ptr + place, mask=inside, other=0.0)
    rest = behind * light
    if BACKGROUND:
        behind += v0 * tl.load(backgrounds_ptr + X * camera)
        if X > 1:
            behind += v1 * tl.load(backgrounds_ptr + X * camera + 1)
        if X > 2:
            behind += v2 * tl.load(backgrounds_ptr + X * camera + 2)
        if X > 3:
            behind += v3 * tl.load(backgrounds_ptr + X * camera + 3)
    behind *= light
    """The share of the loss that comes from everything behind, dimmed by everything in front."""
    j = tl.max(last)
    if j > end:  # for pixels that see entries behind the segment, too: what the forward pass had and what it found then
        more = last > end
        mark = mark_places(marks_ptr, start, segment, SEGMENT, X, T)
        light = tl.load(mark, mask=more, other=light)
        rest += v0 * (tl.load(images_ptr + X * place, mask=more, other=0.0) - tl.load(mark + T * T))
        if X > 1:
            rest += v1 * (tl.load(images_ptr + X * place + 1, mask=more, other=0.0) - tl.load(mark + 2 * T * T))
        if X > 2:
            rest += v2 * (tl.load(images_ptr + X * place + 2, mask=more, other=0.0) - tl.load(mark + 3 * T * T))
        if X > 3:
            rest += v3 * (tl.load(images_ptr + X * place + 3, mask=more, other=0.0) - tl.load(mark + 4 * T * T))
        behind = tl.where(more, rest, behind)
        j = end
    R: tl.constexpr = 6 + X + (2 if ABS else 0)
    field = tl.arange(0, 16)
    clear_unseen(sums_ptr, places_ptr, start, tl.maximum(j, first), end, R, 16)
    j -= 1
    g = tl.load(ids_ptr + start + j, mask=j >= first, other=0)
    row = tl.load(places_ptr + start + j, mask=j >= first, other=0)
    mx, my, a, b, c, opacity, c0, c1, c2, c3 = load_gaussian(means_ptr, conics_ptr, opacities_ptr, colors_ptr, g, X)
    g = tl.load(ids_ptr + start + j - 1, mask=j > first, other=0)
    while j >= first:
        n_mx, n_my, n_a, n_b, n_c, n_opacity, n_c0, n_c1, n_c2, n_c3 = load_gaussian(
            means_ptr, conics_ptr, opacities_ptr, colors_ptr, g, X
        )
        n_row = tl.load(places_ptr + start + j - 1, mask=j > first, other=0)
        g = tl.load(ids_ptr + start + j - 2, mask=j > first + 1, other=0)
        dx, dy, full, counts = alpha_at(px, py, mx, my, a, b, c, opacity)
        counts = counts & (j < last)
        light, inverse, alpha = light_before(light, full, counts)
        weight = tl.where(counts, alpha * light, 0.0)
        color = v0 * c0
        if X > 1:
            color += v1 * c1
        if X > 2:
            color += v2 * c2
        if X > 3:
            color += v3 * c3
        v_alpha = light * color - inverse * behind
        behind += weight * color
        v_sigma = tl.where(counts & (full <= ALPHA_MAX), -alpha * v_alpha, 0.0)
        sx = v_sigma * dx
        sy = v_sigma * dy
        sum_x = tl.sum(sx)
        sum_y = tl.sum(sy)
        out = tl.where(field == 0, a * sum_x + b * sum_y, 0.0)
        out = tl.where(field == 1, b * sum_x + c * sum_y, out)
        out = tl.where(field == 2, 0.5 * tl.sum(sx * dx), out)
        out = tl.where(field == 3, tl.sum(sx * dy), out)
        out = tl.where(field == 4, 0.5 * tl.sum(sy * dy), out)
        out = tl.where(field == 5, -tl.sum(v_sigma) / opacity, out)
        out = tl.where(field == 6, tl.sum(weight * v0), out)
        if X > 1:
            out = tl.where(field == 7, tl.sum(weight * v1), out)
        if X > 2:
            out = tl.where(field == 8, tl.sum(weight * v2), out)
        if X > 3:
            out = tl.where(field == 9, tl.sum(weight * v3), out)
        if ABS:
            out = tl.where(field == 6 + X, tl.sum(tl.abs(a * sx + b * sy)), out)
            out = tl.where(field == 7 + X, tl.sum(tl.abs(b * sx + c * sy)), out)
        tl.store(sums_ptr + row.to(tl.int64) * R + field, out, mask=field < R)
        mx, my, a, b, c, opacity, row = n_mx, n_my, n_a, n_b, n_c, n_opacity, n_row
        c0, c1, c2, c3 = n_c0, n_c1, n_c2, n_c3
        j -= 1


class Composite(torch.autograd.Function):
    """(means2d, conics, colors, opacities, backgrounds, …) -> (images, alphas). All float32, contiguous, on CUDA."""

    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, backgrounds: Tensor | None,
        width: int, height: int, tile_size: int, lists: TileLists, absgrad: bool, segment: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        images, alphas, lights, lasts, marks = blend(
            means2d, conics, colors, opacities, backgrounds, width, height, tile_size, lists, segment
        )
        if lists.work is not None:
            lists.work.add_(blending_work(lasts[..., 0], tile_size))
        behind = colors if backgrounds is None else backgrounds
        found = images.clone() if segment else images  # who gets the images may change them in place
        ctx.save_for_backward(means2d, conics, colors, opacities, behind, found, lights, lasts, marks)
        ctx.lists, ctx.tile_size, ctx.absgrad, ctx.background = lists, tile_size, absgrad, backgrounds is not None
        ctx.segment = segment
        return images, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_images: Tensor, v_alphas: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        means2d, conics, colors, opacities, behind, images, lights, lasts, marks = ctx.saved_tensors
        lists, absgrad, background = ctx.lists, ctx.absgrad, ctx.background
        cameras, tiles_y, tiles_x = lists.offsets.shape
        height, width, channels = *lasts.shape[1:3], colors.shape[-1]
        v_images = v_images.contiguous()
        sums = torch.empty(len(lists.ids), 6 + channels + 2 * absgrad, device=colors.device)
        num_tiles = cameras * tiles_y * tiles_x
        _backward[(num_tiles + len(lists.ids) // ctx.segment,)](
            means2d, conics, opacities, colors, behind, lists.bounds, lists.ids, lists.places, images, lights, lasts,
            marks, v_images, v_alphas.contiguous(), sums, width, height, tiles_x, tiles_y, num_tiles,
            channels, background, absgrad, ctx.tile_size, ctx.segment, num_warps=1,
        )  # fmt: skip
        v_means, v_conics = torch.empty_like(means2d), torch.empty_like(conics)
        v_opacities, v_colors = torch.empty_like(opacities), torch.empty_like(colors)
        v_abs = torch.empty_like(means2d) if absgrad else None
        add_up(sums, lists, v_means, v_conics, v_opacities, v_colors, v_abs, channels)
        if absgrad:
            means2d.absgrad = v_abs
        v_background = (lights * v_images).sum((1, 2)) if background and ctx.needs_input_grad[4] else None
        return v_means, v_conics, v_colors, v_opacities, v_background, None, None, None, None, None, None


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
        absgrad: also add up absolute gradients of the means (AbsGS).

    Returns:
        Images (C, H, W, X) and alphas (C, H, W, 1).
    """
    first = colors.shape[-1] - MAX_CHANNELS
    if first > 0:
        parts = []
        for group in (slice(first), slice(first, None)):
            behind = None if backgrounds is None else backgrounds[:, group]
            values = (colors[..., group], opacities, behind)
            parts.append(composite(means2d, conics, *values, width, height, tile_size, lists, False))
        images, alphas = torch.cat([image for image, _ in parts], dim=-1), parts[1][1]
        if not absgrad:
            return images, alphas
        return WithAbsoluteGradients.apply(  # type: ignore[return-value]
            images, alphas, means2d, conics.detach(), colors.detach(), opacities.detach(), backgrounds, tile_size, lists
        )
    return Composite.apply(  # type: ignore[return-value]
        means2d.contiguous(), conics.contiguous(), colors.contiguous(), opacities.contiguous(),
        None if backgrounds is None else backgrounds.contiguous(), width, height, tile_size, lists, absgrad,
        segment_length(tile_size) if torch.is_grad_enabled() else 0,
    )  # fmt: skip


def first_launches(device: str, tile_size: int) -> list[Callable[[], object]]:
    """Return a launch of each kernel with the kinds of arguments that training has, for Triton to compile it.

    The launches draw one Gaussian on the only tile of an image.
    """
    one, bounds = torch.ones(1, device=device), torch.tensor([0, 1], dtype=torch.int32, device=device)
    sums, images, first = torch.ones(11, device=device), torch.zeros(3, device=device), one.int() - 1
    gaussian = (sums[:2].clone(), torch.tensor([1.0, 0.0, 1.0], device=device), one, sums[:3].clone(), images)
    shape = (1, 1, 1, 1, 3, True)
    marks, segment = torch.empty(4 * tile_size**2, device=device), segment_length(tile_size)
    blended = (*gaussian, bounds, first, images.clone(), one.clone(), one.clone(), first.clone(), marks, *shape)
    backward = (*gaussian, bounds, first, first, images, one, one.int(), marks, images, one, sums, *shape[:4], 1)
    backward += shape[4:]
    launches: list[Callable[[], object]] = [
        partial(forward[(1,)], *blended, tile_size, each, num_warps=forward_warps(tile_size)) for each in (segment, 0)
    ]
    launches += [
        partial(_backward[(1,)], *backward, absgrad, tile_size, segment, num_warps=1) for absgrad in (True, False)
    ]
    return [*launches, *first_sums(device)]
