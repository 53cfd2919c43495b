"""``ns-render`` with camera paths of every type, with crop boxes, and of a data set beside its photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.scripts.render import DatasetRender, RenderCameraPath
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from splatkit_ns.cameras import View
from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.data.cameras import pinhole_view
from splatkit_ns.plugin.data.loader.dataset import SplatkitDataset
from splatkit_ns.plugin.model import SplatkitModel
from splatkit_ns.plugin.pipeline import SplatkitPipeline
from splatkit_ns.renderer import RenderOptions
from tests.tiny_scene import DISTANCE, write_tiny_scene

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def opened(config: Path) -> SplatkitPipeline:
    _, pipeline, _, _ = eval_setup(config)
    assert isinstance(pipeline, SplatkitPipeline)
    return pipeline


def render_path(config: Path, folder: Path, camera_type: str, crop: dict[str, Any] | None = None) -> Pixels:
    """The picture of a path of one camera, the first held-out one of the run."""
    pose = np.eye(4)
    pose[:3] = opened(config).datamanager.eval_dataset.cameras.camera_to_worlds[0].numpy()
    path = {
        "camera_type": camera_type, "render_height": 24, "render_width": 48, "seconds": 1, "crop": crop,
        "camera_path": [{"camera_to_world": pose.flatten().tolist(), "fov": 60.0, "aspect": 2.0}],
    }  # fmt: skip
    (folder / "path.json").write_text(json.dumps(path))
    RenderCameraPath(
        load_config=config, camera_path_filename=folder / "path.json", output_path=folder / "path.mp4",
        output_format="images", image_format="png",
    ).main()  # fmt: skip
    return np.asarray(Image.open(folder / "path" / "00000.png"))


@pytest.mark.usefixtures("some_ffmpeg")
@pytest.mark.parametrize("camera_type", ["perspective", "equirectangular", "fisheye"])
@torch.no_grad()
def test_a_camera_path_is_drawn_through_its_lens(trained: Path, tmp_path: Path, camera_type: str) -> None:
    found = render_path(trained, tmp_path, camera_type)
    pipeline = opened(trained)
    model: SplatkitModel = pipeline.model
    centre = pinhole_view(pipeline.datamanager.eval_dataset.cameras[0:1]).cam_to_worlds
    focal = 12 / np.tan(np.pi / 6)
    K = torch.tensor([[focal, 0, 24], [0, focal, 12], [0, 0, 1]], dtype=torch.float32)[None]
    view = View(centre, K, 48, 24)
    if camera_type == "equirectangular":
        view = view.panorama()
    elif camera_type == "fisheye":
        view = View(centre, K, 48, 24, lens="opencv_fisheye")
    options = RenderOptions(sh_degree=model.sh_degree_now())
    expected = model.renderer.render(model.training_state, view, options).renders[0].clamp(0, 1).numpy()
    assert found.shape == (24, 48, 3)
    assert np.abs(found / 255 - expected).max() < 0.51 / 255 + 1e-6
    assert found.std() > 5


@pytest.mark.usefixtures("some_ffmpeg")
def test_stereo_panoramas_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(SplatkitError, match="omnidirectionalstereo_l cannot be drawn: Gaussians are seen from one po"):
        render_path(trained, tmp_path, "omnidirectional")


@pytest.mark.usefixtures("some_ffmpeg")
def test_what_a_crop_box_leaves_out_has_its_colour(trained: Path, tmp_path: Path) -> None:
    scale = json.loads((trained.parent / "dataparser_transforms.json").read_text())["scale"]
    crop: dict[str, Any] = {
        "crop_bg_color": {"r": 255, "g": 128, "b": 0}, "crop_center": [0.0, 0.0, 0.0],
        "crop_scale": [0.8 * scale] * 3, "crop_rot": [0.0] * 3,
    }  # fmt: skip
    cropped = render_path(trained, tmp_path, "perspective", crop)
    assert cropped[0, 0].tolist() == [255, 128, 0]
    whole = render_path(trained, tmp_path, "perspective")
    assert whole[0, 0].tolist() == [0, 0, 0]
    shown = (cropped != cropped[0, 0]).any(-1).sum()
    assert 0 < shown < (whole != 0).any(-1).sum()


def photographs(folder: Path, **edits: Any) -> Path:
    """The scene of the run, with other pictures or another lens."""
    data = write_tiny_scene(folder, rgba=edits.pop("rgba", False))
    meta = json.loads((data / "transforms.json").read_text())
    (data / "transforms.json").write_text(json.dumps({**meta, **edits}))
    return data


def render_data(config: Path, data: Path, output: Path, *names: str) -> list[list[Pixels]]:
    """The pictures of the training images, for each output."""
    DatasetRender(
        load_config=config, data=data, output_path=output, split="train", rendered_output_names=list(names),
        image_format="png",
    ).main()  # fmt: skip
    return [
        [np.asarray(Image.open(path)) for path in sorted((output / "train" / name).glob("*.png"))] for name in names
    ]


def test_photographs_of_a_lens_lie_beside_renders_of_the_same_camera(trained: Path, tmp_path: Path) -> None:
    data = photographs(tmp_path / "data", k1=-0.9, k2=0.3)
    renders, shown = render_data(trained, data, tmp_path / "out", "rgb", "gt-rgb")
    config = yaml.load(trained.read_text(), Loader=yaml.Loader)
    config.pipeline.datamanager.data = data
    manager = config.pipeline.datamanager.setup(device="cpu", test_mode="test")
    assert len(renders) == len(shown) == 6
    for index, (render, photograph) in enumerate(zip(renders, shown, strict=True)):
        camera, batch = manager.train_view(index)
        assert photograph.shape == render.shape == (camera.height.item(), camera.width.item(), 3)
        assert np.abs(photograph.astype(int) - batch["image"].numpy()).max() <= 1, "as training has it"
    stored = np.asarray(Image.open(data / "images/frame_00001.png"))
    assert np.abs(shown[0].astype(int) - stored).max() > 30


def test_transparent_photographs_lie_on_the_background_of_the_renders(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run" / "config.yml"
    run.parent.mkdir()
    run.write_text(trained.read_text().replace("background_color: auto", "background_color: white"))
    data = photographs(tmp_path / "data", rgba=True)
    config = yaml.load(run.read_text(), Loader=yaml.Loader)
    assert config.pipeline.model.background_color == "white"
    renders, shown, cut_out = render_data(run, data, tmp_path / "out", "rgb", "gt-rgb", "rgba")
    assert shown[0][0, 0].tolist() == [255, 255, 255]
    assert renders[0][0, 0].min() > 240
    rgba = np.asarray(Image.open(data / "images/frame_00001.png")).astype(float)
    alpha = rgba[..., 3:] / 255
    assert np.abs(shown[0] - (alpha * rgba[..., :3] + (1 - alpha) * 255)).max() <= 1
    assert cut_out[0].shape == (24, 32, 4)
    alpha = cut_out[0][..., 3:] / 255
    assert float(alpha.min()) == 0
    assert np.abs(alpha * cut_out[0][..., :3] + (1 - alpha) * 255 - renders[0]).max() <= 2


def test_a_photograph_outside_training_has_three_channels(tmp_path: Path, trained: Path) -> None:
    config = yaml.load(trained.read_text(), Loader=yaml.Loader)
    config.pipeline.datamanager.data = photographs(tmp_path / "data", rgba=True)
    dataset = config.pipeline.datamanager.setup(device="cpu", test_mode="test").train_dataset
    assert isinstance(dataset, SplatkitDataset)
    assert dataset[0]["image"].shape == (24, 32, 3)
    assert dataset.get_data(0)["image"].shape == (24, 32, 4), "training composes on random backgrounds"
    assert float(dataset.cameras.camera_to_worlds[:, :, 3].norm(dim=1).max()) < DISTANCE
