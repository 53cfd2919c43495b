"""What is refused, and what the message says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from raster_scenes import random_scene

from splatkit_ns.rasterize import rasterization


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"quats": torch.ones(4, 3)}, {}, r"quats: expected shape \(5, 4\), found \(4, 3\)"),
        ({"means": torch.ones(5)}, {}, r"means: expected shape \(N, 3\), found \(5,\)"),
        ({"opacities": torch.ones(5, 1)}, {}, r"opacities: expected shape \(5,\), found \(5, 1\)"),
        ({"viewmats": torch.eye(4)}, {}, r"viewmats: expected shape \(C, 4, 4\), found \(4, 4\)"),
        ({"Ks": torch.ones(2, 3, 3)}, {}, r"Ks: expected shape \(1, 3, 3\), found \(2, 3, 3\)"),
        ({"colors": torch.ones(6, 3)}, {}, r"colors .*: expected shape \(5, D\) or \(1, 5, D\), found \(6, 3\)"),
        ({"colors": torch.ones(5, 4, 3)}, {"sh_degree": 2}, r"at least 9 coefficients for sh_degree=2, found 4"),
        (
            {"colors": torch.ones(5, 1, 3)},
            {"sh_degree": 2, "sh_rest": torch.ones(5, 3, 3)},
            r"sh_rest: expected at least 8 coefficients for sh_degree=2, found 3",
        ),
        ({}, {"sh_rest": torch.ones(5, 3, 3)}, r"sh_rest: expected None with sh_degree=None"),
        ({}, {"sh_degree": 4}, r"sh_degree: expected 0, 1, 2, 3 or None, found 4"),
        ({}, {"backgrounds": torch.ones(1, 4)}, r"backgrounds: expected shape \(1, 3\), found \(1, 4\)"),
        ({}, {"render_mode": "BGR"}, r"render_mode: expected one of RGB, D, ED, RGB\+D, RGB\+ED, found 'BGR'"),
        ({}, {"rasterize_mode": "fast"}, r"rasterize_mode: expected one of classic, antialiased, found 'fast'"),
        ({"width": 0}, {}, r"width and height: expected at least 1 pixel each, found 0"),
        ({"scales": torch.ones(5, 3, dtype=torch.float64)}, {}, r"scales: expected dtype .* found torch.float64"),
        ({}, {"packed": True}, r"packed: expected False on the CPU"),
        ({}, {"lens": "panorama"}, r"lens: expected one of pinhole, opencv, opencv_fisheye, found 'panorama'"),
        ({}, {"lens": "opencv", "packed": True}, r"packed: expected False for the lens opencv"),
        ({}, {"distortion": torch.ones(1, 4)}, r"distortion: expected None for lens='pinhole', found shape \(1, 4\)"),
        ({}, {"lens": "opencv", "distortion": torch.ones(4)}, r"distortion .*: expected shape \(1, D\), found \(4,\)"),
        (
            {},
            {"lens": "opencv_fisheye", "distortion": torch.ones(1, 5)},
            r"at most 4 coefficients .*found shape \(1, 5\)",
        ),
        ({}, {"lens": "opencv", "distortion": torch.tensor([[torch.nan]])}, r"distortion: expected finite values"),
        ({"means": torch.ones(5, 3, device="meta")}, {}, r"quats: expected device meta as means, found cpu"),
    ],
)
def test_misfits_are_refused(changes: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rasterization(**{**random_scene(n=5), **changes}, **options)


def test_an_unknown_device_is_refused() -> None:
    scene = {k: v.to("meta") if torch.is_tensor(v) else v for k, v in random_scene(n=5).items()}
    with pytest.raises(ValueError, match="expected a tensor on cuda or cpu, found one on meta"):
        rasterization(**scene)


@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colors", "viewmats", "Ks"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name_and_row(name: str, value: float) -> None:
    scene = random_scene(n=5)
    row = len(scene[name]) - 1
    scene[name][row].view(-1)[-1] = value
    with pytest.raises(ValueError, match=rf"^{name}: expected finite values, found {value} in row {row} "):
        rasterization(**scene)


def test_large_finite_values_are_accepted() -> None:
    """Their sum overflows, which must not count as an infinity in the tensor."""
    scene = random_scene(n=5)
    scene["means"] = torch.full((5, 3), 3e38)
    _, alphas, _ = rasterization(**scene)
    assert float(alphas.max()) == 0.0
