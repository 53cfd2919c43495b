"""Broken data sets in other formats, odd pictures, and point clouds."""

from __future__ import annotations

import io
import shutil
import tracemalloc
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from PIL import Image

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.data.checks.contents import check_outputs, read_headers
from splatkit_ns.plugin.data.checks.data_folder import check_point_cloud
from splatkit_ns.plugin.data.errors import DataError
from tests.plugin.data.broken_data import IMAGE, XYZ, Change, changed_copy, cut, delete, run, write
from tests.plugin.helpers import run_config


def colmap() -> ColmapDataParserConfig:
    return ColmapDataParserConfig(colmap_path=Path("sparse/0"))


COLMAP: dict[str, tuple[Change, str]] = {
    "images.txt cut": (cut("sparse/0/images.txt", 200), "ColmapDataParser cannot read"),
    "a word": (write("sparse/0/cameras.txt", "1 PINHOLE 32 x 24"), "invalid literal for int()"),
    "cameras.txt cut": (
        cut("sparse/0/cameras.txt", 25),
        "cameras.txt has the line '1 PINHOLE 32', expected the number",
    ),
    "no images": (
        write("sparse/0/images.txt", "# none"),
        "colmap model. It has none with a pose: align the photographs again",
    ),
    "points of words": (
        write("sparse/0/points3D.txt", "1 2 3 x 1 1 1"),
        "points3D.txt cannot be read: could not convert",
    ),
    "no images.txt": (delete("sparse/0/images.txt"), "sparse/0/images.txt does not exist. Restore it"),
    "no points": (
        delete("sparse/0/points3D.txt"),
        "sparse/0. Restore it, or start from random points: --load-3D-points False",
    ),
    "image missing": (delete(IMAGE), f"{IMAGE} does not exist, which the data set names"),
}


def test_masks_of_some_photographs(scenes: dict[str, Path], tmp_path: Path) -> None:
    """Each was told of by itself, as a file to be restored."""

    def change(folder: Path) -> None:
        (folder / "masks").mkdir()
        for number in (0, 1, 2, 4):
            Image.new("L", (32, 24), 255).save(folder / f"masks/frame_{number:05d}.png")

    data = changed_copy(scenes["colmap"], tmp_path, change)
    message = run(data, tmp_path / "out", colmap(), masks_path=Path("masks"))
    assert "4 of 6 images of a split have no mask. No such file:" in message
    assert "images/frame_00003.png. Add what is missing" in message


@pytest.mark.parametrize("name", COLMAP)
def test_a_broken_colmap_model(scenes: dict[str, Path], tmp_path: Path, name: str) -> None:
    change, fragment = COLMAP[name]
    data = changed_copy(scenes["colmap"], tmp_path, change)
    assert fragment in run(data, tmp_path / "out", colmap())


