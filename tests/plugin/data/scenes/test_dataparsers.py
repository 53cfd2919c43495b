"""Data sets of several formats, read by nerfstudio's dataparsers with what they misread put right."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
import pytest
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from nerfstudio.data.utils.colmap_parsing_utils import read_model, write_model
from PIL import Image

from splatkit_ns.errors import SplatkitError
from splatkit_ns.formats.frames import Similarity
from splatkit_ns.plugin.data.scenes.beside_model import number_of_images
from splatkit_ns.plugin.data.scenes.dataparsers import own_reading
from splatkit_ns.plugin.data.scenes.parse_frames import OwnNerfstudio
from splatkit_ns.plugin.data.scenes.scene_frames import frame_to_training
from splatkit_ns.plugin.reporting.console import collected_notes
from tests.plugin.data.broken_data import Change, changed_copy, in_json
from tests.plugin.helpers import make_trainer, run_config
from tests.tiny_scene import DISTANCE

UTM = np.array([452310.25, 5411230.5, 210.0])
OWN = {"fl_x": 80.0, "fl_y": 81.0, "cx": 20.0, "cy": 13.0, "w": 32, "h": 24, "k1": 0.2}


def parsed(data: Path, config: Any = None, split: str = "train", **options: Any) -> Any:
    config = config or NerfstudioDataParserConfig(load_3D_points=True)
    config.data = data
    for name, value in {"eval_mode": "all", **options}.items():
        if hasattr(config, name):
            setattr(config, name, value)
    with own_reading(config):
        parser = config.setup()
    return parser.get_dataparser_outputs(split)


def of_frames(change: Callable[[int, dict[str, Any]], Any]) -> Change:
    return in_json(lambda meta: [change(i, frame) for i, frame in enumerate(meta["frames"])])


def by_name(outputs: Any, name: str) -> Any:
    index = [path.name for path in outputs.image_filenames].index(name)
    return outputs.cameras[index]


def move(data: Path, shift: Any, scale: float = 1.0) -> None:
    """Move poses and seed points, which are written in double precision."""

    def change(frame: dict[str, Any]) -> None:
        pose = np.array(frame["transform_matrix"])
        pose[:3, 3] = pose[:3, 3] * scale + shift
        frame["transform_matrix"] = pose.tolist()

    of_frames(lambda _, frame: change(frame))(data)
    cloud = plyfile.PlyData.read(str(data / "sparse_pc.ply"))["vertex"].data
    rows = np.empty(len(cloud), [(n, "f8") for n in "xyz"] + [(n, "u1") for n in ("red", "green", "blue")])
    for name in rows.dtype.names or ():
        rows[name] = cloud[name]
    for column, name in enumerate("xyz"):
        rows[name] = rows[name] * scale + shift[column]
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")]).write(str(data / "sparse_pc.ply"))


# ------------------------------------------------------------- nerfstudio-data


def test_the_same_as_nerfstudio_where_that_is_right(scenes: dict[str, Path]) -> None:
    for options in ({}, {"orientation_method": "pca"}, {"center_method": "focus", "auto_scale_poses": False}):
        config = NerfstudioDataParserConfig(data=scenes["nerfstudio"], **options)
        expected = config.setup().get_dataparser_outputs("train")
        found = parsed(scenes["nerfstudio"], config, eval_mode=config.eval_mode)
        assert found.image_filenames == expected.image_filenames
        assert found.mask_filenames == expected.mask_filenames
        assert found.dataparser_scale == expected.dataparser_scale
        assert torch.equal(found.dataparser_transform, expected.dataparser_transform)
        for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height", "camera_type"):
            assert torch.equal(getattr(found.cameras, name), getattr(expected.cameras, name)), name


def test_a_frames_own_lens_counts_beside_defaults(scenes: dict[str, Path], tmp_path: Path) -> None:
    fisheye = {"camera_model": "OPENCV_FISHEYE", "k1": 0.01}
    change = of_frames(lambda i, frame: frame.update(OWN if i == 2 else fisheye if i == 5 else {}))
    found = parsed(changed_copy(scenes["nerfstudio"], tmp_path, change))
    own, other, curved = (by_name(found, f"frame_0000{i}.png") for i in (2, 3, 5))
    assert [float(getattr(own, key)) for key in ("fx", "fy", "cx", "cy")] == [80, 81, 20, 13]
    assert own.distortion_params[0] == pytest.approx(0.2)
    assert float(other.fx) == pytest.approx(38.627, abs=1e-3)
    assert not other.distortion_params.any()
    assert int(own.camera_type) == int(other.camera_type) == CameraType.PERSPECTIVE.value
    assert int(curved.camera_type) == CameraType.FISHEYE.value


def test_a_scene_in_utm_is_as_one_near_the_origin(scenes: dict[str, Path], tmp_path: Path) -> None:
    near = parsed(scenes["nerfstudio"])
    data = changed_copy(scenes["nerfstudio"], tmp_path, lambda folder: move(folder, UTM))
    far = parsed(data)
    torch.testing.assert_close(far.cameras.camera_to_worlds, near.cameras.camera_to_worlds, atol=1e-5, rtol=0)
    torch.testing.assert_close(far.metadata["points3D_xyz"], near.metadata["points3D_xyz"], atol=1e-5, rtol=0)
    back = far.transform_poses_to_original_space(far.cameras.camera_to_worlds, "opengl")
    frames = json.loads((data / "transforms.json").read_text())["frames"]
    poses = {Path(frame["file_path"]).name: np.array(frame["transform_matrix"]) for frame in frames}
    expected = np.stack([poses[path.name][:3] for path in far.image_filenames])
    np.testing.assert_allclose(back.numpy(), expected, atol=1e-5)
    turn = far.dataparser_transform[:, :3]
    torch.testing.assert_close(turn @ turn.T, torch.eye(3).double(), atol=1e-12, rtol=0)
    moved = Similarity.from_dataparser(far.dataparser_transform.numpy(), far.dataparser_scale).inverse()
    positions = moved.apply(far.cameras.camera_to_worlds[..., 3].double().numpy())
    np.testing.assert_allclose(positions, expected[..., 3], atol=1e-5)


def test_the_offset_and_an_applied_transform_are_both_undone(scenes: dict[str, Path], tmp_path: Path) -> None:
    applied = [[0.0, 1, 0, 7], [1, 0, 0, 8], [0, 0, -1, 9]]

    def change(folder: Path) -> None:
        move(folder, UTM)
        in_json(lambda meta: meta.update(applied_transform=applied, applied_scale=2.0))(folder)

    data = changed_copy(scenes["nerfstudio"], tmp_path, change)
    config: Any = run_config(data)
    with own_reading(config.pipeline.datamanager.dataparser):
        config.pipeline.datamanager.dataparser.data = data
        outputs = config.pipeline.datamanager.dataparser.setup().get_dataparser_outputs("train")
    manager: Any = type("Manager", (), {"train_dataparser_outputs": outputs, "config": config.pipeline.datamanager})
    transform, scale = frame_to_training(manager, "dataset")
    frames = json.loads((data / "transforms.json").read_text())["frames"]
    positions = {Path(f["file_path"]).name: np.array(f["transform_matrix"])[:3, 3] for f in frames}
    stored = np.stack([positions[path.name] for path in outputs.image_filenames])
    moved = scale * (stored @ transform[:, :3].T + transform[:, 3])
    np.testing.assert_allclose(moved, outputs.cameras.camera_to_worlds[:, :, 3], atol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_seed_points_stay_with_the_cameras_under_an_applied_scale(
    scenes: dict[str, Path], tmp_path: Path, scale: float
) -> None:
    def change(folder: Path) -> None:
        move(folder, np.zeros(3), scale)
        in_json(lambda meta: meta.update(applied_scale=scale))(folder)

    near, found = parsed(scenes["nerfstudio"]), parsed(changed_copy(scenes["nerfstudio"], tmp_path, change))
    torch.testing.assert_close(found.metadata["points3D_xyz"], near.metadata["points3D_xyz"])
    torch.testing.assert_close(found.cameras.camera_to_worlds, near.cameras.camera_to_worlds)
    assert found.dataparser_scale == pytest.approx(near.dataparser_scale), "from before the scale was applied"


def rename(old: str, new: Callable[[Path], str], key: str = "file_path", show: Callable[[str], str] = str) -> Change:
    """Rename the files of a folder, and write into transforms.json what ``show`` makes of their paths."""

    def apply(folder: Path) -> None:
        names: dict[str, str] = {}
        for path in sorted((folder / old).iterdir()):
            target = path.with_name(new(path))
            target.parent.mkdir(exist_ok=True, parents=True)
            path.rename(target)
            names[f"{old}/{path.name}"] = show(str(target.relative_to(folder)))
        of_frames(lambda _, frame: frame.update({key: names[frame[key]]}))(folder)

    return apply


@pytest.mark.parametrize(
    "change",
    [
        rename("images", lambda path: f"a photo ({path.stem}).png"),
        rename("images", lambda path: f"Bäume {path.stem}.png"),
        rename("images", lambda path: f"Ba\u0308ume {path.stem}.png", show=lambda name: name.replace("a\u0308", "ä")),
        rename("images", lambda path: path.name, show=lambda name: name.replace("/", "\\")),
        rename("images", lambda path: path.name, show=lambda name: name.removesuffix(".png")),
        rename("images", lambda path: path.name, show=lambda name: name.replace(".png", ".PNG")),
        rename("images", lambda path: path.name, show=lambda name: f"./{name}"),
        rename("masks", lambda path: f"{path.stem}.png.png", key="mask_path", show=lambda name: name[:-4]),
        rename("masks", lambda path: f"my {path.name}", key="mask_path"),
        lambda folder: (
            (folder / "sparse_pc.ply").rename(folder / "my points.ply")
            and in_json(lambda meta: meta.update(ply_file_path="my points.ply"))(folder)
        ),
        lambda folder: (folder / "transforms.json").write_bytes(
            b"\xef\xbb\xbf" + (folder / "transforms.json").read_bytes()
        ),
    ],
    ids=[
        "spaces",
        "umlauts",
        "macos",
        "backslashes",
        "no_suffix",
        "case",
        "dot",
        "mask_of_colmap",
        "mask",
        "points",
        "bom",
    ],
)
def test_names_that_programs_write(scenes: dict[str, Path], tmp_path: Path, change: Change) -> None:
    data = changed_copy(scenes["nerfstudio"], tmp_path / "a folder", change)
    found, expected = parsed(data), parsed(scenes["nerfstudio"])
    assert all(path.is_file() for path in [*found.image_filenames, *found.mask_filenames])
    assert torch.equal(found.cameras.camera_to_worlds, expected.cameras.camera_to_worlds)
    assert torch.equal(found.metadata["points3D_xyz"], expected.metadata["points3D_xyz"])


def test_a_camera_model_in_lower_case(scenes: dict[str, Path], tmp_path: Path) -> None:
    change = in_json(lambda meta: meta.update(camera_model="opencv_fisheye", k1=0.01))
    cameras = parsed(changed_copy(scenes["nerfstudio"], tmp_path, change)).cameras
    assert set(cameras.camera_type.flatten().tolist()) == {CameraType.FISHEYE.value}


def test_a_scale_in_rotations_is_taken_off(
    scenes: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def scale(number: int, frame: dict[str, Any]) -> None:
        matrix = np.array(frame["transform_matrix"])
        matrix[:3, :3] *= 1 + number
        frame["transform_matrix"] = matrix.tolist()

    found = parsed(changed_copy(scenes["nerfstudio"], tmp_path, of_frames(scale)))
    expected = parsed(scenes["nerfstudio"])
    torch.testing.assert_close(found.cameras.camera_to_worlds, expected.cameras.camera_to_worlds, atol=1e-6, rtol=0)
    told = " ".join(capsys.readouterr().out.split())
    assert "the rotations of 7 of 8 poses have a scale, such as 2. It is taken off" in told


@pytest.mark.parametrize("kind", ["nerfstudio", "colmap"])
def test_folders_tell_the_split(scenes: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """--eval-mode filename refused photographs whose folders, and not whose names, are called train and eval."""

    def change(folder: Path) -> None:
        for name in ("train", "eval"):
            (folder / "images" / name).mkdir()
        for path in (folder / "images").glob("*.png"):
            path.rename(path.parent / ("eval" if path.stem[-1] in "25" else "train") / path.name)
        listing = folder / ("transforms.json" if kind == "nerfstudio" else "sparse/0/images.txt")
        text = re.sub(r"frame_0000[25]", r"eval/\g<0>", listing.read_text())
        listing.write_text(re.sub(r"(?<!/)frame_0", r"train/\g<0>", text.replace("images/frame", "images/train/frame")))

    data = changed_copy(scenes[kind], tmp_path, change)
    reading = parsed if kind == "nerfstudio" else colmap
    held_out = [path.name for path in reading(data, split="val", eval_mode="filename").image_filenames]
    assert held_out == ["frame_00002.png", "frame_00005.png"]
    assert [path.name for path in reading(data, split="test", eval_mode="filename").image_filenames] == held_out
    assert len(reading(data, eval_mode="filename").image_filenames) == 6


def test_a_null_is_no_mask_and_no_depth(scenes: dict[str, Path], tmp_path: Path) -> None:
    change = of_frames(lambda _, frame: frame.update(mask_path=None, depth_file_path=None))
    data = changed_copy(scenes["nerfstudio"], tmp_path, change)
    for config in (NerfstudioDataParserConfig(), InstantNGPDataParserConfig()):
        found = parsed(data, config)
        assert found.mask_filenames is None
        assert not found.metadata.get("depth_filenames")


def smaller_images(folder: Path) -> None:
    (folder / "images_2").mkdir()
    for path in (folder / "images").iterdir():
        Image.open(path).resize((16, 12)).save(folder / "images_2" / path.name)


def test_masks_in_full_size_serve_smaller_images(scenes: dict[str, Path], tmp_path: Path) -> None:
    data = changed_copy(scenes["nerfstudio"], tmp_path, smaller_images)
    found = parsed(data, downscale_factor=2)
    assert {path.parent.name for path in found.image_filenames} == {"images_2"}
    assert {path.parent.name for path in found.mask_filenames} == {"masks"}
    config = run_config(data)
    config.pipeline.datamanager.dataparser.downscale_factor = 2
    batch = config.pipeline.setup(device="cpu", test_mode="val").datamanager.cached_train[0]
    assert batch["image"].shape[:2] == batch["mask"].shape[:2] == (12, 16)
    assert not batch["mask"][:3, :4].any()
    assert batch["mask"].sum() == 16 * 12 - 3 * 4


def test_two_images_of_one_name_need_two_smaller_copies(scenes: dict[str, Path], tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        for camera in ("a", "b"):
            (folder / "images" / camera).mkdir()
        for path in (folder / "images").glob("*.png"):
            number = int(path.stem[-1])
            path.rename(path.parent / "ab"[number % 2] / f"{number // 2}.png")
        of_frames(lambda i, frame: frame.update(file_path=f"images/{'ab'[i % 2]}/{i // 2}.png"))(folder)
        shutil.copytree(folder / "images" / "a", folder / "images_2")

    data = changed_copy(scenes["nerfstudio"], tmp_path, change)
    with pytest.raises(SplatkitError, match=r"/a/0.png and images/b/0.png have one smaller copy, .*images_2/0.png"):
        parsed(data, downscale_factor=2)
    shutil.copytree(data / "images", data / "images_2", dirs_exist_ok=True)
    found = parsed(data, downscale_factor=2)
    assert len({path.relative_to(data / "images_2") for path in found.image_filenames}) == 8


def test_points_of_an_old_colmap_model_beside_transforms_json(scenes: dict[str, Path], tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        shutil.copytree(scenes["colmap"] / "sparse/0", folder / "colmap/sparse/0")
        in_json(lambda meta: meta.pop("ply_file_path"))(folder)

    found = parsed(changed_copy(scenes["nerfstudio"], tmp_path, change), orientation_method="none")
    expected = parsed(scenes["nerfstudio"], orientation_method="none").metadata["points3D_xyz"]
    y_x_minus_z = expected + by_offset(found)
    points = found.metadata["points3D_xyz"] + by_offset(found)
    torch.testing.assert_close(points, y_x_minus_z[:, [1, 0, 2]] * torch.tensor([1, 1, -1.0]), atol=1e-5, rtol=0)


def test_a_scene_without_seed_points_is_told_in_our_words(
    scenes: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed_copy(scenes["nerfstudio"], tmp_path, in_json(lambda meta: meta.pop("ply_file_path")))
    assert "points3D_xyz" not in parsed(folder).metadata
    text = " ".join(capsys.readouterr().out.split())
    assert "transforms.json names no seed points ('ply_file_path'): the Gaussians start at random positions." in text
    assert "splatfacto" not in text
    parsed(folder, load_3D_points=False)
    assert "seed points" not in capsys.readouterr().out


def by_offset(outputs: Any) -> Any:
    """What was taken off by centring, in training's units."""
    return -outputs.dataparser_transform[:, 3] * outputs.dataparser_scale


