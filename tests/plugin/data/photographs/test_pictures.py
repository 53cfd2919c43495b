"""Photographs and masks as people have them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image, ImageOps

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.data.checks.contents import read_headers
from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.photographs.decoder_words import STDERR, printed_words
from splatkit_ns.plugin.data.photographs.pictures import (
    ORIENTATION_TAG,
    read_header,
    read_mask,
    read_picture,
    turns_pictures,
)
from tests.plugin.data.broken_data import EVALUATED, IMAGE, changed_copy, in_json
from tests.plugin.helpers import forget_writers, make_pipeline, make_trainer, run_config
from tests.tiny_scene import write_tiny_scene

RNG = np.random.default_rng(0)


def with_tag(path: Path, pixels: Any, orientation: int) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_tag_says(tmp_path: Path, orientation: int) -> None:
    pixels = RNG.integers(0, 256, (5, 7, 3), np.uint8)
    path = with_tag(tmp_path / "a.png", pixels, orientation)
    with Image.open(path) as file:
        upright = np.asarray(ImageOps.exif_transpose(file))
    assert np.array_equal(read_picture(path, turned=True), upright)
    assert np.array_equal(read_picture(path, turned=False), pixels)
    assert read_header(path).upright_size == upright.shape[1::-1]


@pytest.mark.parametrize("turned", [True, False])
def test_pictures_of_tiff_are_always_upright(tmp_path: Path, turned: bool) -> None:
    """The format has the tag itself, and Pillow follows it."""
    pixels = RNG.integers(0, 256, (5, 7, 3), np.uint8)
    path = with_tag(tmp_path / "a.tiff", pixels, 6)
    assert np.array_equal(read_picture(path, turned), np.rot90(pixels, -1))
    assert read_header(path).upright_size == (5, 7)


def turns(paths: list[Path], sizes: list[tuple[int, int]], mode: Any) -> bool:
    return turns_pictures(read_headers(paths), dict(zip(paths, sizes, strict=True)), mode)


def test_the_cameras_sizes_tell_whether_pictures_are_turned(tmp_path: Path) -> None:
    lying = with_tag(tmp_path / "a.png", np.zeros((5, 7, 3), np.uint8), 6)
    half = with_tag(tmp_path / "b.png", np.zeros((5, 7, 3), np.uint8), 3)
    plain = with_tag(tmp_path / "c.png", np.zeros((5, 7, 3), np.uint8), 1)
    assert turns([plain, half, lying], [(7, 5), (7, 5), (5, 7)], "auto")
    assert not turns([plain, half, lying], [(7, 5), (7, 5), (7, 5)], "auto")
    assert not turns([lying], [(5, 7)], "ignore")
    assert turns([half], [(7, 5)], "apply")


def test_a_size_that_does_not_tell_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    square = with_tag(tmp_path / "a.png", np.zeros((5, 5, 3), np.uint8), 6)
    assert not turns([square], [(5, 5)], "auto")
    said = " ".join(capsys.readouterr().out.split())
    assert "1 picture(s) have an EXIF orientation" in said
    assert "--pipeline.datamanager.exif-orientation apply" in said


def turned_scene(scene: Path, folder: Path, orientation: int) -> Path:
    """Its pictures, lying down with a tag that shows them as they were; its masks as they were."""

    def lay_down(data: Path) -> None:
        for path in (data / "images").iterdir():
            pixels = np.asarray(Image.open(path))
            with_tag(path, np.ascontiguousarray(np.rot90(pixels, 1 if orientation == 6 else -1)), orientation)

    return changed_copy(scene, folder, lay_down)


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_scene_of_lying_pictures_trains_on_upright_ones(
    scenes: dict[str, Path], tmp_path: Path, orientation: int
) -> None:
    upright = make_pipeline(scenes["nerfstudio"]).datamanager
    lying = make_pipeline(turned_scene(scenes["nerfstudio"], tmp_path, orientation)).datamanager
    for first, second in ((upright.cached_train, lying.cached_train), (upright.cached_eval, lying.cached_eval)):
        for a, b in zip(first, second, strict=True):
            assert np.array_equal(a["image"], b["image"])
            assert np.array_equal(a["mask"], b["mask"])


def test_the_tag_is_named_where_sizes_differ(scenes: dict[str, Path], tmp_path: Path) -> None:
    config = run_config(turned_scene(scenes["nerfstudio"], tmp_path, 6))
    config.pipeline.datamanager.exif_orientation = "ignore"
    with pytest.raises(SplatkitError, match=r"24×32 pixels, .* 32×24. Its EXIF tag Orientation is 6, and pictures"):
        config.pipeline.setup(device="cpu", test_mode="val")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True, "subsampling": 0}])
def test_jpeg_files_have_the_colours_that_pillow_reads(tmp_path: Path, mode: str, options: dict[str, Any]) -> None:
    smooth = Image.fromarray(RNG.integers(0, 256, (5, 7, 3), np.uint8)).resize((70, 51), Image.Resampling.BICUBIC)
    path = tmp_path / "a.jpg"
    smooth.convert(mode).save(path, quality=92, **options)
    with Image.open(path) as file:
        expected = np.asarray(file.convert("RGB"))
    found = read_picture(path, turned=False)
    assert found.flags.writeable
    assert np.array_equal(found, expected)
    path.write_bytes(path.read_bytes() + b"what a camera adds behind the end")
    assert np.array_equal(read_picture(path, turned=False), expected)


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_jpeg_file_that_was_cut_off_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(RNG.integers(0, 256, (50, 70, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(DataError, match=r"The image .*a\.jpg cannot be decoded: image file is truncated"):
        read_picture(path, turned=False)


def test_photographs_that_are_decoded_with_errors_are_named(
    tiny_scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """libjpeg prints a line without a name, and training goes on with what may be a grey area."""

    def damage(data: Path) -> None:
        for name in (IMAGE, EVALUATED):
            Image.open(data / name).convert("RGB").save(data / name, format="JPEG", quality=98)
            content = (data / name).read_bytes()
            (data / name).write_bytes(content[:-300] + bytes(200) + content[-100:])

    monkeypatch.setattr(CONSOLE, "width", 1000)
    data = changed_copy(tiny_scene, tmp_path, damage)
    manager = make_pipeline(data).datamanager
    for split, name in (("cached_train", IMAGE), ("cached_eval", EVALUATED)):
        capsys.readouterr()
        getattr(manager, split)
        (note,) = [line for line in capsys.readouterr().out.splitlines() if "decoded with errors" in line]
        assert f"from some row on: {data / name} (Corrupt JPEG data: " in note
        assert note.count("frame_") == 1


def test_nothing_is_kept_of_a_standard_error_that_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its descriptor may be that of another file by now."""
    monkeypatch.setattr(sys, "__stderr__", None)
    with printed_words() as printed:
        os.write(STDERR, b"a line")
    assert printed() == ""


