"""A run whose images do not fit into memory is the same run, and its threads never outlive it."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.loader.dataset import SplatkitDataset
from splatkit_ns.plugin.data.sampling.dealing import DealtImages
from splatkit_ns.plugin.datamanager import SplatkitDatamanager
from splatkit_ns.plugin.run.ending.signals import StoppedBySignal
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.plugin.run.parts.run_data import RunData
from splatkit_ns.ranks import Ranks
from splatkit_ns.splat import read_checkpoint
from tests.faults.children import PATIENCE, Child
from tests.faults.runs import CHEAP, MAX_STEPS, At, differences, make_config, make_trainer, send, train
from tests.tiny_scene import write_tiny_scene

NOTHING_KEPT: dict[str, Any] = {"data_cache_gib": 0.0}


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Generator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("splatkit-images")] == []


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with distortion, masks and depth; every fourth is held out."""
    folder = write_tiny_scene(tmp_path_factory.mktemp("photographs"), num_views=12, masks=True, depth=True)
    content = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").write_text(json.dumps({**content, "k1": 0.1, "k2": -0.02, "p1": 0.0, "p2": 0.0}))
    return folder


def options(**others: Any) -> dict[str, Any]:
    return {
        "model_loss_fn": Splat3DGSLossFn(depth_lambda=0.1), "steps_per_save": 1, "save_only_latest_checkpoint": False,
        **others,
    }  # fmt: skip


def last(folder: Path) -> dict[str, Any]:
    return read_checkpoint(checkpoint_files.path_of(folder, MAX_STEPS - 1))


