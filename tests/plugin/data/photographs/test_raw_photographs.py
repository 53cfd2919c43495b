"""Photographs that are trained on as their lenses have taken them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.scripts import train
from PIL import Image

from splatkit_ns.cli import main
from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.errors import OptionsError
from splatkit_ns.loss_fn.geometry import pixel_rays, z_depths
from splatkit_ns.plugin import pipeline
from splatkit_ns.plugin.data.cameras import lens_view
from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.photographs.undistortion import check_lenses
from splatkit_ns.plugin.options.check import check_options
from splatkit_ns.rasterize.lens_models import lens_limits, padded_coefficients, project_points
from splatkit_ns.rasterize.projection import LENS_KERNELS
from splatkit_ns.rasterize.surfaces import normals_of_depth
from splatkit_ns.renderer import Splat2DGSRenderer, Splat3DGSRenderer
from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig, open_run
from tests.made_lens_scene import LENSES as MADE
from tests.made_lens_scene import near_poses, photograph, write_lens_scene
from tests.plugin.data.broken_data import changed_copy, in_json
from tests.plugin.data.photographs.test_undistortion import FULL, QUARTIC, camera, projected
from tests.plugin.helpers import forget_writers, run_config

WIDTH, HEIGHT = 48, 36


@pytest.fixture(scope="module")
def raw_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs by three lenses in turn."""
    folder = tmp_path_factory.mktemp("raw")
    return write_lens_scene(folder, list(MADE), num_views=12, width=WIDTH, height=HEIGHT, num_points=400)


@pytest.mark.parametrize(
    ("distortion", "kind"),
    [
        (QUARTIC, CameraType.PERSPECTIVE),
        (FULL, CameraType.PERSPECTIVE),
        ((-0.02, 0.004, -0.001, 0.0005, 0, 0), CameraType.FISHEYE),
        ((0.0,) * 6, CameraType.FISHEYE),
        (None, CameraType.FISHEYE),
    ],
    ids=["k4", "full opencv", "fisheye", "equidistant", "no coefficients"],
)
def test_a_view_has_the_lens_of_its_camera(distortion: Any, kind: CameraType) -> None:
    stored = camera(distortion, kind)
    view = lens_view(stored)
    x, y = np.meshgrid(np.linspace(-0.6, 0.6, 9), np.linspace(-0.5, 0.5, 7))
    expected = projected(camera(distortion or (0.0,) * 6, kind), x, y)
    points = torch.from_numpy(np.stack([x, y, np.ones_like(x)], -1)).reshape(1, -1, 3)
    Ks = view.Ks.double()
    coefficients = padded_coefficients(view.lens, view.distortion, Ks, 1)
    limits = lens_limits(view.lens, coefficients, Ks, view.width, view.height)
    found = project_points(view.lens, coefficients, limits, Ks, points)
    np.testing.assert_allclose(found.places.reshape(7, 9, 2), expected, atol=1e-4)
    # and back: the rays of pixels lead to the pixels
    rays = pixel_rays(view).double()
    seen = rays.abs().amax(-1) > 0
    back = project_points(view.lens, coefficients, limits, Ks, rays.reshape(1, -1, 3)).places.reshape(
        *rays.shape[:3], 2
    )
    v, u = torch.meshgrid(torch.arange(view.height) + 0.5, torch.arange(view.width) + 0.5, indexing="ij")
    assert float(seen.double().mean()) > 0.9
    assert float((back - torch.stack([u, v], -1)[None])[seen].abs().max()) < 1e-3


def test_a_pinhole_camera_stays_one() -> None:
    assert lens_view(camera((0.0,) * 6)).lens == "pinhole"
    assert lens_view(camera(None)).distortion is None


def test_photographs_are_served_as_they_are(raw_scene: Path, tmp_path: Path) -> None:
    data = changed_copy(raw_scene, tmp_path, lambda folder: _add_masks(folder))
    config = run_config(data)
    config.pipeline.datamanager.undistort = False
    manager: Any = config.pipeline.datamanager.setup(device="cpu", test_mode="val")
    lenses = set()
    for index, path in enumerate(manager.train_dataset.image_filenames):
        view, batch = manager.train_view(index)
        view = lens_view(view)
        lenses.add(view.lens)
        stored = np.asarray(Image.open(path))
        pixels = batch["image"].numpy()
        pixels = pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)
        assert np.array_equal(pixels, stored)
        assert (view.width, view.height) == (WIDTH, HEIGHT)
        assert np.array_equal(batch["mask"][..., 0].numpy(), _mask())
    assert lenses == {"pinhole", "opencv", "opencv_fisheye"}


