"""Depth and normals that a data set has: files, units, distortion, and what training makes of them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from PIL import Image

from splatkit_ns import methods
from splatkit_ns.errors import SplatkitError
from splatkit_ns.loss_fn import Splat2DGSLossFn, Splat3DGSLossFn
from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.loader.targets import as_served, read_depths, read_normals, target_files
from tests.plugin.helpers import make_pipeline, make_trainer, run_config
from tests.tiny_scene import corner_mask, tiny_views, write_tiny_scene

WIDTH, HEIGHT = 32, 24


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With masks, depth, and normals that are all (0, 0.6, -0.8)."""
    return write_tiny_scene(tmp_path_factory.mktemp("depth"), depth=True, normals=True, masks=True)


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "transforms.json"
    meta = json.loads(path.read_text())
    for frame in meta["frames"]:
        edit(frame)
    path.write_text(json.dumps(meta))


def first_step(scene: Path, loss: Any, downscale: int = 1, **options: Any) -> Any:
    """The context after one step without optimizers, and the true depth of its image in the run's world units."""
    pipeline = make_pipeline(scene, loss_fn=loss, **options)
    pipeline.model.parts.frames.downscale = downscale
    _, losses, _ = pipeline.get_train_loss_dict(0)
    sum(losses.values()).backward()
    context = pipeline.model.context
    index = int(context.image_name.removeprefix("frame_").removesuffix(".png"))
    scale = pipeline.datamanager.train_dataparser_outputs.dataparser_scale
    true = torch.from_numpy(tiny_views(8, WIDTH, HEIGHT)[index].depth) * scale
    return context, true


def test_normals_are_found_under_names_that_programs_write(scene: Path, tmp_path: Path) -> None:
    """With backslashes, in a file that begins with a byte order mark."""
    data = tmp_path / "data"
    shutil.copytree(scene, data)
    change(data, lambda frame: frame.update(normal_file_path=frame["normal_file_path"].replace("/", "\\")))
    (data / "transforms.json").write_bytes(b"\xef\xbb\xbf" + (data / "transforms.json").read_bytes())
    files = target_files(make_pipeline(data).datamanager, ["target_normals"])["target_normals"]
    assert len(files) == 6
    assert all(path.is_file() for path in files)


def test_depth_comes_in_world_units_with_unknown_pixels_marked(scene: Path) -> None:
    context, true = first_step(scene, Splat3DGSLossFn(depth_lambda=0.5))
    target = context.target_depths
    assert target.shape == (1, HEIGHT, WIDTH, 1)
    unknown = torch.isnan(target[0, ..., 0])
    assert torch.equal(unknown, true == 0)
    assert bool(unknown.any())
    torch.testing.assert_close(target[0, ..., 0][~unknown], true[~unknown], atol=6e-4, rtol=0)
    counts = ~unknown & torch.from_numpy(corner_mask(WIDTH, HEIGHT))
    rendered = context.rend_out.depths_expected[0, ..., 0]
    expected = 0.5 * (rendered - target[0, ..., 0])[counts].abs().mean() / context.scene_scale
    assert float(context.loss_terms["depth"]) == pytest.approx(float(expected), rel=1e-4)
    assert context.target_normals is None
    assert bool(torch.isfinite(context.training_state.params["means"].grad).all())


