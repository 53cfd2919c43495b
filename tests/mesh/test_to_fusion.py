"""What ``splatkit mesh`` hands to the fusion: on a GPU, too, and without open3d, which only the fusion needs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splatkit_ns import methods
from splatkit_ns.mesh import command
from splatkit_ns.mesh.frames import SceneFrame
from splatkit_ns.mesh.options import MeshOptions
from splatkit_ns.mesh.scale import FusionSizes
from splatkit_ns.mesh.surface import Mesh
from splatkit_ns.mesh.views import DepthView
from tests.made_scene import Array, made_views, signed_distance, surface_normals
from tests.mesh.helpers import OPENCV, short_run, tetrahedron


@dataclass
class Collector:
    """Takes the place of the fusion."""

    views: list[DepthView] = field(default_factory=list)
    sizes: FusionSizes | None = None

    def fuse(self, views: Iterable[DepthView], sizes: FusionSizes) -> Mesh:
        self.views, self.sizes = list(views), sizes
        return tetrahedron(0.5)


def world_points(view: DepthView, frame: SceneFrame) -> Array:
    """The places of all pixels' depths in the frame of the scene, (H, W, 3)."""
    y, x = np.nonzero(np.ones_like(view.depth))
    points = view.cam_to_world[:3, 3] + view.depth.reshape(-1, 1) * view.directions(y, x)
    return frame.to_original(points).reshape(*view.depth.shape, 3)


def normals_of(points: Array) -> Array:
    """Unit normals towards the camera, (H - 2, W - 2, 3), from the neighbours of each pixel."""
    across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    normals = np.cross(down, across)
    return normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)


@pytest.mark.parametrize(
    ("kind", "distance"),
    [
        ("cpu", 0.05),
        pytest.param("3dgs", 0.05, marks=pytest.mark.gpu),
        pytest.param("2dgs", 0.02, marks=pytest.mark.gpu),
    ],
)
def test_depth_cameras_and_sizes_are_those_of_the_scene(
    kind: str, distance: float, made_data: Path, tmp_path: Path, request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pixel covers 0.025 of the scene's units."""
    if kind == "cpu":
        config: Path = request.getfixturevalue("made_run")
    elif kind == "3dgs":
        config = short_run(made_data, tmp_path, methods.splatkit_3dgs, 600, "cuda")
    else:
        terms = {"distortion_start_iter": 60, "normal_consistency_start_iter": 90}
        config = short_run(made_data, tmp_path, methods.splatkit_2dgs, 600, "cuda", **terms)
    collector = Collector()
    monkeypatch.setattr(command, "fuse", collector.fuse)
    device = "cpu" if kind == "cpu" else "cuda"
    path = command.make_mesh(MeshOptions(load_config=config, output=tmp_path / "mesh.ply", device=device))
    assert path.stat().st_size > 0

    moved = json.loads((config.parent / "dataparser_transforms.json").read_text())
    frame = SceneFrame.from_dataparser(np.array(moved["transform"]), moved["scale"])
    pictures = made_views(16, 96, 72)
    assert len(collector.views) == len(pictures)
    assert collector.sizes is not None
    assert 0.02 < collector.sizes.voxel_size / frame.scale < 0.05, "1.5 pixels"
    off, angles, errors = [], [], []
    for view, picture in zip(collector.views, pictures, strict=True):
        expected = picture.cam_to_world @ OPENCV
        assert np.allclose(frame.to_original(view.cam_to_world[None, :3, 3])[0], expected[:3, 3], atol=1e-4)
        assert np.allclose(frame.rotation.T @ view.cam_to_world[:3, :3], expected[:3, :3], atol=1e-4)
        both = (view.depth > 0) & (picture.depth > 0)
        assert both.sum() > 0.9 * (picture.depth > 0).sum()
        points = world_points(view, frame)
        off.append(np.abs(signed_distance(points[both])))
        errors.append(np.abs(view.depth / frame.scale - picture.depth)[both])
        inner = both[1:-1, 1:-1] & both[:-2, 1:-1] & both[2:, 1:-1] & both[1:-1, :-2] & both[1:-1, 2:]
        cosines = (normals_of(points)[inner] * surface_normals(points[1:-1, 1:-1][inner])).sum(-1)
        angles.append(np.degrees(np.arccos(np.clip(cosines, -1, 1))))
        assert np.abs(view.color - picture.rgb)[both].mean() < 0.1
    assert np.median(np.concatenate(off)) < distance
    assert np.median(np.concatenate(errors)) < distance
    assert np.median(np.concatenate(angles)) < (15 if kind == "2dgs" else 45), "they face the cameras"
