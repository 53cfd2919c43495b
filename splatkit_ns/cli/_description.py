"""Figures of a file of Gaussians."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatkit_ns import formats
from splatkit_ns.cleaning import rules
from splatkit_ns.cli._files import file_bytes, read_all, shown_bytes
from splatkit_ns.formats import Gaussians
from splatkit_ns.formats.gaussians import finite_rows

_QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}
_MODES = {"default": "3D Gaussians", "mip": "antialiased (Mip-Splatting)", "2dgs": "discs (2D Gaussian Splatting)"}


def describe(path: Path) -> dict[str, Any]:
    """Figures of a file, as JSON can hold them.

    Gaussians with NaN or infinite values are counted, and left out of the other figures, which are None if no Gaussian
    is left.

    Raises:
        FormatError: the file cannot be read.
    """
    found = formats.find_format(path)
    gaussians = read_all(path)
    finite = finite_rows(gaussians.all_arrays())
    kept = gaussians if finite is None else gaussians.take(finite)
    return {
        "file": str(path),
        "format": found.name,
        "version": found.version(path),
        "bytes": file_bytes(path),
        "gaussians": len(gaussians),
        "sh_degree": gaussians.sh_degree,
        "extra_rows": {name: list(rows.shape[1:]) for name, rows in gaussians.extra.items()},
        "render_mode": gaussians.render_mode,
        "non_finite": len(gaussians) - len(kept),
        **_figures(kept),
    }


def _figures(gaussians: Gaussians) -> dict[str, Any]:
    if len(gaussians) == 0:
        return dict.fromkeys(("bounding_box", "middle", "opacity", "faint", "scale", "needles"))
    with np.errstate(over="ignore"):
        opacities = 1 / (1 + np.exp(-gaussians.opacities.astype(np.float64)))
        # the longest axis: the one by which a Gaussian is seen, also of discs
        sizes = np.exp(gaussians.scales.max(axis=1).astype(np.float64))
    return {
        "bounding_box": {"min": _numbers(gaussians.means.min(axis=0)), "max": _numbers(gaussians.means.max(axis=0))},
        "middle": {
            name: _numbers(np.quantile(gaussians.means, quantile, axis=0))
            for name, quantile in (("5%", 0.05), ("95%", 0.95))
        },
        "opacity": _quantiles(opacities),
        "faint": float((opacities < rules.FAINTEST).mean()),
        "scale": _quantiles(sizes),
        "needles": float(rules.needles(gaussians, 10).mean()),
    }


def _quantiles(values: NDArray[Any]) -> dict[str, float]:
    found = np.quantile(values, list(_QUANTILES.values()))
    return dict(zip(_QUANTILES, _numbers(found), strict=True))


def _numbers(values: NDArray[Any]) -> list[float]:
    """Numbers with 7 digits, as many as float32 has; those too large for a float become the largest."""
    return [float(f"{value:.7g}") for value in np.nan_to_num(values.astype(np.float64))]


def _shown_size(size: float) -> str:
    return f"{size:,.0f}" if size >= 1000 else f"{size:.3g}"


def lines(figures: dict[str, Any]) -> list[str]:
    """The figures as people read them."""
    count, version = figures["gaussians"], figures["version"]
    text = {
        "format": f"{figures['format']}{f' ({version})' if version else ''}",
        "size": f"{shown_bytes(figures['bytes'])}, {_shown_size(figures['bytes'] / count)} bytes a Gaussian",
        "Gaussians": f"{count:,}, {_MODES[figures['render_mode']]}",
        "SH degree": str(figures["sh_degree"]),
        "not finite": f"{figures['non_finite']:,}",
    }
    if figures["extra_rows"]:
        text["extra rows"] = ", ".join(_rows(name, shape) for name, shape in figures["extra_rows"].items())
    if figures["bounding_box"] is not None:
        box, middle = figures["bounding_box"], figures["middle"]
        text |= {
            "from": f"{_point(box['min'])} to {_point(box['max'])}",
            "nine tenths": f"{_point(middle['5%'])} to {_point(middle['95%'])}",
            "opacity": f"{_listed(figures['opacity'])}; {figures['faint']:.1%} below 1 / 255",
            "size of one": f"{_listed(figures['scale'])}; {figures['needles']:.1%} needles, 10 times as long as wide",
        }
    return [figures["file"], *(f"  {name:<12} {value}" for name, value in text.items())]


def _rows(name: str, shape: list[int]) -> str:
    return f"{name} ({' × '.join(map(str, shape))})" if shape else name


def _point(values: list[float]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