@pytest.mark.parametrize(("unit", "kind", "told"), [(0.001, "z", False), (1.0, "z", True), (1.0, "inverse", False)])
def test_depths_in_a_unit_that_is_hardly_right_are_told(
    scene: Path, unit: float, kind: Any, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_config(scene).pipeline
    config.datamanager.dataparser.depth_unit_scale_factor = unit
    config.model.loss_fn = Splat3DGSLossFn(depth_lambda=0.5, depth_kind=kind)
    config.setup(device="cpu", test_mode="val")
    text = " ".join(capsys.readouterr().out.split())
    assert ("times those of the seed points before its camera. Is --depth-unit-scale-factor" in text) == told


def test_normals_come_from_transforms_json(scene: Path) -> None:
    context, _ = first_step(scene, Splat2DGSLossFn(normal_lambda=0.5), renderer=methods.Splat2DGSRenderer())
    target = context.target_normals
    assert target.shape == (1, HEIGHT, WIDTH, 3)
    torch.testing.assert_close(target[0, 3, 4], torch.tensor([0.0, 0.6, -0.8]), atol=0.01, rtol=0)
    assert 0 < float(context.loss_terms["normal"]) < 1
    assert context.target_depths is None


def test_nothing_is_loaded_unless_it_is_wanted(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import splatkit_ns.plugin.data.loader.targets as targets

    def refuse(*_: Any) -> Any:
        raise AssertionError("no depth was asked for")

    monkeypatch.setattr(targets, "read_depths", refuse)
    context, _ = first_step(scene, Splat3DGSLossFn())
    assert context.target_depths is context.target_normals is None
    assert context.rend_out.depths is None


def test_at_lower_resolution_a_pixel_counts_where_all_that_it_averages_are_known(scene: Path) -> None:
    context, true = first_step(scene, Splat3DGSLossFn(depth_lambda=0.5), downscale=2)
    blocks = true.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).transpose(1, 2).flatten(2)
    known = (blocks > 0).all(-1)
    target = context.target_depths[0, ..., 0]
    assert torch.equal(torch.isfinite(target), known)
    torch.testing.assert_close(target[known], blocks.mean(-1)[known], atol=6e-4, rtol=0)
    assert context.Ks[0, 0, 2] == pytest.approx(WIDTH / 4)


def test_depth_along_rays_trains_to_the_same_as_depth_along_the_axis(scene: Path, tmp_path: Path) -> None:
    rays = write_tiny_scene(tmp_path, depth=True, masks=True)
    focal = WIDTH / 2 / math.tan(math.radians(22.5))
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    lengths = np.sqrt(1 + ((x - WIDTH / 2) ** 2 + (y - HEIGHT / 2) ** 2) / focal**2)
    for path in (rays / "depth").glob("*.png"):
        z = np.asarray(Image.open(path))
        path.unlink()
        np.save(path.with_suffix(".npy"), z * lengths)
    change(rays, lambda frame: frame.update(depth_file_path=frame["depth_file_path"].replace(".png", ".npy")))
    along_axis, _ = first_step(scene, Splat3DGSLossFn(depth_lambda=0.5), random_init=False)
    along_rays, _ = first_step(rays, Splat3DGSLossFn(depth_lambda=0.5, depth_kind="ray"), random_init=False)
    wrong, _ = first_step(rays, Splat3DGSLossFn(depth_lambda=0.5), random_init=False)
    assert along_axis.image_name == along_rays.image_name
    target = along_axis.target_depths.nan_to_num()
    scaled = along_rays.target_depths[0, ..., 0].nan_to_num() / torch.from_numpy(lengths).float()
    torch.testing.assert_close(scaled, target[0, ..., 0], atol=1e-5, rtol=0)
    assert float((wrong.target_depths.nan_to_num() - target).max()) > 0.02


def test_depth_pulls_gaussians_to_where_they_should_be(scene: Path, tmp_path: Path) -> None:
    errors: list[float] = []
    for weight in (0.0, 1.0):
        config = run_config(scene, tmp_path / str(weight), steps=60)
        config.pipeline.model.loss_fn = Splat3DGSLossFn(depth_lambda=weight)
        config.pipeline.model.random_init = True
        config.pipeline.model.num_random = 300
        config.pipeline.model.random_scale = 1.0
        trainer = make_trainer(config)
        trainer.train()
        pipeline = trainer.pipeline
        scale = pipeline.datamanager.train_dataparser_outputs.dataparser_scale
        camera, batch = pipeline.datamanager.fixed_indices_eval_dataloader[0]
        index = int(batch["image_name"].removeprefix("frame_").removesuffix(".png"))
        true = torch.from_numpy(tiny_views(8, WIDTH, HEIGHT)[index].depth) * scale
        depth = pipeline.eval().model.get_outputs_for_camera(camera)["depth"][..., 0]
        errors.append(float((depth - true)[true > 0].abs().mean()))
    assert errors[1] < 0.8 * errors[0], errors


class MisspeltTarget(Splat3DGSLossFn):
    wanted_targets = frozenset({"target_depth"})  # pyright: ignore[reportAssignmentType]


@pytest.mark.parametrize(
    ("loss", "edit", "fragment"),
    [
        (
            Splat3DGSLossFn(depth_lambda=0.1),
            lambda frame: frame.pop("depth_file_path"),
            r"has no depths, which the loss wants: .*loss-fn.depth-lambda is .*'depth_file_path'; .*, or set the",
        ),
        (
            Splat2DGSLossFn(normal_lambda=0.1),
            lambda frame: frame.pop("normal_file_path", None),
            r"has no normals, which the loss wants: .*loss-fn.normal-lambda is .*'normal_file_path'",
        ),
        (
            MisspeltTarget(),
            lambda frame: None,
            r"MisspeltTarget.wanted_targets has 'target_depth', expected names among target_depths, target_normals",
        ),
        (
            Splat3DGSLossFn(depth_lambda=0.1),
            lambda frame: frame.update(depth_file_path="depth/gone.png"),
            r"The file .*gone.png does not exist, which the data set names. Restore it",
        ),
    ],
    ids=["no depth", "no normals", "a misspelt target", "a file that is gone"],
)
def test_what_is_missing_is_told_before_training(
    tmp_path: Path, loss: Any, edit: Callable[[dict[str, Any]], Any], fragment: str
) -> None:
    folder = write_tiny_scene(tmp_path / "data", depth=True)
    change(folder, edit)
    config = run_config(folder, tmp_path / "out", method=methods.splatkit_2dgs)
    config.pipeline.model.loss_fn = loss
    with pytest.raises(SplatkitError, match=fragment):
        make_trainer(config)
    test = config.pipeline.setup(device="cpu", test_mode="test")
    assert test.model.is_stand_in, "looking at a trained model needs no depth"


def test_frames_with_and_without_normals_are_refused(scene: Path, tmp_path: Path) -> None:
    folder = write_tiny_scene(tmp_path, depth=True)
    change(folder, lambda frame: frame.update(normal_file_path="images/frame_00000.png") if "3" in frame["file_path"]
           else None)  # fmt: skip
    with pytest.raises(DataError, match=r"has no 'normal_file_path' for .*frame_00001.png, but for other frames"):
        make_pipeline(folder, loss_fn=Splat3DGSLossFn(normal_lambda=0.1))
    del scene


# ---------------------------------------------------------------------- files


def test_depth_files_of_16_bits_and_of_floats(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1500], [65535, 2]], np.uint16)).save(tmp_path / "d.png")
    depths = read_depths(tmp_path / "d.png", 0.001)
    np.testing.assert_allclose(depths[..., 0], [[np.nan, 1.5], [65.535, 0.002]], rtol=1e-6)
    np.save(tmp_path / "d.npy", np.array([[-1.0, np.nan, np.inf, 2.0]])[..., None])
    np.testing.assert_allclose(read_depths(tmp_path / "d.npy", 0.5)[..., 0], [[np.nan, np.nan, np.nan, 1.0]])
    Image.fromarray(np.array([[0.25, np.nan]], np.float32)).save(tmp_path / "d.tiff")
    np.testing.assert_allclose(read_depths(tmp_path / "d.tiff", 2.0)[..., 0], [[0.5, np.nan]])
    grey = np.array([[[7, 7, 7], [0, 0, 0]]], np.uint8)  # Depth Anything's --grayscale has three channels
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_allclose(read_depths(tmp_path / "grey.png", 1.0)[..., 0], [[7.0, np.nan]])


