"""Photographs of a folder: which are taken, what EXIF says of them, how they come into the data set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from splatkit_ns.errors import SplatkitError
from splatkit_ns.poses.pictures import (
    Photograph,
    Picture,
    find_photographs,
    place_photographs,
    read_photographs,
    safe_names,
)
from tests.poses.helpers import save, texture


def found_names(folder: Path, output: Path | None = None) -> list[str]:
    found = find_photographs(folder, output or folder / "none")
    return [path.relative_to(folder).as_posix() for path in found.photographs]


def read(folder: Path) -> list[Photograph | str]:
    return list(read_photographs(find_photographs(folder, folder / "none"), 2))


def placed(folder: Path, into: Path) -> list[Picture]:
    photographs = [entry for entry in read(folder) if isinstance(entry, Photograph)]
    return list(place_photographs(photographs, into))


def test_photographs_are_found_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("IMG_10.JPG", "IMG_9.jpg", "IMG_100.png", "._IMG_9.jpg", "notes.txt"):
        save(tmp_path / name, texture()) if name != "notes.txt" else (tmp_path / name).write_text("none")
    assert found_names(tmp_path) == ["IMG_9.jpg", "IMG_10.JPG", "IMG_100.png"]


def test_subfolders_count_if_the_folder_itself_has_no_photographs(tmp_path: Path) -> None:
    for name in ("left/1.jpg", "right/1.jpg", "masks/1.png", "images_2/1.jpg", ".thumbs/1.jpg", "scene/images/1.jpg"):
        save(tmp_path / name, texture())
    assert found_names(tmp_path, output=tmp_path / "scene") == ["left/1.jpg", "right/1.jpg"]
    save(tmp_path / "images/7.jpg", texture())
    assert found_names(tmp_path) == ["images/7.jpg"], "a folder of this name has the photographs"
    save(tmp_path / "8.jpg", texture())
    found = find_photographs(tmp_path, tmp_path / "scene")
    assert [path.name for path in found.photographs] == ["8.jpg"]
    assert "3 picture(s) in subfolders" in found.passed_over[0]


@pytest.mark.parametrize(
    ("name", "advice"),
    [("a.mp4", "name the video, such as"), ("a.NEF", "convert them to JPEG"), ("a.txt", "holds no pictures")],
)
def test_folders_without_photographs_are_refused(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / name).write_bytes(b"0")
    with pytest.raises(SplatkitError, match=advice):
        find_photographs(tmp_path, tmp_path / "out")


def test_what_exif_says(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", texture(), model="Camera 1", focal=4.5, gps=(47.5, -8.25))
    save(tmp_path / "b.jpg", texture(), model="Camera 1", focal=9.0, gps=(0.0, 0.0))
    save(tmp_path / "c.jpg", texture(), gps=(-33.875, 151.2))
    pictures = placed(tmp_path, tmp_path / "out")
    assert [picture.camera for picture in pictures] == ["Camera 1, 4.5", "Camera 1, 9.0", ""]
    assert pictures[0].gps == pytest.approx((47.5, -8.25))
    assert pictures[1].gps is None, "cameras without a fix write zeros"
    assert pictures[2].gps == pytest.approx((-33.875, 151.2))


def test_upright_photographs_are_linked(tmp_path: Path) -> None:
    source = save(tmp_path / "in/a b.jpg", texture(), orientation=1)
    (picture,) = placed(tmp_path / "in", tmp_path / "out")
    assert picture == Picture("a_b.jpg", "a b.jpg", 64, 48)
    assert os.path.samefile(source, tmp_path / "out/a_b.jpg")


def test_photographs_are_copied_where_links_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    source = save(tmp_path / "in/a.jpg", texture())
    placed(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out/a.jpg").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turned_photographs_become_upright_copies(tmp_path: Path, orientation: int) -> None:
    source = save(tmp_path / "in/a.png", texture(), orientation=orientation, gps=(10.0, 20.0))
    before = source.read_bytes()
    (picture,) = placed(tmp_path / "in", tmp_path / "out")
    with Image.open(tmp_path / "out/a.png") as copy, Image.open(source) as original:
        expected = ImageOps.exif_transpose(original)
        assert (picture.width, picture.height) == copy.size == expected.size
        assert np.array_equal(np.array(copy), np.array(expected))
        assert 0x0112 not in copy.getexif()
        assert copy.getexif().get_ifd(0x8825)[2] == (10.0, 0.0, 0.0), "the rest of EXIF stays"
    assert source.read_bytes() == before


def test_formats_that_others_cannot_read_are_converted(tmp_path: Path) -> None:
    image = Image.fromarray(texture())
    save(tmp_path / "in/a.webp", image)
    alpha = image.convert("RGBA")
    alpha.putalpha(77)
    save(tmp_path / "in/b.webp", alpha)
    save(tmp_path / "in/c.tif", Image.fromarray(texture()[..., 0].astype(np.uint16) * 257))
    save(tmp_path / "in/d.jpg", image.convert("CMYK"))
    save(tmp_path / "in/e.png", image.convert("P"))
    names = [picture.name for picture in placed(tmp_path / "in", tmp_path / "out")]
    assert names == ["a.webp.jpg", "b.webp.png", "c.tif.png", "d.jpg", "e.png"]
    modes = {name: Image.open(tmp_path / "out" / name).mode for name in names}
    assert modes == {"a.webp.jpg": "RGB", "b.webp.png": "RGBA", "c.tif.png": "L", "d.jpg": "RGB", "e.png": "RGB"}
    assert np.array_equal(np.array(Image.open(tmp_path / "out/c.tif.png")), texture()[..., 0]), "16 bits become 8"


def test_damaged_files_are_named_with_a_reason(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", texture(256, 256))
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.jpg").write_text("no picture")
    (tmp_path / "d.png").write_bytes(b"")
    (tmp_path / "e.heic").write_bytes(b"no picture")
    entries = read(tmp_path)
    assert isinstance(entries[0], Photograph)
    reasons = [str(entry) for entry in entries[1:]]
    assert "b.jpg" in reasons[0]
    assert "truncated" in reasons[0]
    assert "c.jpg: not a picture" in reasons[1]
    assert "d.png: the file is empty" in reasons[2]
    assert "pip install pillow-heif" in reasons[3]


def test_names_stay_different_without_white_space() -> None:
    names = safe_names(["a b.jpg", "a_b.jpg", "A_B.jpg", "sub dir/#1.jpg", "fine.jpg"])
    assert names == ["a_b.jpg", "a_b_2.jpg", "A_B_3.jpg", "sub_dir/_1.jpg", "fine.jpg"]
