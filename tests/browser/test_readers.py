"""Files of every format, opened by programs of others: viewers in Chromium, a command, and libraries.

Needs npm, Chromium and the packages playwright, gaussforge, gsply, imagecodecs, isal and zstandard; no test fails if
one of them is missing: `python -m pytest -m browser`. SPLATKIT_NPM_FOLDER names another folder than /tmp for npm's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splatkit_ns import SplatModel, View, formats, render
from splatkit_ns.formats.frames import Similarity, flip_yz, transform, up_axis
from tests.browser.npm import skipped_if_missing
from tests.browser.readers import READERS, differences, splat_transform
from tests.browser.scenes import ball
from tests.browser.viewers import SAME, VIEWERS, Viewers, open_viewers

pytestmark = pytest.mark.browser

IN_VIEWERS = [(viewer, name) for viewer, opens in VIEWERS.items() for name in opens]
CORNER = View.look_at(eye=(1.5, -2.5, 1.0), target=(0, 0, 0), fov=50, width=320, height=240)
FRONT = View.look_at(eye=(0, 0, 3.0), target=(0, 0, 0), up=(0, 1, 0), fov=50, width=320, height=240)
"""The camera that viewers begin with: y is up in the image."""


def psnr(one: Any, other: Any) -> float:
    return float(-10 * np.log10(np.mean((np.asarray(one) - np.asarray(other)) ** 2)))


@pytest.fixture(scope="module")
def viewers() -> Iterator[Viewers]:
    with skipped_if_missing(), open_viewers() as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The ball in every format, with z up."""
    folder = tmp_path_factory.mktemp("ball")
    paths = {name: folder / f"ball.{name}" for name in formats.usable_format_names()}
    for path in paths.values():
        formats.write(path, ball())
    return paths


@pytest.mark.parametrize(("viewer", "name"), IN_VIEWERS)
def test_a_viewer_shows_what_we_render(viewers: Viewers, files: dict[str, Path], viewer: str, name: str) -> None:
    found = viewers.open(viewer, files[name], CORNER, VIEWERS[viewer][name])
    ours = render(files[name], CORNER).numpy()
    extra = 16 if viewer == "babylon" else 1  # it fills the last group of 16 with invisible ones
    assert 0 <= found.num - len(ball()) < extra
    lit = found.image.max(axis=2) > 0.05
    assert lit.mean() == pytest.approx((ours.max(axis=2) > 0.05).mean(), abs=0.02)
    assert np.abs(found.image.mean(axis=(0, 1)) - ours.mean(axis=(0, 1))).max() < 0.01
    assert psnr(found.image, ours) > 36, "colours from this direction, sizes and rotations are those of our render"


@pytest.mark.parametrize(("viewer", "name"), IN_VIEWERS)
def test_which_way_is_up(viewers: Viewers, tmp_path: Path, viewer: str, name: str) -> None:
    """docs/formats.md says which `--up` a viewer needs, so that it shows a scene upright without further settings."""
    up = "y" if VIEWERS[viewer][name] is SAME else "-y"
    path = tmp_path / f"{viewer}.{name}"
    formats.write(path, transform(ball(), up_axis(up)))
    image = viewers.open(viewer, path, FRONT).image
    red, green, _ = image.mean(axis=1).T
    assert green[:100].sum() > 1.5 * red[:100].sum(), "the top is green"
    assert red[-100:].sum() > 1.5 * green[-100:].sum(), "the bottom is red"


@pytest.mark.parametrize(("reader", "name"), [(key, name) for key, each in READERS.items() for name in each.formats])
def test_a_reader_finds_what_we_wrote(files: dict[str, Path], tmp_path: Path, reader: str, name: str) -> None:
    if missing := READERS[reader].missing():
        pytest.skip(missing)
    found, ours = READERS[reader].read(files[name], tmp_path), formats.read(files[name])
    if name == "spz" and reader != "splat-transform":
        found = flip_yz(found)  # these two take the axes of SPZ for those of PLY
    if name == "splat" and reader == "splat-transform":
        assert differences(found, ours).pop("degrees") < 1.5, "it reads the bytes of rotations with another zero"
        found.quats[:] = ours.quats
    assert max(differences(found, ours).values()) < 1e-4


@pytest.mark.parametrize(
    ("name", "options"),
    [("ply", ()), ("compressed.ply", ()), ("spz", ()), ("spz", ("--spz-version", "3")), ("glb", ()), ("sog", ())],
)
def test_we_read_what_splat_transform_writes(
    files: dict[str, Path], tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    if missing := READERS["splat-transform"].missing():
        pytest.skip(missing)
    if name == "spz" and not options:
        pytest.importorskip("zstandard", reason="pip install zstandard")
    original = ball()
    if name == "sog":  # its palette of SH takes minutes without a GPU
        options = ("-H", "0", "-g", "cpu")
    path = tmp_path / f"theirs.{name}"
    splat_transform(files["ply"], path, *options)
    found = formats.read(path)
    assert len(found) == len(original)
    if name == "glb":  # up is the same, but front and back are exchanged: glTF does not say how PLY's axes lie in it
        found = transform(found, Similarity(np.diag([-1.0, 1.0, -1.0]), np.zeros(3)))
    theirs = render(SplatModel.from_gaussians(found), CORNER)
    ours = render(files["ply"], CORNER, sh_degree=0 if name == "sog" else None)
    assert psnr(theirs, ours) > 36
