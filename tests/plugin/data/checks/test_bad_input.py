"""Broken data sets: each is told in one message that says what, where, and what to do; nothing is written to them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
import pytest
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.data.checks.data_folder import check_folder
from tests.plugin.data.broken_data import (
    EVALUATED,
    IMAGE,
    Change,
    changed_copy,
    cut,
    delete,
    in_json,
    in_points,
    picture,
    run,
    write,
)
from tests.plugin.helpers import make_pipeline, make_trainer, run_config


def point_with_nan(folder: Path) -> None:
    path = str(folder / "sparse_pc.ply")
    cloud = plyfile.PlyData.read(path, mmap=False)
    cloud["vertex"].data["y"][3] = np.nan
    cloud.write(path)


def exchange(frame: dict[str, Any]) -> None:
    frame["transform_matrix"] = [list(column) for column in zip(*frame["transform_matrix"], strict=True)]


def same_pose(meta: dict[str, Any]) -> None:
    for frame in meta["frames"]:
        frame["transform_matrix"] = meta["frames"][0]["transform_matrix"]


def same_pose_whose_mean_is_rounded(meta: dict[str, Any]) -> None:
    same_pose(meta)
    for row, value in zip(meta["frames"][0]["transform_matrix"], (3.1683594, -5.4794899, -0.9791661), strict=False):
        row[3] = value


def link_to_nowhere(folder: Path) -> None:
    """Replace a photograph by a link to a file that is gone."""
    (folder / IMAGE).unlink()
    (folder / IMAGE).symlink_to("/nowhere/photo.png")


BROKEN: dict[str, tuple[Change, tuple[str, ...]]] = {
    "no such folder": (shutil.rmtree, ("data folder", "does not exist", "--data")),
    "empty folder": (
        lambda folder: (shutil.rmtree(folder), folder.mkdir()),
        ("is empty", "splatkit poses PHOTOS_OR_VIDEO --output FOLDER"),
    ),
    "unknown format": (
        lambda folder: (shutil.rmtree(folder), folder.mkdir(), (folder / "notes.txt").touch()),
        ("transforms.json does not exist", "no format that is known here", "splatkit poses"),
    ),
    "photographs": (
        lambda folder: (folder / "transforms.json").unlink(),
        ("images holds 8 picture(s) without camera poses", "splatkit poses", "/images --output"),
    ),
    "not JSON": (write("transforms.json", '{"frames": ['), ("transforms.json is not JSON", "line 1 column 13")),
    "binary": (write("transforms.json", b"\xff\xfe\x00"), ("transforms.json is not JSON", "utf-8")),
    "a list": (write("transforms.json", "[1, 2]"), ("transforms.json has no list of 'frames'",)),
    "no frames": (in_json(lambda meta: meta["frames"].clear()), ("no list of 'frames', or an empty one",)),
    "no path": (in_json(lambda meta: meta["frames"][2].pop("file_path")), ("frame 2 has no 'file_path'",)),
    "empty path": (
        in_json(lambda meta: meta["frames"][2].update(file_path="")),
        ("frame 2 has no 'file_path'",),
    ),
    "no intrinsics": (
        in_json(lambda meta: (meta.pop("fl_x"), meta.pop("cx"))),
        ("frame 0 (images/frame_00000.png) lacks intrinsics: fl_x, cx", "in pixels"),
    ),
    "a word": (in_json(lambda meta: meta.update(w="wide")), ("frame 0", "'w' is 'wide', expected a number of pixels")),
    "focal length 0": (in_json(lambda meta: meta.update(fl_x=0)), ("has fl_x = 0.0", "Correct the intrinsics")),
    "focal length NaN": (
        in_json(lambda meta: meta.update(fl_y=float("nan"))),
        ("has fl_y = nan, expected",),
    ),
    "unknown camera": (
        in_json(lambda meta: meta.update(camera_model="WEIRD")),
        ("'camera_model' is 'WEIRD', expected one of SIMPLE_PINHOLE",),
    ),
    "panorama": (
        in_json(lambda meta: meta.update(camera_model="EQUIRECTANGULAR")),
        ("frame_00001.png is of type equirectangular, expected perspective", "ns-process-data images --camera-type"),
    ),
    "pose NaN": (
        in_json(lambda meta: meta["frames"][2]["transform_matrix"][0].__setitem__(3, float("nan"))),
        ("frame 2 (images/frame_00002.png)", "holds NaN or infinity", "Remove the frame"),
    ),
    "pose 2×2": (
        in_json(lambda meta: meta["frames"][2].update(transform_matrix=[[1, 0], [0, 1]])),
        ("frame 2", "must be a 4×4 matrix of numbers, found [[1, 0], [0, 1]]"),
    ),
    "pose of zeros": (
        in_json(lambda meta: meta["frames"][1].update(transform_matrix=[[0.0] * 4] * 4)),
        ("The pose of", "frame_00001.png is no rigid motion", "Compute it again"),
    ),
    "mirrored pose": (
        in_json(lambda meta: [row.__setitem__(0, -row[0]) for row in meta["frames"][1]["transform_matrix"][:3]]),
        ("1 pose(s) of", "are mirror images, the first is that of", "frame_00001.png", "Convert the poses again"),
    ),
    "rows and columns exchanged": (
        in_json(lambda meta: [exchange(frame) for frame in meta["frames"]]),
        ("frame 0", "the last row of 'transform_matrix' is", "expected 0, 0, 0, 1", "Are rows and columns exchanged?"),
    ),
    "columns of several lengths": (
        in_json(lambda meta: [row.__setitem__(0, 2 * row[0]) for row in meta["frames"][1]["transform_matrix"][:3]]),
        ("The pose of", "frame_00001.png is no rigid motion", "Compute it again"),
    ),
    "one place": (in_json(same_pose), ("all cameras are at one place", "--auto-scale-poses False")),
    "one place, rounded": (in_json(same_pose_whose_mean_is_rounded), ("all cameras are at one place",)),
    "one image": (
        in_json(lambda meta: meta.update(frames=meta["frames"][:1])),
        ("Add photographs from other places", "--auto-scale-poses False", "--eval-mode all"),
    ),
    "distortion NaN": (
        in_json(lambda meta: meta.update(k1=float("nan"))),
        ("The camera of", "frame_00001.png has the distortion parameters [nan, 0.0", "Correct the intrinsics"),
    ),
    "path of points null": (
        in_json(lambda meta: meta.update(ply_file_path=None)),
        ("'ply_file_path' is None, expected the path of a PLY or LAS file", "--load-3D-points False"),
    ),
    "path of points a number": (
        in_json(lambda meta: meta.update(ply_file_path=7)),
        ("'ply_file_path' is 7, expected",),
    ),
    "applied scale a word": (
        in_json(lambda meta: meta.update(applied_scale="x")),
        ("transforms.json: 'applied_scale' is 'x', expected a number above 0",),
    ),
    "image missing": (delete(IMAGE), (f"{IMAGE} does not exist, which the data set names",)),
    "first image missing": (delete("images/frame_00000.png"), ("frame_00000.png does not exist", "Restore it")),
    "image a link to nowhere": (
        link_to_nowhere,
        (f"{IMAGE} does not exist", "It is a link to /nowhere/photo.png, where there is no file: restore that."),
    ),
    "paths of another machine": (
        in_json(lambda meta: [frame.update(file_path=f"/home/anna/{frame['file_path']}") for frame in meta["frames"]]),
        ("/home/anna/images/frame_00000.png does not exist", "There is images/frame_00000.png in", "are relative to"),
    ),
    "paths of Windows": (
        in_json(
            lambda meta: [frame.update(file_path="C:\\me\\" + frame["file_path"]) for frame in meta["frames"]],
        ),
        ("C:\\me\\images/frame_00000.png does not exist", "There is images/frame_00000.png in"),
    ),
    "an angle": (
        in_json(lambda meta: (meta.pop("fl_x"), meta.update(camera_angle_x=0.8))),
        ("lacks intrinsics: fl_x stand", "from camera_angle_x", "end the command with: instant-ngp-data --data"),
    ),
    "some masks null": (
        in_json(lambda meta: meta["frames"][2].update(mask_path=None)),
        ("mask_path is specified for every frame (or zero frames)", "json. Add the missing ones, or take"),
    ),
    "images missing": (
        lambda folder: [(folder / f"images/frame_0000{i}.png").unlink() for i in (2, 3)],
        (
            "frame_00002.png does not exist",
            "Restore it, or take it out of the data set. 2 of 6 images of its split are missing.",
        ),
    ),
    "image truncated": (cut(IMAGE, 300), (f"{IMAGE} cannot be decoded: image file is truncated", "Restore it")),
    "held-out image truncated": (cut(EVALUATED, 300), (f"{EVALUATED} cannot be decoded",)),
    "image without a header": (cut(IMAGE, 20), (f"{IMAGE} cannot be read", "Restore it")),
    "image empty": (cut("images/frame_00000.png", 0), ("cannot identify image file", "frame_00000.png")),
    "image of other size": (
        picture(IMAGE, "RGB", (10, 11)),
        (f"{IMAGE} is 10×11 pixels, its camera says 32×24", "Correct w and h"),
    ),
    "image of floats": (
        lambda folder: Image.fromarray(np.zeros((24, 32), np.float32)).save(folder / IMAGE, format="TIFF"),
        (f"{IMAGE} has channels of 32 bits, whose range is not known: convert it",),
    ),
    "mask missing": (delete("masks/frame_00001.png"), ("mask", "masks/frame_00001.png", "No such file")),
    "mask of other size": (
        picture("masks/frame_00001.png", "L", (10, 10)),
        ("masks/frame_00001.png is 10×10", "is 32×24"),
    ),
    "some masks": (
        in_json(lambda meta: meta["frames"][2].pop("mask_path")),
        (
            "cannot read",
            "mask_path is specified for every frame (or zero frames)",
            "json. Add the missing ones, or take",
            "White masks leave images whole.",
        ),
    ),
    "some depths": (
        in_json(lambda meta: meta["frames"][2].update(depth_file_path="depths/frame_00002.png")),
        ("depth_file_path is specified for every frame (or zero frames)", "json. Add the missing ones, or take"),
    ),
    "wrong training images": (
        in_json(lambda meta: meta.update(train_filenames=["images/gone.png"])),
        ("Some filenames for split train were not found", "gone.png", "Correct the data set's list"),
    ),
    "training images alone": (
        in_json(lambda meta: meta.update(train_filenames=["images/frame_00001.png"])),
        ("list of filenames for split val is missing. Add the list",),
    ),
    "points missing": (delete("sparse_pc.ply"), ("sparse_pc.ply does not exist", "--load-3D-points False")),
    "points truncated": (
        in_points(lambda data: data[:-100]),
        ("sparse_pc.ply declares 48 vertices and holds 41", "Restore it"),
    ),
    "points without x": (
        in_points(lambda data: data.replace(b"property float x", b"property float q")),
        ("sparse_pc.ply has no vertex property x",),
    ),
    "no PLY": (write("sparse_pc.ply", "hello"), ("sparse_pc.ply is not a PLY file", "--load-3D-points False")),
    "points NaN": (point_with_nan, ("1 of 48 seed points hold NaN", "the first is row 3")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_data_set_is_told_in_one_message(scenes: dict[str, Path], tmp_path: Path, name: str) -> None:
    change, fragments = BROKEN[name]
    data = changed_copy(scenes["nerfstudio"], tmp_path, change)
    message = run(data, tmp_path / "out")
    for fragment in fragments:
        assert fragment in message
    assert "incomplete or damaged" not in message, "what is wrong is known"
    assert str(data) in message or "seed points" in message, "the message says where"


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"eval_mode": "interval", "eval_interval": 1}, "No image is left for training. --eval-mode of the dataparser"),
        ({"eval_mode": "fraction", "train_split_fraction": 0.0}, "No image is left for training"),
        (
            {"eval_mode": "filename"},
            "eval mode. --eval-mode filename of the dataparser goes by the names of the images",
        ),
        ({"downscale_factor": 4}, "does not exist, which the data set names. --downscale-factor 1 of the dataparser"),
    ],
)
def test_options_that_leave_no_image(
    scenes: dict[str, Path], tmp_path: Path, options: dict[str, Any], fragment: str
) -> None:
    assert fragment in run(scenes["nerfstudio"], tmp_path, **options)


def test_too_few_images_for_farthest_point_sampling(scenes: dict[str, Path], tmp_path: Path) -> None:
    config = run_config(scenes["nerfstudio"], tmp_path)
    config.pipeline.datamanager.train_cameras_sampling_strategy = "fps"
    with pytest.raises(SplatkitError, match=r"too few training images for .*sampling-strategy fps, which needs 8"):
        make_trainer(config)


def test_a_picture_instead_of_a_folder(scenes: dict[str, Path], tmp_path: Path) -> None:
    config = run_config(scenes["nerfstudio"] / IMAGE, tmp_path)
    with pytest.raises(SplatkitError, match=r"--data names the file .*png, expected the folder of a data set"):
        make_trainer(config)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        (
            "my photos/1.JPG",
            "my photos' --output '{here}/my photos_poses', and train with --data '{here}/my photos_poses'",
        ),
        ("my photos/images/1.png", "my photos/images' --output '{here}/my photos', and train"),
        ("my photos/walk.mov", "my photos/walk.mov' --output '{here}/my photos/walk_poses', and train"),
    ],
)
def test_photographs_without_poses(tmp_path: Path, name: str, command: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    with pytest.raises(SplatkitError) as caught:
        make_trainer(run_config(tmp_path / "my photos", tmp_path / "out"))
    assert f"splatkit poses '{tmp_path}/{command.format(here=tmp_path)}" in str(caught.value)


@pytest.mark.parametrize(
    ("files", "command"),
    [
        (("keyframes/images/1.jpg", "mesh_info.json"), "polycam"),
        (("keyframes/corrected_images/1.jpg", "thumbnail.jpg"), "polycam"),
        (("rgb/0.jpg", "metadata.json"), "record3d"),
    ],
)
def test_a_capture_of_a_phone_has_poses_already(tmp_path: Path, files: tuple[str, ...], command: str) -> None:
    data = tmp_path / "my flat"
    for name in files:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).touch()
    with pytest.raises(SplatkitError) as caught:
        check_folder(NerfstudioDataParserConfig(data=data))
    assert f"ns-process-data {command} --data '{data}' --output-dir '{data}_{command}', and train" in str(caught.value)
    assert "no format that is known" not in str(caught.value)


def test_a_video_without_poses(tmp_path: Path) -> None:
    (tmp_path / "walk.mp4").touch()
    with pytest.raises(SplatkitError, match=r"It is a video .*splatkit poses .*walk.mp4 --output .*walk_poses"):
        make_trainer(run_config(tmp_path / "walk.mp4", tmp_path / "out"))


@pytest.mark.parametrize("where", ["scene.ZIP", "downloads/scene.ZIP"])
def test_an_archive(tmp_path: Path, where: str) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / where).touch()
    data = tmp_path / Path(where).parts[0]
    with pytest.raises(SplatkitError, match=rf"{where} is an archive: unpack it, and give the folder that it holds\."):
        check_folder(NerfstudioDataParserConfig(data=data))


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (("a/transforms.json", "notes.txt"), "--data {here}/a"),
        (("my scene/transforms_train.json",), "--data '{here}/my scene'"),
        (("a/sparse/0/cameras.bin", "b/transforms.json"), "--data {here}/a (or {here}/b)"),
    ],
)
def test_the_folder_above_the_data_set(tmp_path: Path, files: tuple[str, ...], named: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(SplatkitError) as caught:
        check_folder(NerfstudioDataParserConfig(data=tmp_path))
    assert str(caught.value).endswith(f"The data set is in a folder inside: {named.format(here=tmp_path)}")


@pytest.mark.parametrize(
    ("scene", "part"), [("nerfstudio", "images"), ("colmap", "images"), ("colmap", "sparse"), ("colmap", "sparse/0")]
)
def test_a_folder_of_the_data_set(scenes: dict[str, Path], scene: str, part: str) -> None:
    with pytest.raises(SplatkitError) as caught:
        check_folder(NerfstudioDataParserConfig(data=scenes[scene] / part))
    assert str(caught.value).endswith(f"The folder is inside a data set: --data {scenes[scene]}")


def test_photographs_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/1.jpg").touch()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SplatkitError, match=rf"splatkit poses {tmp_path}/here --output {tmp_path}/here_poses, and"):
        make_trainer(run_config(Path(), tmp_path / "out"))


@pytest.mark.parametrize("empty", [True, False])
def test_no_folder_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: bool) -> None:
    here = tmp_path / "here"
    here.mkdir()
    if not empty:
        (here / "notes.txt").touch()
    monkeypatch.chdir(here)
    config = run_config(Path(), tmp_path)
    config.pipeline.datamanager.data = None
    with pytest.raises(SplatkitError, match=rf"the current folder, {here}, as --data names no other: give .* --data"):
        make_trainer(config)


def test_a_file_that_may_not_be_read(scenes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: Any) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    trained_on = next(iter(scenes.values()))
    with pytest.raises(SplatkitError, match=r"transforms\.json may not be read\. Change its permissions"):
        make_pipeline(trained_on)


def test_images_without_a_pixel(scenes: dict[str, Path], tmp_path: Path) -> None:
    config = run_config(scenes["nerfstudio"], tmp_path)
    config.pipeline.datamanager.camera_res_scale_factor = 0.001
    expected = r"would have no pixel left: --pipeline.datamanager.camera-res-scale-factor is 0.001. Raise it"
    with pytest.raises(SplatkitError, match=expected):
        make_trainer(config).train()


def test_a_relative_folder_from_elsewhere(
    scenes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scenes["nerfstudio"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SplatkitError, match=rf"looked for in {tmp_path}: to open a run .* where ns-train was started"):
        run_config(Path(scene.name), tmp_path).pipeline.setup(device="cpu", test_mode="test")


def test_images_smaller_than_the_window_of_ssim(scenes: dict[str, Path], tmp_path: Path) -> None:
    message = run(scenes["small"], tmp_path)
    assert "windows of 11 x 11 pixels; images of 8 x 9" in message
    assert "--pipeline.model.loss-fn.ssim-lambda 0" in message


def test_images_smaller_than_the_window_train_and_evaluate_without_ssim(
    scenes: dict[str, Path], tmp_path: Path
) -> None:
    config = run_config(scenes["small"], tmp_path, steps=2)
    loss: Any = config.pipeline.model.loss_fn
    loss.ssim_lambda = 0.0
    trainer = make_trainer(config)
    trainer.train()
    assert set(trainer.pipeline.eval().get_average_eval_image_metrics(0)) >= {"psnr"}
