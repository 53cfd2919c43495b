"""What the training cameras of a run see, and where the data set had it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plyfile
import pytest
import torch
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from torch import Tensor

from splatkit_ns.errors import SplatkitError
from splatkit_ns.mesh.frames import SceneFrame, turned
from splatkit_ns.mesh.run_views import RunViews
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.plugin.pipeline import SplatkitPipeline
from splatkit_ns.renderer import Splat3DGSRenderer
from tests.made_scene import Array, ball_pixels, made_views, write_made_scene
from tests.mesh.helpers import tetrahedron
from tests.plugin.helpers import make_pipeline, run_config
from tests.tiny_scene import tiny_gaussians, write_tiny_colmap


@pytest.fixture(scope="module")
def masked_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    return write_made_scene(folder, num_views=8, width=96, height=72, num_points=20_000, masks=True)


def opaque(data: Path, **options: object) -> SplatkitPipeline:
    """The seed points as Gaussians that hide what is behind them."""
    return make_pipeline(data, init_opacity=0.95, init_scale=0.3, **options).eval()


def test_depth_is_that_of_the_scene_and_masks_hold(masked_data: Path) -> None:
    """Every fourth picture is held out."""
    pictures = [view for i, view in enumerate(made_views(8, 96, 72)) if i % 4 != 0]
    views = RunViews(opaque(masked_data), min_accumulation=0.5)
    assert len(views) == len(pictures) == 6
    assert views.longest_side == 96
    scale = views.frame("world").scale
    for view, picture in zip(views.views(), pictures, strict=True):
        ball = ball_pixels(picture)
        assert ball.sum() > 50
        assert (view.depth[ball] == 0).all()
        both = (view.depth > 0) & (picture.depth > 0)
        assert both.sum() > 0.7 * (picture.depth > 0).sum() - ball.sum()
        assert np.median(np.abs(view.depth / scale - picture.depth)[both]) < 0.03
        assert view.color.shape == (72, 96, 3)
    assert not views.has_surface_depth


def test_at_low_resolution_it_is_the_same_scene(masked_data: Path) -> None:
    views = RunViews(opaque(masked_data), min_accumulation=0.5)
    for fine, coarse in zip(views.views(), views.views(downscale=2), strict=True):
        assert coarse.depth.shape == (36, 48)
        assert coarse.focal == pytest.approx(fine.focal / 2)
        assert (coarse.cam_to_world == fine.cam_to_world).all()
        both = (coarse.depth > 0) & (fine.depth[::2, ::2] > 0)
        assert np.median(np.abs(coarse.depth - fine.depth[::2, ::2])[both]) < 0.04
        assert abs((coarse.depth > 0).mean() - (fine.depth > 0).mean()) < 0.1


def test_pixels_that_are_not_covered_show_nothing(masked_data: Path) -> None:
    pipeline = opaque(masked_data)
    (much,), (little,) = ([next(RunViews(pipeline, threshold).views()).depth > 0] for threshold in (0.9, 0.1))
    assert 0 < much.sum() < little.sum()
    outputs = pipeline.model.get_outputs_for_camera(pipeline.datamanager.train_dataset.cameras[0:1])
    assert not (much & (outputs["accumulation"][..., 0] < 0.9).numpy()).any()


@dataclass(kw_only=True)
class SurfacePayload(SplatRenderPayload):
    median: Tensor | None = None

    @property
    def surface_depths(self) -> Tensor | None:
        return self.median


@dataclass
class SurfaceRenderer(Splat3DGSRenderer):
    """Knows the surface: it is 0.7 away."""

    def render(self, *args: object, **kwargs: object) -> SurfacePayload:  # type: ignore[override]
        payload = super().render(*args, **kwargs)  # type: ignore[arg-type]
        fields = {name: payload[name] for name in payload.keys()}  # noqa: SIM118
        return SurfacePayload(**fields, median=torch.full_like(payload.alphas, 0.7))


@dataclass
class ColourRenderer(Splat3DGSRenderer):
    """Has no depth."""

    def render(self, *args: object, **kwargs: object) -> SplatRenderPayload:  # type: ignore[override]
        payload = super().render(*args, **kwargs)  # type: ignore[arg-type]
        payload.depths_expected = None
        return payload


def test_a_renderer_that_knows_surfaces_is_believed(masked_data: Path) -> None:
    views = RunViews(opaque(masked_data, renderer=SurfaceRenderer()), min_accumulation=0.5)
    view = next(views.views())
    assert views.has_surface_depth
    assert set(np.unique(view.depth).tolist()) == {0.0, np.float32(0.7)}


def test_a_renderer_without_depth(masked_data: Path) -> None:
    views = RunViews(opaque(masked_data, renderer=ColourRenderer()), min_accumulation=0.5)
    with pytest.raises(SplatkitError, match="The renderer ColourRenderer makes no depth image"):
        next(views.views())


def test_the_data_sets_frame_is_that_of_its_points(masked_data: Path) -> None:
    views = RunViews(opaque(masked_data), min_accumulation=0.5)
    assert views.seed_points is not None
    vertex = plyfile.PlyData.read(str(masked_data / "sparse_pc.ply"))["vertex"]
    original = np.stack([vertex[name] for name in "xyz"], axis=1)
    assert np.abs(views.frame("dataset").to_original(views.seed_points) - original).max() < 1e-4
    assert np.abs(views.seed_points - original).max() > 0.1, "the dataparser did move them"


def test_the_data_sets_frame_is_that_of_colmap(tmp_path: Path) -> None:
    data = write_tiny_colmap(tmp_path)
    parser = ColmapDataParserConfig(colmap_path=Path("sparse/0"), downscale_factor=1)
    pipeline = run_config(data, dataparser=parser).pipeline.setup(device="cpu", test_mode="test")
    views = RunViews(pipeline.eval(), min_accumulation=0.5)
    assert views.seed_points is not None
    found = views.frame("dataset").to_original(views.seed_points)
    assert np.abs(found - tiny_gaussians().means.detach().numpy()).max() < 1e-4


def test_a_mirrored_mesh_still_faces_outwards() -> None:
    mirrored = SceneFrame(np.diag([1.0, -1.0, 1.0]), np.array([1.0, 2, 3]), 2.0)
    mesh = tetrahedron(1.0)
    moved = mirrored.mesh_to_original(mesh)
    assert volume(mesh.vertices, mesh.triangles) > 0
    assert volume(moved.vertices, moved.triangles) == pytest.approx(volume(mesh.vertices, mesh.triangles) / 8)
    assert (SceneFrame.identity().mesh_to_original(mesh).vertices == mesh.vertices).all()


def test_a_mesh_far_from_the_origin_keeps_its_shape() -> None:
    frame, mesh = SceneFrame(np.eye(3), np.array([-452310.25, -5411230.5, 0.0]), 0.5), tetrahedron(1.0)
    offset = frame.offset_of(mesh)
    assert offset is not None
    assert (offset == np.rint(offset)).all()
    moved = frame.mesh_to_original(mesh, offset)
    exact = mesh.vertices.astype(np.float64) / 0.5 + np.array([452310.25, 5411230.5, 0.0])
    assert np.abs(moved.vertices + offset - exact).max() < 1e-6
    upright, shift = turned(moved, offset, "y")
    assert shift is not None
    assert np.abs(upright.vertices + shift - exact[:, [0, 2, 1]] * [1, 1, -1]).max() < 1e-6
    assert SceneFrame.identity().offset_of(mesh) is None


def volume(vertices: Array, triangles: Array) -> float:
    a, b, c = (vertices[triangles[:, i]].astype(np.float64) for i in range(3))
    return float((np.cross(a, b) * c).sum() / 6)
