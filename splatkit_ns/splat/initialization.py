"""Gaussians to start training from: made from a point cloud, or trained before."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from os import PathLike

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.spatial import cKDTree  # type: ignore[reportAttributeAccessIssue]
from torch import Tensor

from splatkit_ns import formats
from splatkit_ns.formats.gaussians import SH_C0

logger = logging.getLogger(__name__)

NUM_NEIGHBOURS = 3
MIN_DISTANCE = math.sqrt(1e-7)
"""Smallest distance to the neighbours that is used, as in 3DGS: points that coincide would give a scale of zero. If
half of the points are nearer to others, the unit of the scene is large, and the median is the smallest distance."""
LONE_POINT_DISTANCE = 1.0


def random_points(num: int, extent: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw (num, 3) points, uniform in the cube [-extent, extent]^3 of world units, on the CPU."""
    return (torch.rand(num, 3, generator=generator) * 2 - 1) * extent


def neighbour_distances(points: Tensor, others: Tensor | None = None) -> Tensor:
    """Compute the mean distance of each point to its 3 nearest neighbours.

    Args:
        points: (M, 3), finite.
        others: (L, 3), finite: further points that count as neighbours.

    Returns:
        (M,) float32 on the CPU, at least `MIN_DISTANCE`, or the median if that is less. With fewer than 4 points, the
        mean over all others; 1 for a single point.
    """
    num = len(points)
    together = points.detach().cpu()
    if others is not None:
        together = torch.cat([together, others.detach().cpu()])
    num_neighbours = min(NUM_NEIGHBOURS, len(together) - 1)
    if num == 0 or num_neighbours <= 0:
        return torch.full((num,), LONE_POINT_DISTANCE)
    positions: NDArray[np.float64] = together.double().numpy()
    tree = cKDTree(positions)
    # in the order of the tree, in which successive points are neighbours: thanks to the cache 3 times as fast
    order: NDArray[np.intp] = np.asarray(tree.indices)
    order = order[order < num]
    distances, _ = tree.query(positions[order], k=num_neighbours + 1, workers=-1)
    mean = np.empty(num)
    mean[order] = np.asarray(distances)[:, 1:].mean(axis=1)  # the first hit is the point itself
    least = min(MIN_DISTANCE, float(np.median(mean)) or MIN_DISTANCE)
    return torch.from_numpy(np.maximum(mean, least)).float()


