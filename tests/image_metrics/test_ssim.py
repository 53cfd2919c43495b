"""SSIM: the value of the paper's formula, on every path, with right gradients and masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from splatkit_ns.image_metrics import ssim as ssim_module
from splatkit_ns.image_metrics.ssim import ssim, ssim_map, ssim_map_by_convolution
from splatkit_ns.image_metrics.ssim_window import C1, C2
from tests.triton_interpreter import assert_prints

WEIGHTS = torch.tensor([math.exp(-(x**2) / (2 * 1.5**2)) for x in range(-5, 6)], dtype=torch.float64)
WINDOW = WEIGHTS / WEIGHTS.sum()

by_convolution = partial(ssim_map_by_convolution, window=WINDOW)
PATHS = pytest.mark.parametrize("path", [ssim_map, by_convolution], ids=["compiled", "convolution"])
SsimMap = Callable[[Tensor, Tensor], Tensor]


def images(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A random image and one that resembles it."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(shape, generator=generator, dtype=dtype)
    return a, (a + 0.2 * torch.randn(shape, generator=generator, dtype=dtype)).clamp(0, 1)


def new_window(dtype: torch.dtype, device: torch.device) -> Tensor:
    """A window that is not kept for later tests."""
    return torch.ones(11, dtype=dtype, device=device)


def ssim_of_window(a: Tensor, b: Tensor) -> float:
    """Equation 13 of Wang et al. for two windows (11, 11), term by term."""
    weights = (WINDOW[:, None] * WINDOW[None, :]).flatten()
    x, y = a.flatten(), b.flatten()
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    var_x, var_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
    covariance = (weights * (x - mean_x) * (y - mean_y)).sum()
    return float(
        ((2 * mean_x * mean_y + C1) * (2 * covariance + C2)) / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))
    )


@PATHS
def test_each_window_has_the_value_of_the_formula(path: SsimMap) -> None:
    a, b = images(2, 3, 14, 17)
    result = path(a, b)
    assert result.shape == (2, 3, 4, 7)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in result.shape)).tolist():
        image, channel, y, x = index
        windows = (each[image, channel, y : y + 11, x : x + 11] for each in (a, b))
        assert float(result[tuple(index)]) == pytest.approx(ssim_of_window(*windows), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 2), height=st.integers(11, 40), width=st.integers(11, 40), threads=st.integers(1, 5),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_compiled_and_convolution_agree_in_value_and_gradients(
    batch: int, height: int, width: int, threads: int, seed: int
) -> None:
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        gradients: list[Tensor] = []
        upstream = images(batch, 3, height - 10, width - 10, seed=seed + 1)[0]
        for path in (ssim_map, by_convolution):
            a, b = (image.requires_grad_() for image in images(batch, 3, height, width, seed=seed))
            value = path(a, b)
            gradients += [value, *torch.autograd.grad(value, (a, b), upstream)]
    finally:
        torch.set_num_threads(usual)
    for first, second in zip(gradients[:3], gradients[3:], strict=True):
        assert torch.allclose(first, second, rtol=1e-9, atol=1e-11)


def test_mean_equals_pytorch_msssim() -> None:
    pytorch_msssim = pytest.importorskip("pytorch_msssim")
    for shape in ((1, 3, 60, 80), (2, 3, 33, 11)):
        a, b = images(*shape, dtype=torch.float32)
        expected = float(pytorch_msssim.ssim(a, b, data_range=1.0, win_size=11, win_sigma=1.5))
        assert float(ssim(a, b)) == pytest.approx(expected, abs=1e-5)
        assert 0.1 < expected < 0.99


def test_float32_is_close_to_float64() -> None:
    a, b = images(1, 3, 50, 70)
    for image in (b, a, (a + 1) / 2, torch.full_like(a, 0.999)):
        assert float(ssim(a.float(), image.float())) == pytest.approx(float(ssim(a, image)), abs=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients(masked: bool) -> None:
    a, b = (image.requires_grad_() for image in images(1, 3, 13, 14))
    mask = torch.ones(1, 13, 14, dtype=torch.bool)
    mask[0, 0, 3] = False
    assert torch.autograd.gradcheck(lambda x, y: ssim(x, y, mask=mask if masked else None), (a, b))
    assert torch.autograd.gradcheck(ssim, (a, b.detach()))
    assert torch.autograd.gradcheck(ssim, (a.detach(), b))


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    usual = torch.get_num_threads()
    a, b = images(1, 3, 37, 41, dtype=torch.float32)
    results: list[tuple[Tensor, Tensor]] = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            x = a.clone().requires_grad_()
            value = ssim_map(x, b)
            results.append((value, torch.autograd.grad(value, x, torch.ones_like(value))[0]))
    finally:
        torch.set_num_threads(usual)
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_equal_images_have_ssim_one() -> None:
    a, _ = images(1, 3, 20, 20, dtype=torch.float32)
    assert float(ssim(a, a)) == pytest.approx(1.0, abs=1e-6)


def test_frames_with_channels_last_may_be_passed_permuted() -> None:
    a, b = images(1, 15, 20, 3)
    assert torch.equal(
        ssim(a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2)),
        ssim(a.permute(0, 3, 1, 2).contiguous(), b.permute(0, 3, 1, 2).contiguous()),
    )


def test_a_mask_of_all_pixels_is_no_mask() -> None:
    a, b = images(2, 3, 20, 30)
    assert float(ssim(a, b, mask=torch.ones(2, 20, 30, dtype=torch.bool))) == pytest.approx(
        float(ssim(a, b)), abs=1e-12
    )


def test_a_mask_counts_the_windows_that_lie_in_it() -> None:
    a, b = images(2, 3, 24, 25)
    mask = torch.zeros(2, 24, 25, dtype=torch.bool)
    mask[0, 2:16, 3:20] = True
    mask[1, 10:21, 10:21] = True
    values = [
        ssim_map(a[:1, :, 2:16, 3:20], b[:1, :, 2:16, 3:20]),
        ssim_map(a[1:, :, 10:21, 10:21], b[1:, :, 10:21, 10:21]),
    ]
    expected = torch.cat([value.flatten() for value in values]).mean()
    assert float(ssim(a, b, mask=mask)) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("outside", [math.nan, math.inf, 1e30])
def test_pixels_outside_the_mask_have_no_influence(outside: float) -> None:
    a, b = images(1, 3, 30, 30)
    mask = torch.ones(1, 30, 30, dtype=torch.bool)
    mask[0, 4, 25] = mask[0, 20, 3] = False
    expected = ssim(a, b, mask=mask)
    a[:, :, 4, 25] = outside
    b[:, :, 20, 3] = outside
    a.requires_grad_()
    value = ssim(a, b, mask=mask)
    value.backward()
    assert torch.equal(value, expected)
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()
    assert not a.grad[:, :, 4, 25].any()
    assert a.grad.any()


def test_without_any_window_there_is_no_loss_and_no_gradient() -> None:
    a, b = images(1, 3, 20, 20)
    a.requires_grad_()
    mask = torch.ones(1, 20, 20, dtype=torch.bool)
    mask[0, 10, 10] = mask[0, 9, 9] = False
    value = ssim(a, b, mask=mask)
    value.backward()
    assert value.item() == 1.0
    assert a.grad is not None
    assert not a.grad.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 10, 20)), "11 x 11 pixels; images of 10 x 20"),
        ((torch.zeros(1, 3, 20, 20), torch.zeros(1, 3, 20, 21)), r"\(1, 3, 20, 20\) and \(1, 3, 20, 21\)"),
        ((torch.zeros(3, 20, 20), torch.zeros(3, 20, 20)), r"shape \(B, 3, H, W\)"),
        ((torch.zeros(1, 3, 20, 20, dtype=torch.uint8),) * 2, "floating-point"),
    ],
)
def test_images_that_do_not_fit(arguments: tuple[Tensor, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ssim(*arguments)


@pytest.mark.parametrize("mask", [torch.ones(1, 20, 20), torch.ones(20, 20, dtype=torch.bool)])
def test_masks_that_do_not_fit(mask: Tensor) -> None:
    a, b = images(1, 3, 20, 20)
    with pytest.raises(ValueError, match=r"bool of shape \(1, 20, 20\).*found"):
        ssim(a, b, mask=mask)


def test_works_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = images(1, 3, 20, 20, dtype=torch.float32)
    expected = float(ssim(a, b))
    monkeypatch.setattr(ssim_module, "_compiled_ssim_map", lambda: None)
    assert float(ssim(a, b)) == pytest.approx(expected, abs=1e-6)


IN_THE_INTERPRETER = """
import torch
from splatkit_ns.image_metrics._ssim_triton import mean_ssim, weighted_ssim_sum
from splatkit_ns.image_metrics.ssim import ssim_map_by_convolution
from splatkit_ns.image_metrics.ssim_window import C1, C2, gaussian_window

