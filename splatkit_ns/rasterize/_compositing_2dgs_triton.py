"""Front-to-back blending of flat discs along each pixel's ray on CUDA, with gradients that are the same in every run.

The formulas are those of the CPU's kernels, `splatkit_ns.rasterize.cpu.compositing_2dgs` and its `_backward`, which
explain them; tiles, and the order of sums, are those of `splatkit_ns.rasterize._compositing_triton`.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportIncompatibleMethodOverride=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatkit_ns.rasterize._blending_triton import ALPHA_MAX, LIGHT_MIN, MAX_CHANNELS, SIZES, pixels
from splatkit_ns.rasterize._compositing_2dgs_backward_triton import backward
from splatkit_ns.rasterize._disc_gradients_triton import FIXED, gather, transform_gradients
from splatkit_ns.rasterize._discs_triton import Discs, alpha_on_disc, load_record, load_value
from splatkit_ns.rasterize._tile_lists_triton import TileLists
from splatkit_ns.rasterize.tile_list_space import blending_work

TILE = 8
"""Pixels along the side of a tile: one warp has two pixels per lane, since a pixel has twenty numbers."""
ENTRIES = 16
"""The number of list entries of one disc that are added up at once."""
BLOCK = 128


@triton.jit(do_not_specialize=SIZES)
def _forward(
    records_ptr, opacities_ptr, values_ptr, normals_ptr, backgrounds_ptr, offsets_ptr, ids_ptr,
    images_ptr, normal_images_ptr, lights_ptr, distortions_ptr, medians_ptr, lasts_ptr, places_ptr,
    width, height, tiles_x, tiles_y, X: tl.constexpr, DEPTH: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Write images, remaining light, the number of list entries that were read, and that of the median's disc."""
    tile = tl.program_id(0)
    camera, px, py, place, inside = pixels(tile, width, height, tiles_x, tiles_y, T)
    start = tl.load(offsets_ptr + tile)
    end = tl.load(offsets_ptr + tile + 1)
    light = tl.full((T * T,), 1.0, tl.float32)
    nothing = tl.zeros((T * T,), tl.float32)
    i0, i1, i2, i3, n0, n1, n2 = nothing, nothing, nothing, nothing, nothing, nothing, nothing
    distortion, median = nothing, nothing
    last = tl.zeros((T * T,), tl.int32)
    median_place = tl.zeros((T * T,), tl.int32)
    open_ = inside
    i = start
    while (i < end) & (tl.max(open_.to(tl.int32)) > 0):
        g = tl.load(ids_ptr + i).to(tl.int64)
        x, y, a, b, c, d, e, f, offset_x, offset_y = load_record(records_ptr, g)
        c0, c1, c2, c3 = load_value(values_ptr, g, X)
        m0, m1, m2 = tl.load(normals_ptr + 3 * g), tl.load(normals_ptr + 3 * g + 1), tl.load(normals_ptr + 3 * g + 2)
        alpha, counts, _dx, _dy, _u, _v, _inverse, _disc, _screen = alpha_on_disc(
            px, py, x, y, a, b, c, d, e, f, offset_x, offset_y, tl.load(opacities_ptr + g)
        )
        alpha = tl.minimum(alpha, ALPHA_MAX)
        rest = light * (1.0 - alpha)
        open_ = open_ & ((rest > LIGHT_MIN) | (counts == 0))
        counts = counts & open_
        weight = tl.where(counts, alpha * light, 0.0)
        i += 1
        if DEPTH:  # equation 13 of 2DGS with |z_i - z_j|, from the sums in front
            z = c0 if X == 1 else (c1 if X == 2 else (c2 if X == 3 else c3))
            sums = i0 if X == 1 else (i1 if X == 2 else (i2 if X == 3 else i3))
            distortion += 2.0 * weight * (z * (1.0 - light) - sums)
            half = counts & (light > 0.5)
            median = tl.where(half, z, median)
            median_place = tl.where(half, i - start, median_place)
        i0 += weight * c0
        if X > 1:
            i1 += weight * c1
        if X > 2:
            i2 += weight * c2
        if X > 3:
            i3 += weight * c3
        n0 += weight * m0
        n1 += weight * m1
        n2 += weight * m2
        light = tl.where(counts, rest, light)
        last = tl.where(counts, i - start, last)
    b0, b1, b2, b3 = load_value(backgrounds_ptr, camera, X)
    tl.store(images_ptr + X * place, i0 + light * b0, mask=inside)
    if X > 1:
        tl.store(images_ptr + X * place + 1, i1 + light * b1, mask=inside)
    if X > 2:
        tl.store(images_ptr + X * place + 2, i2 + light * b2, mask=inside)
    if X > 3:
        tl.store(images_ptr + X * place + 3, i3 + light * b3, mask=inside)
    tl.store(normal_images_ptr + 3 * place, n0, mask=inside)
    tl.store(normal_images_ptr + 3 * place + 1, n1, mask=inside)
    tl.store(normal_images_ptr + 3 * place + 2, n2, mask=inside)
    tl.store(lights_ptr + place, light, mask=inside)
    tl.store(distortions_ptr + place, distortion, mask=inside)
    tl.store(medians_ptr + place, median, mask=inside)
    tl.store(lasts_ptr + place, last, mask=inside)
    tl.store(places_ptr + place, median_place, mask=inside)


