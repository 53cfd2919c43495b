"""The CPU kernels of 2DGS as differentiable torch functions: projection and compositing."""

# torch declares Function.backward in a way that no `once_differentiable` method matches.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..arguments import RasterSettings
from .autograd import array_of, blocks_of, zeros_like
from .compositing_2dgs import composite_2dgs
from .compositing_2dgs_backward import V_VALUES, composite_2dgs_backward, gather_by_disc
from .parallel import run_parallel
from .projection_2dgs import RECORD, project_2dgs
from .projection_2dgs_backward import project_2dgs_backward
from .tiles import TileLists, build_tile_lists


class ProjectDiscs(torch.autograd.Function):
    """(means, quats, scales, opacities, viewmats, Ks, ...) -> (means2d, depths, transforms, normals, radii, ...).

    The last two, footprints and records, are for `CompositeDiscs`. Opacities only decide which discs are seen: they get
    no gradient. See `projection_2dgs.project_2dgs` for shapes.
    """

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, Ks: Tensor,
        size: tuple[int, int], settings: RasterSettings,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        cameras, n = viewmats.shape[0], means.shape[0]
        means2d, depths = means.new_zeros(cameras, n, 2), means.new_zeros(cameras, n)
        transforms, normals = means.new_zeros(cameras, n, 3, 3), means.new_zeros(cameras, n, 3)
        radii = torch.zeros(cameras, n, 2, dtype=torch.int32)
        footprints = torch.zeros(cameras, n, 5, dtype=torch.float64)
        records = means.new_zeros(cameras, n, RECORD)
        limits = (float(settings.near_plane), float(settings.far_plane), float(settings.radius_clip))
        for camera in range(cameras):
            run_parallel(
                project_2dgs, n, camera, array_of(means), array_of(quats), array_of(scales), array_of(opacities),
                array_of(viewmats), array_of(Ks), *size, *limits, means2d.numpy(),
                depths.numpy(), transforms.numpy(), normals.numpy(), radii.numpy(), footprints.numpy(),
                records.numpy(),
            )  # fmt: skip
        ctx.save_for_backward(means, quats, scales, viewmats, Ks, radii)
        ctx.mark_non_differentiable(radii, footprints, records)
        ctx.set_materialize_grads(False)
        return means2d, depths, transforms, normals, radii, footprints, records

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        means, quats, scales, viewmats, Ks, radii = ctx.saved_tensors
        cameras, n = radii.shape[:2]
        shapes = ((cameras, n, 2), (cameras, n), (cameras, n, 3, 3), (cameras, n, 3))
        from_outputs = (
            array_of(means.new_zeros(shape) if gradient is None else gradient)
            for gradient, shape in zip(gradients, shapes, strict=False)
        )
        v_means, v_quats, v_scales = zeros_like(means), zeros_like(quats), zeros_like(scales)
        blocks = blocks_of(n)
        v_view_partial = torch.zeros(blocks, cameras, 4, 4, dtype=torch.float64)
        run_parallel(
            project_2dgs_backward, blocks, blocks, array_of(means), array_of(quats), array_of(scales),
            array_of(viewmats), array_of(Ks), array_of(radii), *from_outputs, v_means.numpy(), v_quats.numpy(),
            v_scales.numpy(), v_view_partial.numpy(),
        )  # fmt: skip
        return v_means, v_quats, v_scales, None, v_view_partial.sum(0).to(viewmats), *([None] * 3)


