"""Niantic's SPZ: one byte or a little more for each number, and all of it compressed.

Versions 1 to 3 are one gzip stream: a header of 16 bytes, then positions (24-bit fixed point), opacities, colours, log
scales, rotations (version 2: three bytes; 3: the three smaller components in 32 bits) and SH coefficients, each for all
Gaussians in turn. Version 4 has a header of 32 bytes and a zstandard stream for each of these. Axes are RUB (right, up,
back), while PLY files have RDF (right, down, forward): y and z change their signs. https://github.com/nianticlabs/spz
"""

from __future__ import annotations

import io
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.files import atomic_write
from splatkit_ns.formats._inflate import write_gzip
from splatkit_ns.formats._quantise import XYZW, morton_order, opacity_bytes, smallest_three, to_bytes, unit_quats
from splatkit_ns.formats._spz_reading import (
    ANTIALIASED,
    COLOUR_SCALE,
    HEADER,
    LOG_SCALE_STEPS,
    MAGIC,
    MAX_MAGNITUDE,
    MIN_LOG_SCALE,
    SpzAxes,
    read_spz,
    version_of,
)
from splatkit_ns.formats.frames import FLIP_SH, flip_yz
from splatkit_ns.formats.gaussians import NUM_COEFFICIENTS_TO_DEGREE, FloatArray, FormatError, Gaussians
from splatkit_ns.formats.registry import SplatFormat, register

logger = logging.getLogger(__name__)

MAX_FRACTIONAL_BITS = 20
"""The most fractional bits of positions. The reference writer always takes 12, which is coarse for a scene of a few
units; readers use the number in the header. More bits carry no information: a float32 of size 1 has 23."""
_ROWS_AT_ONCE = 4096

SpzVersion = Literal[2, 3]


@dataclass(frozen=True)
class SpzOptions:
    """The options of an SPZ file."""

    version: SpzVersion = 3
    """The version of SPZ. 3 has finer rotations, and all but the oldest viewers open it; glTF and Cesium need 2."""
    axes: SpzAxes = "rub"
    """The axes. The format prescribes rub. Some writers copy the rdf of PLY files instead, and a viewer made for those
    shows rub upside down."""
    sh1_bits: int = 6
    """Bits of an SH coefficient of degree 1, 1 to 8: more are better and larger. The reference writer's 5 and 4
    turn most coefficients of a scene that is trained for minutes to zero."""
    sh_rest_bits: int = 5
    """Bits of an SH coefficient of degree 2 or 3, 1 to 8."""
    level: int = 4
    """The level of compression, 1 (quick) to 9 (small). 6 makes files 3 % smaller and takes three times as long."""


def write_spz(path: Path, gaussians: Gaussians, options: SpzOptions) -> None:
    """Write Gaussians atomically, in an order in which neighbours resemble each other; see `SplatFormat.write`."""
    parts = _pack(path, gaussians, options)
    atomic_write(path, lambda file: write_gzip(file, parts, options.level))


def spz_bytes(path: Path, gaussians: Gaussians, options: SpzOptions) -> bytes:
    """The contents of an SPZ file, to be a part of another file.

    Args:
        path: of that file, for messages.
        gaussians: at least one, all finite.
        options: of the SPZ file.

    Raises:
        FormatError: see `SplatFormat.write`.
    """
    file = io.BytesIO()
    write_gzip(file, _pack(path, gaussians, options), options.level)
    return file.getvalue()


def _pack(path: Path, gaussians: Gaussians, options: SpzOptions) -> list[bytes]:
    """The parts of a file, before their compression."""
    _check_options(options)
    if gaussians.render_mode == "2dgs":
        logger.warning("SPZ cannot say that Gaussians are discs: %s holds flat 3D Gaussians.", path)
    order, sh = morton_order(gaussians.means), gaussians.shN
    gaussians = replace(gaussians, shN=sh[:, :0]).take(order)
    if options.axes == "rub":
        gaussians = flip_yz(gaussians)
    bits = _fractional_bits(gaussians.means, path)
    flags = ANTIALIASED if gaussians.render_mode == "mip" else 0
    quats = unit_quats(gaussians.quats)
    return [
        HEADER.pack(MAGIC, options.version, len(gaussians), NUM_COEFFICIENTS_TO_DEGREE[sh.shape[1]], bits, flags, 0),
        _pack_positions(gaussians.means, bits),
        opacity_bytes(gaussians.opacities).tobytes(),
        to_bytes(gaussians.sh0[:, 0] * (COLOUR_SCALE * 255.0) + 127.5).tobytes(),
        to_bytes((gaussians.scales - MIN_LOG_SCALE) * LOG_SCALE_STEPS).tobytes(),
        _pack_smallest_three(quats) if options.version == 3 else _pack_first_three(quats),
        _pack_sh(sh, order, options),
    ]


