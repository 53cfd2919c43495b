"""``splatkit mesh``: a triangle mesh from a run."""

from __future__ import annotations

from splatkit_ns.mesh.options import MeshOptions

__all__ = ["MeshOptions", "run"]


def run(options: MeshOptions) -> None:
    """Make the mesh; see `mesh.command.make_mesh`."""
    from splatkit_ns.mesh.command import make_mesh  # takes seconds: not for --help

    make_mesh(options)