window = gaussian_window(torch.float32, torch.device("cpu"))
for shape in ((1, 3, 30, 83), (2, 3, 27, 11)):
    weights = torch.rand(shape[0], shape[2] - 10, shape[3] - 10)
    weights[:, 3:9] = 0
    for interleaved in (False, True):
        torch.manual_seed(0)
        a = torch.rand(shape)
        b = (a + 0.2 * torch.randn(shape)).clamp(0, 1)
        if interleaved:
            a, b = (x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for x in (a, b))
        x = a.clone(memory_format=torch.preserve_format).requires_grad_()
        y = a.clone().requires_grad_()
        value, expected = mean_ssim(x, b, window, C1, C2), ssim_map_by_convolution(y, b, window).mean()
        (3 * value).backward()
        (3 * expected).backward()
        assert abs(value.item() - expected.item()) < 1e-6, (shape, interleaved, value, expected)
        assert torch.allclose(x.grad, y.grad, rtol=1e-4, atol=1e-7), (shape, interleaved)
        x.grad = y.grad = None
        value = weighted_ssim_sum(x, b, window, C1, C2, weights)
        expected = (ssim_map_by_convolution(y, b, window) * weights[:, None]).sum()
        (0.01 * value).backward()
        (0.01 * expected).backward()
        assert abs(value.item() / expected.item() - 1) < 1e-6, (shape, interleaved, value, expected)
        assert torch.allclose(x.grad, y.grad, rtol=1e-4, atol=1e-6), (shape, interleaved)