def test_normal_files_of_colours_and_of_floats(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[255, 128, 128], [0, 0, 0], [128, 0, 128]]], np.uint8)).save(tmp_path / "n.png")
    normals = read_normals(tmp_path / "n.png")
    np.testing.assert_allclose(normals[0, 0], [1, 0, 0], atol=0.01)
    assert np.isnan(normals[0, 1]).all()
    np.testing.assert_allclose(normals[0, 2], [0, -1, 0], atol=0.01)
    np.save(tmp_path / "n.npy", np.array([[[0.0, 0, -2.0], [np.nan, 0, 1], [0, 0, 0]]]))
    stored = read_normals(tmp_path / "n.npy")
    np.testing.assert_allclose(stored[0, 0], [0, 0, -1])
    assert np.isnan(stored[0, 1:]).all()


@pytest.mark.parametrize(
    ("name", "content", "fragment"),
    [
        ("d.png", b"not a picture", "d.png cannot be decoded. Restore it"),
        ("d.exr", b"v/1\x01", "d.exr cannot be decoded. This OpenCV reads no EXR: write it as a TIFF of 32-bit floats"),
        ("d.npy", b"not an array", "d.npy cannot be read"),
        ("d.npy", np.eye(3)[None], r"d.npy is in colours, expected grey values"),
        ("d.npy", np.zeros((2, 3, 4)), r"d.npy has shape \(2, 3, 4\), expected \(height, width\)"),
    ],
)
def test_broken_depth_files_are_named(tmp_path: Path, name: str, content: Any, fragment: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content)
    with pytest.raises(DataError, match=fragment):
        read_depths(tmp_path / name, 1.0)


