"""The exposure of photographs, as their cameras have written it into the files (EXIF)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from PIL.ExifTags import IFD, Base

GAMMA = 2.2
"""The exponent by which the values of photographs are compressed, near enough for a start."""


def exposure_of(path: Path) -> float | None:
    """The exposure of a photograph, log2 of time · ISO / f-number², in stops from an arbitrary zero.

    Args:
        path: an image file.

    Returns:
        None if the file does not have all three, or is not readable as an image.
    """
    try:
        with Image.open(path) as image:
            entries = image.getexif().get_ifd(IFD.Exif)
        time, aperture, iso = (entries.get(tag) for tag in (Base.ExposureTime, Base.FNumber, Base.ISOSpeedRatings))
        iso = iso[0] if isinstance(iso, tuple) else iso
        product = float(time) * float(iso) / float(aperture) ** 2
    except Exception:  # Pillow raises many kinds for damaged files, and fractions may divide by zero
        return None
    return math.log2(product) if product > 0 and math.isfinite(product) else None


def log_gains_of(paths: Sequence[Path]) -> list[float] | None:
    """The natural logarithm of the factor by which each photograph is brighter than the mean, by its exposure.

    The factor is one of values as files hold them, which are compressed (`GAMMA`). Photographs without an exposure
    get 0, which is the mean of the others.

    Returns:
        None if fewer than two photographs have an exposure, or all have the same.
    """
    found = [exposure_of(path) for path in paths]
    known = [stops for stops in found if stops is not None]
    if len(known) < 2 or max(known) - min(known) < 1e-3:
        return None
    mean = sum(known) / len(known)
    return [0.0 if stops is None else (stops - mean) * math.log(2) / GAMMA for stops in found]
