"""The Triton kernels of spherical harmonics, run by Triton's interpreter, against an independent float64 basis."""

from __future__ import annotations

import pytest

from tests.triton_interpreter import assert_prints

IN_THE_INTERPRETER = """
import sys
sys.path.insert(0, "tests/rasterize")
import torch
from dense_reference import _legendre_sh
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
basis = torch.stack([_legendre_sh(degree, d) for d in directions])
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