def test_configs_name_nerfstudios_own_class(tiny_scene: Path, tmp_path: Path) -> None:
    config: Any = run_config(tiny_scene, tmp_path, steps=1)
    trainer = make_trainer(config)
    assert isinstance(trainer.pipeline.datamanager.dataparser, OwnNerfstudio)
    assert config.pipeline.datamanager.dataparser._target is Nerfstudio
    config.save_config()
    text = (trainer.base_dir / "config.yml").read_text()
    assert "nerfstudio_dataparser.Nerfstudio ''" in text
    assert "OwnNerfstudio" not in text


def test_somebodys_own_dataparser_is_left_alone() -> None:
    class Own(Nerfstudio):
        pass

    config: Any = run_config(Path()).pipeline.datamanager.dataparser
    config._target = Own
    with own_reading(config):
        assert config._target is Own
    assert config._target is Own


# ----------------------------------------------------------------- colmap


def colmap(data: Path, **options: Any) -> Any:
    return parsed(data, ColmapDataParserConfig(colmap_path=Path("sparse/0"), downscale_factor=1), **options)


def in_text(name: str, change: Callable[[str], str]) -> Change:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


def test_colmap_as_nerfstudio_reads_it(scenes: dict[str, Path]) -> None:
    config = ColmapDataParserConfig(colmap_path=Path("sparse/0"), downscale_factor=1, data=scenes["colmap"])
    expected = config.setup().get_dataparser_outputs("train")
    found = colmap(scenes["colmap"], eval_mode=config.eval_mode)
    assert found.image_filenames == expected.image_filenames
    assert torch.equal(found.metadata["points3D_xyz"], expected.metadata["points3D_xyz"])
    assert torch.equal(found.metadata["points3D_rgb"], expected.metadata["points3D_rgb"])
    for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height", "camera_type"):
        assert torch.equal(getattr(found.cameras, name), getattr(expected.cameras, name)), name


