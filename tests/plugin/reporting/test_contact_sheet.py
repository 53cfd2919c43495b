"""Contact sheets: what is where, in which colours, and within which size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from splatkit_ns.plugin.reporting.contact_sheet import FULL_ERROR, GAP, LINE, MOST_ROWS, TILE, SheetRow, contact_sheet

TOP = 2 * LINE + GAP + LINE
"""The first row of pixels of the first pictures."""


def row(name: str, psnr: float, width: int = 100, height: int = 60) -> SheetRow:
    """A red photograph; its render is darker by `FULL_ERROR` in the right half."""
    target = torch.zeros(height, width, 3)
    target[..., 0] = 1.0
    rendered = target.clone()
    rendered[:, width // 2 :] = (rendered[:, width // 2 :] + FULL_ERROR * torch.tensor([-1.0, 1, 1])).clamp(0, 1)
    return SheetRow.of(name, psnr, 0.5, target, rendered)


def test_photograph_render_and_error_lie_side_by_side() -> None:
    pixels = np.asarray(contact_sheet([row("a.png", 20.0)], "title")).astype(int)
    across = [GAP + number * (100 + GAP) for number in range(3)]
    assert pixels[TOP + 30, across[0] + 75].tolist() == [255, 0, 0]
    assert pixels[TOP + 30, across[1] + 25].tolist() == [255, 0, 0]
    assert np.abs(pixels[TOP + 30, across[1] + 75] - [178.5, 76.5, 76.5]).max() <= 1
    assert pixels[TOP + 30, across[2] + 25].max() < 8, "no error is black"
    assert pixels[TOP + 30, across[2] + 75].min() > 150, "the full error is bright"
    assert pixels[TOP - LINE : TOP, GAP:200].max() > 200, "there is a line of text"


def test_the_worst_comes_first() -> None:
    rows = [row("good.png", 30.0), row("bad.png", 10.0, height=40), row("fair.png", 20.0)]
    pixels = np.asarray(contact_sheet(rows, "title")).astype(int)
    below_the_low_picture = pixels[TOP + 50, GAP + 50]
    assert below_the_low_picture.max() < 40, "the first picture is 40 pixels high"
    assert pixels[TOP + 50 + 60 + LINE + GAP, GAP + 50].tolist() == [255, 0, 0]


@pytest.mark.parametrize("count", [1, 7, 300])
@pytest.mark.parametrize("size", [(40, 2000), (2000, 40), (1600, 1200)])
def test_size_is_bounded(count: int, size: tuple[int, int]) -> None:
    one = row("ä name that is rather long.png", 20.0, *size)
    sheet = contact_sheet([one] * count, "title")
    assert one.photograph.shape == one.error.shape == one.render.shape
    assert max(one.photograph.shape) == TILE
    assert sheet.width <= 2 * (3 * TILE + 4 * GAP)
    assert sheet.height <= MOST_ROWS // 2 * (TILE + LINE + GAP) + 3 * LINE
