"""`Splat3DGSLossFn`: values by hand, masks, regularisers; and what a loss may return."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from splatkit_ns.errors import ModuleError
from splatkit_ns.image_metrics.ssim import ssim
from splatkit_ns.image_metrics.ssim_window import C1, C2
from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.loss_fn.base import describe_non_finite, named_terms
from splatkit_ns.parts.context import StepContext
from splatkit_ns.parts.payload import SplatRenderPayload
from tests.splat.helpers import make_state


def frames(seed: int = 0, height: int = 20, width: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(1, height, width, 3, generator=generator)
    return (target + 0.2 * torch.rand(1, height, width, 3, generator=generator)).clamp(0, 1), target


def test_two_flat_images_give_the_values_by_hand() -> None:
    rendered, target = torch.full((1, 16, 16, 3), 0.5), torch.full((1, 16, 16, 3), 0.25)
    terms = Splat3DGSLossFn().compute_loss(rendered, target, make_state(3))
    assert set(terms) == {"l1", "dssim"}
    assert float(terms["l1"]) == pytest.approx(0.8 * 0.25)
    luminance = (2 * 0.5 * 0.25 + C1) / (0.5**2 + 0.25**2 + C1)  # no variance: the other factor is C2 / C2
    assert C2 / C2 == 1
    assert float(terms["dssim"]) == pytest.approx(0.2 * (1 - luminance), rel=1e-4)


def test_squared_error() -> None:
    rendered, target = torch.full((1, 16, 16, 3), 0.5), torch.full((1, 16, 16, 3), 0.25)
    terms = Splat3DGSLossFn(mse_lambda=4.0).compute_loss(rendered, target, make_state(3))
    assert float(terms["mse"]) == pytest.approx(4 * 0.25**2)
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, 2:14, 2:14] = True
    rendered[~mask] = float("nan")
    masked = Splat3DGSLossFn(mse_lambda=4.0, ssim_lambda=0.0).compute_loss(rendered, target, make_state(3), mask)
    assert float(masked["mse"]) == pytest.approx(4 * 0.25**2)


def test_lambda_weighs_l1_against_ssim() -> None:
    rendered, target = frames()
    l1 = (rendered - target).abs().mean()
    similarity = ssim(rendered.permute(0, 3, 1, 2), target.permute(0, 3, 1, 2))
    for weight in (0.0, 0.3, 1.0):
        total = sum(Splat3DGSLossFn(ssim_lambda=weight).compute_loss(rendered, target, make_state(3)).values())
        assert float(total) == pytest.approx(float((1 - weight) * l1 + weight * (1 - similarity)), rel=1e-5)


def test_identical_images_cost_nothing() -> None:
    _, target = frames()
    terms = Splat3DGSLossFn().compute_loss(target, target, make_state(3))
    assert float(sum(terms.values())) == pytest.approx(0.0, abs=1e-6)


def test_without_ssim_images_may_be_smaller_than_its_window() -> None:
    rendered, target = frames(height=5, width=5)
    assert set(Splat3DGSLossFn(ssim_lambda=0.0).compute_loss(rendered, target, make_state(3))) == {"l1"}


@pytest.mark.parametrize("junk", [0.0, 1.0, 1e6, float("nan"), float("inf")])
def test_pixels_outside_the_mask_never_matter(junk: float) -> None:
    rendered, target = frames()
    masks = torch.ones(1, 20, 24, dtype=torch.bool)
    masks[0, 3:9, :7] = False
    values, gradients = [], []
    for changed in (False, True):
        image, truth = rendered.clone(), target.clone()
        if changed:
            image[~masks] = junk
            truth[~masks] = 1 - junk
        image.requires_grad_()
        loss = sum(Splat3DGSLossFn().compute_loss(image, truth, make_state(3), masks=masks).values())
        loss.backward()
        values.append(float(loss))
        gradients.append(image.grad)
    assert values[0] == values[1]
    assert torch.equal(gradients[0], gradients[1])
    assert float(gradients[0][~masks].abs().max()) == 0
    assert float(gradients[0][masks].abs().max()) > 0


def test_a_mask_of_everything_is_no_mask() -> None:
    rendered, target = frames()
    everything = torch.ones(1, 20, 24, dtype=torch.bool)
    with_mask = Splat3DGSLossFn().compute_loss(rendered, target, make_state(3), masks=everything)
    without = Splat3DGSLossFn().compute_loss(rendered, target, make_state(3))
    for name, term in without.items():
        assert float(with_mask[name]) == pytest.approx(float(term), rel=1e-5)


def test_a_mask_of_nothing_costs_nothing_and_pulls_nowhere() -> None:
    rendered, target = frames()
    rendered.requires_grad_()
    nothing = torch.zeros(1, 20, 24, dtype=torch.bool)
    loss = sum(Splat3DGSLossFn().compute_loss(rendered, target, make_state(3), masks=nothing).values())
    loss.backward()
    assert float(loss) == pytest.approx(0.0, abs=1e-7)
    assert float(rendered.grad.abs().max()) == 0


def test_regularisers_are_means_of_the_activated_values() -> None:
    rendered, target = frames()
    state = make_state(7)
    terms = Splat3DGSLossFn(opacity_reg=0.01, scale_reg=0.02).compute_loss(rendered, target, state)
    assert float(terms["opacity_reg"]) == pytest.approx(0.01 * float(torch.sigmoid(state.params["opacities"]).mean()))
    assert float(terms["scale_reg"]) == pytest.approx(0.02 * float(torch.exp(state.params["scales"]).mean()))
    sum(terms.values()).backward()
    assert float(state.params["opacities"].grad.min()) > 0
    assert float(state.params["scales"].grad.min()) > 0


# ---------------------------------------------------------------------- what compute_loss may return


CONTEXT = StepContext(logger=logging.getLogger("test"), max_steps=10, step=7, image_name="dog.png")
SCALAR = torch.tensor(1.0, requires_grad=True)


def test_a_tensor_is_a_term_called_loss() -> None:
    terms = named_terms(SCALAR.reshape(1) * 2, "MyLoss", CONTEXT)
    assert list(terms) == ["loss"]
    assert terms["loss"].shape == ()


def test_terms_keep_their_names_and_order() -> None:
    assert list(named_terms({"b": SCALAR, "a": SCALAR.detach()}, "MyLoss", CONTEXT)) == ["b", "a"]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "MyLoss.compute_loss at step 7 on image dog.png returned None, expected a scalar tensor or a dict"),
        ({}, r"returned \{\}, expected a scalar tensor or a dict of named scalar tensors"),
        (3.5, "returned 3.5, expected a scalar tensor"),
        ({"l1": torch.zeros(2, 3)}, r"on image dog.png: term 'l1' is \(2, 3\), expected a tensor with one element"),
        ({"l1": 0.5}, "term 'l1' is float, expected a tensor with one element"),
        ({"l1": torch.zeros(())}, r"no term \(l1\) has a gradient. Compute it from rendered_frames"),
    ],
)
def test_anything_else_is_refused_with_step_and_image(result: object, message: str) -> None:
    with pytest.raises(ModuleError, match=message):
        named_terms(result, "MyLoss", CONTEXT)


def test_terms_that_are_not_finite_are_named() -> None:
    terms = {"l1": torch.tensor(0.5), "dssim": torch.tensor(float("nan")), "reg": torch.tensor(float("inf"))}
    assert describe_non_finite(terms) == "dssim = nan, reg = inf"


def over_sky(gain: float = 1.0, **fields: Any) -> tuple[torch.Tensor, torch.Tensor, SplatRenderPayload]:
    """An image model's image, its photograph, and the payload: the left half of the photograph is the sky alone."""
    renders, skies = torch.full((1, 20, 24, 3), 0.3), torch.full((1, 20, 24, 3), 0.3)
    target = renders * gain
    target[:, :, 12:] += 0.06
    alphas = torch.full((1, 20, 24, 1), 0.5, requires_grad=True)
    sizes: dict[str, Any] = {"width": 24, "height": 20, "n_cameras": 1, "info": {}}
    images: dict[str, Any] = {"renders": renders, "alphas": alphas, "skies": skies, "means2d": torch.zeros(1, 1, 2)}
    payload = SplatRenderPayload(**images | sizes | fields)
    return renders * gain, target, payload


