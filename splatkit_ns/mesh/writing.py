"""Mesh files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from splatkit_ns.files import atomic_write_bytes
from splatkit_ns.mesh.surface import Mesh


def write_mesh(path: Path, mesh: Mesh) -> None:
    """Write a mesh atomically, with colours and normals, as its suffix says: .ply, .obj or .glb.

    Raises:
        OSError: the file cannot be written; an old file is then as it was.
    """
    import trimesh

    colors = np.concatenate([mesh.colors, np.ones((len(mesh.vertices), 1), np.float32)], axis=1)
    solid: Any = trimesh.Trimesh(
        vertices=mesh.vertices,
        faces=mesh.triangles,
        vertex_normals=mesh.vertex_normals(),
        vertex_colors=np.round(255 * colors).astype(np.uint8),
        process=False,  # as it is: no vertices merged, no triangles removed
    )
    options: dict[str, Any] = {"file_type": path.suffix.lower().removeprefix(".")}
    if options["file_type"] != "obj":
        options["vertex_normal" if options["file_type"] == "ply" else "include_normals"] = True
    content: Any = solid.export(**options)
    atomic_write_bytes(path, content.encode() if isinstance(content, str) else content)
