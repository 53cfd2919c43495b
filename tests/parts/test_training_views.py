"""Training views that modules ask for are what the step sees of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.methods import make_method
from splatkit_ns.modules import SplatBaseModule, SplatResolutionSchedule
from splatkit_ns.parts.training_views import TrainingViewSource
from tests.plugin.helpers import forget_writers, make_trainer, run_config
from tests.tiny_scene import write_tiny_scene


class Looks(SplatBaseModule[Any]):
    """Compares the step's image with the training view of that camera, before Gaussians change."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []
        self.masked = 0

    def pre_compute_loss(
        self,
        data_provider: Any,
        view: View,
        rendered_frames: Tensor,
        target_frames: Tensor,
        masks: Tensor | None,
    ) -> None:
        assert isinstance(data_provider, TrainingViewSource)
        views = [data_provider.training_view(index) for index in range(data_provider.num_train_images)]
        with pytest.raises(IndexError, match=f"there is no image {len(views)}; they are 0 to {len(views) - 1}"):
            data_provider.training_view(len(views))
        (same,) = (other for other in views if torch.equal(other.view.cam_to_worlds, view.cam_to_worlds))
        assert torch.equal(same.view.Ks, view.Ks)
        assert (same.view.width, same.view.height) == (view.width, view.height) == target_frames.shape[2:0:-1]
        assert torch.equal(same.rendered_frames, rendered_frames)
        assert not same.rendered_frames.requires_grad
        assert torch.equal(same.target_frames, target_frames)
        assert (same.masks is None) == (masks is None)
        if masks is not None:
            assert same.masks is not None
            assert torch.equal(same.masks, masks)
            self.masked += int((~masks).sum())
        self.sizes.append(tuple(target_frames.shape))


@pytest.mark.parametrize("kind", ["masks", "rgba"])
def test_a_training_view_is_what_the_step_sees(tmp_path: Path, kind: str) -> None:
    """Also of smaller images, and on random backgrounds."""
    scene = write_tiny_scene(tmp_path / "scene", num_views=5, masks=kind == "masks", rgba=kind == "rgba")
    looks = Looks()
    config = run_config(scene, tmp_path, steps=6, method=make_method("looks", modules=[looks]))
    config.modules.resolution = SplatResolutionSchedule(max_downscale=2, halve_every=3)
    trainer = make_trainer(config)
    trainer.train()
    forget_writers()
    looks = next(module for module in trainer.modules if isinstance(module, Looks))
    assert looks.sizes == [(1, 12, 16, 3)] * 3 + [(1, 24, 32, 3)] * 3
    assert (looks.masked > 0) == (kind == "masks")