def _mask() -> Any:
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[:5, :7] = False
    return mask


def _add_masks(folder: Path) -> None:
    (folder / "masks").mkdir()
    Image.fromarray(_mask().astype(np.uint8) * 255).save(folder / "masks" / "all.png")
    in_json(lambda meta: [frame.update(mask_path="masks/all.png") for frame in meta["frames"]])(folder)


def test_a_run_trains_on_several_lenses_and_is_evaluated_through_them(
    raw_scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_config(raw_scene, tmp_path, steps=40)
    config.pipeline.datamanager.undistort = False
    config.pipeline.model.camera_optimizer = CameraOptimizerConfig(mode="SO3xR3")
    config.modules.resolution.max_downscale = 2
    train.main(config)
    run = str(config.get_base_dir() / "config.yml")
    opened = open_run(run, device="cpu")
    forget_writers()
    adjustment = opened.run_model.camera_optimizer.pose_adjustment.detach()
    assert int((adjustment.abs().amax(1) > 0).sum()) == len(adjustment), "all poses got gradients"
    assert np.mean([image.metrics["psnr"] for image in opened.images()]) > 12
    output = tmp_path / "pictures"
    options = ["--cameras", "test", "--images", "rgb", "normals", "--device", "cpu", "--output", str(output)]
    assert main(["render", "--load-config", run, *options]) == 0, capsys.readouterr()
    drawn = sorted(output.rglob("*.png"))
    assert len(drawn) == 6, drawn
    assert {Image.open(path).size for path in drawn} == {(WIDTH, HEIGHT)}
    # a mesh is made of what pinhole cameras would see
    mesh = tmp_path / "mesh.ply"
    assert main(["mesh", "--load-config", run, "--output", str(mesh), "--device", "cpu"]) == 0, capsys.readouterr()
    assert mesh.stat().st_size > 1000


@pytest.mark.parametrize("undistort", [False, True])
def test_kernels_of_the_lenses_are_loaded_while_photographs_are(
    undistort: bool, raw_scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[Any, str]] = []
    monkeypatch.setattr(pipeline, "load_ahead", lambda kernels, device: loaded.append((kernels, device)))
    config = run_config(raw_scene)
    config.pipeline.datamanager.undistort = undistort
    config.pipeline.setup(device="cpu", test_mode="val")
    expected = () if undistort else (LENS_KERNELS["opencv"], LENS_KERNELS["opencv_fisheye"])
    assert loaded == [(expected, "cpu")]
    for other in (Splat3DGSRenderer(packed=True), Splat3DGSRenderer(backend="gsplat"), Splat2DGSRenderer()):
        assert other.lens_kernels({"opencv", "pinhole"}) == ()
    assert Splat3DGSRenderer().lens_kernels({"opencv", "pinhole"}) == (LENS_KERNELS["opencv"],)


def test_a_run_through_lenses_is_the_same_when_it_is_resumed_and_when_photographs_are_read_again(
    raw_scene: Path, tmp_path: Path
) -> None:
    def trained(name: str, checkpoint: Path | None = None, cache_gib: float | None = None) -> Path:
        config = run_config(raw_scene, tmp_path / name, steps=12)
        config.pipeline.datamanager.undistort = False
        config.pipeline.datamanager.cache_gib = cache_gib
        config.pipeline.model.renderer = Splat3DGSRenderer(sky_degree=1)
        config.steps_per_save, config.save_only_latest_checkpoint = 5, False
        config.load_checkpoint = checkpoint
        train.main(config)
        forget_writers()
        return config.get_checkpoint_dir()

    def parameters(folder: Path) -> dict[str, Any]:
        saved = torch.load(folder / "step-000000011.ckpt", weights_only=True)["pipeline"]
        return {name: value for name, value in saved.items() if isinstance(value, torch.Tensor)}

    whole = trained("whole")
    expected = parameters(whole)
    assert any(name.endswith("sky") for name in expected), sorted(expected)
    for other in (trained("resumed", whole / "step-000000005.ckpt"), trained("read again", cache_gib=0.0)):
        found = parameters(other)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), name


def test_what_cannot_be_trained_through_lenses_is_refused(raw_scene: Path) -> None:
    config: Any = run_config(raw_scene)
    config.pipeline.datamanager.undistort = False
    check_options(config)
    config.pipeline.model.renderer = Splat2DGSRenderer()
    with pytest.raises(OptionsError, match="undistort is False, expected True with Splat2DGSRenderer"):
        check_options(config)
    config.pipeline.model.renderer = Splat3DGSRenderer(packed=True)
    with pytest.raises(OptionsError, match="undistort is False, expected True with packed renders"):
        check_options(config)