class CompositeDiscs(torch.autograd.Function):
    """(means2d, ray_transforms, values, normals, opacities, backgrounds, …) -> (images, normals, lights, …).

    The results are images (C, H, W, X), normals (C, H, W, 3) and (C, H, W, 1): light that is left, distortion, median
    depth. All tensors are float32 and contiguous. means2d and ray_transforms are in the discs' records already, and
    only get their gradients here.
    """

    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, ray_transforms: Tensor, values: Tensor, normals: Tensor, opacities: Tensor,
        backgrounds: Tensor, discs: Discs, lists: TileLists, size: tuple[int, int], has_depth: bool, absgrad: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        width, height = size
        cameras, tiles_y, tiles_x = lists.offsets.shape
        channels, device = values.shape[-1], values.device
        images = torch.empty(cameras, height, width, channels, device=device)
        normal_images = torch.empty(cameras, height, width, 3, device=device)
        lights, distortions, medians = (torch.empty(cameras, height, width, 1, device=device) for _ in range(3))
        lasts, places = (torch.empty(cameras, height, width, dtype=torch.int32, device=device) for _ in range(2))
        _forward[(cameras * tiles_y * tiles_x,)](
            discs.records, opacities, values, normals, backgrounds, lists.bounds, lists.ids,
            images, normal_images, lights, distortions, medians, lasts, places,
            width, height, tiles_x, tiles_y, X=channels, DEPTH=has_depth, T=TILE, num_warps=1,
        )  # fmt: skip
        if lists.work is not None:
            lists.work.add_(blending_work(lasts, TILE))
        kept = images.clone() if any(ctx.needs_input_grad) else images  # who gets the images may change them in place
        ctx.save_for_backward(
            means2d, ray_transforms, values, normals, opacities, backgrounds, kept, lights, lasts, places
        )
        ctx.discs, ctx.lists, ctx.has_depth, ctx.absgrad = discs, lists, has_depth, absgrad
        return images, normal_images, lights, distortions, medians

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, v_images: Tensor, v_normal_images: Tensor, v_lights: Tensor, v_distortions: Tensor, v_medians: Tensor
    ) -> tuple[Tensor | None, ...]:
        means2d, ray_transforms, values, normals, opacities, backgrounds, images, lights, lasts, places = (
            ctx.saved_tensors
        )
        discs, lists, has_depth, absgrad = ctx.discs, ctx.lists, ctx.has_depth, ctx.absgrad
        cameras, tiles_y, tiles_x = lists.offsets.shape
        height, width, channels = images.shape[1:]
        v_images = v_images.contiguous()
        sums = torch.zeros(len(lists.ids), FIXED.value + channels + 3 + 2 * absgrad, device=values.device)
        backward[(cameras * tiles_y * tiles_x,)](
            discs.records, opacities, values, normals, backgrounds, lists.bounds, lists.ids, lists.places,
            images, lights, lasts, places,
            v_images, v_lights.contiguous(), v_normal_images.contiguous(), v_distortions.contiguous(),
            v_medians.contiguous(), sums, width, height, tiles_x, tiles_y,
            X=channels, DEPTH=has_depth, ABS=absgrad, T=TILE, num_warps=1,
        )  # fmt: skip
        v_rays, v_means2d = torch.empty_like(ray_transforms), torch.empty_like(means2d)
        v_opacities, v_values, v_normals = (torch.empty_like(x) for x in (opacities, values, normals))
        v_abs = torch.empty_like(means2d) if absgrad else v_means2d
        gather[(opacities.numel(),)](
            lists.order, lists.ends, lists.counts, sums, len(sums), v_rays, v_means2d, v_opacities, v_values,
            v_normals, v_abs, X=channels, ABS=absgrad, E=ENTRIES, num_warps=1,
        )  # fmt: skip
        rows = opacities.numel()
        transform_gradients[(triton.cdiv(rows, BLOCK),)](
            discs.records, ray_transforms, discs.seen.view(torch.uint8), v_rays, rows, B=BLOCK
        )
        if absgrad:
            means2d.absgrad = v_abs
        v_backgrounds = (lights * v_images).sum((1, 2)) if ctx.needs_input_grad[5] else None
        return v_means2d, v_rays, v_values, v_normals, v_opacities, v_backgrounds, *(None,) * 5


