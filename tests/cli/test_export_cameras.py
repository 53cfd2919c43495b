"""The cameras of a run, written as ``transforms.json`` and COLMAP's text files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.scripts import train

from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.data.scenes.camera_files import write_cameras
from splatkit_ns.plugin.data.scenes.colmap_model import ColmapModel
from splatkit_ns.plugin.data.scenes.transforms import Scene
from splatkit_ns.plugin.loading import load_run
from tests.cli.helpers import refused, run
from tests.plugin.helpers import forget_writers, run_config

OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def corrected_run(made_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config.yml of a run that corrected its poses, by much."""
    config = run_config(made_data, tmp_path_factory.mktemp("corrected"), steps=20)
    config.pipeline.model.camera_optimizer.mode = "SO3xR3"
    config.optimizers["camera_opt"]["optimizer"].lr = 0.01
    config.optimizers["camera_opt"]["scheduler"].warmup_steps = 0
    train.main(config)
    forget_writers()
    return config.get_base_dir() / "config.yml"


def exported(capsys: pytest.CaptureFixture[str], config: Path, folder: Path, *more: str) -> tuple[dict[str, Any], str]:
    """The content of transforms.json by file name, and the report."""
    arguments = ("--output", folder / "a.ply", "--cameras", folder / "cameras", "--measure", "0", *more)
    status, text = run(capsys, "export", "--load-config", config, *arguments)
    assert status == 0, text
    meta = json.loads((folder / "cameras" / "transforms.json").read_text())
    return {Path(frame["file_path"]).name: frame for frame in meta["frames"]} | {"meta": meta}, text


def own_frames(data: Path) -> dict[str, Any]:
    frames = json.loads((data / "transforms.json").read_text())["frames"]
    return {Path(frame["file_path"]).name: frame for frame in frames}


