"""Seed points out of any PLY or LAS file that has positions; colours of any type, or by chance where there are none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatkit_ns.formats.gaussians import SH_C0
from splatkit_ns.formats.las import LasError, read_las
from splatkit_ns.formats.ply_header import PlyElement, PlyError, PlyHeader, read_header
from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.reporting.console import report_once

XYZ = ("x", "y", "z")
COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
SH_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
"""The colours of Gaussians, of which a file of seed points may have been made."""
BYTE_ORDER = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
INSTEAD = "Restore it, or start from random points: --load-3D-points False of the dataparser."


@dataclass(frozen=True)
class PointCloud:
    """Positions (N, 3) in double precision, and colours (N, 3) uint8, or None if the file has none."""

    positions: NDArray[np.float64]
    colors: NDArray[np.uint8] | None
    rounding: float = 0.0
    """The largest rounding error of the positions in the file, in its units."""


def seed_points(
    path: Path, offset: NDArray[np.float64] | None, transform: Tensor, scale: float, limit: int
) -> dict[str, Tensor]:
    """The entries of a dataparser's metadata for the seed points of a file.

    Args:
        path: a PLY or LAS file.
        offset: (3,), taken off the positions in double precision; None for none.
        transform: (3, 4), applied after that.
        scale: applied after that.
        limit: so many points are drawn if there are more.

    Returns:
        ``points3D_xyz`` (N, 3) float32, and ``points3D_rgb`` (N, 3) uint8.

    Raises:
        DataError: the file cannot be read, or has no positions.
    """
    return entries_of(read_points(path), path, offset, transform, scale, limit)


def entries_of(
    cloud: PointCloud, path: Path, offset: NDArray[np.float64] | None, transform: Tensor, scale: float, limit: int
) -> dict[str, Tensor]:
    """The same for points that have been read; ``path`` is for messages."""
    kept = chosen_rows(len(cloud.positions), limit, path.name)
    positions = cloud.positions[kept]
    if offset is not None:
        positions = positions - offset
        if cloud.rounding > 1e-3 * float(np.ptp(positions, axis=0).max(initial=0.0)):
            report_once(
                f"{path} has coordinates far from the origin in single precision, which rounds them by "
                f"{cloud.rounding:.2g}: the seed points are that far off. Export it with double precision."
            )
    xyz = torch.from_numpy(positions.astype(np.float32))
    xyz = torch.cat((xyz, torch.ones_like(xyz[..., :1])), -1) @ transform.to(xyz).T
    if cloud.colors is None:
        report_once(f"{path} has no colours (red, green, blue): the Gaussians start with random ones.")
        rgb = torch.randint(0, 256, (len(xyz), 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    else:
        rgb = torch.from_numpy(cloud.colors[kept])
    return {"points3D_xyz": xyz * scale, "points3D_rgb": rgb}


def chosen_rows(count: int, limit: int, name: str) -> Any:
    """An index of ``limit`` rows, drawn the same way each time and in the file's order; of all if there are no more."""
    if count <= limit:
        return slice(None)
    report_once(
        f"{name} has {count:,} points: {limit:,} of them are drawn to start from "
        "(--pipeline.datamanager.max-seed-points)."
    )
    return np.sort(np.random.default_rng(0).choice(count, limit, replace=False))


def read_points(path: Path) -> PointCloud:
    """All points of a file.

    Raises:
        DataError: it is missing, damaged, or has no points with positions.
    """
    if not path.is_file():
        raise DataError(f"The point cloud {path} does not exist, which the data set names. {INSTEAD}")
    with path.open("rb") as file:
        magic = file.read(4)
    try:
        if magic == b"LASF":
            las = read_las(path)
            colors = None if las.colors is None else bytes_of(las.colors)
            return PointCloud(las.positions, colors)
        return _read_ply(path)
    except (PlyError, LasError) as error:
        raise DataError(f"{error} {INSTEAD}") from error


def _read_ply(path: Path) -> PointCloud:
    with path.open("rb") as file:
        header = read_header(file, path)
        vertex = vertices_of(header, path)
        simple = next(iter(header.elements.values())) is vertex and not vertex.lists
        rows = _rows(file, vertex, header.format) if simple else None
    if rows is None:
        rows = _rows_by_plyfile(path)
    columns = [np.asarray(rows[name]) for name in XYZ]
    positions = np.stack([column.astype(np.float64) for column in columns], axis=1)
    names = [*COLORS, SH_DC]
    found = next((group for group in names if all(name in vertex.properties for name in group)), None)
    colors = None if found is None else np.stack([np.asarray(rows[name]) for name in found], axis=1)
    if colors is not None:
        colors = bytes_of(colors * SH_C0 + 0.5, limits=(0, 1)) if found == SH_DC else bytes_of(colors)
    finite = positions[np.isfinite(positions)]
    is_single = any(column.dtype.itemsize == 4 and column.dtype.kind == "f" for column in columns)
    rounding = float(np.abs(finite).max(initial=0.0)) * 2.0**-24 if is_single else 0.0
    return PointCloud(positions, colors, rounding)


def vertices_of(header: PlyHeader, path: Path) -> PlyElement:
    """The element of a PLY file that has the points.

    Raises:
        PlyError: it has none with positions.
    """
    vertex = header.elements.get("vertex")
    missing = [name for name in XYZ if vertex is None or name not in vertex.properties]
    if vertex is None or missing:
        raise PlyError(f"The point cloud {path} has no vertex property {', '.join(missing)}.")
    if vertex.count == 0:
        raise PlyError(f"The point cloud {path} holds no vertex.")
    return vertex


def _rows(file: Any, vertex: PlyElement, kind: str) -> NDArray[Any] | None:
    """The vertices if they are the first element and have one line or a fixed size each; None if they are odd."""
    dtype = np.dtype([(name, BYTE_ORDER[kind] + code) for name, code in vertex.properties.items()])
    try:
        if kind != "ascii":
            rows = np.fromfile(file, dtype, vertex.count)
        else:
            rows = np.loadtxt(file, dtype, comments=None, max_rows=vertex.count, ndmin=1, encoding="ascii")
    except (OSError, ValueError):
        return None
    return rows if len(rows) == vertex.count else None


def _rows_by_plyfile(path: Path) -> NDArray[Any]:
    try:
        mmap: Any = False
        return plyfile.PlyData.read(str(path), mmap=mmap)["vertex"].data
    except Exception as error:  # of numbers and lines that are none, of many kinds
        raise PlyError(
            f"The point cloud {path} cannot be read: {' '.join(str(error).split()) or 'it is cut'}."
        ) from error


def bytes_of(colors: NDArray[Any], limits: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """Colours as bytes.

    Args:
        colors: (N, 3) of any type. Bytes are taken as they are. Other whole numbers are of 16 bits if one of them is
            above 255, else of 8. Floats are in 0 … 1, unless one of them is above that, which makes them as whole
            numbers are.
        limits: the range of the values, if it is known.
    """
    if colors.dtype == np.uint8:
        return colors
    values = np.nan_to_num(colors.astype(np.float64))
    largest = float(values.max(initial=0.0))
    if limits is not None:
        values = (values - limits[0]) / (limits[1] - limits[0])
    elif colors.dtype.kind == "f" and largest <= 1:
        pass
    else:
        values = values / (255 if largest <= 255 else 65535)
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
