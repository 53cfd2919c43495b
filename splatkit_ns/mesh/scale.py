"""The sizes of a fusion (voxels, truncation, depth limit), derived from the scene if they are not given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from splatkit_ns.errors import SplatkitError
from splatkit_ns.formats.gaussians import DoubleArray
from splatkit_ns.memory import GIB
from splatkit_ns.mesh.blocks import BLOCK_VOXELS, count_blocks
from splatkit_ns.mesh.views import DepthView

VOXELS_PER_PIXEL = 1.5
"""A voxel's side in widths that a pixel covers: finer ones reproduce the pixels' steps."""
TRUNCATION_VOXELS = 4.0
SEED_SHARE = 0.9
"""Share of the seed points that the depth limit must not cut off; the rest may be far behind the scene."""
BYTES_PER_BLOCK = BLOCK_VOXELS**3 * (25 + 16 + 10)
"""The bytes of a block. Each voxel needs some for distance, weight and colour, with room to grow; some for the places
of triangles' corners, while they are made; and some for the mesh. As measured: 2.5 GB for 12,500 blocks."""


MAX_BLOCKS = 2**31 // (BLOCK_VOXELS**3 * 3) - 1
"""The most blocks that open3d's 32-bit indices of colours can address, independent of the memory."""


@dataclass(frozen=True)
class FusionSizes:
    """The sizes of a fusion; lengths in world units of the views."""

    voxel_size: float
    truncation: float
    depth_limit: float
    num_blocks: int
    """Estimated."""

    @property
    def memory(self) -> int:
        """Estimated bytes at the most."""
        return self.num_blocks * BYTES_PER_BLOCK


def depth_limit_of(views: Sequence[DepthView], seed_points: DoubleArray | None) -> float:
    """The largest distance of a surface from a camera: the diameter of the ring of cameras, or the distance within
    which most seed points are from the cameras that see them.

    Args:
        views: of all cameras.
        seed_points: (N, 3), or None.
    """
    centres = np.stack([view.cam_to_world[:3, 3] for view in views])
    limit = 2.2 * float(np.linalg.norm(centres - centres.mean(0), axis=1).max())
    depths = [] if seed_points is None else [_seen_depths(view, seed_points) for view in views]
    if depths and (seen := np.concatenate(depths)).size:
        limit = max(limit, float(np.quantile(seen, SEED_SHARE)))
    return limit


def _seen_depths(view: DepthView, points: DoubleArray) -> DoubleArray:
    """Depths of the points that are in the picture."""
    in_camera = (points - view.cam_to_world[:3, 3]) @ view.cam_to_world[:3, :3]
    x, y, z = (in_camera[in_camera[:, 2] > 0] @ view.K.T).T
    height, width = view.depth.shape
    return z[(x >= 0) & (x < width * z) & (y >= 0) & (y < height * z)]


def choose_sizes(
    views: Sequence[DepthView],
    *,
    downscale: float,
    seed_points: DoubleArray | None = None,
    voxel_size: float | None = None,
    truncation: float | None = None,
    depth_limit: float | None = None,
    memory: int | None = None,
    unit: float = 1.0,
) -> FusionSizes:
    """The sizes of a fusion, as given or as the scene suggests.

    A voxel size that was not given is raised until the fusion fits into memory.

    Args:
        views: of all cameras, at low resolution.
        downscale: the factor by which the fusion's own views have more pixels a side.
        seed_points: (N, 3), or None.
        voxel_size: None means that `VOXELS_PER_PIXEL` determines it.
        truncation: None means `TRUNCATION_VOXELS`.
        depth_limit: None means that of `depth_limit_of`.
        memory: bytes that may be used; None means as many as `MAX_BLOCKS` take.
        unit: the unit of lengths in messages.

    Raises:
        SplatkitError: no surface is within reach, or the voxels that were asked for do not fit into memory.
    """
    limit = _checked_limit(views, depth_limit or depth_limit_of(views, seed_points), unit)
    near = [replace(view, depth=view.within(limit)) for view in views]
    footprints = np.concatenate([view.depth[view.depth > 0] / (view.focal * downscale) for view in near])
    voxel = voxel_size or VOXELS_PER_PIXEL * float(np.median(footprints))

    if truncation is not None and not voxel <= truncation <= limit:
        raise SplatkitError(
            f"--truncation is {truncation / unit:.4g}, expected at least a voxel ({voxel / unit:.4g}) and at most the "
            f"depth limit ({limit / unit:.4g})."
        )

    def sizes(voxel: float) -> FusionSizes:
        band = max(truncation or TRUNCATION_VOXELS * voxel, voxel)
        return FusionSizes(voxel, band, limit, count_blocks(near, voxel, band))

    chosen = sizes(voxel)
    allowed = min(math.inf if memory is None else max(1, memory), MAX_BLOCKS * BYTES_PER_BLOCK)
    if chosen.memory <= allowed:
        return chosen
    fitting = chosen
    while fitting.memory > allowed and fitting.voxel_size < limit:
        # blocks grow with the square of the fineness, or its cube in a thick band
        fitting = sizes(fitting.voxel_size * max(1.05, math.sqrt(fitting.memory / allowed)))
    fits = fitting.memory <= allowed
    if fits and voxel_size is None:
        return fitting
    remedy = f"What would fit: --voxel-size {_rounded_up(fitting.voxel_size / unit)}" if fits else "No size would fit"
    raise SplatkitError(
        f"Voxels of {voxel / unit:.4g} would need about {chosen.memory / GIB:.2g} GiB ({chosen.num_blocks:,} blocks of "
        f"{BLOCK_VOXELS}³), and {allowed / GIB:.2g} GiB may be used (--max-memory; never more than "
        f"{MAX_BLOCKS:,} blocks). {remedy}. Leaving out distant surfaces takes less, too: --depth-limit, now "
        f"{limit / unit:.4g}."
    )


def _rounded_up(value: float) -> str:
    """Three digits, never less than the value."""
    digits = 2 - math.floor(math.log10(value))
    return f"{math.ceil(value * 10**digits) / 10**digits:.{max(0, digits)}f}"


def _checked_limit(views: Sequence[DepthView], limit: float, unit: float) -> float:
    """The limit, if anything is within it; a limit of 0 (one camera, no seed points) becomes the largest depth."""
    depths = np.concatenate([view.depth[view.depth > 0] for view in views])
    if depths.size == 0:
        raise SplatkitError(
            f"None of the {len(views)} training cameras sees a surface: everywhere the Gaussians cover less of the "
            "pixels than --min-accumulation requires, or the data set's masks leave the pixels out. Train longer, or "
            "lower --min-accumulation."
        )
    limit = limit or float(depths.max())
    if depths.min() > limit:
        raise SplatkitError(
            f"All surfaces are farther away than the depth limit of {limit / unit:.4g}: the nearest is at "
            f"{depths.min() / unit:.4g}, half of the pixels are within {np.median(depths) / unit:.4g}. Set "
            "--depth-limit."
        )
    return limit