@pytest.mark.parametrize("gain", [1.0, 1.5])
def test_gaussians_are_kept_out_of_where_the_sky_explains_the_photograph(gain: float) -> None:
    rendered, target, payload = over_sky(gain)
    terms = Splat3DGSLossFn(sky_lambda=0.1).compute_loss(rendered, target, make_state(3), rend_out=payload)
    explained = 11 / 24  # all pixels around have to be explained, too
    assert float(terms["sky"].detach()) == pytest.approx(0.1 * 0.5 * explained)
    terms["sky"].backward()
    assert payload.alphas.grad is not None
    assert bool((payload.alphas.grad[:, :, :11] > 0).all())
    assert not payload.alphas.grad[:, :, 11:].any()


def test_masked_pixels_and_known_alphas_say_nothing_of_the_sky() -> None:
    loss = Splat3DGSLossFn(sky_lambda=0.1)
    rendered, target, payload = over_sky()
    mask = torch.ones(1, 20, 24, dtype=torch.bool)
    mask[:, :, :6] = False
    masked = loss.compute_loss(rendered, target, make_state(3), mask, rend_out=payload)
    assert float(masked["sky"].detach()) == pytest.approx(0.1 * 0.5 * 5 / 18)
    alphas = payload.alphas.detach()
    assert "sky" not in loss.compute_loss(rendered, target, make_state(3), rend_out=payload, target_alphas=alphas)
    assert "sky" not in loss.compute_loss(rendered, target, make_state(3), rend_out=over_sky(skies=None)[2])
    off = Splat3DGSLossFn(sky_lambda=0.0)
    assert "sky" not in off.compute_loss(rendered, target, make_state(3), rend_out=payload)