def test_cameras_that_were_not_corrected_are_those_of_the_data_set(
    made_run: Path, made_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, text = exported(capsys, made_run, tmp_path)
    assert "the run did not correct poses" in text
    for name, frame in own_frames(made_data).items():
        assert np.allclose(found[name]["transform_matrix"], frame["transform_matrix"], atol=1e-5), name


def test_corrected_cameras_are_in_the_frame_of_the_data_set(
    corrected_run: Path, made_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """nerfstudio's transform takes them to where training had them; those held out stay as they were."""
    found, text = exported(capsys, corrected_run, tmp_path)
    assert "the median camera was turned by" in text
    pipeline: Any = load_run(corrected_run, device="cpu").pipeline
    outputs = pipeline.datamanager.train_dataparser_outputs
    applied = np.vstack([np.array(found["meta"]["applied_transform"]), [0, 0, 0, 1]])
    to_training = outputs.dataparser_transform.double().numpy() @ np.linalg.inv(applied)
    largest = 0.0
    for number, path in enumerate(outputs.image_filenames):
        camera = outputs.cameras[number : number + 1]
        camera.metadata = {"cam_idx": number}
        with torch.no_grad():
            wanted = pipeline.model.camera_optimizer.apply_to_camera(camera)[0].double().numpy()
        pose = to_training @ np.array(found[path.name]["transform_matrix"])
        pose[:, 3] *= outputs.dataparser_scale
        assert np.allclose(pose, wanted, atol=1e-5)
        largest = max(largest, float(np.abs(wanted - camera.camera_to_worlds[0].numpy()).max()))
    assert largest > 0.01
    for path in pipeline.datamanager.eval_dataset.image_filenames:
        own = own_frames(made_data)[path.name]["transform_matrix"]
        assert np.allclose(found[path.name]["transform_matrix"], own, atol=1e-5)


def test_the_new_file_can_take_the_place_of_the_old_one(
    corrected_run: Path, made_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(capsys, corrected_run, tmp_path)
    old, new = NerfstudioDataProvider(made_data, eval_interval=4), NerfstudioDataProvider(tmp_path / "cameras")
    for split in ("train", "eval"):
        assert new.image_names(split) == old.image_names(split)
    a, b = old.photographs("eval")[0], new.photographs("eval")[0]
    assert torch.equal(a.image, b.image)
    assert torch.allclose(a.view.Ks, b.view.Ks)


def test_colmaps_files_have_the_same_cameras(
    corrected_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = exported(capsys, corrected_run, tmp_path)
    model = ColmapModel(tmp_path / "cameras")
    assert len(model.images) == 16
    assert len(model.lenses) == 1
    for image in model.images:
        pose = np.array(found[Path(image.name).name]["transform_matrix"]) @ OPENCV
        assert np.allclose(image.centre, pose[:3, 3], atol=1e-5)
        assert np.allclose(image.rotation, pose[:3, :3].T, atol=1e-6)
    (lens,) = model.lenses.values()
    assert lens.fl_x == pytest.approx(found["meta"]["frames"][0]["fl_x"])


def test_files_that_exist_are_not_replaced(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cameras").mkdir()
    (tmp_path / "cameras" / "images.txt").write_text("mine")
    arguments = ("--output", tmp_path / "a.ply", "--cameras", tmp_path / "cameras")
    assert "images.txt exists" in refused(capsys, "export", "--load-config", made_run, *arguments)
    assert (tmp_path / "cameras" / "images.txt").read_text() == "mine"
    assert not (tmp_path / "a.ply").exists()
    shutil.rmtree(tmp_path / "cameras")
    (tmp_path / "cameras").write_text("a file")
    assert "is a file, not a folder" in refused(capsys, "export", "--load-config", made_run, *arguments)


def opened_with_lens(data: Path, folder: Path, **lens: Any) -> Any:
    """The datamanager of a copy of a data set whose frames have another lens."""
    shutil.copytree(data, folder)
    meta = json.loads((folder / "transforms.json").read_text())
    meta["frames"] = [frame | lens for frame in meta["frames"]]
    (folder / "transforms.json").write_text(json.dumps(meta))
    return NerfstudioDataProvider(folder).datamanager_config().setup(device="cpu", test_mode="val")


def unmoved(datamanager: Any) -> torch.Tensor:
    return torch.eye(3, 4).repeat(len(datamanager.train_dataset), 1, 1)


@pytest.mark.parametrize(
    ("lens", "model"),
    [
        ({"camera_model": "OPENCV", "k1": 0.01, "p2": 0.02}, "OPENCV"),
        ({"camera_model": "OPENCV", "k1": 0.01, "k3": 0.02}, "FULL_OPENCV"),
        ({"camera_model": "FULL_OPENCV", "k1": 0.01, "k4": 0.02, "k5": 0.03, "k6": 0.04}, "FULL_OPENCV"),
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.01, "k4": 0.02}, "OPENCV_FISHEYE"),
    ],
)
def test_the_lens_is_that_of_the_data_set(lens: dict[str, Any], model: str, made_data: Path, tmp_path: Path) -> None:
    """Also one with terms that divide."""
    manager = opened_with_lens(made_data, tmp_path / "data", **lens)
    write_cameras(manager, unmoved(manager), tmp_path / "new")
    wanted, found = Scene(tmp_path / "data" / "transforms.json").lens(0), Scene(tmp_path / "new" / "transforms.json")
    assert model in (tmp_path / "new" / "cameras.txt").read_text().split()
    for read in (found.lens(0), *ColmapModel(tmp_path / "new").lenses.values()):
        assert read.kind is wanted.kind
        size = max(len(read.distortion), len(wanted.distortion))
        padded = [[*each.distortion, *[0.0] * (size - len(each.distortion))] for each in (read, wanted)]
        assert np.allclose(*padded, atol=1e-7)


def test_a_lens_that_colmap_does_not_know_is_refused(made_data: Path, tmp_path: Path) -> None:
    manager = opened_with_lens(made_data, tmp_path / "data", camera_model="OPENCV", k4=0.01)
    with pytest.raises(SplatkitError, match="has a fourth radial term"):
        write_cameras(manager, unmoved(manager), tmp_path / "new")
    assert not (tmp_path / "new").exists(), "nothing is written"