def _check_options(options: SpzOptions) -> None:
    for name, kind in (("version", SpzVersion), ("axes", SpzAxes)):
        if getattr(options, name) not in get_args(kind):
            known = ", ".join(str(value) for value in get_args(kind))
            raise FormatError(f"the option {name} of SPZ is {getattr(options, name)!r}, expected one of: {known}.")
    for name, most in (("sh1_bits", 8), ("sh_rest_bits", 8), ("level", 9)):
        if getattr(options, name) not in range(1, most + 1):
            raise FormatError(f"the option {name} of SPZ is {getattr(options, name)!r}, expected 1 to {most}.")


def _fractional_bits(means: FloatArray, path: Path) -> int:
    """The number of fractional bits that leaves room for the farthest centre: 24 bits, one of them the sign."""
    largest = float(np.abs(means).max())
    bits = min(MAX_FRACTIONAL_BITS, 22 - math.frexp(largest)[1]) if largest > 0 else MAX_FRACTIONAL_BITS
    if bits < 0:
        raise FormatError(
            f"{path}: SPZ has no room for a centre {largest:g} units from the origin; scale or move the scene, or "
            "leave out distant Gaussians."
        )
    return bits


def _pack_positions(means: FloatArray, bits: int) -> bytes:
    fixed = np.rint(means.astype(np.float64) * 2**bits).astype("<i4")
    return np.ascontiguousarray(fixed[..., None].view(np.uint8)[..., :3]).tobytes()


def _pack_first_three(quats: FloatArray) -> bytes:
    signs = np.where(quats[:, :1] < 0, np.float32(-1), np.float32(1))
    return to_bytes(quats[:, 1:] * signs * 127.5 + 127.5).tobytes()


def _pack_smallest_three(quats: FloatArray) -> bytes:
    """The index of the largest component (of xyzw) in the two highest bits, then a sign and 9 bits of each other."""
    largest, others = smallest_three(quats[:, XYZW])
    packed = largest.astype(np.uint32)
    for column in range(3):
        magnitude = np.rint(np.abs(others[:, column]) * (MAX_MAGNITUDE * math.sqrt(2)))
        number = np.minimum(magnitude, MAX_MAGNITUDE).astype(np.uint32)
        packed = (packed << np.uint32(10)) | ((others[:, column] < 0).astype(np.uint32) << np.uint32(9)) | number
    return packed.astype("<u4").tobytes()


def _pack_sh(coefficients: FloatArray, order: NDArray[np.intp], options: SpzOptions) -> bytes:
    """Coefficients from -1 to 1 as bytes, of which only the highest bits are used: zero keeps its value.

    They are most of the data: rows are brought into their order, turned and rounded without a copy of all of them.
    """
    signs = FLIP_SH[: coefficients.shape[1], None] if options.axes == "rub" else np.float32(1)
    packed = np.empty(coefficients.shape, np.uint8)
    bits = np.full(coefficients.shape[1], options.sh_rest_bits)
    bits[:3] = options.sh1_bits
    steps = (2.0 ** (8 - bits)).astype(np.float32)[:, None]
    for start in range(0, len(coefficients), _ROWS_AT_ONCE):  # few enough for the processor's cache
        rows = slice(start, start + _ROWS_AT_ONCE)
        numbers = coefficients[order[rows]]
        numbers *= signs * (128 / steps)
        np.rint(numbers, out=numbers)
        numbers *= steps
        numbers += 128
        packed[rows] = np.clip(numbers, 0, 255, out=numbers)
    return packed.tobytes()


FORMAT = register(
    SplatFormat(
        name="spz",
        suffixes=(".spz",),
        about="Scaniverse, Spark, PlayCanvas, Babylon, Niantic's tools open it. About a tenth of a PLY file.",
        read=read_spz,
        write=write_spz,
        options=SpzOptions,
        version=version_of,
    )
)
