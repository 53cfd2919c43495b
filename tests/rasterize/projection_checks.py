"""The projection of Gaussians by kernels against the CPU's float64 ones, with Gaussians at every limit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from splatkit_ns.rasterize.cpu.autograd import Project, lens_of_kernels
from splatkit_ns.rasterize.projection import project_in_kernels
from tests.rasterize.raster_scenes import as_values, random_scene

NAMES = ("means", "quats", "scales", "opacities", "viewmats")


def towards(view: Tensor, x: float, y: float, z: float) -> Tensor:
    """The point in the world that this camera has at (x, y, z)."""
    return (torch.tensor([x, y, z]) - view[:3, 3]) @ view[:3, :3]


def add_extremes(scene: dict[str, Any]) -> int:
    """Put Gaussians that are at, or beyond, a limit in the first places; return how many."""
    view = scene["viewmats"][0]
    places = [
        (0.1, 0.2, -1.0), (0.0, 0.1, 0.004), (0.0, 0.1, 150.0), (40.0, 0.1, 4.0), (0.1, -40.0, 4.0),  # unseen
        (0.0, 0.0, 2.0), (0.1, 0.0, 2.0), (-0.1, 0.1, 2.0),  # the middle
        (0.2, 0.1, 0.0101), (1.5, 0.4, 2.0), (-1.6, -1.2, 2.0),  # nearest, and beyond the margins of slopes
        (0.1, 0.1, 2.0), (0.1, 0.1, 2.1), (0.1, 0.2, 2.2), (0.0, 0.3, 2.0),
    ]  # fmt: skip
    scene["means"][: len(places)] = torch.stack([towards(view, *place) for place in places])
    scene["opacities"][: len(places)] = 0.7
    scene["scales"][5] = torch.tensor([3.0, 0.02, 1e-5])  # a needle
    scene["scales"][6] = torch.tensor([0.5, 0.5, 0.0])  # a disc
    scene["scales"][7] = 100.0
    scene["scales"][9:11] = 0.5
    scene["quats"][11] = 0.0  # no rotation at all
    scene["opacities"][12], scene["opacities"][13] = 0.0, 1.0
    scene["scales"][14] = 1e-7
    return len(places)


def assert_near(found: Tensor, expected: Tensor, what: Any, limit: float) -> None:
    error = float((found.detach().cpu().double() - expected).norm() / expected.norm().clamp(min=1e-9))
    assert error < limit, (what, error)


def weighted(values: Sequence[Tensor], rows: slice) -> Tensor:
    """A random function of the values of some Gaussians."""
    torch.manual_seed(6)
    terms = [(value * torch.randn(value.shape).to(value))[:, rows].sum() for value in values]
    return torch.stack([term.cpu() for term in terms]).sum()


def check(
    device: str, cameras: int, n: int, mode: str, eps2d: float, lens: str = "pinhole", distortion: Sequence[float] = ()
) -> None:
    """Compare values, and gradients of a random function of them, of 3D Gaussians in a random scene."""
    scene = random_scene(n=n, cameras=cameras, seed=cameras)
    if lens == "opencv_fisheye":  # stands in the middle, and sees far to the sides
        scene["viewmats"][:, :3, 3] *= 0.1
        scene["Ks"][:, :2, :2] *= 0.3
    torch.manual_seed(5)
    scene["quats"] *= torch.exp(torch.randn(n, 1))  # of any length
    calm = slice(add_extremes(scene), None)  # beside extreme ones an error of the others would not be seen
    exact = {name: scene[name].double().requires_grad_() for name in NAMES}
    ours = {name: scene[name].to(device).requires_grad_() for name in (*NAMES, "Ks")}
    options = {"near_plane": 0.01, "far_plane": 100.0, "eps2d": eps2d, "rasterize_mode": mode, "radius_clip": 0.5}
    with_lens = {"lens": lens, "distortion": torch.tensor([list(distortion)] * cameras) if distortion else None}
    kernel_lens = lens_of_kernels(as_values({**scene, **with_lens})[1])
    with_lens = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in with_lens.items()}
    gaussians, views, settings = as_values({**scene, **ours, **with_lens}, **options)

    def project(Ks: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The projection in float64: radii, and the other values."""
        outputs: Any = Project.apply(*exact.values(), Ks, views.size, kernel_lens, settings)
        means2d, depths, conics, compensations, radii = outputs
        opacities = exact["opacities"].expand(cameras, -1) * (compensations if mode == "antialiased" else 1)
        return radii, (means2d, depths, conics, torch.where(radii.amax(-1) > 0, opacities, 0))

    true_radii, expected = project(scene["Ks"].double())
    radii, seen, *found = project_in_kernels(gaussians, views, settings)
    check_radii(radii.cpu(), seen.cpu(), true_radii, extreme=lens == "pinhole")
    for name, mine, theirs in zip(("means2d", "depths", "conics", "opacities"), found, expected, strict=True):
        assert bool(torch.isfinite(mine).all())
        assert float(mine[~seen].abs().max()) == 0
        assert_near(mine, theirs.detach(), name, 1e-4)  # the nearest point is a difference of larger numbers
        assert_near(mine[:, calm], theirs[:, calm].detach(), name, 1e-5)
    for rows, limit in ((slice(None), 5e-4), (calm, 1e-5)):  # an error in a needle's angle is multiplied
        mine = torch.autograd.grad(weighted(found, rows), list(ours.values()), retain_graph=True)
        theirs = torch.autograd.grad(weighted(expected, rows), list(exact.values()), retain_graph=True)
        for name, gradient, truth in zip(NAMES, mine, theirs, strict=False):
            assert bool(torch.isfinite(gradient).all())
            assert_near(gradient, truth, name, limit)
        slopes = torch.zeros(cameras, 3, 3, dtype=torch.float64)  # the float64 kernels have no gradient for K
        for camera, i, k in itertools.product(range(cameras), range(2), (0, 1, 2)):
            if k in (i, 2):
                step = torch.zeros_like(slopes)
                step[camera, i, k] = 1e-4
                ends = [weighted(project(scene["Ks"].double() + sign * step)[1], rows).detach() for sign in (1, -1)]
                slopes[camera, i, k] = (ends[0] - ends[1]) / 2e-4
        assert_near(mine[-1], slopes, "Ks", limit)
        again = torch.autograd.grad(weighted(found, rows), list(ours.values()), retain_graph=True)
        assert all(torch.equal(one, other) for one, other in zip(mine, again, strict=True))
    # without gradients for cameras, and with some that are missing
    (alone,) = torch.autograd.grad(weighted(found[:1], calm), ours["means"])
    (truth,) = torch.autograd.grad(weighted(expected[:1], calm), exact["means"])
    assert_near(alone, truth, "means by means2d", 1e-5)


def check_radii(radii: Tensor, seen: Tensor, true_radii: Tensor, extreme: bool) -> None:
    """Compare the radii, which are rounded up; and look at what a pinhole camera sees of the extreme Gaussians."""
    assert torch.equal(seen, true_radii.amax(-1) > 0)
    assert radii.dtype == torch.int32
    assert torch.equal(seen, radii.view(*seen.shape, -1).amax(-1) > 0)
    if extreme:
        assert not bool(seen[0, [0, 1, 2, 3, 4, 12]].any())
        assert bool(seen[0, [5, 7, 9, 10, 11, 13]].all())
    assert 0.2 < float(seen.float().mean()) < 0.97
    truth = true_radii if radii.dim() == 3 else true_radii.amax(-1)
    assert int((radii - truth).abs().max()) <= 1 + 1e-5 * int(truth.max())
    assert float((radii == truth).float().mean()) > 0.98
