"""`Splat2DGSLossFn`: its terms by hand, when they set in, masks; and depth and normals of the data for both losses."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.errors import ModuleError
from splatkit_ns.loss_fn import Splat2DGSLossFn, Splat3DGSLossFn
from splatkit_ns.parts.context import StepContext
from splatkit_ns.parts.dispatch import ModuleDispatcher
from splatkit_ns.parts.payload_2dgs import Splat2DGSPayload
from splatkit_ns.rasterize.surfaces import normals_of_depth
from splatkit_ns.renderer import RenderOptions, Splat2DGSRenderer, Splat3DGSRenderer
from splatkit_ns.splat import SplatTrainingState
from tests.loss_fn.test_geometry import HEIGHT, TILTED, WIDTH
from tests.loss_fn.test_geometry import Ks as DOUBLE_KS
from tests.splat.helpers import make_state

Ks = DOUBLE_KS.float()
VIEW = View(torch.eye(4)[None], Ks, WIDTH, HEIGHT)
LATE = 10_000


def payload(depths: Tensor | None = None, alpha: float = 1.0) -> Splat2DGSPayload:
    """A render of the tilted plane, whose discs have its normals; of other depths if given."""
    plane, normal = TILTED[0].float(), TILTED[1].float()
    depths = plane if depths is None else depths
    image = torch.full((1, HEIGHT, WIDTH, 3), 0.5)
    alphas = torch.full((1, HEIGHT, WIDTH, 1), alpha)
    return Splat2DGSPayload(
        renders=image, alphas=alphas, width=WIDTH, height=HEIGHT, n_cameras=1, info={}, means2d=torch.zeros(1, 1, 2),
        gradient_2dgs=torch.zeros(1, 1, 2), normals=alphas * normal, normals_from_depth=normals_of_depth(depths, Ks),
        render_distort=torch.full_like(alphas, 0.3), depths_expected=depths,
    )  # fmt: skip


def terms(loss: Any, out: Any = None, step: int = LATE, **arguments: Any) -> dict[str, Tensor]:
    out = payload() if out is None else out
    given: dict[str, Any] = {
        "rendered_frames": out.renders, "target_frames": torch.full_like(out.renders, 0.25), "masks": None,
        "training_state": make_state(3), "rend_out": out, "step": step, "scene_scale": 2.0,
        "view": VIEW, "target_depths": None, "target_normals": None,
    }  # fmt: skip
    return loss.compute_loss(**{**given, **arguments})


def test_colours_count_as_in_3dgs() -> None:
    plain, flat = terms(Splat3DGSLossFn()), terms(Splat2DGSLossFn())
    assert set(flat) == {"l1", "dssim", "distortion", "normal_consistency"}
    assert {name: float(flat[name]) for name in plain} == {name: float(term) for name, term in plain.items()}


def test_each_term_sets_in_after_its_step() -> None:
    loss = Splat2DGSLossFn(distortion_start_iter=10, normal_consistency_start_iter=20)
    assert [set(terms(loss, step=step)) - {"l1", "dssim"} for step in (10, 11, 20, 21)] == [
        set(), {"distortion"}, {"distortion"}, {"distortion", "normal_consistency"},
    ]  # fmt: skip
    assert [loss.wants_depth(step) for step in (10, 11, 21)] == [False, True, True]
    off = Splat2DGSLossFn(distortion_lambda=0.0, normal_consistency_lambda=0.0)
    assert set(terms(off)) == {"l1", "dssim"}
    assert not off.wants_depth(LATE)
    assert Splat2DGSLossFn(depth_lambda=0.1).wants_depth(1)


def test_distortion_is_its_mean_relative_to_the_scene() -> None:
    assert float(terms(Splat2DGSLossFn(distortion_lambda=0.1))["distortion"]) == pytest.approx(0.1 * 0.3 / 2.0)
    masks = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, :4] = False
    out = payload()
    assert out.render_distort is not None
    out.render_distort[0, :4] = float("nan")
    masked = terms(Splat2DGSLossFn(distortion_lambda=0.1), out, masks=masks)
    assert float(masked["distortion"]) == pytest.approx(0.1 * 0.3 / 2.0)


def test_two_layers_are_distorted_by_the_product_of_their_weights_and_their_distance() -> None:
    """Two large discs across the view: weights 0.5 and (1 - 0.5) 0.8, a distance of 1; each pair counts twice."""
    state = SplatTrainingState.from_tensors(
        {
            "means": torch.tensor([[0.0, 0, 3], [0, 0, 4]]),
            "scales": torch.full((2, 3), 4.0),
            "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1),
            "opacities": torch.tensor([0.5, 0.8]).logit(),
            "sh0": torch.zeros(2, 1, 3),
            "shN": torch.zeros(2, 0, 3),
        }
    )
    out = Splat2DGSRenderer().render(state, VIEW, RenderOptions(render_mode="RGB+ED"))
    term = terms(Splat2DGSLossFn(distortion_lambda=1.0), out)["distortion"]
    assert float(term) * 2.0 == pytest.approx(2 * 0.5 * 0.4 * 1.0, rel=1e-3)
    term.backward()
    gradient = state.params["means"].grad
    assert gradient is not None
    torch.testing.assert_close(gradient[:, 2] * 2.0, torch.tensor([-0.4, 0.4]), rtol=1e-2, atol=0)


def test_discs_that_lie_in_the_surface_cost_nothing() -> None:
    assert float(terms(Splat2DGSLossFn())["normal_consistency"]) == pytest.approx(0.0, abs=1e-6)
    flat = payload(depths=torch.full((1, HEIGHT, WIDTH, 1), 3.0))  # the depth image faces the camera, the discs do not
    cosine = -float(TILTED[1][2])
    assert float(terms(Splat2DGSLossFn(), flat)["normal_consistency"]) == pytest.approx(0.05 * (1 - cosine), rel=1e-4)


def test_normals_of_pixels_beside_a_mask_or_beside_nothing_do_not_count() -> None:
    depths = TILTED[0].float().clone()
    hole = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    hole[0, 4:7, 5:9] = True
    depths[hole] = 40.0
    assert float(terms(Splat2DGSLossFn(), payload(depths))["normal_consistency"]) > 0.001
    masked = depths.clone().requires_grad_()
    out = payload(masked)
    term = terms(Splat2DGSLossFn(), out, masks=~hole)["normal_consistency"]
    term.backward()
    assert float(term) == pytest.approx(0.0, abs=1e-6)
    assert masked.grad is not None
    assert float(masked.grad[hole].abs().max()) == 0
    empty = payload(depths)
    empty.alphas[hole] = 0
    empty.normals[hole] = 0
    assert float(terms(Splat2DGSLossFn(), empty)["normal_consistency"]) == pytest.approx(0.0, abs=1e-6)


def test_a_renderer_without_distortion_is_refused_at_set_up() -> None:
    with pytest.raises(ModuleError, match=r"distortion_lambda is 0.01, but Splat2DGSRenderer renders no distortion"):
        Splat2DGSLossFn().on_setup(Splat2DGSRenderer(distloss=False))
    Splat2DGSLossFn(distortion_lambda=0.0).on_setup(Splat2DGSRenderer(distloss=False))


def test_it_is_refused_beside_a_renderer_that_draws_no_discs() -> None:
    context = StepContext(logger=logging.getLogger("test"), max_steps=10, renderer=Splat3DGSRenderer())
    with pytest.raises(ModuleError, match=r"Splat2DGSLossFn.*Splat2DGSPayload.*Splat3DGSRenderer"):
        ModuleDispatcher([context.renderer, Splat2DGSLossFn()], context)
    context.renderer = Splat2DGSRenderer()
    ModuleDispatcher([context.renderer, Splat2DGSLossFn()], context)
    ModuleDispatcher([context.renderer, Splat3DGSLossFn()], context)


# ---------------------------------------------------------------------- what the data has

LOSSES = [Splat2DGSLossFn, Splat3DGSLossFn]


@pytest.mark.parametrize("kind", LOSSES)
def test_depth_of_either_kind_is_compared_along_the_axis(kind: Any) -> None:
    plane = TILTED[0].float()
    rays = torch.stack(torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij"), dim=-1) + 0.5
    x, y = (rays[..., 1] - 8.5) / 20, (rays[..., 0] - 5.5) / 22
    along_rays = plane * torch.sqrt(1 + x * x + y * y)[None, ..., None]
    assert float(terms(kind(depth_lambda=0.2), target_depths=plane + 0.1)["depth"]) == pytest.approx(0.2 * 0.1 / 2)
    right = terms(kind(depth_lambda=0.2, depth_kind="ray"), target_depths=along_rays)["depth"]
    wrong = terms(kind(depth_lambda=0.2), target_depths=along_rays)["depth"]
    assert float(right) == pytest.approx(0.0, abs=1e-6)
    assert float(wrong) > 1e-3


@pytest.mark.parametrize("kind", LOSSES)
def test_relative_depth_has_a_weight_that_falls(kind: Any) -> None:
    plane = TILTED[0].float()
    assert float(terms(kind(depth_lambda=0.2, depth_kind="inverse"), target_depths=40 / plane + 3)["depth"]) < 1e-5
    loss, found = kind(depth_lambda=0.2, depth_lambda_final=0.002, depth_kind="inverse"), {}
    with pytest.raises(ModuleError, match="its pre_step has not run"):
        terms(loss, target_depths=plane)
    for step in (0, 50, 100):
        loss.pre_step(step, 100, make_state(3))
        found[step] = float(terms(loss, target_depths=plane)["depth"])
    assert found[0] > 0.01
    assert found[50] == pytest.approx(found[0] / 10)
    assert found[100] == pytest.approx(found[0] / 100)


@pytest.mark.parametrize("kind", LOSSES)
def test_normals_of_the_data_in_either_axes(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs are turned without a constant, which at every step would have to be copied to the device."""
    monkeypatch.setattr(torch.Tensor, "new_tensor", None)
    normal = TILTED[1].float()
    right = normal.expand(1, HEIGHT, WIDTH, 3).clone()
    right[0, 2:4] = float("nan")
    opengl = right * torch.tensor([1.0, -1.0, -1.0])
    assert float(terms(kind(normal_lambda=0.1), target_normals=right)["normal"]) == pytest.approx(0.0, abs=1e-6)
    flipped = terms(kind(normal_lambda=0.1, normal_axes="opengl"), target_normals=opengl)["normal"]
    assert float(flipped) == pytest.approx(0.0, abs=1e-6)
    cosine = float((normal * normal * torch.tensor([1.0, -1.0, -1.0])).sum())
    wrong = terms(kind(normal_lambda=0.1), target_normals=opengl)["normal"]
    assert float(wrong) == pytest.approx(0.1 * (1 - cosine), rel=1e-4)


