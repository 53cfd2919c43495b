"""What stands in one photograph only is masked, in the loss and in densification; other photographs keep all."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splatkit_ns.modules import SplatTransientMask
from splatkit_ns.modules.builtin import BuiltinModules
from splatkit_ns.plugin.run import checkpoints
from splatkit_ns.splat import read_checkpoint
from tests.plugin.step.test_trainables import STEPS, config_of, differing, resumed_is_the_same, train

HEIGHT, WIDTH = 48, 64


def module(**settings: Any) -> SplatTransientMask:
    made = SplatTransientMask(**settings)
    made.on_setup(logging.getLogger("splatkit_ns"))
    return made


def photograph(noise: float = 0.02) -> tuple[Tensor, Tensor]:
    """A textured render, and a photograph that differs from it a little everywhere; (1, H, W, 3)."""
    generator = torch.Generator().manual_seed(0)
    rendered = 0.5 + 0.3 * torch.sin(torch.arange(WIDTH) / 2.0).expand(1, HEIGHT, WIDTH)[..., None].repeat(1, 1, 1, 3)
    return rendered, rendered + noise * torch.randn(rendered.shape, generator=generator)


def seen(made: SplatTransientMask, rendered: Tensor, target: Tensor, index: int = 0, step: int = 50) -> Tensor | None:
    """The mask of the next time that a photograph is drawn, after it was seen once."""
    for _ in range(2):
        edit = made.pre_step(step, 100, index, target, None)
        made.post_step(index, target, rendered)
    return None if edit is None else edit.masks


def test_what_the_scene_cannot_explain_is_masked_with_a_margin() -> None:
    rendered, target = photograph()
    target[:, 10:25, 20:40] = torch.tensor([0.9, 0.1, 0.2])
    mask = seen(module(), rendered, target)
    assert mask is not None
    assert not bool(mask[:, 10:25, 20:40].any())
    assert float(mask.float().mean()) > 0.75
    stays = torch.ones_like(mask)
    stays[:, 5:30, 15:45] = False
    assert bool(mask[stays].all()), "no more than the neighbouring cells"


def test_a_photograph_without_outliers_keeps_all_pixels() -> None:
    mask = seen(module(), *photograph())
    assert mask is not None
    assert bool(mask.all())


def test_fine_detail_that_is_not_learnt_yet_is_no_outlier() -> None:
    _, target = photograph()
    smooth = target.mean((1, 2), keepdim=True).expand_as(target).clone()
    detail = smooth.clone()
    detail[:, 10:25, 20:40] += 0.3 * (torch.rand(1, 15, 20, 3, generator=torch.Generator().manual_seed(1)) - 0.5)
    mask = seen(module(), smooth, detail + 0.02 * torch.randn_like(detail))
    assert mask is not None
    assert bool(mask.all())


def test_no_more_than_half_of_a_photograph_is_masked_before_neighbours() -> None:
    rendered, target = photograph(noise=0.001)
    target[:, :, : WIDTH // 3] = 0.0
    found = module(max_share=0.1).outliers(rendered[0], target[0])
    assert 0 < float(found.float().mean()) < 0.3


def test_masks_begin_with_the_share_of_steps_and_respect_those_of_the_data() -> None:
    rendered, target = photograph()
    target[:, 10:25, 20:40] = 0.0
    made = module(start_at=0.6)
    assert seen(made, rendered, target) is None
    given = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    given[:, :, :5] = False
    edit = made.pre_step(61, 100, 0, target, given)
    assert edit is not None
    assert edit.masks is not None
    assert not bool(edit.masks[:, :, :5].any())
    assert not bool(edit.masks[:, 10:25, 20:40].any())
    other = made.pre_step(61, 100, 3, target, None)
    assert other is not None
    assert other.masks is not None
    assert bool(other.masks.all()), "a photograph that was not seen yet"


def test_a_render_of_a_part_of_the_photograph_teaches_nothing() -> None:
    rendered, target = photograph()
    made = module()
    made.pre_step(50, 100, 0, target, None)
    made.post_step(0, target[:, :20], rendered[:, :20])
    assert made.training_mask(0, HEIGHT, WIDTH) is None


def test_smaller_images_have_the_same_mask() -> None:
    rendered, target = photograph()
    target[:, 10:25, 20:40] = 0.0
    made = module(cells=12)
    seen(made, rendered, target)
    whole, half = made.training_mask(0, HEIGHT, WIDTH), made.training_mask(0, HEIGHT // 2, WIDTH // 2)
    assert whole is not None
    assert half is not None
    assert torch.equal(whole[:, ::2, ::2], half)


def test_it_is_off_by_default() -> None:
    assert BuiltinModules().transients.is_idle
    assert not SplatTransientMask().is_idle


class Paints(SplatTransientMask):
    """Finds the same corner in all photographs, so that a run of a few steps masks something."""

    def outliers(self, rendered: Tensor, target: Tensor) -> Tensor:
        found = super().outliers(rendered, target)
        found[:] = False
        found[: len(found) // 2, : found.shape[1] // 2] = True
        return found


def test_a_run_masks_resumes_with_the_same_bits_and_hides_pixels_from_densification(
    tiny_scene: Path, tmp_path: Path
) -> None:
    whole = resumed_is_the_same(tiny_scene, tmp_path, modules=[Paints(start_at=0.2)])
    context = whole.pipeline.model.context
    assert context.masks is not None
    height, width = context.masks.shape[1:]
    assert not bool(context.masks[:, : height // 2, : width // 2].any())
    assert bool(context.masks[:, height // 2 :].all())
    view = context.data_provider.training_view(0)
    assert torch.equal(view.masks, context.masks)
    path = checkpoints.path_of(whole.checkpoint_dir, STEPS - 1)
    (kept,) = (s["outliers"] for s in read_checkpoint(path)["splatkit"]["modules"].values() if "outliers" in s)
    assert len(kept) == context.num_train_images
    plain = train(config_of(tiny_scene, tmp_path / "plain"))
    assert differing(path, checkpoints.path_of(plain.checkpoint_dir, STEPS - 1)), "it makes a difference"


@pytest.mark.parametrize("setting", [{"ratio": -1.0}, {"cells": 0}, {"max_share": 1.5}])
def test_settings_have_ranges(setting: dict[str, Any]) -> None:
    from splatkit_ns.errors import OptionsError
    from splatkit_ns.parts.checks import check_settings

    with pytest.raises(OptionsError):
        check_settings({"transients": SplatTransientMask(**setting)})
