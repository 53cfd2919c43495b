"""The correction of colours is the best affine one, and nothing outside the mask has a say in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from splatkit_ns.image_metrics.color_correction import color_corrected
from splatkit_ns.image_metrics.metrics import ImageMetrics

MATRIX = torch.tensor([[0.6, 0.1, 0.0], [0.05, 0.7, 0.0], [0.0, 0.1, 0.5]])
OFFSET = torch.tensor([0.05, 0.1, 0.02])


def photograph(seed: int = 0) -> Tensor:
    return 0.1 + 0.8 * torch.rand(20, 24, 3, generator=torch.Generator().manual_seed(seed))


def test_an_affine_change_of_colours_is_undone_wholly() -> None:
    target = photograph()
    rendered = target @ MATRIX.T + OFFSET
    values = ImageMetrics(lpips=False).all(rendered, target, None)
    assert values["psnr"] < 18
    assert values["cc_psnr"] > 100
    assert values["cc_ssim"] == pytest.approx(1, abs=1e-5)


def test_the_correction_is_that_of_an_independent_solver() -> None:
    target, rendered = photograph(), (photograph(1) + 2 * photograph()) / 3
    columns = torch.cat([rendered.reshape(-1, 3), torch.ones(20 * 24, 1)], dim=1).double().numpy()
    solution, *_ = np.linalg.lstsq(columns, target.reshape(-1, 3).double().numpy(), rcond=None)
    expected = torch.from_numpy(columns @ solution).reshape(20, 24, 3).clamp(0, 1).float()
    torch.testing.assert_close(color_corrected(rendered, target, None), expected)
    values = ImageMetrics(lpips=False).all(rendered, target, None)
    assert values["cc_psnr"] > values["psnr"]


def test_pixels_outside_the_mask_do_not_count() -> None:
    target = photograph()
    rendered = target @ MATRIX.T + OFFSET
    mask = torch.ones(20, 24, dtype=torch.bool)
    mask[:5] = False
    other = target.clone()
    other[:5] = float("nan")
    corrected = color_corrected(rendered, other, mask)
    torch.testing.assert_close(corrected[5:], target[5:], atol=1e-5, rtol=0)
    assert torch.equal(color_corrected(rendered, target, torch.zeros_like(mask)), rendered)


def test_a_render_of_one_colour_becomes_the_mean_of_the_photograph() -> None:
    target = photograph()
    corrected = color_corrected(torch.full_like(target, 0.3), target, None)
    torch.testing.assert_close(corrected, target.mean((0, 1)).expand_as(target), atol=1e-5, rtol=0)
