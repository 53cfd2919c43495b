"""Absolute gradients of the projected centres (AbsGS, https://arxiv.org/abs/2404.10484) of images with many channels.

`_compositing_triton` blends four channels at a time and adds their gradients up. That does not do for absolute
gradients: the sum over all channels comes before the absolute value of each pixel. Here one more pass over the tiles'
lists computes it, from the gradients of all channels at once.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatkit_ns.rasterize._blending_triton import ALPHA_MAX, SIZES, alpha_at, blend, clear_unseen, light_before, pixels
from splatkit_ns.rasterize._entry_sums_triton import add_up
from splatkit_ns.rasterize._tile_lists_triton import TileLists

FIELDS = tl.constexpr(6)
"""The numbers of an entry, as `add_up` reads them without colours: means (2), and four that are not used."""


@triton.jit(do_not_specialize=[*SIZES, "channels"])
def _absolute(
    means_ptr, conics_ptr, opacities_ptr, colors_ptr, backgrounds_ptr, offsets_ptr, ids_ptr, places_ptr,
    lights_ptr, lasts_ptr, v_images_ptr, v_alphas_ptr, sums_ptr, width, height, tiles_x, tiles_y, channels,
    BACKGROUND: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Write the absolute gradients of each entry of the tile's list, added up over its pixels.

    The steps are those of the compositing's backward pass; v_images is (C, channels, H, W).
    """
    tile = tl.program_id(0)
    camera, px, py, place, inside = pixels(tile, width, height, tiles_x, tiles_y, T)
    start = tl.load(offsets_ptr + tile)
    light = tl.load(lights_ptr + place, mask=inside, other=1.0)
    last = tl.load(lasts_ptr + place, mask=inside, other=0)
    area = width.to(tl.int64) * height
    v_ptr = v_images_ptr + place + camera * (channels - 1) * area
    behind = -tl.load(v_alphas_ptr + place, mask=inside, other=0.0)
    if BACKGROUND:
        for k in range(channels):
            v = tl.load(v_ptr + k * area, mask=inside, other=0.0)
            behind += v * tl.load(backgrounds_ptr + channels * camera + k)
    behind *= light
    field = tl.arange(0, 8)
    j = tl.max(last)
    length = tl.load(offsets_ptr + tile + 1) - start
    clear_unseen(sums_ptr, places_ptr, start, j, length, FIELDS, 8)
    j -= 1
    while j >= 0:
        g = tl.load(ids_ptr + start + j).to(tl.int64)
        a = tl.load(conics_ptr + 3 * g)
        b = tl.load(conics_ptr + 3 * g + 1)
        c = tl.load(conics_ptr + 3 * g + 2)
        dx, dy, full, counts = alpha_at(
            px, py, tl.load(means_ptr + 2 * g), tl.load(means_ptr + 2 * g + 1), a, b, c, tl.load(opacities_ptr + g)
        )
        counts = counts & (j < last)
        light, inverse, alpha = light_before(light, full, counts)
        color = tl.zeros((T * T,), tl.float32)
        for k in range(channels):
            v = tl.load(v_ptr + k * area, mask=inside, other=0.0)
            color += v * tl.load(colors_ptr + channels * g + k)
        v_alpha = light * color - inverse * behind
        behind += tl.where(counts, alpha * light, 0.0) * color
        v_sigma = tl.where(counts & (full <= ALPHA_MAX), -alpha * v_alpha, 0.0)
        sx = v_sigma * dx
        sy = v_sigma * dy
        out = tl.where(field == 0, tl.sum(tl.abs(a * sx + b * sy)), 0.0)
        out = tl.where(field == 1, tl.sum(tl.abs(b * sx + c * sy)), out)
        row = tl.load(places_ptr + start + j).to(tl.int64)
        tl.store(sums_ptr + row * FIELDS + field, out, mask=field < FIELDS)
        j -= 1


class WithAbsoluteGradients(torch.autograd.Function):
    """(images, alphas, means2d, …) -> the same images and alphas; in backward, means2d gets ``.absgrad``."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, alphas: Tensor, means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor,
        backgrounds: Tensor | None, tile_size: int, lists: TileLists,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.save_for_backward(means2d, conics, colors, opacities, backgrounds)
        ctx.tile_size, ctx.lists = tile_size, lists
        return images.view_as(images), alphas.view_as(alphas)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_images: Tensor, v_alphas: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        means2d, *saved = ctx.saved_tensors
        means2d.absgrad = absolute_gradients(means2d.detach(), *saved, v_images, v_alphas, ctx.tile_size, ctx.lists)
        return v_images, v_alphas, None, None, None, None, None, None, None


def absolute_gradients(
    means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, backgrounds: Tensor | None,
    v_images: Tensor, v_alphas: Tensor, tile_size: int, lists: TileLists,
) -> Tensor:  # fmt: skip
    """Add up the absolute gradients of the projected centres over the pixels, (C, N, 2).

    Args:
        means2d: (C, N, 2) pixels.
        conics: (C, N, 3), see `composite`.
        colors: (C, N, X), of any number of channels.
        opacities: (C, N).
        backgrounds: (C, X), or None for black.
        v_images: gradients of the images, (C, H, W, X).
        v_alphas: gradients of the alphas, (C, H, W, 1).
        tile_size: pixels.
        lists: the Gaussians on each tile.
    """
    cameras, tiles_y, tiles_x = lists.offsets.shape
    height, width, channels = v_images.shape[1:]
    means2d, conics, colors, opacities = (x.contiguous() for x in (means2d, conics, colors, opacities))
    first = colors[..., :1].contiguous()  # the light that each Gaussian leaves is that of any channel
    blended = blend(means2d, conics, first, opacities, None, width, height, tile_size, lists)
    lights, lasts = blended[2:4]
    behind = colors if backgrounds is None else backgrounds.detach().contiguous()
    sums = torch.empty(len(lists.ids), FIELDS.value, device=colors.device)
    _absolute[(cameras * tiles_y * tiles_x,)](
        means2d, conics, opacities, colors, behind, lists.bounds, lists.ids, lists.places, lights, lasts,
        v_images.permute(0, 3, 1, 2).contiguous(), v_alphas.contiguous(), sums, width, height, tiles_x, tiles_y,
        channels, backgrounds is not None, tile_size, num_warps=1,
    )  # fmt: skip
    found = torch.empty_like(means2d)
    add_up(sums, lists, found, torch.empty_like(conics), torch.empty_like(opacities), found, None, 0)
    return found