def test_a_colmap_model_of_several_lenses(scenes: dict[str, Path], tmp_path: Path) -> None:
    lines = [
        "1 OPENCV_FISHEYE 32 24 30 31 16 12 0.01 0.02 0.03 0.04",
        "2 FULL_OPENCV 32 24 33 34 16 12 0.1 0.2 0.01 0.02 0.3 0.4 0.5 0.6",
        "3 SIMPLE_RADIAL 32 24 36 16 12 0.1",
    ]

    def change(folder: Path) -> None:
        in_text("sparse/0/cameras.txt", lambda _: "\n".join(lines))(folder)
        in_text(
            "sparse/0/images.txt",
            lambda text: "\n".join(
                line.replace(" 1 frame", f" {int(line[-5]) % 3 + 1} frame") if line.endswith(".png") else line
                for line in text.split("\n")
            ),
        )(folder)

    found = colmap(changed_copy(scenes["colmap"], tmp_path, change))
    kinds = [int(by_name(found, f"frame_0000{i}.png").camera_type) for i in range(3)]
    assert kinds == [CameraType.FISHEYE.value, CameraType.PERSPECTIVE.value, CameraType.PERSPECTIVE.value]
    params = [by_name(found, f"frame_0000{i}.png").distortion_params for i in range(3)]
    torch.testing.assert_close(params[0][:6], torch.tensor([0.01, 0.02, 0.03, 0.04, 0, 0]))
    torch.testing.assert_close(params[1], torch.tensor([0.1, 0.2, 0.3, 0, 0.01, 0.02, 0.4, 0.5, 0.6]))
    torch.testing.assert_close(params[2][:6], torch.tensor([0.1, 0, 0, 0, 0, 0]))
    assert [float(by_name(found, f"frame_0000{i}.png").fy) for i in range(3)] == [31, 34, 36]


