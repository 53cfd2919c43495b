"""What nerfstudio's viewer shows of the training images, without their being decoded again."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.viewer import Viewer
from torchvision.transforms.functional import resize

from splatkit_ns.plugin.data.loader.dataset import SplatkitDataset
from splatkit_ns.plugin.viewer.thumbnails import thumbnail
from tests.plugin.helpers import make_trainer, run_config
from tests.tiny_scene import write_tiny_scene


class Shown:
    """Stands for viser's scene, and keeps the cameras that it is given."""

    def __init__(self) -> None:
        self.cameras: list[dict[str, Any]] = []

    def add_camera_frustum(self, **camera: Any) -> Any:
        self.cameras.append(camera)
        return SimpleNamespace(on_click=lambda callback: None)


def viewer() -> tuple[Any, list[dict[str, Any]]]:
    """nerfstudio's viewer without its server, and where it puts cameras."""
    made: Any = Viewer.__new__(Viewer)
    made.config = ViewerConfig()
    made.viser_server = SimpleNamespace(scene=Shown())
    return made, made.viser_server.scene.cameras


def refuse(*_: Any) -> Any:
    raise AssertionError("an image is decoded again")


@pytest.mark.parametrize("kind", ["uint8", "float32"])
@pytest.mark.parametrize("rgba", [False, True])
def test_the_viewer_shows_the_same_without_decoding_images_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, rgba: bool
) -> None:
    scene = write_tiny_scene(tmp_path / "scene", width=160, height=120, rgba=rgba)
    config = run_config(scene, tmp_path, steps=1)
    config.pipeline.datamanager.cache_images_type = kind
    trainer = make_trainer(config)
    datamanager = trainer.pipeline.datamanager
    usual, expected = viewer()
    usual.init_scene(datamanager.train_dataset, "training", datamanager.eval_dataset)
    trainer.viewer_state, shown = viewer()
    _ = datamanager.cached_train, datamanager.cached_eval
    monkeypatch.setattr(SplatkitDataset, "get_numpy_image", refuse)
    trainer._init_viewer_state()  # type: ignore[reportPrivateUsage]
    assert len(shown) == len(expected) == len(datamanager.train_dataset)
    for ours, theirs in zip(shown, expected, strict=True):
        image, reference = ours.pop("image"), theirs.pop("image")
        assert image.dtype == reference.dtype == np.uint8
        assert image.shape == reference.shape == (100, 133, 3)
        assert int(np.abs(image.astype(int) - reference).max()) <= 1, "sums of floats are rounded in another order"
        assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_images_that_are_not_in_memory_are_shown_too(tiny_scene: Path, tmp_path: Path) -> None:
    """Only those that the viewer shows are read for it, ahead of their turn; no thread is left."""
    config = run_config(tiny_scene, tmp_path, steps=1)
    config.pipeline.datamanager.cache_gib = 0.0
    trainer = make_trainer(config)
    dataset = trainer.pipeline.datamanager.train_dataset
    trainer.viewer_state, shown = viewer()
    trainer.viewer_state.config.max_num_display_images = 3
    before = threading.active_count()
    trainer._init_viewer_state()  # type: ignore[reportPrivateUsage]
    assert threading.active_count() == before
    assert len(shown) == 3
    for camera, index in zip(shown, (0, 2, 5), strict=True):
        reference = resize(dataset[index]["image"].mul(255).byte().permute(2, 0, 1), [100], antialias=None)  # type: ignore[reportArgumentType]
        assert int(np.abs(camera["image"].astype(int) - reference.permute(1, 2, 0).numpy()).max()) <= 1


@pytest.mark.parametrize("size", [(333, 777), (1200, 90), (100, 150), (9, 8)])
def test_any_size(size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
    reference = resize(image.permute(2, 0, 1), [100], antialias=None).permute(1, 2, 0)  # type: ignore[reportArgumentType]
    assert float((thumbnail(image) - reference).abs().max()) <= 1


def test_images_are_loaded_before_the_viewer_shows_them(tiny_scene: Path, tmp_path: Path) -> None:
    trainer: Any = make_trainer(run_config(tiny_scene, tmp_path, steps=1))
    found: list[bool] = []
    trainer._init_viewer_state = lambda: found.append("cached_train" in trainer.pipeline.datamanager.__dict__)
    trainer.train()
    assert found == [True]
