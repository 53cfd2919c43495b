"""One picture of many comparisons."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PAIR_WIDTH = 640
GAP = 8
HEADER = 34
BACKGROUND, TEXT = (255, 255, 255), (40, 44, 52)


def make_contact_sheet(comparisons: list[Path], sheet: Path, columns: int = 2) -> Path:
    """Puts pictures that `ns-eval --render-output-path` made under each other, and returns `sheet`.

    Args:
        comparisons: pictures of one size, ground truth on the left half and render on the right.
        sheet: the file to write.
        columns: the number of comparisons in a row.

    Raises:
        ValueError: there is nothing to show.
    """
    if not comparisons:
        raise ValueError("no pictures to put into the contact sheet")
    pictures = [Image.open(path).convert("RGB") for path in comparisons]
    height = round(PAIR_WIDTH * pictures[0].height / pictures[0].width)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    size = (columns * (PAIR_WIDTH + GAP) + GAP, HEADER + rows * (height + GAP))
    image = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(image)
    for column in range(columns):
        for half, label in enumerate(("ground truth", "render")):
            middle = GAP + column * (PAIR_WIDTH + GAP) + (2 * half + 1) * PAIR_WIDTH // 4
            draw.text((middle, HEADER // 2), label, TEXT, ImageFont.load_default(18), anchor="mm")
    for index, picture in enumerate(pictures):
        left = GAP + index % columns * (PAIR_WIDTH + GAP)
        image.paste(
            picture.resize((PAIR_WIDTH, height), Image.Resampling.LANCZOS),
            (left, HEADER + index // columns * (height + GAP)),
        )
    image.save(sheet)
    return sheet