def test_names_with_spaces_in_text_and_in_binary(scenes: dict[str, Path], tmp_path: Path) -> None:
    expected = colmap(scenes["colmap"])
    for kind in ("text", "binary"):

        def change(folder: Path, kind: str = kind) -> None:
            (folder / "images" / "Straße 1").mkdir()
            for path in (folder / "images").glob("*.png"):
                path.rename(folder / "images" / "Straße 1" / f"a {path.name}")
            in_text("sparse/0/images.txt", lambda text: text.replace("frame_", "Straße 1/a frame_"))(folder)
            if kind == "binary":
                write_binary(folder / "sparse/0")

        found = colmap(changed_copy(scenes["colmap"], tmp_path / kind, change))
        assert all(path.is_file() for path in found.image_filenames)
        torch.testing.assert_close(found.cameras.camera_to_worlds, expected.cameras.camera_to_worlds)


def write_binary(folder: Path) -> None:
    """Write cameras.bin and images.bin, with 2D points, in place of their texts."""
    rows = [line for line in (folder / "images.txt").read_text().split("\n")[1:] if line]
    with (folder / "images.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(rows)))
        for row in rows:
            number, *values, camera, name = row.split(maxsplit=9)
            file.write(struct.pack("<idddddddi", int(number), *map(float, values), int(camera)))
            file.write(name.encode() + b"\0" + struct.pack("<Q", 2) + bytes(48))
    _, _, width, height, *values = (folder / "cameras.txt").read_text().split("\n")[1].split()
    with (folder / "cameras.bin").open("wb") as file:
        file.write(struct.pack("<QiiQQdddd", 1, 1, 1, int(width), int(height), *map(float, values)))
    (folder / "images.txt").unlink()
    (folder / "cameras.txt").unlink()


def test_a_colmap_model_in_utm(scenes: dict[str, Path], tmp_path: Path) -> None:
    def moved(row: str) -> str:
        if not row.endswith(".png"):
            return row
        number, *values, camera, name = row.split()
        from scipy.spatial.transform import Rotation

        w, x, y, z, *translation = map(float, values)
        turn = Rotation.from_quat([x, y, z, w]).as_matrix()
        new = np.array(translation) - turn @ UTM
        return " ".join([number, *values[:4], *map(repr, new.tolist()), camera, name])

    def moved_point(row: str) -> str:
        words = row.split()
        if row.startswith("#") or not words:
            return row
        words[1:4] = [repr(float(word) + float(shift)) for word, shift in zip(words[1:4], UTM, strict=True)]
        return " ".join(words)

    def change(folder: Path) -> None:
        in_text("sparse/0/images.txt", lambda text: "\n".join(map(moved, text.split("\n"))))(folder)
        in_text("sparse/0/points3D.txt", lambda text: "\n".join(map(moved_point, text.split("\n"))))(folder)

    near, far = colmap(scenes["colmap"]), colmap(changed_copy(scenes["colmap"], tmp_path, change))
    torch.testing.assert_close(far.cameras.camera_to_worlds, near.cameras.camera_to_worlds, atol=1e-5, rtol=0)
    torch.testing.assert_close(far.metadata["points3D_xyz"], near.metadata["points3D_xyz"], atol=1e-5, rtol=0)
    shift = far.dataparser_transform[:, :3] @ torch.from_numpy(UTM) + far.dataparser_transform[:, 3]
    torch.testing.assert_close(shift, near.dataparser_transform[:, 3].double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("style", ["{stem}.png", "{name}.png", "{name}"])
def test_masks_of_colmap_under_all_names(scenes: dict[str, Path], tmp_path: Path, style: str) -> None:
    def change(folder: Path) -> None:
        (folder / "masks").mkdir()
        for path in sorted((folder / "images").iterdir()):
            jpeg = path.with_suffix(".jpg")
            Image.open(path).save(jpeg)
            path.unlink()
            mask = folder / "masks" / style.format(stem=jpeg.stem, name=jpeg.name)
            Image.new("L", (32, 24), int(jpeg.stem[-1])).save(mask, format="PNG")
        in_text("sparse/0/images.txt", lambda text: text.replace(".png", ".jpg"))(folder)

    found = colmap(changed_copy(scenes["colmap"], tmp_path, change), masks_path=Path("masks"))
    for image, mask in zip(found.image_filenames, found.mask_filenames, strict=True):
        assert np.asarray(Image.open(mask))[0, 0] == int(image.stem[-1])


def test_a_colmap_model_without_points(scenes: dict[str, Path], tmp_path: Path) -> None:
    data = changed_copy(scenes["colmap"], tmp_path, in_text("sparse/0/points3D.txt", lambda _: "# none\n"))
    assert "points3D_xyz" not in colmap(data).metadata


def into_a_folder(folder: Path) -> None:
    (folder / "images" / "cam0").mkdir()
    for path in (folder / "images").glob("*.png"):
        path.rename(path.parent / "cam0" / path.name)


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        (into_a_folder, "frame_", "cam0\\frame_"),
        (lambda folder: None, ".png", ".PNG"),
        (lambda folder: None, ".png", ""),
        (lambda folder: None, "frame_", "/home/me/photos/frame_"),
        (into_a_folder, "frame_", "C:\\photos\\cam0\\frame_"),
        (lambda folder: None, "frame_", "images/frame_"),
    ],
    ids=["backslashes", "case", "no_suffix", "elsewhere", "windows", "from_above"],
)
def test_names_that_programs_write_into_a_colmap_model(
    scenes: dict[str, Path], tmp_path: Path, change: Change, old: str, new: str
) -> None:
    data = changed_copy(scenes["colmap"], tmp_path, change)
    in_text("sparse/0/images.txt", lambda text: text.replace(old, new))(data)
    found, expected = colmap(data), colmap(scenes["colmap"])
    assert [path.name for path in found.image_filenames] == [path.name for path in expected.image_filenames]
    assert all(path.is_file() for path in found.image_filenames)
    assert torch.equal(found.cameras.camera_to_worlds, expected.cameras.camera_to_worlds)


