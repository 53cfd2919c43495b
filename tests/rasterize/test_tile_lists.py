"""The Triton tile lists, run by Triton's interpreter: every Gaussian is in the list of every tile it can be seen on."""

from __future__ import annotations

from tests.triton_interpreter import assert_prints

IN_THE_INTERPRETER = """
import math
import sys
sys.path.insert(0, "tests/rasterize")
import torch
from random_ellipses import random_ellipses
from splatkit_ns.rasterize._tile_lists_triton import tile_lists
from splatkit_ns.rasterize.tile_list_space import ListSpace

torch.manual_seed(0)
C, N, W, H, T = 2, 60, 90, 70, 16
tiles_x, tiles_y = math.ceil(W / T), math.ceil(H / T)
means, conics = random_ellipses(C, N, (W, H), margin=40, long=(0.5, 15), short=(0.5, 4))
opacities, seen, depths = torch.rand(C, N) ** 3, torch.rand(C, N) > 0.1, torch.rand(C, N) + 1
space = ListSpace(longest=7)
lists = tile_lists(means, conics, opacities, seen, depths, tiles_x, tiles_y, T, space)
offsets, ids = lists.offsets, lists.ids
assert offsets.shape == (C, tiles_y, tiles_x)
ends = [*offsets.flatten().tolist(), len(ids)]
pixel_y, pixel_x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
needed = 0
for tile in range(C * tiles_y * tiles_x):
    camera, rest = divmod(tile, tiles_y * tiles_x)
    row, column = divmod(rest, tiles_x)
    part = (slice(row * T, row * T + T), slice(column * T, column * T + T))
    listed = ids[ends[tile] : ends[tile + 1]].tolist()
    in_order = depths.flatten()[listed]
    assert (in_order.diff() >= 0).all(), "front to back"
    assert len(set(listed)) == len(listed)
    assert all(i // N == camera for i in listed)
    for g in range(N):
        dx, dy = pixel_x[part] - means[camera, g, 0], pixel_y[part] - means[camera, g, 1]
        a, b, c = conics[camera, g]
        alpha = opacities[camera, g] * torch.exp(-0.5 * (a * dx * dx + 2 * b * dx * dy + c * dy * dy))
        if seen[camera, g] and (alpha >= 1 / 255).any():
            needed += 1
            assert camera * N + g in listed, (tile, g)
assert needed > 200
assert lists.bounds.tolist() == ends
by_gaussian = torch.empty_like(ids)
by_gaussian[lists.places.long()] = ids
for g, end, count in zip(lists.order.tolist(), lists.ends.tolist(), lists.counts.tolist(), strict=True):
    assert (by_gaussian[end - count : end] == g).all()
assert lists.counts.sum() == len(ids)
assert space == ListSpace(longest=len(ids))
assert len(ids) < 1.15 * needed, "hardly any tile is listed in vain"
space.needed = torch.zeros(1, dtype=torch.int64)
with space.fixed(len(ids) + 50):
    roomy = tile_lists(means, conics, opacities, seen, depths, tiles_x, tiles_y, T, space)
    assert int(space.needed) == len(ids) and len(roomy.ids) == len(ids) + 50
    other = tile_lists(means, conics, opacities, seen, depths, tiles_x, tiles_y, T)
    assert len(other.ids) == len(ids), "a render beside it has a space of its own"
assert torch.equal(roomy.bounds, lists.bounds) and torch.equal(roomy.ids[: len(ids)], ids)
with space.fixed(len(ids) // 2):
    tight = tile_lists(means, conics, opacities, seen, depths, tiles_x, tiles_y, T, space)
    assert int(space.needed) == len(ids) and len(tight.ids) == len(ids) // 2
assert space.capacity is None and space.was_used
kept = lists.order[lists.ends <= len(tight.ids)].tolist()
inside = [g for g in ids.tolist() if g in kept]
assert [g for g in tight.ids.tolist() if g in kept] == inside, "only the farthest are left out"
none = tile_lists(means, conics, opacities, seen & False, depths, tiles_x, tiles_y, T)
assert len(none.ids) == 0 and (none.bounds == 0).all()
print("complete")
"""


def test_lists_in_the_interpreter() -> None:
    assert_prints(IN_THE_INTERPRETER, "complete\n")
