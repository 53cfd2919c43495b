"""Metrics by hand, over the pixels of a mask, and honest about LPIPS."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
import torchmetrics.image.lpip

from splatkit_ns.image_metrics import metrics as metrics_module
from splatkit_ns.image_metrics.metrics import ImageMetrics
from splatkit_ns.image_metrics.psnr import psnr


def test_psnr_is_that_of_the_mean_squared_error() -> None:
    target = torch.full((12, 14, 3), 0.5)
    rendered = target.clone()
    rendered[:6] += 0.1
    assert float(ImageMetrics.psnr(rendered, target, None)) == pytest.approx(-10 * math.log10(0.01 / 2), rel=1e-5)
    mask = torch.zeros(12, 14, dtype=torch.bool)
    mask[:6] = True
    assert float(ImageMetrics.psnr(rendered, target, mask)) == pytest.approx(20.0, rel=1e-5)


def test_psnr_is_one_whoever_shows_it() -> None:
    """The bar, TensorBoard and evaluation: of one image or a batch of it, with a mask or without."""
    rendered, target = torch.rand(12, 14, 3) * 1.4 - 0.2, torch.rand(12, 14, 3)
    for mask in (None, torch.rand(12, 14) < 0.5):
        batched = psnr(rendered[None], target[None], None if mask is None else mask[None])
        clamped = rendered.clamp(0, 1)
        kept = (clamped - target) if mask is None else (clamped - target)[mask]
        assert float(batched) == pytest.approx(-10 * math.log10(float(kept.square().mean())), rel=1e-5)
        assert torch.equal(ImageMetrics.psnr(clamped, target, mask), batched)


def test_all_metrics_of_equal_images() -> None:
    image = torch.rand(16, 16, 3)
    values = ImageMetrics(lpips=False).all(image, image, None)
    assert values["ssim"] == pytest.approx(1.0)
    assert values["psnr"] == math.inf


def test_images_smaller_than_ssims_window_have_no_ssim() -> None:
    assert set(ImageMetrics(lpips=False).all(torch.rand(8, 9, 3), torch.rand(8, 9, 3), None)) == {"psnr", "cc_psnr"}


@pytest.fixture(autouse=True)
def untried_lpips() -> Iterator[None]:
    """As in a new process, and no stand-in of a test stays for the next."""
    metrics_module.lpips_network.cache_clear()
    yield
    metrics_module.lpips_network.cache_clear()


def test_without_weights_lpips_is_left_out_with_one_note(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def offline(**kwargs: object) -> None:
        tries.append("try")
        raise OSError("no route to host")

    monkeypatch.setattr(torchmetrics.image.lpip, "LearnedPerceptualImagePatchSimilarity", offline)
    told: list[str] = []
    monkeypatch.setattr(metrics_module.logger, "warning", lambda text, *values: told.append(text % values))
    for _ in range(2):  # the viewer's, the evaluator's, that of the next run: one try in the whole process
        found = ImageMetrics().all(torch.rand(32, 32, 3), torch.rand(32, 32, 3), None)
        assert set(found) == {"psnr", "ssim", "cc_psnr", "cc_ssim"}
    (text,) = told
    assert "LPIPS is left out of the metrics" in text
    assert "OSError: no route to host" in text
    assert tries == ["try"]


def test_lpips_sees_nothing_outside_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    class Network:
        def __init__(self, **kwargs: object) -> None: ...

        def to(self, device: torch.device) -> Network:
            return self

        def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            seen.extend([a, b])
            return torch.tensor(0.25)

    monkeypatch.setattr(torchmetrics.image.lpip, "LearnedPerceptualImagePatchSimilarity", Network)
    mask = torch.ones(31, 40, dtype=torch.bool)
    mask[:4] = False
    values = ImageMetrics().all(torch.rand(31, 40, 3), torch.rand(31, 40, 3), mask)
    assert values["lpips"] == values["cc_lpips"] == 0.25
    for image in seen:
        assert image.shape == (1, 3, 31, 40)
        assert float(image[:, :, :4].abs().max()) == 0
        assert float(image[:, :, 4:].max()) > 0
    assert "lpips" not in ImageMetrics().all(torch.rand(30, 40, 3), torch.rand(30, 40, 3), None)


@pytest.mark.parametrize(("side", "is_enough"), [(30, False), (31, True)])
def test_alexnet_needs_that_many_pixels(side: int, is_enough: bool) -> None:
    """Its layers, as torchvision builds them, on an image of that height."""
    from torchvision.models.alexnet import AlexNet

    layers = AlexNet(num_classes=1).features[:12]  # up to the last that LPIPS looks at
    with nullcontext() if is_enough else pytest.raises(RuntimeError, match="too small"):
        layers(torch.rand(1, 3, side, 40))