@pytest.mark.parametrize("points", ["", "1.5 2 -1 3 4.5 7"])
def test_lines_of_2d_points_may_be_left_out_of_images_txt(scenes: dict[str, Path], tmp_path: Path, points: str) -> None:
    """Half of the images were passed over."""

    def change(text: str) -> str:
        lines = [line for line in text.split("\n") if line]
        lines[3] += f"\n{points}"  # one image of eight has its second line
        return "\n".join(lines)

    data = changed_copy(scenes["colmap"], tmp_path, in_text("sparse/0/images.txt", change))
    found, expected = colmap(data), colmap(scenes["colmap"])
    assert found.image_filenames == [data / path.relative_to(scenes["colmap"]) for path in expected.image_filenames]
    assert torch.equal(found.cameras.camera_to_worlds, expected.cameras.camera_to_worlds)
    assert number_of_images(data / "sparse/0") == 8


def test_names_that_are_numbers_need_no_lines_of_2d_points(scenes: dict[str, Path], tmp_path: Path) -> None:
    """Their lines were taken for those of 2D points."""

    def change(folder: Path) -> None:
        for path in (folder / "images").iterdir():
            path.rename(path.with_name(path.name.removeprefix("frame_")))
        in_text("sparse/0/images.txt", lambda text: re.sub(r"frame_(\d+).png\n\n", r"\1\n", text))(folder)

    found = colmap(changed_copy(scenes["colmap"], tmp_path, change))
    assert [path.name for path in found.image_filenames] == [f"{number:05d}.png" for number in range(8)]