def test_one_channel_of_16_bits_is_scaled(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 7, 65535], [128, 129, 40000]], np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        found = read_picture(tmp_path / name, turned=False)
        assert found[..., 0].tolist() == [[0, 7, 255], [0, 1, 156]]
        assert np.array_equal(found, found[..., :1].repeat(3, 2))


def test_a_kind_of_picture_that_is_not_read_is_told(tmp_path: Path) -> None:
    for name, advice in (
        ("a.xyz9", "of the kind .xyz9 are not read: convert them to PNG or JPEG"),
        ("a.png", "Restore"),
    ):
        (tmp_path / name).write_bytes(b"something else")
        with pytest.raises(DataError, match=advice):
            read_header(tmp_path / name)


def test_a_picture_too_large_to_be_trusted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="Use smaller copies of the images: --downscale-factor"):
        read_header(tmp_path / "a.png")


def test_what_transparent_pixels_hide_is_black(tmp_path: Path) -> None:
    pixels = np.array([[[1, 2, 3, 0], [1, 2, 3, 1]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png", turned=False).tolist() == [[[0, 0, 0, 0], [1, 2, 3, 1]]]


VALID = np.array([[True, False, True], [False, True, True]])


def write_mask(path: Path, mode: str) -> None:
    mask = Image.fromarray(VALID.astype(np.uint8) * 255)
    if mode == "alpha":
        mask = Image.merge("RGBA", [Image.new("L", mask.size, 255)] * 3 + [mask])
    elif mode == "labels":
        mask = Image.fromarray(VALID.astype(np.uint8))
    elif mode == "16":
        mask = Image.fromarray(VALID.astype(np.uint16) * 300)
    elif mode == "red":
        mask = Image.merge("RGB", [mask, Image.new("L", mask.size), Image.new("L", mask.size)])
    else:
        mask = mask.convert(mode)
    mask.save(path)


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA", "LA", "P", "alpha", "labels", "16", "red"])
def test_masks_of_all_modes(tmp_path: Path, mode: str) -> None:
    write_mask(tmp_path / "m.png", mode)
    assert np.array_equal(read_mask(tmp_path / "m.png", (3, 2), tmp_path, turned=False), VALID)


def test_a_masks_jpeg_noise_is_no_mask(tmp_path: Path) -> None:
    noisy = np.where(np.kron(VALID, np.ones((8, 8))), 249, 6).astype(np.uint8)
    Image.fromarray(noisy).save(tmp_path / "m.jpg", quality=100)
    found = read_mask(tmp_path / "m.jpg", (24, 16), tmp_path, turned=False)
    assert np.array_equal(found, np.kron(VALID, np.ones((8, 8), bool)))


def test_a_mask_of_another_size_is_resampled(tmp_path: Path) -> None:
    mask = np.full((7, 10), 255, np.uint8)
    mask[0, 0] = 0
    Image.fromarray(mask).save(tmp_path / "m.png")
    smaller = read_mask(tmp_path / "m.png", (5, 3), tmp_path, turned=False)
    assert not smaller[0, 0]
    assert smaller.sum() == 14, "a pixel is true if all that it covers are"
    with pytest.raises(DataError, match=r"m.png is 10×7 pixels, the picture .* is 5×5: expected the same size"):
        read_mask(tmp_path / "m.png", (5, 5), tmp_path, turned=False)


def test_masks_as_run_sees_them(scenes: dict[str, Path], tmp_path: Path) -> None:
    """RGB masks of twice the size, under COLMAP's names."""

    def change(data: Path) -> None:
        for path in list((data / "masks").iterdir()):
            mask = Image.open(path).convert("RGB").resize((64, 48), Image.Resampling.NEAREST)
            mask.save(data / "masks" / f"{path.stem}.png.png")
            path.unlink()

    expected = make_pipeline(scenes["nerfstudio"]).datamanager.cached_train
    found = make_pipeline(changed_copy(scenes["nerfstudio"], tmp_path, change)).datamanager.cached_train
    assert all(np.array_equal(a["mask"], b["mask"]) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    "options",
    [{"max_downscale": 4}, {"num_downscales": 2}, {"camera_res_scale_factor": 0.5}, {"k1": -0.2}],
    ids=["schedule", "smaller", "scaled", "lens"],
)
def test_hidden_colours_change_no_gaussian(tmp_path: Path, options: dict[str, Any]) -> None:
    found: list[Any] = []
    for color in ((0, 255, 0), (0, 0, 0)):
        data = write_tiny_scene(tmp_path / f"{color[1]}", rgba=True, num_views=4)
        for path in (data / "images").iterdir():
            pixels = np.array(Image.open(path))
            assert (pixels[..., 3] == 0).any()
            pixels[pixels[..., 3] == 0, :3] = color
            Image.fromarray(pixels).save(path)
        if "k1" in options:
            in_json(lambda meta: meta.update(options))(data)
        config: Any = run_config(data, tmp_path / "out", steps=4)
        config.modules.resolution.max_downscale = options.get("max_downscale", 1)
        config.modules.resolution.halve_every = config.pipeline.model.resolution_schedule = 2
        config.pipeline.model.num_downscales = options.get("num_downscales", 0)
        config.pipeline.datamanager.camera_res_scale_factor = options.get("camera_res_scale_factor", 1.0)
        config.pipeline.model.loss_fn.ssim_lambda = 0.0
        trainer = make_trainer(config)
        trainer.train()
        found.append(trainer.pipeline.model.training_state.params)
        forget_writers()
    first, second = found
    assert all(np.array_equal(first[name].detach(), second[name].detach()) for name in first)