class CompositeDiscs(torch.autograd.Function):
    """(means2d, transforms, opacities, values, backgrounds, ...) -> (images, alphas, distortion, median).

    images is (C, H, W, D), the others (C, H, W, 1). values (C, N, D) hold depths in channel `depth_channel`; if that is
    -1 they hold none, and distortion and median are 0. means2d and transforms are in the records already, and only get
    their gradients here. If `absgrad` is set, backward also stores `absgrad` (C, N, 2) on the means2d tensor, as gsplat
    does.
    """

    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, transforms: Tensor, opacities: Tensor, values: Tensor, backgrounds: Tensor,
        depths: Tensor, radii: Tensor, footprints: Tensor, records: Tensor, depth_channel: int, width: int, height: int,
        absgrad: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        cameras, channels = values.shape[0], values.shape[-1]
        images = means2d.new_empty(cameras, height, width, channels)
        light_left, distortion, median = (means2d.new_empty(cameras, height, width) for _ in range(3))
        last, place = (torch.empty(cameras, height, width, dtype=torch.int32) for _ in range(2))
        lists: list[TileLists] = []
        for camera in range(cameras):
            tiles = build_tile_lists(
                array_of(footprints[camera, :, :2]), array_of(footprints[camera, :, 2:]), array_of(opacities[camera]),
                array_of(depths[camera]), array_of(radii[camera].amax(-1) > 0), width, height,
            )  # fmt: skip
            lists.append(tiles)
            run_parallel(
                composite_2dgs, len(tiles.schedule), tiles.schedule, tiles.tiles_x, tiles.offsets, tiles.gaussian_ids,
                tiles.rows, array_of(records[camera]), array_of(values[camera]), array_of(backgrounds[camera]),
                depth_channel, images[camera].numpy(), light_left[camera].numpy(), last[camera].numpy(),
                distortion[camera].numpy(), median[camera].numpy(), place[camera].numpy(),
            )  # fmt: skip
        ctx.save_for_backward(
            means2d, transforms, opacities, values, backgrounds, depths, records, light_left, last, place,
            images[..., depth_channel].contiguous(),
        )  # fmt: skip
        ctx.lists, ctx.absgrad, ctx.depth_channel = lists, absgrad, depth_channel
        return images, (1.0 - light_left)[..., None], distortion[..., None], median[..., None]

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, v_images: Tensor, v_alphas: Tensor, v_distortion: Tensor, v_median: Tensor
    ) -> tuple[Tensor | None, ...]:
        means2d, transforms, opacities, values, backgrounds, depths, records, *saved = ctx.saved_tensors
        light_left, last, place, depth_sums = saved
        v_means2d, v_transforms, v_opacities = zeros_like(means2d), zeros_like(transforms), zeros_like(opacities)
        v_values, v_absolute = zeros_like(values), zeros_like(means2d)
        for camera, tiles in enumerate(ctx.lists):
            row_gradients = array_of(means2d.new_empty(len(tiles.gaussian_ids), V_VALUES + values.shape[-1]))
            run_parallel(
                composite_2dgs_backward, len(tiles.schedule), tiles.schedule, tiles.tiles_x, tiles.offsets,
                tiles.gaussian_ids, tiles.rows, tiles.slots, array_of(records[camera]), array_of(opacities[camera]),
                array_of(values[camera]), array_of(backgrounds[camera]), ctx.depth_channel,
                light_left[camera].numpy(), last[camera].numpy(), depth_sums[camera].numpy(), place[camera].numpy(),
                array_of(v_images[camera]), *(array_of(v[camera, ..., 0]) for v in (v_alphas, v_distortion, v_median)),
                row_gradients,
            )  # fmt: skip
            run_parallel(
                gather_by_disc, len(tiles.slot_offsets) - 1, tiles.slot_offsets, row_gradients,
                array_of(records[camera]), array_of(depths[camera]), v_means2d[camera].numpy(),
                v_transforms[camera].numpy(), v_opacities[camera].numpy(), v_values[camera].numpy(),
                v_absolute[camera].numpy(),
            )  # fmt: skip
        if ctx.absgrad:
            means2d.absgrad = v_absolute
        v_backgrounds = torch.einsum("chwd,chw->cd", v_images, light_left) if ctx.needs_input_grad[4] else None
        return v_means2d, v_transforms, v_opacities, v_values, v_backgrounds, *([None] * 8)