def test_nobody_answers_whether_to_make_smaller_images(
    scenes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    message = run(scenes["colmap"], tmp_path, colmap(), downscale_factor=2)
    assert "no folder of those (such as images_2)" in message
    assert "--downscale-factor 1 of the dataparser" in message


def test_smaller_images_that_were_rounded_up(scenes: dict[str, Path], tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(scenes["colmap"], data)
    (data / "images_5").mkdir()
    for path in (data / "images").iterdir():
        Image.open(path).resize((7, 5)).save(data / "images_5" / path.name)
    message = run(data, tmp_path / "out", colmap(), downscale_factor=5)
    assert "is 7×5 pixels, its camera says 6×4" in message
    assert "--downscale-rounding-mode round (or ceil)" in message


def test_the_folder_of_smaller_images_as_that_of_all(scenes: dict[str, Path], tmp_path: Path) -> None:
    """As the option ``-i images_2`` of other trainers, which know focal lengths as angles."""
    data = tmp_path / "data"
    shutil.copytree(scenes["colmap"], data)
    (data / "images").rename(data / "images_2")
    for path in (data / "images_2").iterdir():
        Image.open(path).resize((16, 12)).save(path)
    message = run(data, tmp_path / "out", colmap(), images_path=Path("images_2"), downscale_factor=1)
    assert "is 16×12 pixels, its camera says 32×24. The cameras are those of the images in full size: --i" in message
    assert "--images-path images --downscale-factor 2 of the colmap dataparser" in message


def test_smaller_images_alone(scenes: dict[str, Path], tmp_path: Path) -> None:
    """Data sets come with images_2 or images_4 and nothing else."""
    for scene in ("nerfstudio", "colmap"):
        data = tmp_path / scene
        shutil.copytree(scenes[scene], data)
        (data / "images").rename(data / "images_2")
        for path in (data / "images_2").iterdir():
            Image.open(path).resize((16, 12)).save(path)
    assert f"There is {tmp_path}/nerfstudio/images_2, which --downscale-factor 2 of the dataparser uses" in run(
        tmp_path / "nerfstudio", tmp_path / "out"
    )
    message = run(tmp_path / "colmap", tmp_path / "out")
    assert message.endswith(f"colmap --data {tmp_path}/colmap --colmap-path sparse/0 --downscale-factor 2")
    for scene, parser in (("nerfstudio", None), ("colmap", colmap())):
        config: Any = run_config(tmp_path / scene, dataparser=parser)
        config.pipeline.datamanager.dataparser.downscale_factor = 2
        batch = config.pipeline.setup(device="cpu", test_mode="val").datamanager.cached_train[0]
        assert batch["image"].shape[:2] == (12, 16)


BLENDER: dict[str, tuple[Change, str]] = {
    "no JSON": (write("transforms_train.json", "{"), "transforms_train.json is not JSON"),
    "no held-out images": (
        lambda folder: [(folder / f"transforms_{split}.json").unlink() for split in ("val", "test")],
        "transforms_val.json does not exist",
    ),
    "image missing": (delete("train/r_2.png"), "train/r_2.png does not exist, which the data set names"),
    "first image missing": (delete("train/r_0.png"), "train/r_0.png does not exist, which the data set names"),
}


@pytest.mark.parametrize("name", BLENDER)
def test_a_broken_blender_scene(scenes: dict[str, Path], tmp_path: Path, name: str) -> None:
    change, fragment = BLENDER[name]
    data = changed_copy(scenes["blender"], tmp_path, change)
    assert fragment in run(data, tmp_path / "out", BlenderDataParserConfig())


def test_another_format_than_the_dataparsers_is_recognised(scenes: dict[str, Path], tmp_path: Path) -> None:
    for scene, parser, advice in (
        ("blender", None, "end the command with: blender-data --data"),
        ("nerfstudio", colmap(), "end the command with: nerfstudio-data --data"),
        ("nerfstudio", BlenderDataParserConfig(), "end the command with: nerfstudio-data --data"),
        ("colmap", ColmapDataParserConfig(), "There is no COLMAP model in"),
    ):
        assert advice in run(scenes[scene], tmp_path, parser)


def test_photographs_of_a_colmap_model_in_a_folder_of_another_name(scenes: dict[str, Path], tmp_path: Path) -> None:
    data = changed_copy(scenes["colmap"], tmp_path, lambda folder: (folder / "images").rename(folder / "input"))
    message = run(data, tmp_path / "out")
    assert message.endswith(f"colmap --data {data} --colmap-path sparse/0 --images-path input")


def test_a_colmap_model_beside_another_format(scenes: dict[str, Path], tmp_path: Path) -> None:
    """Who asks for colmap is told where its model is, though there is a transforms.json, too."""
    data = tmp_path / "data"
    shutil.copytree(scenes["colmap"], data)
    shutil.copy(scenes["nerfstudio"] / "transforms.json", data)
    message = run(data, tmp_path / "out", ColmapDataParserConfig())
    assert message.endswith(f"end the command with: colmap --data {data} --colmap-path sparse/0")


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "LA", "1"])
def test_pictures_of_all_modes_have_their_own_colours(scenes: dict[str, Path], tmp_path: Path, mode: str) -> None:
    """A palette's indices are not colours, and CMYK's black is no alpha."""
    data = tmp_path / "data"
    shutil.copytree(scenes["nerfstudio"], data)
    red = Image.new("RGB", (32, 24), (255, 0, 0)).convert(mode)
    with (data / IMAGE).open("wb") as file:
        red.save(file, format="TIFF" if mode == "CMYK" else "PNG")
    pipeline = run_config(data).pipeline.setup(device="cpu", test_mode="val")
    dataset = pipeline.datamanager.train_dataset
    index = [path.name for path in dataset.image_filenames].index("frame_00001.png")
    expected = np.asarray(red.convert("RGBA" if mode == "LA" else "RGB"))
    assert np.array_equal(dataset.get_numpy_image(index), expected)


@pytest.mark.parametrize("lines", [3, 5])
def test_points_as_text_are_counted(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "points.ply"
    header = (
        "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    path.write_text(header + "1 2 3\n" * lines)
    if lines < 4:
        with pytest.raises(SplatkitError, match=r"declares 4 vertices and holds 3"):
            check_point_cloud(path)
    else:
        check_point_cloud(path)


def test_points_without_a_vertex(tmp_path: Path) -> None:
    path = tmp_path / "points.ply"
    path.write_text(f"ply\nformat ascii 1.0\nelement vertex 0\n{XYZ}end_header\n")
    with pytest.raises(SplatkitError, match=r"points.ply holds no vertex. Restore it, or start from random points"):
        check_point_cloud(path)


def test_a_large_binary_point_cloud_is_not_read_to_be_checked(tmp_path: Path) -> None:
    path = tmp_path / "points.ply"
    for declared in (1_000_000, 1_000_001):
        header = f"ply\nformat binary_little_endian 1.0\nelement vertex {declared}\n{XYZ}end_header\n"
        path.write_bytes(header.encode() + bytes(1_000_000 * 12))
        is_cut = declared > 1_000_000
        tracemalloc.start()
        with pytest.raises(DataError, match="1000001 vertices and holds 1000000") if is_cut else nullcontext():
            check_point_cloud(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_000_000


def test_cameras_are_not_sliced_to_check_images(tiny_scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes 0.1 ms each, at every start of every command."""
    parser: Any = run_config(tiny_scene).pipeline.datamanager.dataparser
    parser.data = tiny_scene
    outputs = parser.setup().get_dataparser_outputs("train")
    monkeypatch.setattr(Cameras, "__getitem__", None)
    check_outputs(outputs, read_headers(outputs.image_filenames))