def test_a_gray_normal_image_is_refused(tmp_path: Path) -> None:
    Image.new("L", (4, 3)).save(tmp_path / "n.png")
    with pytest.raises(DataError, match=r"n.png has shape \(3, 4\), expected \(height, width, 3\)"):
        read_normals(tmp_path / "n.png")


def camera(kind: CameraType = CameraType.PERSPECTIVE, distortion: Any = None, size: tuple[int, int] = (40, 30)) -> Any:
    cameras = Cameras(
        torch.eye(4)[None, :3], 30.0, 30.0, size[0] / 2, size[1] / 2, size[0], size[1],
        distortion_params=None if distortion is None else torch.tensor([distortion]), camera_type=kind,
    )  # fmt: skip
    return cameras[0].reshape(())


def test_images_of_another_size_are_brought_to_the_photographs() -> None:
    small = np.array([[1.0, 2.0], [3.0, np.nan]], np.float32)[..., None]
    found = as_served(small, camera(), camera(), Path("d.png"))
    assert found.shape == (30, 40, 1)
    assert found[3, 5, 0] == 1
    assert found[3, 35, 0] == 2
    assert found[25, 5, 0] == 3
    assert np.isnan(found[20:, 25:]).all()


@pytest.mark.parametrize(
    ("kind", "distortion"),
    [
        (CameraType.PERSPECTIVE, [-0.4, 0.05, 0.0, 0.0, 0.01, 0.0]),
        (CameraType.FISHEYE, [0.1, 0.01, 0.0, 0.0, 0.0, 0.0]),
    ],
    ids=["perspective", "fisheye"],
)
def test_distortion_is_taken_out_as_of_the_photograph(kind: CameraType, distortion: list[float]) -> None:
    """What a photograph shows at a pixel and what the depth image says there must stay together."""
    from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image

    stored = camera(kind, distortion)
    y, x = np.mgrid[:30, :40].astype(np.float32)
    values = 1 + x / 10 + y / 20
    K = stored.get_intrinsics_matrices().numpy()
    new_K, image, _ = _undistort_image(stored, np.array(distortion), {}, np.repeat(values[..., None], 3, 2), K)
    pinhole = camera(size=image.shape[1::-1])
    for name, number in (("fx", new_K[0, 0]), ("fy", new_K[1, 1]), ("cx", new_K[0, 2]), ("cy", new_K[1, 2])):
        setattr(pinhole, name, torch.tensor([float(number)]))
    found = as_served(values[..., None], stored, pinhole, Path("d.png"))[..., 0]
    inside = np.isfinite(found)
    inside[[0, -1]] = inside[:, [0, -1]] = False
    assert float(inside.mean()) > 0.7
    assert float(np.abs(found - image[..., 0])[inside].max()) < 0.1, "no more than the rounding to the nearest pixel"
    same = cv2.resize(values, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    assert float(np.abs(same - image[..., 0])[inside].max()) > 0.15, "the distortion is large enough to be noticed"


def test_cameras_of_other_kinds_are_refused() -> None:
    with pytest.raises(DataError, match="cameras of type fisheye624 cannot be used"):
        as_served(np.ones((30, 40, 1), np.float32), camera(CameraType.FISHEYE624, [0.1] * 12), camera(), Path("d.png"))