def test_two_images_of_one_name_in_folders_elsewhere_are_not_mixed_up(scenes: dict[str, Path], tmp_path: Path) -> None:
    data = changed_copy(
        scenes["colmap"],
        tmp_path,
        in_text("sparse/0/images.txt", lambda text: text.replace("frame_00001", "/a/frame_00000")),
    )
    names = [str(path) for path in colmap(data).image_filenames]
    assert "/a/frame_00000.png" in names


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_text_as_other_editors_save_it(scenes: dict[str, Path], tmp_path: Path, encoding: str) -> None:
    def change(folder: Path) -> None:
        for path in (folder / "images").iterdir():
            path.rename(path.with_name(path.name.replace("frame", "façade")))
        for path in (folder / "sparse/0").iterdir():
            text = path.read_text().split("\n", 1)[1]  # without the comment
            path.write_bytes(text.replace("frame", "façade").encode(encoding))

    found, expected = colmap(changed_copy(scenes["colmap"], tmp_path, change)), colmap(scenes["colmap"])
    assert found.image_filenames[0].name == "façade_00000.png"
    assert all(path.is_file() for path in found.image_filenames)
    assert torch.equal(found.cameras.camera_to_worlds, expected.cameras.camera_to_worlds)
    assert torch.equal(found.cameras.fx, expected.cameras.fx)
    assert torch.equal(found.metadata["points3D_xyz"], expected.metadata["points3D_xyz"])
    assert number_of_images(tmp_path / "data/sparse/0") == 8