@pytest.fixture(scope="module")
def cached(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a run with all images in memory, one of each step."""
    trainer = train(make_config(photographs, tmp_path_factory.mktemp("cached"), **options()))
    assert not trainer.pipeline.datamanager.cached_train.streams
    assert not trainer.pipeline.datamanager.cached_eval.streams
    return trainer.checkpoint_dir


def test_a_streamed_run_ends_with_the_same_bits(photographs: Path, tmp_path: Path, cached: Path) -> None:
    """With depths, masks, undistortion, lower resolutions at the start, and evaluations meanwhile."""
    trainer = train(make_config(photographs, tmp_path, **options(**NOTHING_KEPT)))
    data = trainer.pipeline.datamanager
    assert data.cached_train.num_kept == data.cached_eval.num_kept == 0
    assert differences(last(cached), last(trainer.checkpoint_dir)) == []
    batch = data.cached_train[0]
    assert batch["mask"].shape == batch["target_depths"].shape == (*batch["image"].shape[:2], 1)


@pytest.mark.parametrize("cut", [5, 22])
def test_a_run_with_some_images_in_memory_goes_on_from_a_cached_one(
    photographs: Path, tmp_path: Path, cached: Path, cut: int
) -> None:
    image_bytes = 31 * 23 * (3 + 1 + 4)
    config = make_config(
        photographs,
        tmp_path,
        load_checkpoint=checkpoint_files.path_of(cached, cut),
        **options(data_cache_gib=8.5 * image_bytes / 2**30),
    )
    trainer = train(config)
    data = trainer.pipeline.datamanager
    assert 0 < data.cached_train.num_kept < len(data.cached_train)
    budget = data.cached_train.budget
    assert data.cached_eval.budget is budget
    assert budget.used + budget.reserved <= budget.limit == round(8.5 * image_bytes)
    assert differences(last(cached), last(trainer.checkpoint_dir)) == []


@pytest.mark.parametrize("strategy", ["random", "fps"])
def test_looking_ahead_does_not_change_the_order(scene: Path, tmp_path: Path, strategy: Any) -> None:
    """Over several rounds, with the images of each round read before they are drawn."""
    orders: list[list[str]] = []
    for number, kept in enumerate(({}, NOTHING_KEPT)):
        chosen = {"data_train_cameras_sampling_strategy": strategy, "data_fps_reset_every": 8, **CHEAP, **kept}
        data = make_trainer(make_config(scene, tmp_path / str(number), **chosen)).pipeline.datamanager
        orders.append([data.next_train(step)[1]["image_name"] for step in range(40)])
        data.close()
    assert orders[0] == orders[1]
    assert len(set(orders[0])) == 11


class HostCopies(dict[int, Any]):
    """In place of `SideCopies`, without a GPU."""

    def start(self, batches: dict[int, Any]) -> None:
        self.clear()
        self.update(batches)

    def take(self, index: int) -> Any:
        return self.pop(index, None)


@pytest.mark.parametrize("at_a_step", [1, 2])
def test_photographs_that_have_been_copied_to_the_gpu_are_not_read_again(
    at_a_step: int, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_trainer(make_config(scene, tmp_path, **NOTHING_KEPT)).pipeline.datamanager
    source: Any = data if at_a_step == 1 else DealtImages(data, Ranks.current(), at_a_step)
    copies: Any = HostCopies()
    data._copies, batches, read = copies, data.cached_train, list[int]()
    get_data, steps = data.train_dataset.get_data, 4 * len(data.train_dataset)

    def noted(index: int, **options: Any) -> Any:
        read.append(index)
        return get_data(index, **options)

    monkeypatch.setattr(data.train_dataset, "get_data", noted)
    monkeypatch.setattr(batches, "is_ready", lambda index: True)
    for step in range(steps):
        source.next_train(step)
    data.close()
    assert len(copies) == at_a_step
    assert len(read) <= steps + batches._window + at_a_step


def test_views_that_densification_draws_are_read_ahead(scene: Path, tmp_path: Path) -> None:
    """Together, not one after the other; and the images of the next steps stay wanted."""
    data = make_trainer(make_config(scene, tmp_path, **CHEAP, **NOTHING_KEPT)).pipeline.datamanager
    source = RunData(data, data)  # type: ignore[arg-type]  # renders nothing here
    drawn = [index for index in range(11) if index not in data.train_unseen_cameras[:2]][:1]
    source.expect_views(drawn)
    expected = {*drawn, data.train_unseen_cameras[0]}
    end = time.monotonic() + PATIENCE
    while not all(data.cached_train.is_ready(index) for index in expected) and time.monotonic() < end:
        time.sleep(0.001)
    assert all(data.cached_train.is_ready(index) for index in expected)
    data.close()


def test_a_damaged_image_that_is_met_late(photographs: Path, tmp_path: Path, cached: Path) -> None:
    """One message; the steps before it are saved, and the run goes on with that image when it is whole again."""
    trainer = make_trainer(make_config(photographs, tmp_path / "one", **options(**NOTHING_KEPT)))
    order = trainer.pipeline.datamanager.sampler_state()["train_unseen_cameras"]
    path = Path(trainer.pipeline.datamanager.train_dataset.image_filenames[order[6]])
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=rf"The image {path} cannot be decoded: .* Restore it, or take it out"):
            trainer.train()
    finally:
        path.write_bytes(whole)
    folder = trainer.checkpoint_dir
    assert checkpoint_files.checkpoint_paths(folder)[-1] == checkpoint_files.path_of(folder, 5)
    resumed = make_config(photographs, tmp_path / "two", load_dir=trainer.checkpoint_dir, **options(**NOTHING_KEPT))
    assert differences(last(cached), last(train(resumed).checkpoint_dir)) == []


def test_a_signal_while_images_are_read_ahead(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, **CHEAP, **NOTHING_KEPT)
    with pytest.raises(StoppedBySignal):
        train(config, At(9, send(signal.SIGINT)))
    assert checkpoint_files.checkpoint_paths(config.get_checkpoint_dir())[-1].name == "step-000000008.ckpt"


def load_images(config: Any, read: Path) -> None:
    """Set a run up, with Ctrl+C when the third image is read."""
    real = SplatkitDataset.get_numpy_image

    def reading(self: SplatkitDataset, image_idx: int) -> Any:
        with read.open("a") as file:
            file.write(f"{image_idx}\n")
        if len(read.read_text().split()) == 3:
            send(signal.SIGINT)()
        return real(self, image_idx)

    SplatkitDataset.get_numpy_image = reading
    make_trainer(config)


def test_ctrl_c_while_images_are_loaded(scene: Path, tmp_path: Path) -> None:
    """The images that have not been begun are not read any more."""
    read = tmp_path / "read"
    config = make_config(scene, tmp_path, data_max_thread_workers=1, **CHEAP)
    child = Child(load_images, tmp_path / "log", config=config, read=read)
    assert child.wait() == 130, child.text()
    assert "SIGINT: stopped before training began." in child.text()
    assert 3 <= len(read.read_text().split()) < 10


def test_only_the_cameras_are_wanted(
    photographs: Path, tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cameras of undistorted images are known before any is decoded."""
    config = make_config(photographs, tmp_path).pipeline.datamanager
    data: SplatkitDatamanager = config.setup(device="cpu", test_mode="val")
    before = data.train_dataset.stored_cameras.fx.clone()
    refuse = pytest.fail
    with monkeypatch.context() as context:
        context.setattr(SplatkitDataset, "get_numpy_image", lambda *_: refuse("an image is decoded"))
        cameras = data.train_dataset.cameras
        sizes = [(int(w), int(h)) for w, h in zip(cameras.width, cameras.height, strict=True)]
    assert not torch.equal(cameras.fx, before)
    assert sizes == [tuple(batch["image"].shape[1::-1]) for batch in data.read_train_images()]
