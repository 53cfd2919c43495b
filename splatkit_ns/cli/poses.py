"""``splatkit poses``: camera poses of photographs or of a video."""

from __future__ import annotations

from splatkit_ns.poses.options import PosesOptions

__all__ = ["PosesOptions", "run"]


def run(options: PosesOptions) -> None:
    """Compute the poses; see `poses.command.make_poses`."""
    from splatkit_ns.poses.command import make_poses  # takes a second: not for --help

    make_poses(options)