def test_latin_1_names_of_a_binary_model(scenes: dict[str, Path], tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        in_text("sparse/0/images.txt", lambda text: text.replace("frame", "f_ade"))(folder)
        as_binary(folder)
        path = folder / "sparse/0/images.bin"
        path.write_bytes(path.read_bytes().replace(b"f_ade", b"f\xe7ade"))
        for image in (folder / "images").iterdir():
            image.rename(image.with_name(image.name.replace("frame", "fçade")))

    found = colmap(changed_copy(scenes["colmap"], tmp_path, change))
    assert all(path.is_file() for path in found.image_filenames)


@pytest.mark.parametrize("what", ["pose", "lens"])
def test_images_that_a_program_of_windows_could_not_place(
    scenes: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    """Their NaN is spelt -nan(ind), and was told as damage of the file."""

    def change(folder: Path) -> None:
        old, new = (r"\S+ 1 (frame_00003)", r"-nan(ind) 1 \1") if what == "pose" else ("1 (frame_00003)", r"2 \1")
        in_text("sparse/0/images.txt", lambda text: re.sub(old, new, text))(folder)
        in_text("sparse/0/cameras.txt", lambda text: f"{text}2 PINHOLE 32 24 -nan(ind) -nan(ind) 16 12\n")(folder)

    found = colmap(changed_copy(scenes["colmap"], tmp_path, change))
    assert len(found.image_filenames) == 7
    assert "1 of 8 photographs in" in (told := " ".join(capsys.readouterr().out.split()))
    assert "are not used: frame_00003.png" in told


@pytest.mark.parametrize("points", ["1.5 2 -1 3 4.5 7", "1 2 3 4 5 6 7 8 9 10 11 8.6e-002"])
def test_lines_of_2d_points_are_not_of_images(scenes: dict[str, Path], tmp_path: Path, points: str) -> None:
    change = in_text("sparse/0/images.txt", lambda text: text.replace("\n\n", f"\n{points}\n"))
    assert len(colmap(changed_copy(scenes["colmap"], tmp_path, change)).image_filenames) == 8


def test_utf_16_is_told(scenes: dict[str, Path], tmp_path: Path) -> None:
    data = changed_copy(scenes["colmap"], tmp_path, lambda folder: None)
    path = data / "sparse/0/images.txt"
    path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(SplatkitError, match=r"images\.txt is UTF-16.*Save it as UTF-8"):
        colmap(data)


def point_lines(change: Callable[[list[str]], list[str]]) -> Change:
    def changed(text: str) -> str:
        head, *lines = text.strip().split("\n")
        return "\n".join([head, *[" ".join(change(line.split())) for line in lines]])

    return in_text("sparse/0/points3D.txt", changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda words: [*words[:4], *[f"{word}.0" for word in words[4:7]], *words[7:]],
        lambda words: [*words[:4], *[str(int(word) / 255) for word in words[4:7]], *words[7:]],
        lambda words: words[:7],
    ],
    ids=["floats", "floats_to_1", "no_error_and_track"],
)
def test_points_as_other_programs_write_them(scenes: dict[str, Path], tmp_path: Path, change: Any) -> None:
    found = colmap(changed_copy(scenes["colmap"], tmp_path, point_lines(change))).metadata
    expected = colmap(scenes["colmap"]).metadata
    assert torch.equal(found["points3D_xyz"], expected["points3D_xyz"])
    assert torch.equal(found["points3D_rgb"], expected["points3D_rgb"])


def as_binary(folder: Path) -> None:
    model = folder / "sparse/0"
    write_model(*read_model(str(model), ext=".txt"), str(model), ext=".bin")
    for path in model.glob("*.txt"):
        path.unlink()


def test_binary_points_are_those_of_the_text(scenes: dict[str, Path], tmp_path: Path) -> None:
    found = colmap(changed_copy(scenes["colmap"], tmp_path, as_binary)).metadata
    expected = colmap(scenes["colmap"]).metadata
    assert torch.equal(found["points3D_xyz"], expected["points3D_xyz"])
    assert torch.equal(found["points3D_rgb"], expected["points3D_rgb"])


def test_text_and_binary_files_that_differ(
    scenes: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that was computed again, beside the text of an earlier one."""

    def both(folder: Path) -> None:
        text = {path: path.read_bytes() for path in (folder / "sparse/0").iterdir()}
        as_binary(folder)
        for path, content in text.items():
            path.write_bytes(content)

    data = changed_copy(scenes["colmap"], tmp_path, both)
    colmap(data)
    assert "they differ" not in capsys.readouterr().out
    in_text("sparse/0/images.txt", lambda text: re.sub(r"\S+ 1 frame_00003", "3.1 1 frame_00003", text))(data)
    point_lines(lambda words: [*words[:4], "7", "8", "9"])(data)
    found = colmap(data)
    told = " ".join(capsys.readouterr().out.split())
    assert "as text, of 8 images, and in binary files, of 8, and they differ: the text is read." in told
    assert found.metadata["points3D_rgb"][0].tolist() == [7, 8, 9], "the points are those of the same kind"


def test_a_colmap_model_with_its_points_in_a_ply_file(scenes: dict[str, Path], tmp_path: Path) -> None:
    """3DGS and others write points3D.ply."""

    def change(folder: Path) -> None:
        (folder / "sparse/0/points3D.txt").unlink()
        shutil.copy(scenes["nerfstudio"] / "sparse_pc.ply", folder / "sparse/0/points3D.ply")

    found = colmap(changed_copy(scenes["colmap"], tmp_path, change)).metadata
    expected = colmap(scenes["colmap"]).metadata
    torch.testing.assert_close(found["points3D_xyz"], expected["points3D_xyz"], atol=1e-6, rtol=0)
    assert torch.equal(found["points3D_rgb"], expected["points3D_rgb"])


@pytest.mark.parametrize("name", ["nerfstudio", "colmap", "blender", "instant-ngp"])
def test_cameras_have_a_dictionary_of_their_own(scenes: dict[str, Path], name: str) -> None:
    """``ns-export cameras`` writes into it."""
    configs = {
        "colmap": ColmapDataParserConfig(colmap_path=Path("sparse/0"), downscale_factor=1),
        "blender": BlenderDataParserConfig(),
        "instant-ngp": InstantNGPDataParserConfig(),
    }
    cameras = parsed(scenes.get(name, scenes["nerfstudio"]), configs.get(name)).cameras
    cameras[1:2].metadata["cam_idx"] = 1
    assert cameras[2:3].metadata == {}


# ------------------------------------------------------- instant-ngp, blender


def test_instant_ngp_with_one_held_out_image_and_angles(scenes: dict[str, Path], tmp_path: Path) -> None:
    def change(meta: dict[str, Any]) -> None:
        for key in ("fl_x", "fl_y", "w", "h", "cx", "cy", "camera_model"):
            meta.pop(key)
        meta.update(x_fov=60.0, camera_angle_y=0.8)
        meta["frames"][2].update(camera_angle_x=0.5, is_fisheye=True)

    data = changed_copy(scenes["nerfstudio"], tmp_path, in_json(change))
    config = InstantNGPDataParserConfig()
    held_out = parsed(data, config, "val", eval_mode="fraction", train_split_fraction=0.85)
    assert held_out.cameras.camera_to_worlds.shape == (1, 3, 4)
    assert held_out.cameras.shape == (1,)
    found = parsed(data, config)
    same = by_name(found, held_out.image_filenames[0].name)
    assert torch.equal(held_out.cameras.camera_to_worlds[0], same.camera_to_worlds)
    assert float(same.camera_to_worlds[:, 3].norm()) == pytest.approx(DISTANCE * 0.3333)
    plain, own = by_name(found, "frame_00001.png"), by_name(found, "frame_00002.png")
    assert float(plain.fx) == pytest.approx(16 / np.tan(np.pi / 6))
    assert float(plain.fy) == pytest.approx(12 / np.tan(0.4), rel=1e-5)
    assert (int(plain.width), int(plain.height), float(plain.cx)) == (32, 24, 16)
    assert float(own.fx) == float(own.fy) == pytest.approx(16 / np.tan(0.25))
    assert int(own.camera_type) == CameraType.FISHEYE.value


def test_one_held_out_image_trains_and_evaluates(scenes: dict[str, Path], tmp_path: Path) -> None:
    config = run_config(scenes["nerfstudio"], tmp_path, steps=1, dataparser=InstantNGPDataParserConfig())
    parser: Any = config.pipeline.datamanager.dataparser
    parser.eval_mode, parser.train_split_fraction = "fraction", 0.85
    config.pipeline.model.num_random = 100
    trainer = make_trainer(config)
    trainer.train()
    assert len(trainer.pipeline.datamanager.eval_dataset) == 1
    assert trainer.pipeline.eval().get_average_eval_image_metrics(0)["psnr"] > 5


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("nerfstudio", NerfstudioDataParserConfig()),
        ("nerfstudio", InstantNGPDataParserConfig()),
        ("colmap", ColmapDataParserConfig(colmap_path=Path("sparse/0"), eval_mode="fraction", load_3D_points=False)),
    ],
)
def test_with_few_photographs_all_are_trained_on(
    scenes: dict[str, Path], tmp_path: Path, name: str, config: Any
) -> None:
    assert config.train_split_fraction == 0.9, "the default: eight photographs leave none to hold out"
    run = run_config(scenes[name], tmp_path, steps=1, dataparser=deepcopy(config))
    parser: Any = run.pipeline.datamanager.dataparser
    parser.eval_mode = config.eval_mode
    run.pipeline.model.num_random = 100
    with collected_notes() as notes:
        trainer = make_trainer(run)
    assert any("the dataparser's split leaves none of 8. All are trained on" in note for note in notes)
    trainer.train()
    data: Any = trainer.pipeline.datamanager
    assert len(data.train_dataset) == 8
    assert data.eval_dataset.image_filenames == data.train_dataset.image_filenames
    assert trainer.pipeline.eval().get_average_eval_image_metrics(0)["psnr"] > 5
    assert not (trainer.base_dir / "held_out").exists(), "nothing is called held out"


def test_instant_ngp_keeps_focal_lengths_of_both_axes(scenes: dict[str, Path], tmp_path: Path) -> None:
    data = changed_copy(scenes["nerfstudio"], tmp_path, in_json(lambda meta: meta.update(fl_y=50.0, camera_angle_y=1)))
    camera = parsed(data, InstantNGPDataParserConfig()).cameras[0]
    assert (float(camera.fx), float(camera.fy)) == pytest.approx((38.627, 50.0), abs=1e-3)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ""])
def test_blender_with_and_without_suffix(scenes: dict[str, Path], tmp_path: Path, suffix: str) -> None:
    def change(folder: Path) -> None:
        for split in ("train", "val", "test"):
            path = folder / f"transforms_{split}.json"
            meta = json.loads(path.read_text())
            for frame in meta["frames"]:
                stored = folder / f"{frame['file_path']}.png"
                if suffix == ".jpg":
                    Image.open(stored).convert("RGB").save(stored.with_suffix(".jpg"))
                frame["file_path"] += suffix
            path.write_text(json.dumps(meta))

    data = changed_copy(scenes["blender"], tmp_path, change)
    expected = BlenderDataParserConfig(data=scenes["blender"]).setup().get_dataparser_outputs("train")
    found = parsed(data, BlenderDataParserConfig())
    assert all(path.is_file() and path.suffix == (suffix or ".png") for path in found.image_filenames)
    assert torch.equal(found.cameras.camera_to_worlds, expected.cameras.camera_to_worlds)
    torch.testing.assert_close(found.cameras.fx, expected.cameras.fx.float())
    assert (int(found.cameras.width[0]), int(found.cameras.height[0])) == (32, 24)
    assert torch.equal(found.alpha_color, expected.alpha_color)


def test_blender_honours_a_lens_and_the_size_of_its_images(scenes: dict[str, Path], tmp_path: Path) -> None:
    lens = {"fl_x": 80.0, "fl_y": 82.0, "cx": 30.0, "cy": 24.0, "w": 64, "h": 48, "k1": 0.1}

    def change(folder: Path) -> None:
        path = folder / "transforms_train.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **lens}))

    camera = parsed(changed_copy(scenes["blender"], tmp_path, change), BlenderDataParserConfig()).cameras[0]
    assert [float(getattr(camera, key)) for key in ("fx", "fy", "cx", "cy")] == [40, 41, 15, 12]
    assert camera.distortion_params[0] == pytest.approx(0.1)


@pytest.mark.parametrize("config", [InstantNGPDataParserConfig, BlenderDataParserConfig])
def test_other_formats_far_from_the_origin(scenes: dict[str, Path], tmp_path: Path, config: Any) -> None:
    scene = "blender" if config is BlenderDataParserConfig else "nerfstudio"

    def change(folder: Path) -> None:
        for path in folder.glob("transforms*.json"):
            meta = json.loads(path.read_text())
            for frame in meta["frames"]:
                for axis in range(3):
                    frame["transform_matrix"][axis][3] += float(UTM[axis])
            path.write_text(json.dumps(meta))

    near, far = parsed(scenes[scene], config()), parsed(changed_copy(scenes[scene], tmp_path, change), config())
    moved = far.cameras.camera_to_worlds - near.cameras.camera_to_worlds
    assert float(moved[..., :3].abs().max()) < 1e-6
    shift = moved[..., 3]
    torch.testing.assert_close(shift, shift[:1].expand_as(shift), atol=1e-5, rtol=0)
    back = far.transform_poses_to_original_space(far.cameras.camera_to_worlds, "opengl")[..., 3]
    expected = near.cameras.camera_to_worlds[..., 3].double() / near.dataparser_scale + torch.from_numpy(UTM)
    torch.testing.assert_close(back, expected, atol=1e-5, rtol=0)


# ----------------------------------------------- lists of held-out images


def lists_of_nerfstudio(held_out: str) -> Change:
    names = [f"images/frame_0000{i}.png" for i in range(8)]
    return in_json(lambda meta: meta.update({"train_filenames": names[:6], f"{held_out}_filenames": names[6:]}))


def lists_of_colmap(held_out: str) -> Change:
    def apply(folder: Path) -> None:
        names = [path.name for path in sorted((folder / "images").iterdir())]
        (folder / "train_list.txt").write_text("\n".join(names[:6]))
        (folder / f"{held_out}_list.txt").write_text("\n".join(names[6:]))

    return apply


def files_of_blender(held_out: str) -> Change:
    other = "val" if held_out == "test" else "test"
    return lambda folder: (folder / f"transforms_{other}.json").unlink()


@pytest.mark.parametrize("held_out", ["val", "test"])
@pytest.mark.parametrize(
    ("scene", "config", "lists", "shown"),
    [
        ("nerfstudio", NerfstudioDataParserConfig, lists_of_nerfstudio, "{}_filenames"),
        ("colmap", ColmapDataParserConfig, lists_of_colmap, "{}_list.txt"),
        ("blender", BlenderDataParserConfig, files_of_blender, "transforms_{}.json"),
    ],
)
def test_one_list_of_held_out_images_serves_training_and_evaluation(
    scenes: dict[str, Path], tmp_path: Path, held_out: str, scene: str, config: Any, lists: Any, shown: str
) -> None:
    """Training asks for the split val, and ns-eval for test."""
    data = changed_copy(scenes[scene], tmp_path, lists(held_out))
    options = {"colmap_path": Path("sparse/0"), "downscale_factor": 1} if scene == "colmap" else {}
    with collected_notes() as notes:
        found = {split: parsed(data, config(**options), split) for split in ("train", "val", "test")}
    assert [len(outputs.image_filenames) for outputs in found.values()] == [6, 2, 2]
    assert found["val"].image_filenames == found["test"].image_filenames
    missing = "val" if held_out == "test" else "test"
    assert any(
        f"no {shown.format(missing)}: evaluations take the images of {shown.format(held_out)}" in n for n in notes
    )


def test_the_name_that_nerfstudio_expects_and_does_not_read(scenes: dict[str, Path], tmp_path: Path) -> None:
    """Its colmap dataparser looks for validation_list.txt, and reads val_list.txt."""
    data = changed_copy(scenes["colmap"], tmp_path, lists_of_colmap("validation"))
    assert len(colmap(data, split="val").image_filenames) == 2
