"""The ``.splat`` files of antimatter15's viewer: 32 bytes a Gaussian, and no spherical harmonics.

Centre and standard deviations as floats, then red, green, blue, opacity and the quaternion (wxyz) as bytes; the largest
and most opaque Gaussians come first, so that a viewer can show something early. https://github.com/antimatter15/splat
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from splatkit_ns.files import atomic_write_bytes
from splatkit_ns.formats._quantise import (
    as_floats,
    deviations_of,
    log_scales_of,
    logits_of_bytes,
    opacity_bytes,
    sigmoid,
    to_bytes,
    unit_quats,
)
from splatkit_ns.formats.gaussians import SH_C0, FormatError, Gaussians, check_finite
from splatkit_ns.formats.registry import NoOptions, SplatFormat, register

logger = logging.getLogger(__name__)

ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("colour", "u1", 4), ("quat", "u1", 4)])


def write_splat(path: Path, gaussians: Gaussians, options: NoOptions) -> None:
    """Write Gaussians atomically; see `SplatFormat.write`."""
    if gaussians.sh_degree:
        logger.warning("%s: .splat files have no spherical harmonics; colours do not change with the direction.", path)
    weight = gaussians.scales.sum(axis=1, dtype=np.float64) + np.log(sigmoid(gaussians.opacities) + 1e-30)
    gaussians = gaussians.take(np.argsort(-weight, kind="stable"))
    rows = np.empty(len(gaussians), ROW)
    rows["mean"] = gaussians.means
    rows["scale"] = deviations_of(gaussians.scales)
    rows["colour"][:, :3] = to_bytes((gaussians.sh0[:, 0] * SH_C0 + 0.5) * 255)
    rows["colour"][:, 3] = opacity_bytes(gaussians.opacities)
    rows["quat"] = to_bytes(unit_quats(gaussians.quats) * 128 + 128)
    atomic_write_bytes(path, rows.data)


def read_splat(path: Path) -> Gaussians:
    """Read a .splat file, which has no header: all rows with valid numbers are taken for Gaussians.

    Raises:
        FormatError: its size is no multiple of 32 bytes, or it has values that no Gaussian has.
    """
    size = path.stat().st_size
    if size == 0 or size % ROW.itemsize:
        raise FormatError(f"{path}: a .splat file has {ROW.itemsize} bytes a Gaussian and nothing else, found {size}.")
    rows = np.fromfile(path, ROW)
    scales = rows["scale"]
    bad = np.flatnonzero(~(scales >= 0).all(axis=1))
    if len(bad):
        raise FormatError(
            f"{path} is no .splat file, or damaged: {len(bad)} of {len(rows)} Gaussians have sizes that are negative "
            f"or NaN; the first is number {bad[0]}."
        )
    found = Gaussians(
        means=as_floats(rows["mean"]),
        scales=log_scales_of(scales),
        quats=as_floats((rows["quat"].astype(np.float32) - 128) / 128),
        opacities=logits_of_bytes(rows["colour"][:, 3]),
        sh0=as_floats(((rows["colour"][:, :3] / np.float32(255)) - 0.5) / SH_C0)[:, None],
        shN=np.zeros((len(rows), 0, 3), np.float32),
    )
    return check_finite(found, path)


FORMAT = register(
    SplatFormat(
        name="splat",
        suffixes=(".splat",),
        about="antimatter15's viewer, Spark and mkkellogg's open it. No SH; an eighth of a PLY file.",
        read=read_splat,
        write=write_splat,
    )
)
