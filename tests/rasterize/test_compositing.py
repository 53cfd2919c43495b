"""The Triton compositing, run by Triton's interpreter, against blending written out in float64."""

from __future__ import annotations

import pytest

from tests.triton_interpreter import assert_prints

IN_THE_INTERPRETER = """
import math
import sys
sys.path.insert(0, "tests/rasterize")
import torch
from random_ellipses import random_ellipses
from splatkit_ns.rasterize import _compositing_triton, _entry_sums_triton
from splatkit_ns.rasterize._compositing_triton import composite
from splatkit_ns.rasterize._tile_lists_triton import tile_lists
from splatkit_ns.rasterize.tile_list_space import LONGEST, ListSpace

_entry_sums_triton.MANY, _entry_sums_triton.WIDE = {many}, 2
_compositing_triton.segment_length = lambda tile_size: {segment}
torch.manual_seed(0)
C, N, W, H, T, X = 2, 24, 21, 19, {tile_size}, {channels}
background, absgrad = {background}, {absgrad}
tiles_x, tiles_y = math.ceil(W / T), math.ceil(H / T)
means, conics = random_ellipses(C, N, (W, H), margin=10, long=(1, 9), short=(1, 4))
opacities, seen, depths = torch.rand(C, N) * 1.001, torch.rand(C, N) > 0.1, torch.rand(C, N) + 1
opacities[:, :4] = 0.9999  # alpha is cut off at 0.999 in the middle, and light ends behind two of them
means[:, :4], seen[:, :4] = torch.tensor([W / 2, H / 2]), True
colors, backgrounds = torch.rand(C, N, X), torch.rand(C, X) if background else None
inputs = [means, conics, colors, opacities] + ([backgrounds] if background else [])
seen_by = {}


def dense(means, conics, colors, opacities, backgrounds=None):
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    images, alphas, per_pixel = [], [], []
    for camera in range(C):
        light, image = torch.ones(H, W, dtype=means.dtype), torch.zeros(H, W, X, dtype=means.dtype)
        is_open = torch.ones(H, W, dtype=torch.bool)
        for g in depths[camera].argsort().tolist():
            if not seen[camera, g]:
                continue
            centre = means[camera, g].expand(H, W, 2)
            if centre.requires_grad:
                centre.retain_grad()
                per_pixel.append((camera, g, centre))
            dx, dy = centre[..., 0] - x, centre[..., 1] - y
            a, b, c = conics[camera, g]
            sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
            alpha = (opacities[camera, g] * torch.exp(-sigma)).clamp(max=0.999)
            counts = alpha >= 1 / 255
            is_open = is_open & ~(counts & (light * (1 - alpha) <= 1e-4))
            seen_by[camera * N + g] = counts & is_open
            alpha = torch.where(counts & is_open, alpha, 0.0)
            image = image + (alpha * light)[..., None] * colors[camera, g]
            light = light * (1 - alpha)
        assert not is_open.all(), "light ends somewhere"
        if backgrounds is not None:
            image = image + light[..., None] * backgrounds[camera]
        images.append(image)
        alphas.append(1 - light[..., None])
    return torch.stack(images), torch.stack(alphas), per_pixel


ours = [tensor.clone().requires_grad_() for tensor in inputs]
space = ListSpace(work=torch.zeros(1, dtype=torch.int64))
with space.fixed({capacity}):  # more than is needed, as in CUDA graphs
    lists = tile_lists(means, conics, opacities, seen, depths, tiles_x, tiles_y, T, space)
assert lists.counts.max() > min({many}, 3), "Gaussians with many entries are there"
images, alphas = composite(*ours[:4], ours[4] if background else None, W, H, T, lists, absgrad)
truth = [tensor.double().requires_grad_() for tensor in inputs]
true_images, true_alphas, per_pixel = dense(*truth)
assert (images - true_images).abs().max() < 2e-5 and (alphas - true_alphas).abs().max() < 2e-5
blended = []
for tile, start in enumerate(lists.bounds[:-1].tolist()):
    row, column = divmod(tile % (tiles_y * tiles_x), tiles_x)
    part = (slice(row * T, row * T + T), slice(column * T, column * T + T))
    listed = lists.ids[start : lists.bounds[tile + 1]].tolist()
    blended.append(max((i + 1 for i, g in enumerate(listed) if seen_by[g][part].any()), default=0))
work = sum(blended) + LONGEST * max(blended)
assert int(space.work) == work * math.ceil(X / 4) > 0, "each group of channels is blended"
weights, more = torch.rand(C, H, W, X), torch.rand(C, H, W, 1)
images = images.mul_(2) if X <= 4 else images * 2  # in place, as a part may
((images * weights / 2).sum() + (alphas * more).sum()).backward()
((true_images * weights).sum() + (true_alphas * more).sum()).backward()
for name, got, true in zip(["means2d", "conics", "colors", "opacities", "backgrounds"], ours, truth, strict=False):
    error = float((got.grad - true.grad).norm() / true.grad.norm())
    assert error < 2e-5, (name, error)
if absgrad:
    true = torch.zeros(C, N, 2, dtype=torch.float64)
    for camera, g, centre in per_pixel:
        true[camera, g] = centre.grad.abs().sum((0, 1))
    error = float((ours[0].absgrad - true).norm() / true.norm())
    assert error < 2e-5, error
print("equal")
"""


@pytest.mark.parametrize(
    ("tile_size", "channels", "background", "absgrad", "many", "segment"),
    [
        (16, 3, True, False, 1, 4),
        (8, 4, True, True, 4, 64),
        (8, 1, False, True, 32, 2),
        (16, 2, False, False, 32, 6),
        (8, 6, True, False, 3, 8),
        (8, 6, True, True, 3, 4),
        (16, 9, False, True, 32, 128),
    ],
)
def test_in_the_interpreter(
    tile_size: int, channels: int, background: bool, absgrad: bool, many: int, segment: int
) -> None:
    settings = {"tile_size": tile_size, "channels": channels, "background": background, "absgrad": absgrad}
    settings |= {"many": many, "segment": segment, "capacity": 2000 if absgrad else None}
    code = IN_THE_INTERPRETER
    for name, value in settings.items():
        code = code.replace("{" + name + "}", str(value))
    assert_prints(code, "equal\n")
