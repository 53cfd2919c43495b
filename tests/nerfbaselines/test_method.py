"""The methods as NerfBaselines uses them: trained, saved, loaded, resumed and rendered, with its kind of data.

Its own ``test-method`` does the same and more; what needs the package is skipped without it.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from splatkit_ns.errors import SplatkitError
from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.nerfbaselines import method as methods
from splatkit_ns.nerfbaselines import spec
from splatkit_ns.nerfbaselines.dataset import opaque, write_dataset
from splatkit_ns.nerfbaselines.method import Splatkit2DGS, Splatkit3DGSADC, SplatkitMethod
from tests.plugin.test_methods import ENTRY_POINTS
from tests.tiny_scene import focal_length, tiny_gaussians, tiny_views

WIDTH, HEIGHT = 32, 24
SHORT = {"max_num_iterations": 40, "machine.device_type": "cpu", "pipeline.model.sh-degree-interval": "10"}


@dataclass
class Cameras:
    """Cameras as NerfBaselines has them; one camera has no first dimension."""

    poses: np.ndarray[Any, Any]
    intrinsics: np.ndarray[Any, Any]
    camera_models: np.ndarray[Any, Any]
    image_sizes: np.ndarray[Any, Any]

    def __getitem__(self, index: int) -> Cameras:
        return Cameras(*(value[index] for value in vars(self).values()))

    def item(self) -> Cameras:
        return self


@pytest.fixture(scope="module")
def dataset() -> dict[str, Any]:
    """Ten pictures, in a frame that is far from that of training."""
    views = tiny_views(10, WIDTH, HEIGHT)
    poses = np.stack([view.cam_to_world for view in views])
    poses[:, :, 1:3] *= -1  # OpenCV's axes
    poses[:, :3, 3] = 5 * poses[:, :3, 3] + [100, 20, 3]
    focal = focal_length(WIDTH)
    count = len(views)
    return {
        "cameras": Cameras(
            poses[:, :3].astype(np.float32), np.tile([focal, focal, WIDTH / 2, HEIGHT / 2], (count, 1)),
            np.zeros(count, np.int32), np.tile([WIDTH, HEIGHT], (count, 1)),
        ),
        "images": [np.round(255 * view.rgb).astype(np.uint8) for view in views],
        "masks": None,
        "points3D_xyz": 5 * tiny_gaussians().means.detach().numpy() + [100, 20, 3],
        "points3D_rgb": np.full((48, 3), 128, np.uint8),
        "metadata": {"background_color": None},
        "truth": views,
    }  # fmt: skip


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.allclose(a[key], b[key], atol=1e-5, rtol=1e-5) for key in a)


def test_training_saving_loading_and_going_on(dataset: dict[str, Any], tmp_path: Path) -> None:
    camera = dataset["cameras"][3]
    whole = Splatkit3DGSADC(train_dataset=dataset, config_overrides=SHORT)
    info = whole.get_info()
    assert (info["num_iterations"], info["loaded_step"]) == (40, None)
    with pytest.raises(SplatkitError, match="nothing to save before the first step"):
        whole.save(str(tmp_path / "0"))
    metrics = [whole.train_iteration(step) for step in range(20)]
    assert [sorted(each) for each in metrics] == [["loss", "num_gaussians"] if i % 10 == 9 else [] for i in range(20)]
    assert metrics[19]["loss"] < metrics[9]["loss"]
    whole.save(str(tmp_path / "20"))
    picture = whole.render(camera)
    assert {name: image.shape for name, image in picture.items()} == {
        "color": (HEIGHT, WIDTH, 3), "depth": (HEIGHT, WIDTH), "accumulation": (HEIGHT, WIDTH),
    }  # fmt: skip
    assert whole.render(camera, options={"outputs": ("color",)}).keys() == {"color"}

    loaded = Splatkit3DGSADC(checkpoint=str(tmp_path / "20"))
    assert loaded.get_info()["loaded_step"] == 20
    assert loaded.get_info()["num_iterations"] == 40, "overrides are in the checkpoint"
    assert equal(loaded.render(camera), picture)
    loaded.save(str(tmp_path / "again"))
    loaded.save(str(tmp_path / "20"))
    for path in (tmp_path / "20").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(SplatkitError, match="without a data set"):
        loaded.train_iteration(20)

    for step in range(20, 40):
        whole.train_iteration(step)
    resumed = Splatkit3DGSADC(checkpoint=str(tmp_path / "20"), train_dataset=dataset)
    assert equal(resumed.render(camera), picture)
    with pytest.raises(SplatkitError, match=r"Step 0 was asked for, but the next one is 20"):
        resumed.train_iteration(0)
    for step in range(20, 40):
        resumed.train_iteration(step)
    end = whole.render(camera)
    assert equal(resumed.render(camera), end), "the random numbers go on, too"
    info = resumed.get_info()
    assert (info["loaded_step"], info["loaded_checkpoint"]) == (20, str(tmp_path / "20"))
    assert not equal(end, picture)
    truth = dataset["truth"][3]
    assert np.abs(end["color"] - truth.rgb).mean() < 0.08, "the camera is that of the picture"
    solid = truth.alpha > 0.9
    assert np.median(np.abs(end["depth"][solid] / truth.depth[solid] / 5 - 1)) < 0.2, "in units of the data set"
    folder = whole._folder
    whole.close()
    resumed.close()
    assert not folder.exists()


def test_modules_are_told_of_the_end_of_training_once(dataset: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(Splat3DGSLossFn, "post_train", lambda self, step: told.append(step))
    model = Splatkit3DGSADC(train_dataset=dataset, config_overrides={**SHORT, "max_num_iterations": 3})
    for step in range(3):
        assert not told
        model.train_iteration(step)
    assert told == [3]
    model.close()
    assert told == [3]


def test_discs(dataset: dict[str, Any], tmp_path: Path) -> None:
    model = Splatkit2DGS(train_dataset=dataset, config_overrides=SHORT)
    for step in range(3):
        model.train_iteration(step)
    model.save(str(tmp_path / "3"))
    camera = dataset["cameras"][0]
    assert equal(Splatkit2DGS(checkpoint=str(tmp_path / "3")).render(camera), model.render(camera))
    with pytest.raises(SplatkitError, match=r"json is of the method splatkit-2dgs, expected one of splatkit-3dgs-adc"):
        Splatkit3DGSADC(checkpoint=str(tmp_path / "3"))
    model.close()


def test_a_sky_is_in_the_checkpoint(dataset: dict[str, Any], tmp_path: Path) -> None:
    overrides = {**SHORT, "pipeline.model.renderer.sky-degree": 1, "pipeline.model.renderer.sky-lr": 0.1}
    model = Splatkit3DGSADC(train_dataset=dataset, config_overrides=overrides)
    for step in range(5):
        model.train_iteration(step)
    model.save(str(tmp_path))
    camera = dataset["cameras"][0]
    picture = model.render(camera)
    model.close()
    assert equal(Splatkit3DGSADC(checkpoint=str(tmp_path)).render(camera), picture)
    free = picture["accumulation"] < 0.1
    assert free.any()
    assert not np.allclose(picture["color"][free], 0.5, atol=0.05), "the sky has learnt"
    with pytest.raises(SplatkitError, match=r"Renderer\.sky has shape \(4, 3\), expected \(9, 3\)"):
        Splatkit3DGSADC(checkpoint=str(tmp_path), config_overrides={"pipeline.model.renderer.sky-degree": 2})


def test_what_cannot_be_used(dataset: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SplatkitError, match="needs a data set to train on, or a checkpoint"):
        Splatkit3DGSADC()
    with pytest.raises(SplatkitError, match=r"no 'shdegree'; did you mean sh_degree\?"):
        Splatkit3DGSADC(train_dataset=dataset, config_overrides={"pipeline.model.shdegree": 2})
    with pytest.raises(SplatkitError, match=r"splatkit\.json cannot be read"):
        Splatkit3DGSADC(checkpoint=str(tmp_path))
    grey = {**dataset, "metadata": {"background_color": np.array([128, 128, 128], np.uint8)}}
    with pytest.raises(SplatkitError, match="expected black or white"):
        Splatkit3DGSADC(train_dataset=grey, config_overrides=SHORT)
    (tmp_path / "a").mkdir()
    bent = {**dataset, "cameras": Cameras(**{**vars(dataset["cameras"]), "camera_models": np.ones(10, np.int32)})}
    with pytest.raises(SplatkitError, match="no pinhole camera"):
        write_dataset(bent, tmp_path / "a")


def test_masks_are_files_that_frames_name_and_without_masks_there_is_no_folder(
    dataset: dict[str, Any], tmp_path: Path
) -> None:
    plain, masked = tmp_path / "plain", tmp_path / "masked"
    plain.mkdir()
    masked.mkdir()
    write_dataset(dataset, plain)
    assert not (plain / "masks").exists(), "nerfstudio's data parser would say that they are not used"
    left = np.zeros((HEIGHT, WIDTH), bool)
    left[:, : WIDTH // 2] = True
    write_dataset({**dataset, "masks": [left] * len(dataset["images"])}, masked)
    frames = json.loads((masked / "transforms.json").read_text())["frames"]
    assert len(frames) == len(dataset["images"])
    for frame in frames:
        np.testing.assert_array_equal(np.asarray(Image.open(masked / frame["mask_path"])) > 0, left)


def test_transparent_images_are_laid_on_the_background() -> None:
    image = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    assert opaque(image, None).tolist() == [[[200, 100, 0], [0, 0, 0], [40, 20, 0]]]
    assert opaque(image, np.array([255, 255, 255], np.uint8))[0, 1:].tolist() == [[255, 255, 255], [244, 224, 204]]
    assert opaque(image, (1.0, 1.0, 1.0))[0, 1].tolist() == [255, 255, 255]
    with pytest.raises(SplatkitError, match="expected uint8"):
        opaque(image.astype(np.float32), None)


def test_every_method_has_an_entry_and_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "nerfbaselines", SimpleNamespace(register=registered.append))  # type: ignore[arg-type]
    importlib.reload(spec)
    assert {entry["id"] for entry in registered} == ENTRY_POINTS.keys()
    for entry in registered:
        module, _, name = entry["method_class"].partition(":")
        assert module == methods.__name__
        kind = getattr(methods, name)
        assert issubclass(kind, SplatkitMethod)
        assert kind.method_name == kind.get_method_info()["method_id"] == entry["id"]


def test_the_package_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    nerfbaselines = pytest.importorskip("nerfbaselines")
    monkeypatch.setenv("NERFBASELINES_REGISTER", str(spec.__file__))
    found = nerfbaselines.get_method_spec("splatkit-3dgs")
    assert found["method_class"] == "splatkit_ns.nerfbaselines.method:Splatkit3DGS"
