"""Contact sheets: small pictures of held-out photographs, their renders and the errors, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Pixels = NDArray[np.uint8]

TILE = 240
"""The longer side of a small picture, in pixels."""
MOST_ROWS = 24
"""The most photographs on a sheet."""
ROWS_OF_ONE_COLUMN = 6
"""With more photographs, they are in two columns."""
FULL_ERROR = 0.3
"""The error, a mean difference of the channels from 0 to 1, that is drawn in the brightest colour."""
GAP, LINE = 6, 18
"""Pixels between pictures, and the height of a line of text."""
LEAST_WIDTH = 460
"""Pixels that the first lines of text need."""
BACKGROUND, INK = (24, 24, 24), (230, 230, 230)


@dataclass(frozen=True, eq=False)
class SheetRow:
    """One photograph of a sheet."""

    name: str
    psnr: float
    """dB."""
    ssim: float | None
    photograph: Pixels
    """(h, w, 3), as the other pictures."""
    render: Pixels
    error: Pixels

    @classmethod
    def of(cls, name: str, psnr: float, ssim: float | None, target: Tensor, rendered: Tensor) -> SheetRow:
        """Make small pictures of a photograph and its render, (H, W, 3) in [0, 1]."""
        error = (target - rendered).abs().mean(-1, keepdim=True)
        levels = _to_bytes(_small(error) / FULL_ERROR)[..., 0]
        return cls(name, psnr, ssim, _to_bytes(_small(target)), _to_bytes(_small(rendered)), _colours()[levels])


def contact_sheet(rows: Sequence[SheetRow], title: str) -> Image.Image:
    """Draw a sheet: for each photograph the photograph, the render, and the error, the worst PSNR first.

    Of more than `MOST_ROWS` photographs, it shows those at even distances in the order of their PSNR, the worst and the
    best among them. The sheet has at most about 1500 × 3200 pixels.

    Args:
        rows: at least one.
        title: the first line of text.
    """
    ordered = sorted(rows, key=lambda row: row.psnr)
    if len(ordered) > MOST_ROWS:
        ordered = [ordered[int(i)] for i in np.linspace(0, len(ordered) - 1, MOST_ROWS).round()]
    columns = 1 if len(ordered) <= ROWS_OF_ONE_COLUMN else 2
    width = max(row.photograph.shape[1] for row in ordered)
    height = max(row.photograph.shape[0] for row in ordered)
    cell = (3 * (width + GAP) + GAP, height + LINE + GAP)
    lines = -(-len(ordered) // columns)
    sheet = Image.new("RGB", (max(columns * cell[0], LEAST_WIDTH), 2 * LINE + GAP + lines * cell[1]), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = _font()
    draw.text((GAP, 2), _plain(title), INK, font)
    legend = f"photograph, render, error (black 0, yellow {FULL_ERROR} and more); the worst first"
    draw.text((GAP, 2 + LINE), legend, INK, font)
    for number, row in enumerate(ordered):
        left = (number % columns) * cell[0] + GAP
        top = 2 * LINE + GAP + (number // columns) * cell[1]
        for picture in (row.photograph, row.render, row.error):
            sheet.paste(Image.fromarray(picture), (left, top + LINE))
            left += width + GAP
        ssim = "" if row.ssim is None else f"   SSIM {row.ssim:.3f}"
        text = f"{row.psnr:.2f} dB{ssim}   {_plain(row.name)}"
        draw.text(((number % columns) * cell[0] + GAP, top), text, INK, font)
    return sheet


def _small(image: Tensor) -> Tensor:
    """An image (H, W, X), averaged to at most `TILE` pixels a side."""
    height, width = image.shape[:2]
    share = min(1.0, TILE / max(height, width))
    size = max(1, round(height * share)), max(1, round(width * share))
    return F.adaptive_avg_pool2d(image.permute(2, 0, 1)[None], size)[0].permute(1, 2, 0)


def _to_bytes(image: Tensor) -> Pixels:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


@lru_cache(maxsize=1)
def _colours() -> Pixels:
    """The colours of 256 levels, from black over violet and orange to yellow, (256, 3)."""
    import matplotlib as mpl  # a second: not for runs that draw no sheet

    colours: Any = mpl.colormaps["inferno"](np.arange(256), bytes=True)
    return np.ascontiguousarray(colours[:, :3])


def _font() -> Any:
    try:
        return ImageFont.load_default(12)
    except TypeError:  # Pillow before 10.1 has a font of one size
        return ImageFont.load_default()


def _plain(text: str) -> str:
    """Text with letters that the built-in font has."""
    return text.encode("ascii", "replace").decode("ascii")
