"""Sizes that follow from the scene, the estimate of memory, and what is said when there is nothing to see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from splatkit_ns.errors import SplatkitError
from splatkit_ns.mesh.blocks import count_blocks, pack, touched_blocks, unpack
from splatkit_ns.mesh.fusion import Volume
from splatkit_ns.mesh.scale import BYTES_PER_BLOCK, MAX_BLOCKS, choose_sizes, depth_limit_of
from splatkit_ns.mesh.views import DepthView
from tests.made_scene import Array
from tests.mesh.helpers import coarser, wall


def test_a_voxel_is_as_large_as_one_and_a_half_pixels() -> None:
    """At any resolution of the views that it is computed from."""
    view = wall(3.0)
    expected = 1.5 * 3.0 / view.focal
    assert choose_sizes([view], downscale=1).voxel_size == pytest.approx(expected)
    assert choose_sizes([coarser(view, 4)], downscale=4).voxel_size == pytest.approx(expected)
    sizes = choose_sizes([view], downscale=1, voxel_size=0.1, depth_limit=4.0)
    assert (sizes.voxel_size, sizes.truncation, sizes.depth_limit) == pytest.approx((0.1, 0.4, 4.0))


def test_depth_reaches_across_the_ring_of_cameras_and_to_the_seed_points(true_views: list[DepthView]) -> None:
    centres = np.stack([view.cam_to_world[:3, 3] for view in true_views])
    across = 2 * np.linalg.norm(centres - centres.mean(0), axis=1).max()
    assert across < depth_limit_of(true_views, None) < 1.2 * across
    points = np.stack([np.zeros(100), np.zeros(100), np.linspace(1, 10, 100)], axis=1)
    behind = points * [1, 1, -1]
    assert depth_limit_of([wall(2.0)], np.concatenate([points, behind])) == pytest.approx(9.1, abs=0.01)


def test_points_that_no_camera_sees_do_not_count() -> None:
    aside = np.array([[100.0, 0, 50], [0, 100, 50], [0, 0, -50]])
    assert depth_limit_of([wall(2.0)], aside) == 0


@pytest.mark.parametrize("voxels_per_pixel", [3.0, 1.5, 0.5])
@pytest.mark.parametrize("factor", [1, 4])
def test_the_estimate_is_what_a_fusion_needs(true_views: list[DepthView], voxels_per_pixel: float, factor: int) -> None:
    voxel = voxels_per_pixel * choose_sizes(true_views, downscale=1).voxel_size / 1.5
    volume = Volume(voxel, 4 * voxel, 1)
    for view in true_views:
        volume.integrate(view)
    estimate = count_blocks([coarser(view, factor) for view in true_views], voxel, 4 * voxel)
    assert 0.75 < estimate / volume.num_blocks < 1.35


def test_blocks_are_those_within_the_truncation() -> None:
    """A wall at z = 1 with blocks of 0.16: the sixth block has it, and the fifth and seventh are near enough."""
    assert set(touched_blocks(wall(1.0), 0.01, 0.04)[:, 2].tolist()) == {6}
    assert set(touched_blocks(wall(1.0), 0.01, 0.05)[:, 2].tolist()) == {5, 6}
    assert set(touched_blocks(wall(1.0), 0.01, 0.15)[:, 2].tolist()) == {5, 6, 7}
    across = touched_blocks(wall(1.0), 0.01, 0.04)
    half_width = np.tan(np.radians(25))
    assert len(across) == len({(x, y) for x, y, _ in across.tolist()})
    assert (across[:, 0].min(), across[:, 0].max()) == (int(-half_width / 0.16) - 1, int(half_width / 0.16))


def test_packing() -> None:
    corners = np.array([[-(2**20), 0, 2**20 - 1], [5, -1, -7]])
    assert (unpack(pack(corners)) == corners).all()


def test_too_fine_voxels_are_refused_and_what_fits_fits(true_views: list[DepthView]) -> None:
    allowed = 40 * BYTES_PER_BLOCK
    with pytest.raises(SplatkitError, match=r"--max-memory.*What would fit: --voxel-size") as caught:
        choose_sizes(true_views, downscale=1, voxel_size=0.01, memory=allowed)
    suggested = float(str(caught.value).split("--voxel-size ")[1].split(". ")[0])
    sizes = choose_sizes(true_views, downscale=1, voxel_size=suggested, memory=allowed)
    assert sizes.memory <= allowed
    assert sizes.num_blocks > 15, "no coarser than it must be"


def test_voxels_that_nobody_asked_for_grow_until_they_fit(true_views: list[DepthView]) -> None:
    usual = choose_sizes(true_views, downscale=1)
    tight = choose_sizes(true_views, downscale=1, memory=usual.memory // 3)
    assert tight.voxel_size > usual.voxel_size
    assert tight.memory <= usual.memory // 3


def test_no_more_blocks_than_open3d_can_index_however_much_memory_there_is() -> None:
    with pytest.raises(SplatkitError, match=r"never more than 174,761 blocks\). What would fit: --voxel-size"):
        choose_sizes([wall(3.0)], downscale=1, voxel_size=1e-4)
    assert choose_sizes([wall(3.0)], downscale=100).num_blocks <= MAX_BLOCKS


def test_no_memory_at_all(true_views: list[DepthView]) -> None:
    for memory in (0, 1000):
        with pytest.raises(SplatkitError, match="No size would fit"):
            choose_sizes(true_views, downscale=1, memory=memory)


def test_a_scene_without_surfaces() -> None:
    empty = replace(wall(1.0), depth=np.zeros_like(wall(1.0).depth))
    with pytest.raises(SplatkitError, match=r"None of the 2 training cameras sees a surface.*--min-accumulation"):
        choose_sizes([empty, empty], downscale=1)


def test_a_scene_beyond_the_limit() -> None:
    with pytest.raises(SplatkitError, match=r"farther away than the depth limit of 4: the nearest is at 5,"):
        choose_sizes([wall(2.5)], downscale=1, depth_limit=2.0, unit=0.5)


def test_a_truncation_below_a_voxel() -> None:
    with pytest.raises(SplatkitError, match=r"--truncation is 0.001, expected at least a voxel"):
        choose_sizes([wall(1.0)], downscale=1, truncation=0.001)


def test_seed_points_are_given_as_points(true_views: list[DepthView], seen: Array) -> None:
    limit = choose_sizes(true_views, downscale=1, seed_points=seen).depth_limit
    assert limit == pytest.approx(depth_limit_of(true_views, seen))