def test_a_fisheye_of_half_of_all_directions_is_taken_only_as_it_is(tmp_path: Path, raw_scene: Path) -> None:
    def widen(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame.update(camera_model="OPENCV_FISHEYE", fl_x=14.0, fl_y=14.0, k1=0.0, k2=0.0, k3=0.0, k4=0.0)

    data = changed_copy(raw_scene, tmp_path, in_json(widen))
    with pytest.raises(DataError, match="sees half of all directions"):
        NerfstudioDataProvider(data).views()
    views = NerfstudioDataProvider(data, undistort=False).views()
    assert {view.lens for view in views} == {"opencv_fisheye"}


def test_pixels_beyond_the_turn_of_a_lens_count_nowhere(raw_scene: Path, tmp_path: Path) -> None:
    """r (1 - r² / 3) turns back at r = 1, whose place is 2/3 focal lengths from the middle."""

    def bend(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame.update(camera_model="OPENCV", fl_x=30.0, fl_y=30.0, k1=-1 / 3, k2=0.0, k3=0.0, k4=0.0)

    data = changed_copy(raw_scene, tmp_path, in_json(bend))
    config = run_config(data)
    config.pipeline.datamanager.undistort = False
    manager: Any = config.pipeline.datamanager.setup(device="cpu", test_mode="val")
    mask = manager.train_dataset.get_data(0)["mask"][..., 0]
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    distance = np.hypot(x - WIDTH / 2, y - HEIGHT / 2)
    assert mask[distance < 19.9].all()
    assert not mask[distance > 20.1].any()
    assert (distance > 20.1).any()


def test_a_lens_without_a_model_is_refused_as_it_is() -> None:
    with pytest.raises(DataError, match=r"fisheye624, through which Gaussians cannot be drawn.*undistort True"):
        check_lenses(camera((0.0,) * 12, CameraType.FISHEYE624), [Path("a.png")])


@pytest.mark.parametrize("lens", ["opencv", "fisheye"])
def test_depth_and_normals_through_a_lens_are_those_of_the_surface(lens: str, tmp_path: Path) -> None:
    folder = write_lens_scene(tmp_path / lens, lens, num_views=2, width=WIDTH, height=HEIGHT, num_points=50)
    meta = json.loads((folder / "transforms.json").read_text())
    meta["frames"][1]["transform_matrix"] = meta["frames"][0]["transform_matrix"]
    (folder / "transforms.json").write_text(json.dumps(meta))
    placed = {"orientation_method": "none", "center_method": "none", "auto_scale_poses": False}
    view = NerfstudioDataProvider(folder, undistort=False, eval_mode="all", **placed).views()[0]
    pose = near_poses(2)[0]
    _, distances = photograph(pose, MADE[lens], WIDTH, HEIGHT, samples=1)
    ray_depths = torch.from_numpy(distances).float()[None, ..., None]
    rays = pixel_rays(view)
    depths = z_depths(ray_depths, "ray", view)
    points = (depths * rays)[0] @ view.cam_to_worlds[0, :3, :3].T + view.cam_to_worlds[0, :3, 3]
    table = (points[..., 2].abs() < 1e-3) & (ray_depths[0, ..., 0] > 0)
    assert int(table.sum()) > 300, "points of the table lie in its plane"
    z = ray_depths * torch.nn.functional.normalize(rays, dim=-1)[..., 2:]
    torch.testing.assert_close(z_depths(z, "z", view), depths)
    normals = normals_of_depth(depths, view.Ks, view.world_to_cams, rays)[0]
    inner = torch.nn.functional.max_pool2d((~table).float()[None, None], 3, 1, 1)[0, 0] == 0
    inner[[0, -1]] = False
    inner[:, [0, -1]] = False
    assert int(inner.sum()) > 200
    assert float(normals[inner][:, 2].min()) > 0.999


@pytest.mark.slow
def test_every_lens_trains_as_well_as_a_pinhole(tmp_path: Path) -> None:
    found: dict[str, float] = {}
    for lens in MADE:
        data = write_lens_scene(tmp_path / lens, lens)
        config = SplatTrainerConfig(
            max_steps=400,
            output_dir=tmp_path / "runs" / lens,
            device="cpu",
            lpips=False,
            settings={"steps_per_eval_image": 0, "steps_per_eval_all_images": 0},
        )
        result = SplatTrainer(config, NerfstudioDataProvider(data, undistort=False)).run()
        found[lens] = float(np.mean([image.metrics["psnr"] for image in result.images()]))
        forget_writers()
    assert found["pinhole"] > 25
    assert min(found.values()) > found["pinhole"] - 0.3, found
