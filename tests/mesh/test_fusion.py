"""Depth images to surfaces: how near to the truth, and what is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from splatkit_ns.mesh import fusion
from splatkit_ns.mesh.blocks import boxes, within
from splatkit_ns.mesh.fusion import Volume, fuse
from splatkit_ns.mesh.refinement import refined
from splatkit_ns.mesh.scale import choose_sizes
from splatkit_ns.mesh.surface import Mesh, drop_small_components
from splatkit_ns.mesh.views import DepthView
from tests.made_scene import BALL_CENTRE, BALL_RADIUS, Array, MadeView, ball_pixels, colors_at, signed_distance
from tests.mesh.helpers import tetrahedron, together, wall
from tests.mesh_quality import mesh_quality


@pytest.fixture(scope="module")
def true_mesh(true_views: list[DepthView]) -> Mesh:
    return fuse(true_views, choose_sizes(true_views, downscale=1))


def test_true_depths_give_the_true_surface(true_views: list[DepthView], true_mesh: Mesh, seen: Array) -> None:
    voxel = choose_sizes(true_views, downscale=1).voxel_size
    quality = mesh_quality(true_mesh, seen)
    assert quality.distance < 0.08 * voxel
    assert quality.gap < 0.08 * voxel
    assert quality.completeness > 0.99
    assert quality.median_angle < 4
    assert quality.angle < 7, "edges of the box are rounded by a voxel"


def test_the_same_views_give_the_same_mesh(true_views: list[DepthView], true_mesh: Mesh) -> None:
    again = fuse(true_views, choose_sizes(true_views, downscale=1))
    assert (again.vertices == true_mesh.vertices).all()
    assert (again.triangles == true_mesh.triangles).all()
    assert (again.colors == true_mesh.colors).all()


def test_a_large_volume_is_extracted_in_parts_that_fit_together(
    true_views: list[DepthView], true_mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open3d's own extraction writes outside its memory from 32,768 blocks on."""
    assert fusion.BLOCKS_AT_ONCE_EXTRACTED == 32_767
    sizes = choose_sizes(true_views, downscale=1)
    monkeypatch.setattr(fusion, "BLOCKS_AT_ONCE_EXTRACTED", 1)
    for most in (27, 60):
        monkeypatch.setattr(fusion, "BLOCKS_OF_A_PART", most)
        mesh = fuse(true_views, sizes)
        assert (mesh.vertices == true_mesh.vertices).all()
        assert (mesh.triangles == true_mesh.triangles).all()
        assert (mesh.colors == true_mesh.colors).all()


def test_boxes_hold_each_block_once_and_are_small_enough() -> None:
    rng = np.random.default_rng(0)
    blocks = np.unique(rng.normal(0, [30, 5, 2], (2000, 3)).astype(np.int32), axis=0)
    found = list(boxes(blocks, 100))
    assert len(found) > len(blocks) / 100
    assert (np.sum([within(blocks, low, high) for low, high in found], axis=0) == 1).all()
    assert max(int(within(blocks, low - 1, high + 1).sum()) for low, high in found) <= 100


def test_depth_is_along_the_axis_not_along_the_ray(true_views: list[DepthView], seen: Array) -> None:
    """Distances along the rays, taken for depths, would be 8 % too long in the corners."""
    y, x = np.nonzero(np.ones_like(true_views[0].depth))
    stretch = np.linalg.norm(true_views[0].directions(y, x), axis=1).reshape(true_views[0].depth.shape)
    wrong = [replace(view, depth=(view.depth * stretch).astype(np.float32)) for view in true_views]
    assert mesh_quality(fuse(wrong, choose_sizes(wrong, downscale=1)), seen).distance > 0.01


def test_colours_are_those_of_the_surface(true_mesh: Mesh) -> None:
    """Away from edges, where pixels mix what is before and behind."""
    inside = np.linalg.norm(true_mesh.vertices[:, :2], axis=1) < 1.1
    vertices = true_mesh.vertices[inside & (np.abs(true_mesh.vertices[:, 2]) < 0.003)].astype(np.float64)
    vertices[:, 2] = 0
    difference = np.abs(colors_at(vertices) - true_mesh.colors[inside & (np.abs(true_mesh.vertices[:, 2]) < 0.003)])
    assert len(vertices) > 1000
    assert np.median(difference) < 0.03


def test_normals_look_outwards(true_mesh: Mesh) -> None:
    outward = true_mesh.vertices - BALL_CENTRE
    distance = np.linalg.norm(outward, axis=1)
    of_ball = (np.abs(distance - BALL_RADIUS) < 0.01) & (true_mesh.vertices[:, 2] > 0.3)
    cosines = (true_mesh.vertex_normals() * outward)[of_ball].sum(axis=1) / distance[of_ball]
    assert of_ball.sum() > 500
    assert cosines.min() > 0.8
    assert np.median(cosines) > 0.995


