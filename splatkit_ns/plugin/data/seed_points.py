"""Seed points in nerfstudio's own format, read without open3d: its import takes longer than all else at the start."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from numpy.typing import NDArray
from torch import Tensor

from splatkit_ns.formats.ply_header import PlyError, read_header

XYZ, RGB = ("x", "y", "z"), ("red", "green", "blue")
BYTE_ORDER = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}


class NerfstudioWithoutOpen3d(Nerfstudio):
    """nerfstudio's dataparser, which uses open3d only for unusual point clouds."""

    def _load_3D_points(self, ply_file_path: Path, transform_matrix: Tensor, scale_factor: float) -> Any:
        """The same result, to the bit, as that of nerfstudio's method of this name."""
        vertices = read_vertices(Path(ply_file_path))
        if vertices is None:
            return super()._load_3D_points(ply_file_path, transform_matrix, scale_factor)
        rgb = torch.from_numpy(np.stack([vertices[name] for name in RGB], axis=1))
        xyz = torch.from_numpy(np.stack([vertices[name] for name in XYZ], axis=1).astype(np.float32))
        xyz = torch.cat((xyz, torch.ones_like(xyz[..., :1])), -1) @ transform_matrix.T
        xyz *= scale_factor
        return {"points3D_xyz": xyz, "points3D_rgb": rgb}


def read_vertices(path: Path) -> NDArray[Any] | None:
    """The vertices of a PLY file as a structured array, with x, y and z, and red, green and blue of 8 bits.

    None if the file is damaged, or if open3d may read its points differently: open3d divides colours of any type by
    255, and nerfstudio multiplies them by 255 again, which leaves only bytes unchanged.
    """
    try:
        with path.open("rb") as file:
            header = read_header(file, path)
            vertex = next(iter(header.elements.values()), None)
            if vertex is None or vertex.name != "vertex" or vertex.lists or vertex.count == 0:
                return None
            types = vertex.properties
            if {types.get(name) for name in XYZ} - {"f4", "f8"} or {types.get(name) for name in RGB} != {"u1"}:
                return None
            dtype = np.dtype([(name, BYTE_ORDER[header.format] + code) for name, code in types.items()])
            if header.format == "ascii":
                rows = np.loadtxt(file, dtype, comments=None, max_rows=vertex.count, ndmin=1, encoding="ascii")
            else:
                rows = np.fromfile(file, dtype, vertex.count)
    except (OSError, PlyError, ValueError):
        return None
    whole = len(rows) == vertex.count and all(np.isfinite(rows[name]).all() for name in XYZ)
    return rows if whole else None


@contextmanager
def quick_seed_points(parser: Any) -> Generator[None]:
    """Use `NerfstudioWithoutOpen3d` in place of nerfstudio's own dataparser while a datamanager makes its dataparser.

    The config does not change, and neither does ``config.yml``.
    """
    if parser._target is not Nerfstudio:
        yield
        return
    parser._target = NerfstudioWithoutOpen3d
    try:
        yield
    finally:
        parser._target = Nerfstudio
