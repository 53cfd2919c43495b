"""benchmarks/train_gpu.py: what it measures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from splatkit_ns.image_metrics.metrics import ImageMetrics


def test_only_what_masks_keep_is_measured_as_the_trainer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import train_gpu  # type: ignore[import-not-found]

    image = torch.rand(30, 40, 4, generator=torch.Generator().manual_seed(1))
    background, mask = torch.tensor([1.0, 0.5, 0.0]).expand(30, 40, 3), torch.ones(30, 40, 1, dtype=torch.bool)
    mask[:, 20:] = False
    photograph = image[..., 3:] * image[..., :3] + (1 - image[..., 3:]) * background
    rendered = photograph + 0.1
    rendered[:, 20:] = 0.9
    model = SimpleNamespace(get_outputs_for_camera=lambda camera: {"rgb": rendered, "background": background})
    batch: dict[str, Any] = {"image": (255 * image).round().to(torch.uint8), "mask": mask}
    data = SimpleNamespace(fixed_indices_eval_dataloader=[(None, batch), (None, batch)])
    found = train_gpu.evaluate(SimpleNamespace(model=model, datamanager=data, eval=lambda: None))
    expected = ImageMetrics(lpips=False).all(rendered.clamp(0, 1), photograph, mask[..., 0])
    assert expected["psnr"] > 20
    assert found == pytest.approx({"psnr": expected["psnr"], "ssim": expected["ssim"], "held_out": 2}, rel=5e-3)