def test_discs_normals_are_turned_into_the_cameras_axes() -> None:
    turn = torch.tensor([[0.0, 0, 1, 5], [0, 1, 0, 6], [-1, 0, 0, 7], [0, 0, 0, 1]])
    out = payload()
    world = dataclasses.replace(out, normals=out.normals @ turn[:3, :3].T)
    target = TILTED[1].float().expand(1, HEIGHT, WIDTH, 3)
    loss = Splat2DGSLossFn(normal_lambda=0.1)
    turned = terms(loss, world, target_normals=target, view=dataclasses.replace(VIEW, cam_to_worlds=turn[None]))[
        "normal"
    ]
    assert float(turned) == pytest.approx(0.0, abs=1e-6)
    assert float(terms(loss, world, target_normals=target)["normal"]) > 0.01


@pytest.mark.parametrize("kind", LOSSES)
def test_depth_outside_the_mask_does_not_count(kind: Any) -> None:
    masks = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, :, :5] = False
    target = TILTED[0].float() + 0.1
    target[0, :, :5] = 99.0
    depth = terms(kind(depth_lambda=0.2), target_depths=target, masks=masks)["depth"]
    assert float(depth) == pytest.approx(0.2 * 0.1 / 2, rel=1e-4)


@pytest.mark.parametrize("kind", LOSSES)
def test_what_the_data_must_have_follows_the_weights(kind: Any) -> None:
    assert kind().wanted_targets == frozenset()
    assert kind(depth_lambda=0.1).wanted_targets == {"target_depths"}
    assert kind(depth_lambda=0.1, normal_lambda=0.1).wanted_targets == {"target_depths", "target_normals"}


def test_a_loss_that_does_not_hand_over_what_a_term_needs_is_told() -> None:
    out = payload()
    with pytest.raises(ModuleError, match=r"depth_lambda is above 0, which needs rend_out, but there is none.*kwargs"):
        Splat3DGSLossFn(depth_lambda=0.1).compute_loss(out.renders, out.renders, make_state(3))
    with pytest.raises(ModuleError, match=r"depth_lambda is above 0, which needs depths_expected"):
        terms(
            Splat3DGSLossFn(depth_lambda=0.1),
            dataclasses.replace(out, depths_expected=None),
            target_depths=TILTED[0].float(),
        )
