"""Data sets that are not the plain case: distorted lenses, images of several sizes, scaled images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nerfstudio.scripts import train
from nerfstudio.scripts.render import DatasetRender
from PIL import Image

from tests.plugin.helpers import make_trainer, run_config
from tests.tiny_scene import write_tiny_scene


def rewrite(folder: Path, **changes: Any) -> dict[str, Any]:
    path = folder / "transforms.json"
    meta = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(meta))
    return meta


@pytest.mark.parametrize("model", ["OPENCV", "OPENCV_FISHEYE"])
def test_distorted_images_are_made_pinhole_images(tmp_path: Path, model: str) -> None:
    data = write_tiny_scene(tmp_path / "data", width=64, height=48, masks=True)
    rewrite(data, camera_model=model, k1=0.1, k2=0.01)
    config = run_config(data, tmp_path / "out", steps=4)
    config.steps_per_eval_image = config.steps_per_eval_all_images = 2
    trainer = make_trainer(config)
    trainer.train()
    manager = trainer.pipeline.datamanager
    for index, batch in enumerate(manager.cached_train):
        camera = manager.train_cameras[index]
        height, width = int(camera.height), int(camera.width)
        assert batch["image"].shape == (height, width, 3)
        assert batch["mask"].shape == (height, width, 1)
        assert not bool(batch["mask"][0, 0])
    assert float(manager.train_cameras.fx[0]) != pytest.approx(manager.train_dataparser_outputs.cameras.fx[0].item())


def test_images_of_several_sizes(tmp_path: Path) -> None:
    data = write_tiny_scene(tmp_path / "data")
    meta = json.loads((data / "transforms.json").read_text())
    intrinsics = {name: meta.pop(name) for name in ("w", "h", "fl_x", "fl_y", "cx", "cy")}
    for number, frame in enumerate(meta["frames"]):
        factor = 1 + number % 2
        frame.update({name: value * factor for name, value in intrinsics.items()})
        with Image.open(data / frame["file_path"]) as image:
            resized = image.resize((32 * factor, 24 * factor))
        resized.save(data / frame["file_path"])
    (data / "transforms.json").write_text(json.dumps(meta))
    trainer = make_trainer(run_config(data, tmp_path / "out", steps=8))
    trainer.train()
    metrics = trainer.pipeline.get_average_eval_image_metrics()
    assert metrics["psnr"] > 10


def test_images_may_be_scaled_when_they_are_loaded(tmp_path: Path) -> None:
    data = write_tiny_scene(tmp_path / "data", width=64, height=48, masks=True)
    config = run_config(data, tmp_path / "out", steps=2)
    config.pipeline.datamanager.camera_res_scale_factor = 0.5
    trainer = make_trainer(config)
    trainer.train()
    batch = trainer.pipeline.datamanager.cached_train[0]
    assert batch["image"].shape == (24, 32, 3)
    assert batch["mask"].shape == (24, 32, 1)


def test_ns_render_dataset_writes_every_image(trained: Path, tmp_path: Path) -> None:
    DatasetRender(
        load_config=trained, output_path=tmp_path, split="train+test", rendered_output_names=["rgb", "gt-rgb", "depth"]
    ).main()
    for split, count in (("train", 6), ("test", 2)):
        for name in ("rgb", "gt-rgb", "depth"):
            pictures = list((tmp_path / split / name).iterdir())
            assert len(pictures) == count
            with Image.open(pictures[0]) as image:
                assert image.size == (32, 24)


def test_the_camera_optimizer_trains_and_resumes(tiny_scene: Path, tmp_path: Path) -> None:
    config = run_config(tiny_scene, tmp_path, steps=4)
    config.pipeline.model.camera_optimizer.mode = "SO3xR3"
    train.main(config)
    again = run_config(tiny_scene, tmp_path, steps=6)
    again.pipeline.model.camera_optimizer.mode = "SO3xR3"
    again.timestamp = "again"
    again.load_dir = config.get_checkpoint_dir()
    trainer = make_trainer(again)
    trainer.train()
    assert trainer.step == 5
    assert float(trainer.pipeline.model.camera_optimizer.pose_adjustment.detach().abs().max()) > 0