print("alike")
"""


def test_triton_kernels_in_the_interpreter() -> None:
    assert_prints(IN_THE_INTERPRETER, "alike\n")


@pytest.mark.parametrize(
    ("which", "taken"),
    [
        ({"mask"}, True),
        ({"weights"}, True),
        ({"mask", "weights"}, True),
        ({"weights", "weights learn"}, False),
        ({"mask", "targets learn"}, False),
    ],
)
def test_masks_and_weights_need_no_convolutions_on_cuda(
    which: set[str], taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Convolutions take 30 times as long, and five times the memory."""
    by_kernel: list[torch.Size] = []

    def kernel(a: Tensor, b: Tensor, window: Tensor, c1: float, c2: float, weights: Tensor) -> Tensor:
        by_kernel.append(weights.shape)
        return a.sum() * weights.sum()

    monkeypatch.setattr("splatkit_ns.image_metrics._ssim_triton.weighted_ssim_sum", kernel)
    monkeypatch.setattr(ssim_module, "triton_kernel", lambda: kernel)
    monkeypatch.setattr(ssim_module, "gaussian_window", new_window)
    with FakeTensorMode():
        a = torch.empty(1, 3, 40, 50, device="cuda")
        b = torch.empty_like(a).requires_grad_("targets learn" in which)
        mask = torch.empty(1, 40, 50, dtype=torch.bool, device="cuda") if "mask" in which else None
        weights = torch.empty(1, 40, 50, device="cuda") if "weights" in which else None
        if "weights learn" in which and weights is not None:
            weights.requires_grad_()
        assert ssim(a, b, mask=mask, weights=weights).shape == ()
    assert by_kernel == [(1, 30, 40)] * taken


def test_images_beyond_32_bit_indices_are_none_for_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[torch.Size] = []
    monkeypatch.setattr(ssim_module, "_cuda_kernel", lambda: lambda a, *_: taken.append(a.shape) or a.mean())
    monkeypatch.setattr(ssim_module, "gaussian_window", new_window)
    with FakeTensorMode():  # shapes and devices without memory
        for side in (11_000, 13_000):  # 5 maps of 3 channels: 1.8e9 and 2.5e9 numbers
            a = torch.empty(1, 3, side, side, device="cuda")
            ssim(a, torch.empty_like(a))
    assert taken == [(1, 3, 11_000, 11_000)]


def assert_cuda_equals_cpu(a: Tensor, b: Tensor, interleaved: bool, **counted: Tensor) -> None:
    """The values, and the gradients of a, with the mask or the weights."""
    if interleaved:
        a, b = (x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for x in (a, b))
    x, y = a.clone().requires_grad_(), a.cuda().requires_grad_()
    values = [ssim(x, b, **counted), ssim(y, b.cuda(), **{name: each.cuda() for name, each in counted.items()})]
    for value in values:
        value.backward()
    assert float(values[1]) == pytest.approx(float(values[0]), abs=1e-5)
    assert x.grad is not None
    assert y.grad is not None
    assert torch.allclose(y.grad.cpu(), x.grad, rtol=1e-3, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.parametrize("interleaved", [False, True])
def test_cuda_equals_cpu(interleaved: bool) -> None:
    assert_cuda_equals_cpu(*images(1, 3, 50, 70, dtype=torch.float32), interleaved)


@pytest.mark.gpu
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_masks_on_cuda_equal_those_on_the_cpu(weighted: bool, interleaved: bool) -> None:
    a, b = images(2, 3, 50, 70, dtype=torch.float32)
    mask = torch.ones(2, 50, 70, dtype=torch.bool)
    mask[0, 20:30, 35:60] = mask[1, :, :7] = False
    b[0, :, 25, 40] = math.nan
    weights = {"weights": torch.rand(2, 50, 70, generator=torch.Generator().manual_seed(1))} if weighted else {}
    assert_cuda_equals_cpu(a, b, interleaved, mask=mask, **weights)


@pytest.mark.gpu
def test_fused_ssim_has_the_same_value() -> None:
    fused_ssim = pytest.importorskip("fused_ssim").fused_ssim
    a, b = images(2, 3, 123, 77, dtype=torch.float32)
    expected = float(ssim_map(a, b).mean())
    assert float(fused_ssim(a.cuda(), b.cuda(), padding="valid", train=False)) == pytest.approx(expected, abs=1e-5)
    assert float(ssim(a.cuda(), b.cuda())) == pytest.approx(expected, abs=1e-5)