def composite_discs(
    means2d: Tensor, ray_transforms: Tensor, values: Tensor, normals: Tensor, opacities: Tensor,
    backgrounds: Tensor | None, discs: Discs, lists: TileLists, size: tuple[int, int], has_depth: bool, absgrad: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Blend discs front to back. Differentiable in all tensors; the gradients are the same in every run.

    Args:
        means2d: (C, N, 2) pixels; gets ``.absgrad`` in backward if ``absgrad`` is set, as in gsplat.
        ray_transforms: (C, N, 3, 3), of which ``discs`` were made.
        values: (C, N, X) colours and depth; more than 4 channels are blended in groups.
        normals: (C, N, 3).
        opacities: (C, N).
        backgrounds: (C, X), 0 for a depth, or None for black.
        discs: `_discs_triton.describe`.
        lists: the discs on each tile of side `TILE`.
        size: width and height in pixels.
        has_depth: whether the last channel is a depth, from which distortion and median depth are computed.
        absgrad: also add up absolute gradients of the means (AbsGS); for at most 4 channels.

    Returns:
        Images (C, H, W, X), alphas (C, H, W, 1), normals (C, H, W, 3), distortion and median depth (C, H, W, 1).
    """
    if backgrounds is None:
        backgrounds = values.new_zeros(len(values), values.shape[-1])
    first = values.shape[-1] - MAX_CHANNELS
    if first > 0:  # the last group has the depth
        part = (means2d, ray_transforms, values[..., :first], normals, opacities, backgrounds[:, :first])
        before = composite_discs(*part, discs, lists, size, False, absgrad)[0]
        values, backgrounds = values[..., first:], backgrounds[:, first:]
    tensors = (means2d, ray_transforms, values, normals, opacities, backgrounds)
    found: Any = CompositeDiscs.apply(*(x.contiguous() for x in tensors), discs, lists, size, has_depth, absgrad)
    images, normal_images, lights, distortions, medians = found
    if first > 0:
        images = torch.cat([before, images], dim=-1)
    return images, 1.0 - lights, normal_images, distortions, medians


def first_launches(device: str) -> list[Callable[[], object]]:
    """Return a launch of each kernel with the kinds of arguments that training has, for Triton to compile it.

    The launches draw one disc with colours and depth on the only tile of an image.
    """
    ones, bounds = torch.ones(32, device=device), torch.tensor([0, 1], dtype=torch.int32, device=device)
    first, whole = torch.zeros(1, dtype=torch.int32, device=device), torch.zeros(256, device=device)
    inputs = (*(torch.empty_like(ones) for _ in range(5)), bounds, first)
    numbers, sizes = whole.int(), {"width": 1, "height": 1, "tiles_x": 1, "tiles_y": 1}
    options: dict[str, Any] = {**sizes, "X": 4, "DEPTH": True, "T": TILE, "num_warps": 1}
    forward = (*inputs, *(torch.empty_like(whole) for _ in range(5)), numbers, numbers.clone())
    tiles = (*inputs, first, whole, whole, numbers, numbers, *(torch.zeros_like(whole) for _ in range(6)))
    gradients = [torch.empty_like(ones) for _ in range(6)]
    one = first + 1
    return [
        partial(backward[(1,)], *tiles, ABS=False, **options),
        partial(_forward[(1,)], *forward, **options),
        partial(
            gather[(1,)], first.long(), one.long(), one, whole, 1, *gradients, X=4, ABS=False, E=ENTRIES, num_warps=1
        ),
        partial(transform_gradients[(1,)], ones, ones, one.to(torch.uint8), gradients[0], 1, B=BLOCK),
    ]
