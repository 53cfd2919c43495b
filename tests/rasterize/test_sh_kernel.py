"""The Triton kernels of spherical harmonics, run by Triton's interpreter, against an independent float64 basis."""

from __future__ import annotations

import pytest

from tests.triton_interpreter import assert_prints

IN_THE_INTERPRETER = """
import sys
sys.path.insert(0, "tests/rasterize")
import torch
from dense_reference import legendre_sh
from splatkit_ns.rasterize._sh_triton import spherical_harmonics

torch.manual_seed(0)
degree, stored, joined, cameras, num = {degree}, {stored}, {joined}, 2, 100
means, centres = torch.randn(num, 3), torch.randn(cameras, 3) * 3
coefficients, seen = torch.randn(num, stored, 3) * 1.5, torch.rand(cameras, num) > 0.2
upstream = torch.rand(cameras, num, 3)
ours = [value.clone().requires_grad_() for value in (means, coefficients, centres)]


def evaluate(means, coefficients, centres):
    parts = (coefficients, None) if joined else (coefficients[:, :1], coefficients[:, 1:])
    return spherical_harmonics(means, *parts, centres, seen, degree)


colors = evaluate(*ours)
(colors * upstream).sum().backward()
true = [value.double().requires_grad_() for value in (means, coefficients, centres)]
directions = torch.nn.functional.normalize(true[0][None] - true[2][:, None], dim=-1)
basis = torch.stack([legendre_sh(degree, d) for d in directions])
values = (basis[..., None] * true[1][None, :, : basis.shape[-1]]).sum(2) + 0.5
expected = values.clamp(min=0)
assert (values < 0).any(), "some are cut off"
assert (colors - expected)[seen].abs().max() < 1e-5
(torch.where(seen[..., None], expected, 0) * upstream).sum().backward()
for got, want in zip(ours, true, strict=True):
    expected = torch.zeros_like(want) if want.grad is None else want.grad  # degree 0 does not depend on the direction
    assert (got.grad - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1)
(upstream * evaluate(*ours[:2], centres)).sum().backward()  # cameras together, not trained
for got, want in zip(ours[:2], true, strict=False):
    expected = torch.zeros_like(want) if want.grad is None else want.grad
    assert (got.grad - 2 * expected).abs().max() < 2e-5 * expected.abs().max().clamp(min=1)
print("equal")
"""


@pytest.mark.parametrize(
    ("degree", "stored", "joined"),
    [(0, 1, True), (1, 16, False), (1, 4, False), (2, 9, True), (3, 16, True), (3, 16, False)],
)
def test_in_the_interpreter(degree: int, stored: int, joined: bool) -> None:
    code = IN_THE_INTERPRETER
    for name, value in {"degree": degree, "stored": stored, "joined": joined}.items():
        code = code.replace("{" + name + "}", str(value))
    assert_prints(code, "equal\n")


OF_COLOURS = """
import contextlib

import torch
from splatkit_ns.rasterize._sh_exchange_triton import coefficient_gradients
from splatkit_ns.rasterize._sh_triton import spherical_harmonics
from splatkit_ns.rasterize.color_gradients import ColorGradients, taken_for

torch.cuda.device_of = lambda tensor: contextlib.nullcontext()
torch.manual_seed(0)
num, cameras = 100, 2
for degree, stored in ((0, 1), (1, 16), (3, 16)):
    means, centres = torch.randn(num, 3), torch.randn(cameras, 3) * 3
    leaves = [torch.randn(num, 1, 3), torch.randn(num, stored - 1, 3) if degree else None]
    seen, upstream = torch.rand(cameras, num) > 0.2, torch.randn(cameras, num, 3)
    def trained():
        return [each if each is None else each.clone().requires_grad_() for each in (means, *leaves)]
    usual = trained()
    (spherical_harmonics(*usual, centres, seen, degree) * upstream).sum().backward()
    found, total = [], torch.zeros(num, 3)
    for camera in range(cameras):
        kept, ours = ColorGradients(), trained()
        with kept.keeping():
            assert taken_for(*ours[1:], torch.eye(4)[None]) is kept
            assert taken_for(*ours[1:], torch.eye(4)[None]) is None, "only the first render"
        one = slice(camera, camera + 1)
        (spherical_harmonics(*ours, centres[one], seen[one], degree, kept) * upstream[one]).sum().backward()
        assert all(each is None or each.grad is None for each in ours[1:])
        total += ours[0].grad
        found.append(kept.found)
    first, rest = (each if each is None else torch.full_like(each, torch.nan) for each in leaves)
    coefficient_gradients(means, torch.stack(found), first, rest, kept.bands)
    assert (total - usual[0].grad).abs().max() < 1e-5
    assert (2 * first - usual[1].grad).abs().max() < 1e-6
    if degree:
        assert (2 * rest - usual[2].grad).abs().max() < 1e-6
        assert usual[2].grad.abs().max() > 0.1
print("equal")
"""


def test_gradients_made_of_those_of_the_colours_are_the_means_over_cameras() -> None:
    assert_prints(OF_COLOURS, "equal\n")
