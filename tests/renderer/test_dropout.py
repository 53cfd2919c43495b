"""Gaussians left out of training images: how many, when, and that nobody else sees it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splatkit_ns.methods import make_method
from splatkit_ns.plugin.options.check import OptionsError, check_options
from splatkit_ns.renderer import RenderOptions, Splat2DGSRenderer, Splat3DGSRenderer
from tests.renderer.test_3dgs import cameras, render, state, view_of

TRAINING = RenderOptions(is_training=True)


@pytest.mark.parametrize("renderer", [Splat3DGSRenderer(dropout=0.4), Splat2DGSRenderer(dropout=0.4)])
def test_the_share_grows_with_the_step_and_the_others_make_up_for_it(
    renderer: Splat3DGSRenderer | Splat2DGSRenderer,
) -> None:
    torch.manual_seed(0)
    opacities = torch.full((20_000,), 0.3)
    for step, share in ((25, 0.1), (50, 0.2), (100, 0.4)):
        renderer.pre_step(step=step, max_steps=100)
        left = renderer.remaining(opacities, TRAINING)
        assert float((left == 0).float().mean()) == pytest.approx(share, abs=0.01)
        assert torch.unique(left[left > 0]).tolist() == pytest.approx([0.3 / (1 - share)])
        assert float(left.mean()) == pytest.approx(0.3, abs=0.01)


def test_the_share_can_be_whole_before_the_end() -> None:
    torch.manual_seed(0)
    renderer, opacities = Splat3DGSRenderer(dropout=0.4, dropout_full_from=0.5), torch.full((20_000,), 0.3)
    for step, share in ((25, 0.2), (50, 0.4), (75, 0.4), (100, 0.4)):
        renderer.pre_step(step=step, max_steps=100)
        assert float((renderer.remaining(opacities, TRAINING) == 0).float().mean()) == pytest.approx(share, abs=0.01)
    at_once = Splat3DGSRenderer(dropout=0.4, dropout_full_from=0.0)
    at_once.pre_step(step=1, max_steps=100)
    assert float((at_once.remaining(opacities, TRAINING) == 0).float().mean()) == pytest.approx(0.4, abs=0.01)


def test_noise_multiplies_opacities_and_keeps_their_mean() -> None:
    torch.manual_seed(0)
    renderer = Splat3DGSRenderer(opacity_noise=0.3)
    for opacity in (0.1, 0.3):
        noisy = renderer.remaining(torch.full((20_000,), opacity), TRAINING)
        assert float(noisy.mean()) == pytest.approx(opacity, rel=0.02)
        assert float(noisy.std()) == pytest.approx(0.3 * opacity, rel=0.05)
    assert 0.99 < float(renderer.remaining(torch.full((1000,), 0.99), TRAINING).max()) < 1
    strong = Splat3DGSRenderer(opacity_noise=2.0).remaining(torch.full((1000,), 0.5), TRAINING)
    assert float(strong.min()) == 0


@pytest.mark.parametrize("renderer", [Splat3DGSRenderer(opacity_noise=0.5), Splat2DGSRenderer(opacity_noise=0.5)])
def test_only_training_images_have_noise_and_dropout_comes_on_top(renderer: Any) -> None:
    gaussians, view = state(num=30), view_of(cameras())
    assert torch.equal(renderer.render(gaussians, view).renders, renderer.render(gaussians, view).renders)
    one = renderer.render(gaussians, view, TRAINING).renders
    assert not torch.equal(one, renderer.render(gaussians, view, TRAINING).renders)
    renderer.dropout = 0.4
    renderer.pre_step(step=10, max_steps=10)
    left = renderer.remaining(torch.full((20_000,), 0.3), TRAINING)
    assert float((left == 0).float().mean()) == pytest.approx(0.4 + 0.6 * 0.023, abs=0.02)  # 2.3 % are two deviations
    assert float(left.mean()) == pytest.approx(0.3, rel=0.05)
    renderer.dropout = 0.0


def test_raised_opacities_stay_below_one() -> None:
    renderer = Splat3DGSRenderer(dropout=0.9)
    renderer.pre_step(step=1, max_steps=1)
    assert 0 < float(renderer.remaining(torch.full((1000,), 0.5), TRAINING).max()) < 1


def test_only_the_training_image_of_a_step_lacks_any() -> None:
    gaussians, renderer, view = state(num=30), Splat3DGSRenderer(dropout=0.9), view_of(cameras())
    whole = render(gaussians).renders
    assert torch.equal(renderer.render(gaussians, view, TRAINING).renders, whole), "no step has begun"
    renderer.pre_step(step=10, max_steps=10)
    assert not torch.equal(renderer.render(gaussians, view, TRAINING).renders, whole)
    assert torch.equal(renderer.render(gaussians, view).renders, whole), "the viewer looks on during the step"


def test_what_a_graph_captured_reads_the_present_share() -> None:
    """A graph's kernels keep the place of a tensor, and the value of a number."""
    renderer, opacities = Splat3DGSRenderer(dropout=0.8), torch.full((20_000,), 0.3)
    renderer.pre_step(step=1, max_steps=4)
    renderer.remaining(opacities, TRAINING)
    share = renderer._share_on_device
    renderer.pre_step(step=3, max_steps=4)
    renderer.remaining(opacities, TRAINING)
    assert renderer._share_on_device is share
    assert float(share) == pytest.approx(0.6)


def test_without_it_nothing_is_drawn_from_the_random_generator() -> None:
    renderer, before = Splat3DGSRenderer(), torch.get_rng_state()
    renderer.pre_step(step=10, max_steps=10)
    renderer.render(state(), view_of(cameras()), TRAINING)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_out_of_range_is_one_message(dropout: float) -> None:
    with pytest.raises(OptionsError, match=r"- Splat3DGSRenderer\.dropout is .*, expected a number of at least 0 and"):
        make_method("dropping", renderer=Splat3DGSRenderer(dropout=dropout))
    config = make_method("dropping", renderer=Splat3DGSRenderer()).config
    config.pipeline.model.renderer.dropout = dropout  # type: ignore[attr-defined]
    with pytest.raises(OptionsError, match=r"renderer\.dropout is .*, expected a number of at least 0 and below 1"):
        check_options(config)  # type: ignore[arg-type]