def test_pixels_without_depth_leave_holes(pictures: list[MadeView], true_views: list[DepthView]) -> None:
    masked = [
        replace(view, depth=np.where(ball_pixels(picture), np.float32(0), view.depth))
        for view, picture in zip(true_views, pictures, strict=True)
    ]
    mesh = fuse(masked, choose_sizes(masked, downscale=1))
    from_ball = np.abs(np.linalg.norm(mesh.vertices - BALL_CENTRE, axis=1) - BALL_RADIUS)
    assert not ((from_ball < 0.02) & (mesh.vertices[:, 2] > 0.1)).any()
    assert np.abs(signed_distance(mesh.vertices.astype(np.float64))).mean() < 0.003, "the rest is there"


def test_what_is_beyond_the_limit_is_left_out() -> None:
    near, far = wall(1.0), wall(3.0)
    both = replace(near, depth=np.concatenate([near.depth[:40], far.depth[40:]]))
    mesh = fuse([both], choose_sizes([both], downscale=1, depth_limit=2.0))
    assert len(mesh.triangles) > 0
    assert mesh.vertices[:, 2].max() < 1.1


def test_the_volume_grows_beyond_what_was_expected(true_views: list[DepthView], true_mesh: Mesh) -> None:
    sizes = choose_sizes(true_views, downscale=1)
    grown = fuse(true_views, replace(sizes, num_blocks=1))
    assert len(grown.triangles) == len(true_mesh.triangles)


def test_a_view_of_nothing_changes_nothing() -> None:
    volume = Volume(0.05, 0.2, 10)
    volume.integrate(replace(wall(1.0), depth=np.zeros_like(wall(1.0).depth)))
    assert volume.num_blocks == 0
    assert len(volume.extract().triangles) == 0


def slanted(slope: float) -> tuple[DepthView, Array]:
    """A camera before the plane z = 2 + slope x, and the plane's depth at samples half a pixel apart."""
    view = wall(2.0)
    height, width = view.depth.shape

    def depth(per_pixel: int) -> Array:
        x = (np.arange(width * per_pixel) + 0.5) / per_pixel
        return np.tile(2 / (1 - slope * (x - view.K[0, 2]) / view.K[0, 0]), (height * per_pixel, 1))

    return replace(view, depth=depth(1).astype(np.float32)), depth(2)


def test_between_pixels_a_plane_stays_a_plane() -> None:
    view, expected = slanted(0.8)
    fine = refined(view, max_step=0.1)
    assert fine.depth.shape == fine.color.shape[:2] == (2 * view.depth.shape[0], 2 * view.depth.shape[1])
    assert np.abs(fine.depth - expected)[:, 1:-1].max() < 1e-5
    assert np.abs(view.depth.repeat(2, 0).repeat(2, 1) - expected).max() > 0.005, "which pixels alone do not give"
    assert fine.K[0, 2] == 2 * view.K[0, 2]


def test_between_pixels_edges_stay_edges() -> None:
    view = wall(2.0)
    view.depth[:, :30] = 1.0
    view.depth[:20, 60:] = 0.0
    fine = refined(view, max_step=0.5).depth
    assert set(np.unique(fine).tolist()) == {0.0, 1.0, 2.0}
    assert (fine == view.depth.repeat(2, 0).repeat(2, 1)).all()


def test_small_pieces_are_dropped() -> None:
    big = [tetrahedron(1.0, shift) for shift in (0.0, 5.0, 10.0)]
    joined = replace(together(*big), triangles=np.concatenate([together(*big).triangles, [[0, 4, 8]]]))
    mesh = together(joined, tetrahedron(0.1, 20.0), tetrahedron(0.1, 30.0))
    assert len(mesh.triangles) == 21

    left, dropped = drop_small_components(mesh, keep=0, min_share=0.3)
    assert (dropped, len(left.triangles), len(left.vertices)) == (2, 13, 12)
    assert left.vertices.max() == 11.0
    assert (left.vertices[left.triangles] == joined.vertices[joined.triangles]).all()
    assert (left.colors == joined.colors).all()

    left, dropped = drop_small_components(mesh, keep=2, min_share=0.0)
    assert (dropped, len(left.triangles)) == (1, 17)
    left, dropped = drop_small_components(mesh, keep=0, min_share=0.0)
    assert (dropped, len(left.triangles)) == (0, 21)
