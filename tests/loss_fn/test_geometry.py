"""Terms of depth and normals: values by hand on planes, masks, unknown pixels, gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.loss_fn import Splat3DGSLossFn, geometry
from splatkit_ns.loss_fn.geometry import (
    depth_error,
    interior,
    inverse_depth_error,
    masked_mean,
    normal_error,
    pixel_rays,
    z_depths,
)
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.rasterize.surfaces import normals_of_depth
from tests.triton_interpreter import assert_prints

HEIGHT, WIDTH = 12, 16
Ks = torch.tensor([[[20.0, 0, 8.5], [0, 22.0, 5.5], [0, 0, 1]]], dtype=torch.float64)
VIEW = View(torch.eye(4, dtype=torch.float64)[None], Ks, WIDTH, HEIGHT)
NAN = float("nan")


def plane(normal: tuple[float, float, float], distance: float) -> tuple[Tensor, Tensor]:
    """z-depth (1, H, W, 1) of the points with n · p = -distance, and the unit normal n, which faces the camera."""
    n = torch.nn.functional.normalize(torch.tensor(normal, dtype=torch.float64), dim=0)
    return -distance / (pixel_rays(VIEW) @ n)[..., None], n


TILTED = plane((0.3, -0.4, -1.0), 2.0)


def everywhere() -> Tensor:
    return torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)


def test_rays_go_through_the_pixels_centres() -> None:
    rays = pixel_rays(VIEW)
    assert rays.shape == (1, HEIGHT, WIDTH, 3)
    torch.testing.assert_close(rays[0, 2, 3] @ Ks[0].T, torch.tensor([3.5, 2.5, 1.0], dtype=torch.float64))


def test_depth_along_rays_is_longer_than_along_the_axis_off_the_centre() -> None:
    z, _ = TILTED
    points = pixel_rays(VIEW) * z
    along_rays = points.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(z_depths(along_rays, "ray", VIEW), z)
    assert z_depths(z, "z", VIEW) is z
    assert float((along_rays / z)[0, 0, 0, 0]) == pytest.approx(math.sqrt(1 + (8 / 20) ** 2 + (5 / 22) ** 2))
    assert float(depth_error(z, along_rays, everywhere())) > 0.02
    assert float(depth_error(z, z_depths(along_rays, "ray", VIEW), everywhere())) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("unknown", [0.0, -1.0, NAN, float("inf")])
def test_unknown_depth_is_left_out_of_value_and_gradient(unknown: float) -> None:
    z, _ = TILTED
    target = z + 0.25
    target[0, 3:6, 2:9] = unknown
    rendered = z.clone().requires_grad_()
    error = depth_error(rendered, target, everywhere())
    error.backward()
    assert float(error) == pytest.approx(0.25)
    assert rendered.grad is not None
    known = torch.isfinite(target) & (target > 0)
    assert bool((rendered.grad[~known] == 0).all())
    torch.testing.assert_close(rendered.grad[known], torch.full_like(z[known], -1 / int(known.sum())))


def test_without_any_known_depth_the_error_is_zero() -> None:
    z = TILTED[0].clone().requires_grad_()
    error = depth_error(z, torch.full_like(z, NAN), everywhere())
    error.backward()
    assert float(error) == 0
    assert z.grad is not None
    assert float(z.grad.abs().max()) == 0


def opaque() -> Tensor:
    return torch.ones(1, HEIGHT, WIDTH, 1, dtype=torch.float64)


def test_inverse_depth_is_compared_up_to_scale_and_shift() -> None:
    z, _ = TILTED
    for scale, shift in ((1.0, 0.0), (300.0, 25.0), (1e-3, -2.0)):
        assert float(inverse_depth_error(z, scale / z + shift, opaque(), everywhere())) == pytest.approx(0, abs=1e-9)
    assert float(inverse_depth_error(z, z, opaque(), everywhere())) > 0.05, "it grows the other way"


def test_the_error_of_inverse_depth_is_that_of_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    z, _ = TILTED
    target = 5 / z + torch.rand(z.shape, generator=generator, dtype=torch.float64)
    columns = torch.stack([target.flatten(), torch.ones(HEIGHT * WIDTH, dtype=torch.float64)], dim=1)
    inverse = (1 / z).flatten()
    fitted = columns @ torch.linalg.lstsq(columns, inverse[:, None]).solution[:, 0]
    expected = float((inverse - fitted).abs().mean() / inverse.mean())
    assert float(inverse_depth_error(z, target, opaque(), everywhere())) == pytest.approx(expected)
    assert float(inverse_depth_error(7 * z, target, opaque(), everywhere())) == pytest.approx(expected)


def test_inverse_depth_through_a_fisheye_is_that_along_the_axis() -> None:
    """Renders of fisheyes have distances; corners, up to 89 degrees from the axis, do not count."""
    K = torch.tensor([[[6.0, 0, 8.0], [0, 6.0, 6.0], [0, 0, 1]]], dtype=torch.float64)
    view = View(torch.eye(4, dtype=torch.float64)[None], K, WIDTH, HEIGHT, "opencv_fisheye")
    normal = torch.nn.functional.normalize(torch.tensor([0.1, -0.1, -1.0], dtype=torch.float64), dim=0)
    rays = pixel_rays(view)
    distances = -2 / (rays @ normal)[..., None]
    axial = distances * rays[..., 2:]
    is_near = rays[..., 2] > math.cos(math.radians(80))
    assert 0 < int((~is_near).sum()) < HEIGHT * WIDTH / 5
    target = torch.where(is_near[..., None], 3 / axial + 1, 100.0)
    nothing = torch.zeros(1, 0, 2)
    sizes = {"width": WIDTH, "height": HEIGHT, "n_cameras": 1, "info": {}}
    drawn = SplatRenderPayload(renders=rays, alphas=opaque(), means2d=nothing, depths_expected=distances, **sizes)
    step = {"rend_out": drawn, "target_depths": target, "view": view, "scene_scale": 1.0}
    terms = Splat3DGSLossFn(depth_lambda=1.0, depth_kind="inverse").geometry_terms(None, step)
    assert float(terms["depth"]) == pytest.approx(0, abs=1e-9)
    assert float(inverse_depth_error(distances, target, opaque(), is_near)) > 0.01, "distances differ from depths"


@pytest.mark.parametrize("hidden", ["unknown", "masked", "transparent"])
def test_pixels_that_do_not_count_have_no_part_in_the_fit(hidden: str) -> None:
    z, _ = TILTED
    rendered, target, alphas, valid = z.clone(), 3 / z + 1, opaque(), everywhere()
    rendered[0, 2:5, 3:9] *= 2
    if hidden == "unknown":
        target[0, 2:5, 3:9] = NAN
    elif hidden == "masked":
        valid[0, 2:5, 3:9] = False
    else:
        alphas[0, 2:5, 3:9] = 0.4
    rendered.requires_grad_()
    error = inverse_depth_error(rendered, target, alphas, valid)
    error.backward()
    assert float(error) == pytest.approx(0, abs=1e-9)
    assert rendered.grad is not None
    assert float(rendered.grad[0, 2:5, 3:9].abs().max()) == 0
    assert bool(torch.isfinite(rendered.grad).all())


def test_inverse_depth_draws_a_bump_back_to_the_surface() -> None:
    z, _ = TILTED
    rendered = z.clone()
    rendered[0, 5, 5] *= 0.5
    rendered.requires_grad_()
    inverse_depth_error(rendered, 2 / z, opaque(), everywhere()).backward()
    assert rendered.grad is not None
    assert float(rendered.grad[0, 5, 5]) < 0, "descent moves it away from the camera"
    nothing = inverse_depth_error(z, torch.full_like(z, NAN), opaque(), everywhere())
    assert float(nothing) == 0


def test_a_tilted_plane_has_one_normal_and_no_error() -> None:
    z, normal = TILTED
    surface = normals_of_depth(z, Ks)
    inner = interior(everywhere())
    torch.testing.assert_close(surface[inner], normal.expand(int(inner.sum()), 3))
    for alpha in (1.0, 0.4, 0.0):
        alphas = torch.full_like(z, alpha)
        assert float(normal_error(alphas * normal, surface, alphas, inner)) == pytest.approx(0.0, abs=1e-12)


def test_turned_normals_cost_alpha_squared_times_one_minus_the_cosine() -> None:
    z, normal = TILTED
    across = torch.nn.functional.normalize(torch.linalg.cross(normal, torch.tensor([1.0, 0, 0], dtype=z.dtype)), dim=0)
    turned = math.cos(0.6) * normal + math.sin(0.6) * across
    alphas = torch.full_like(z, 0.8)
    error = normal_error(alphas * turned, normals_of_depth(z, Ks), alphas, interior(everywhere()))
    assert float(error) == pytest.approx(0.8**2 * (1 - math.cos(0.6)))


def test_the_gradient_of_depth_through_normals_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    z = TILTED[0] + 0.05 * torch.rand(TILTED[0].shape, generator=generator, dtype=torch.float64)
    normals = torch.nn.functional.normalize(torch.randn(1, HEIGHT, WIDTH, 3, generator=generator).double(), dim=-1)
    inner = interior(everywhere())
    alphas = torch.rand(1, HEIGHT, WIDTH, 1, generator=generator, dtype=torch.float64)

    def error(depth: Tensor, blended: Tensor) -> Tensor:
        return normal_error(blended, normals_of_depth(depth, Ks), alphas, inner)

    inputs = (z.requires_grad_(), (normals * alphas).requires_grad_())
    assert torch.autograd.gradcheck(error, inputs, eps=1e-6, atol=1e-6)


def test_a_surface_cannot_lower_the_error_by_becoming_transparent() -> None:
    alphas = torch.full((1, HEIGHT, WIDTH, 1), 0.5, dtype=torch.float64, requires_grad=True)
    away = -TILTED[1].expand(1, HEIGHT, WIDTH, 3)
    error = normal_error(away.clone().requires_grad_(), TILTED[1].expand_as(away), alphas, everywhere())
    error.backward()
    assert float(error) > 0
    assert alphas.grad is None


def test_the_interior_leaves_out_what_has_a_neighbour_outside() -> None:
    mask = torch.ones(1, 6, 7, dtype=torch.bool)
    mask[0, 3, 3] = False
    inner = interior(mask)[0]
    expected = torch.zeros(6, 7, dtype=torch.bool)
    expected[1:-1, 1:-1] = True
    for y, x in ((3, 3), (2, 3), (4, 3), (3, 2), (3, 4)):
        expected[y, x] = False
    assert torch.equal(inner, expected)


def test_values_outside_do_not_reach_a_mean() -> None:
    values = torch.tensor([[[1.0, 3.0, NAN]]])
    assert float(masked_mean(values, torch.tensor([[[True, True, False]]]))) == 2
    assert float(masked_mean(values, torch.zeros(1, 1, 3, dtype=torch.bool))) == 0
    assert float(masked_mean(values[..., :2], None)) == 2


# The functions of this block also run in the interpreter's process.
RUN = """
import torch
from splatkit_ns.loss_fn.geometry import normal_error