def gaussians_from_points(
    points: Tensor,
    colors: Tensor | None,
    *,
    sh_degree: int = 3,
    init_opacity: float = 0.1,
    init_scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Make the raw parameters of one isotropic Gaussian per point.

    Args:
        points: (M, 3) in world units.
        colors: (M, 3) RGB in 0..1; None for random colours.
        sh_degree: 0 to 3; the coefficients above degree 0 start at zero.
        init_opacity: in (0, 1).
        init_scale: standard deviation in units of the mean distance to the 3 nearest neighbours, > 0.
        generator: CPU generator for rotations and missing colours; None for the global one.

    Returns:
        The six parameters, float32 on the CPU.

    Raises:
        ValueError: no points, non-finite points, wrong shapes or options out of range.
    """
    points = _checked_points(points)
    num = len(points)
    if not 0 <= sh_degree <= 3:
        raise ValueError(f"sh_degree must be 0, 1, 2 or 3, found {sh_degree}.")
    if not 0 < init_opacity < 1:
        raise ValueError(f"init_opacity must lie between 0 and 1 (both excluded), found {init_opacity}.")
    if not (init_scale > 0 and math.isfinite(init_scale)):
        raise ValueError(f"init_scale must be a positive number, found {init_scale}.")
    rgb = torch.rand(num, 3, generator=generator) if colors is None else checked_colors(colors, num)
    log_scales = torch.log(neighbour_distances(points) * init_scale)
    return {
        "means": points.clone(),
        "scales": log_scales[:, None].repeat(1, 3),
        "quats": F.normalize(torch.randn(num, 4, generator=generator), dim=-1),
        "opacities": torch.full((num,), math.log(init_opacity / (1 - init_opacity))),
        "sh0": sh0_of(rgb),
        "shN": torch.zeros(num, (sh_degree + 1) ** 2 - 1, 3),
    }


def sh0_of(colors: Tensor) -> Tensor:
    """SH coefficients of degree 0, (M, 1, 3), of colours (M, 3) in 0..1."""
    return ((colors - 0.5) / SH_C0)[:, None, :]


def _checked_points(points: Tensor) -> Tensor:
    if points.dim() != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(f"points must have shape (M, 3) with M > 0, found {tuple(points.shape)}.")
    points = points.detach().to("cpu", torch.float32)
    bad = (~torch.isfinite(points)).any(dim=1).nonzero()
    if len(bad):
        first = int(bad[0])
        raise ValueError(
            f"{len(bad)} of {len(points)} points are not finite; the first is row {first}: {points[first].tolist()}. "
            "Remove them from the point cloud."
        )
    return points


def checked_colors(colors: Tensor, num: int) -> Tensor:
    """Colours on the CPU as float32.

    Raises:
        ValueError: they are not floats of shape (num, 3) in 0..1.
    """
    if colors.shape != (num, 3):
        raise ValueError(f"colors must have shape {(num, 3)}, one row per point, found {tuple(colors.shape)}.")
    if not colors.is_floating_point():
        raise ValueError(f"colors must be floating point in 0..1, found {colors.dtype}: divide 8-bit colours by 255.")
    colors = colors.detach().to("cpu", torch.float32)
    if not bool(((colors >= 0) & (colors <= 1)).all()):
        low, high = float(colors.min()), float(colors.max())
        raise ValueError(f"colors must lie in 0..1, found values from {low:g} to {high:g}; divide 8-bit ones by 255.")
    return colors


def gaussians_from_file(
    path: str | PathLike[str], sh_degree: int, extra_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Tensor]:
    """Read the raw parameters of the Gaussians in a file of any format, with SH coefficients up to `sh_degree`.

    Coefficients that the file lacks are zero; those it has above `sh_degree` are left out, with a note in the log.

    Args:
        path: a file whose suffix names one of the formats, see `formats.find_format`.
        sh_degree: 0 to 3.
        extra_shapes: name -> shape of a row, of the extra rows that are wanted. Those that the file lacks are left out;
            those that only the file has, or has in another shape, are ignored, with a warning.

    Returns:
        The six parameters and the wanted extra rows, float32 on the CPU.

    Raises:
        FormatError: the file is missing, of no known format, damaged or holds no Gaussians.
    """
    gaussians = formats.read(path)
    tensors = {key: torch.from_numpy(value) for key, value in gaussians.arrays().items()}
    wanted, found = (sh_degree + 1) ** 2 - 1, tensors["shN"].shape[1]
    if found != wanted:
        what = "those above are left out" if found > wanted else "those above its own start at zero"
        logger.info("%s has SH coefficients of degree %d, sh_degree is %d: %s.", path, math.isqrt(found + 1) - 1,
                    sh_degree, what)  # fmt: skip
    tensors["shN"] = F.pad(tensors["shN"][:, :wanted], (0, 0, 0, max(0, wanted - found)))
    extra = {name: torch.from_numpy(rows) for name, rows in gaussians.extra.items()}
    return {**tensors, **_wanted_rows(extra, extra_shapes or {}, path)}


def _wanted_rows(
    extra: dict[str, Tensor], shapes: Mapping[str, tuple[int, ...]], path: str | PathLike[str]
) -> dict[str, Tensor]:
    """The rows with a wanted name and shape; one warning names the others."""
    fitting: dict[str, Tensor] = {}
    ignored: list[str] = []
    for name, rows in extra.items():
        shape = tuple(rows.shape[1:])
        if shapes.get(name) == shape:
            fitting[name] = rows
        else:
            expected = f", expected {shapes[name]}" if name in shapes else ""
            ignored.append(f"{name!r} of shape {shape}{expected}")
    if ignored:
        logger.warning("%s: extra rows that no part of this run declares are ignored: %s.", path, "; ".join(ignored))
    return fitting