def derived(device, dtype, share, size):
    generator = torch.Generator().manual_seed(2)
    normals, references, alphas = (torch.randn(1, *size, k, generator=generator) for k in (3, 3, 1))
    valid = torch.rand(1, *size, generator=generator) < share
    references[~valid] = float("nan")
    normals, references = (x.to(device, dtype).requires_grad_() for x in (normals, references))
    alphas = alphas.to(device, dtype).requires_grad_()
    error = normal_error(normals, references, alphas, valid.to(device))
    (3 * error).backward()
    assert alphas.grad is None
    return [x.detach().cpu() for x in (error, normals.grad, references.grad)]

def assert_alike(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.isfinite(mine).all()
        assert (mine - theirs).abs().max() <= 2e-6 * theirs.abs().max(), (mine, theirs)

CASES = [(0.8, (37, 61)), (1.0, (1, 3)), (0.0, (40, 30))]
"""

IN_THE_INTERPRETER = (
    RUN
    + """
from splatkit_ns.loss_fn import Splat3DGSLossFn, geometry
from splatkit_ns.loss_fn._normal_error_triton import NormalError

geometry.normal_error_kernel = lambda: NormalError.apply
for case in CASES:
    geometry._kernel_fits = lambda *images: True
    found = derived("cpu", torch.float32, *case)
    geometry._kernel_fits = lambda *images: False
    assert_alike(found, derived("cpu", torch.float64, *case))
print("alike")
"""
)


def test_the_error_of_normals_in_the_interpreter() -> None:
    assert_prints(IN_THE_INTERPRETER, "alike\n")


@pytest.mark.gpu
def test_the_error_of_normals_on_the_gpu() -> None:
    assert geometry.normal_error_kernel() is not None, "Triton works where there are GPU tests"
    functions: dict[str, Any] = {}
    exec(RUN, functions)
    for case in (*functions["CASES"], (0.5, (900, 1600))):
        found = functions["derived"]("cuda", torch.float32, *case)
        functions["assert_alike"](found, functions["derived"]("cpu", torch.float64, *case))
