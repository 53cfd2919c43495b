"""`SplatBudgetDensification`: scores against a dense reference, budget, each part on and off, and a floater."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.densification import SplatBudgetDensification, SplatDefaultDensification
from splatkit_ns.densification.budget import drawn, view_scores, wrong_pixels
from splatkit_ns.densification.mcmc import add_position_noise
from splatkit_ns.errors import ModuleError
from splatkit_ns.parts.training_views import TrainingView
from splatkit_ns.renderer import Splat2DGSRenderer, Splat3DGSRenderer, SplatRenderer
from splatkit_ns.splat import SplatTrainingState
from tests.densification.helpers import LOGGER, optimize, random_payload, random_state, set_up
from tests.rasterize import dense_reference
from tests.rasterize.raster_scenes import look_from

with_views = partial(SplatBudgetDensification, view_scores=True, prune_faint=0.02)
"""The strategy with the parts that look at several views."""
WIDTH, HEIGHT = 32, 24
K = torch.tensor([[[40.0, 0.0, 16.0], [0.0, 40.0, 12.0], [0.0, 0.0, 1.0]]])
OFF: dict[str, Any] = {
    "absgrad": False,
    "view_scores": False,
    "long_axis_split": False,
    "budget": False,
    "max_per_seed": 0.0,
    "prune_faint": 0.0,
}


def cam_to_world(x: float, distance: float = 4.0) -> Tensor:
    """A camera that looks at the origin, (1, 4, 4)."""
    return torch.linalg.inv(look_from(torch.tensor([x, 0.3, -distance])))[None]


class Views:
    """Photographs beside renders of the Gaussians as they are now."""

    def __init__(
        self, state: SplatTrainingState, photographs: list[tuple[Tensor, Tensor]], masks: list[Tensor] | None = None
    ) -> None:
        """`photographs`: pose (1, 4, 4) and image (1, H, W, 3) of each; `masks`: (1, H, W)."""
        self.state, self.photographs, self.masks = state, photographs, masks
        self.num_train_images = len(photographs)
        self.num_train_pixels = len(photographs) * WIDTH * HEIGHT
        self.asked: list[int] = []

    def training_view(self, index: int) -> TrainingView:
        self.asked.append(index)
        pose, target = self.photographs[index]
        mask = None if self.masks is None else self.masks[index]
        return TrainingView(View(pose, K, WIDTH, HEIGHT), target, picture(self.state, pose), mask)


@torch.no_grad()
def picture(state: SplatTrainingState, pose: Tensor) -> Tensor:
    return Splat3DGSRenderer().render(state, View(pose, K, WIDTH, HEIGHT)).renders


def noise_views(state: SplatTrainingState, number: int = 4, masked: bool = False) -> Views:
    """Photographs that show nothing of the Gaussians."""
    generator = torch.Generator().manual_seed(1)
    photographs = [
        (cam_to_world(x), torch.rand(1, HEIGHT, WIDTH, 3, generator=generator))
        for x in torch.linspace(-2, 2, number).tolist()
    ]
    masks = [torch.rand(1, HEIGHT, WIDTH, generator=generator) < 0.6 for _ in photographs] if masked else None
    return Views(state, photographs, masks)


def set_up_budget(
    strategy: SplatBudgetDensification, state: SplatTrainingState, data: Any = None, renderer: Any = None
) -> None:
    state.subscribe(strategy.on_gaussians_changed)
    strategy.on_setup(LOGGER, Splat3DGSRenderer() if renderer is None else renderer, state, data)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_scores_are_those_of_a_dense_reference(mode: Literal["classic", "antialiased"], masked: bool) -> None:
    """Every Gaussian's weight at every pixel in float64, and the rest in numpy, pixel by pixel."""
    state = random_state(30, max_scale=0.4)
    views = noise_views(state, 3, masked)
    renderer = Splat3DGSRenderer(rasterize_mode=mode)
    taken = [views.training_view(index) for index in range(3)]
    growth, blame = view_scores(renderer, state, taken, error_threshold=0.35)
    expected_growth, expected_blame = np.zeros(30), np.zeros(30)
    for view in taken:
        weights, _ = dense_reference.render(
            state.means.detach().double(),
            state.quats.detach().double(),
            state.scales.detach().double(),
            state.opacities.detach().double(),
            torch.eye(30, dtype=torch.float64),  # a channel for each: its blend weight
            torch.linalg.inv(view.view.cam_to_worlds).double(),
            K.double(),
            WIDTH,
            HEIGHT,
            rasterize_mode=mode,
        )
        errors = np.abs((view.rendered_frames - view.target_frames)[0].numpy()).mean(-1)
        valid = np.ones_like(errors, dtype=bool) if view.masks is None else view.masks[0].numpy()
        counted = errors[valid]
        wrong = valid & ((errors - counted.min()) / (counted.max() - counted.min()) > 0.35)
        assert 0.1 < wrong.mean() < 0.9
        sums = weights[0].numpy()[wrong].sum(0)
        expected_growth += sums / 3
        expected_blame += sums * counted.mean()
    np.testing.assert_allclose(growth.numpy(), expected_growth, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(blame.numpy(), expected_blame, rtol=2e-3, atol=2e-3)
    assert expected_growth.max() > 1


def test_a_view_without_a_valid_pixel_scores_nothing() -> None:
    state = random_state(5)
    view = noise_views(state, 1).training_view(0)
    nothing = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    blind = TrainingView(view.view, view.target_frames, view.rendered_frames, nothing)
    wrong, error = wrong_pixels(blind, 0.1)
    assert float(wrong.sum()) == 0
    assert float(error) == 0


def test_drawing_is_in_proportion_without_replacement_and_never_without_weight() -> None:
    torch.manual_seed(0)
    mask = torch.tensor([True, True, True, False, True])
    weights = torch.tensor([1.0, 3.0, 0.0, 9.0, 4.0])
    counts = sum(drawn(mask, weights, 1).double() for _ in range(8000)) / 8000
    assert isinstance(counts, Tensor)
    assert counts.tolist() == pytest.approx([1 / 8, 3 / 8, 0, 0, 4 / 8], abs=0.02)
    for limit in range(-1, 6):
        assert int(drawn(mask, weights, limit).sum()) == min(max(limit, 0), 3)


@pytest.mark.parametrize("parts", [{}, {"long_axis_split": False}, {"view_scores": False}, {"prune_faint": 0.0}])
def test_the_number_follows_the_budget_and_never_exceeds_it(parts: dict[str, Any]) -> None:
    state = random_state(50)
    with torch.no_grad():
        state.params["opacities"].fill_(1.0)
    strategy = with_views(
        refine_start_iter=10, refine_every=5, refine_stop_iter=50, max_gaussians=150, max_per_seed=0, **parts
    )
    set_up_budget(strategy, state, noise_views(state))
    numbers = {}
    for step in range(1, 60):
        strategy.densify(step, state, random_payload(len(state), seed=step, size=1.0), scene_scale=1.0)
        numbers[step] = len(state)
        with torch.no_grad():
            state.params["opacities"].fill_(1.0)  # halves would fade away
        assert len(state) <= max(50, 50 + 100 * math.sqrt(max(0, step - 10) / 40))
    assert [numbers[step] for step in (10, 14, 15, 20)] == [50, 50, 85, 100]
    assert 140 < numbers[59] <= 150


def test_without_a_budget_only_the_limit_counts() -> None:
    state = random_state(50)
    with torch.no_grad():
        state.params["opacities"].fill_(1.0)
    strategy = with_views(refine_start_iter=0, refine_every=1, budget=False, max_per_seed=1.5, pixels_per_gaussian=100)
    data = noise_views(state, 8)
    set_up_budget(strategy, state, data)
    limit = math.ceil(data.num_train_pixels / 100)  # fewer than 1.5 each
    assert 50 < limit == strategy.limit < 75
    strategy.densify(1, state, random_payload(50, seed=0, size=1.0), scene_scale=1.0)
    assert len(state) == limit


def test_those_in_wrong_pixels_grow_and_without_scores_those_with_the_highest_gradients() -> None:
    def grown(view_scores: bool) -> set[float]:
        state = row_of_gaussians()
        photograph = picture(state, cam_to_world(0.0))
        photograph[:, :, : WIDTH // 2] = 0.0  # Gaussians on the left should not be there
        strategy = with_views(
            refine_start_iter=0, refine_every=1, refine_stop_iter=3, budget=False, max_per_seed=0, max_gaussians=9,
            view_scores=view_scores, long_axis_split=False, prune_faint=0.0,
        )  # fmt: skip
        set_up_budget(strategy, state, Views(state, [(cam_to_world(0.0), photograph)]))
        seen = random_payload(6, seed=0)
        seen.means2d.absgrad = torch.linspace(1, 2, 6)[None, :, None].expand(1, 6, 2)  # type: ignore[attr-defined]
        seen.info["radii"].fill_(3)
        strategy.densify(1, state, seen, scene_scale=100.0)
        assert len(state) == 9
        return set(state.params["sh0"][6:, 0, 1].tolist())

    assert grown(view_scores=True) == {0.0, 1.0, 2.0}
    assert grown(view_scores=False) == {3.0, 4.0, 5.0}


def test_of_two_that_may_grow_the_one_that_more_cameras_saw_does() -> None:
    state = row_of_gaussians()
    strategy = SplatBudgetDensification(
        refine_start_iter=0, refine_every=4, budget=False, max_per_seed=0, max_gaussians=7, long_axis_split=False
    )
    set_up_budget(strategy, state)
    for step in range(1, 5):
        seen = random_payload(6, seed=0)
        gradients = torch.tensor([3.0, 1.0, 1.0, 2.0, 1.0, 1.0])
        seen.means2d.absgrad = gradients[None, :, None].expand(1, 6, 2)  # type: ignore[attr-defined]
        seen.info["radii"].fill_(3)
        seen.info["radii"][:, 0] = 3 if step == 1 else 0  # pulled hardest, but in one image of four
        strategy.densify(step, state, seen, scene_scale=100.0)
    assert state.params["sh0"][6:, 0, 1].tolist() == [3.0]


@pytest.mark.parametrize(("by_opacity", "grown"), [(False, 5.0), (True, 4.0)])
def test_the_more_opaque_of_two_with_like_gradients_grows_if_it_is_by_opacity(by_opacity: bool, grown: float) -> None:
    state = row_of_gaussians()
    with torch.no_grad():
        state.params["opacities"][5] = torch.tensor(0.4).logit()  # the others have 0.88
    strategy = SplatBudgetDensification(
        refine_start_iter=0, refine_every=1, budget=False, max_per_seed=0, max_gaussians=7, long_axis_split=False,
        by_opacity=by_opacity,
    )  # fmt: skip
    set_up_budget(strategy, state)
    seen = random_payload(6, seed=0)
    seen.means2d.absgrad = torch.linspace(1, 2, 6)[None, :, None].expand(1, 6, 2)  # type: ignore[attr-defined]
    seen.info["radii"].fill_(3)
    strategy.densify(1, state, seen, scene_scale=100.0)
    assert state.params["sh0"][6:, 0, 1].tolist() == [grown]


def test_noise_is_that_of_mcmc_and_goes_on_after_refinement() -> None:
    def moved(strategy: Any) -> Tensor:
        state = row_of_gaussians()
        with torch.no_grad():
            state.params["opacities"].fill_(-5.0)
        set_up_budget(strategy, state)
        torch.manual_seed(3)
        strategy.densify(20, state, random_payload(6, seed=0), scene_scale=1.0)
        return state.means.detach()

    still, noisy = (
        moved(SplatBudgetDensification(refine_stop_iter=10, max_per_seed=0, noise_lr=strength))
        for strength in (0.0, 1e3)
    )
    expected = row_of_gaussians()
    assert torch.equal(still, expected.means.detach())
    with torch.no_grad():
        expected.params["opacities"].fill_(-5.0)
    torch.manual_seed(3)
    rate = float(expected.optimizers["means"].param_groups[0]["lr"])
    add_position_noise(expected, rate * 1e3)
    assert torch.equal(noisy, expected.means.detach())
    assert float((noisy - still).abs().max()) > 1e-6


def row_of_gaussians() -> SplatTrainingState:
    """Six from left to right, told apart by their green."""
    sh0 = torch.ones(6, 1, 3)
    sh0[:, 0, 1] = torch.arange(6.0)
    return SplatTrainingState.from_tensors(
        {
            "means": torch.stack([torch.linspace(-1.2, 1.2, 6), torch.zeros(6), torch.zeros(6)], 1),
            "scales": torch.full((6, 3), 0.06).log(),
            "quats": torch.tensor([1.0, 0, 0, 0]).repeat(6, 1),
            "opacities": torch.full((6,), 2.0),
            "sh0": sh0,
            "shN": torch.zeros(6, 0, 3),
        }
    )


def test_with_all_parts_off_it_is_the_default_strategy() -> None:
    """Where halves land differs, as other random numbers are drawn."""
    settings: Any = {
        "refine_start_iter": 4, "refine_every": 4, "reset_every": 12, "refine_stop_iter": 34, "grow_grad2d": 0.0022,
        "max_gaussians": 75,
    }  # fmt: skip
    ours, theirs = random_state(40), random_state(40)
    strategy, reference = with_views(**settings, **OFF), SplatDefaultDensification(**settings)
    set_up_budget(strategy, ours, renderer=object())
    set_up(reference, theirs)
    numbers: set[int] = set()
    for step in range(1, 38):
        optimize(ours, step)
        optimize(theirs, step)
        seen = random_payload(len(ours), seed=step)
        strategy.densify(step, ours, seen, scene_scale=1.3)
        reference.densify(step, theirs, seen, scene_scale=1.3)
        assert len(ours) == len(theirs), f"step {step}"
        for name in ("scales", "quats", "opacities", "sh0"):
            assert torch.equal(ours.params[name], theirs.params[name]), f"{name}, step {step}"
        numbers.add(len(ours))
    assert len(numbers) > 4


def test_views_are_drawn_without_replacement_and_only_when_they_are_needed() -> None:
    state = random_state(20)
    data = noise_views(state, 6)
    strategy = with_views(refine_start_iter=0, refine_every=5, num_views=4, max_per_seed=0)
    set_up_budget(strategy, state, data)
    for step in range(1, 11):
        strategy.densify(step, state, random_payload(len(state), seed=step), scene_scale=1.0)
        assert len(data.asked) == 4 * (step // 5)
    assert len(set(data.asked[:4])) == 4
    data.asked.clear()
    state = random_state(20)
    blind = with_views(refine_start_iter=0, refine_every=1, view_scores=False, prune_faint=0.0)
    set_up_budget(blind, state, data)
    blind.densify(1, state, random_payload(20, seed=1), scene_scale=1.0)
    assert data.asked == []


FAINT = 0.01


def wall_with_floaters() -> tuple[SplatTrainingState, Views, Tensor]:
    """A grey wall, faint grey Gaussians on it, and faint white ones that hang before the first of four cameras."""
    x, y = torch.meshgrid(torch.linspace(-3, 3, 13), torch.linspace(-2, 2, 9), indexing="ij")
    wall = torch.stack([x.flatten(), y.flatten(), torch.zeros(x.numel())], 1)
    first = cam_to_world(-2.0)
    ahead = first[0, :3, 3] + first[0, :3, 2] * 0.6
    floaters = ahead + torch.tensor([[0.0, 0.0, 0.0], [0.02, 0.0, 0.0], [0.0, 0.02, 0.0], [0.0, 0.0, 0.02]])
    on_wall = wall[::9] - torch.tensor([0.0, 0.0, 0.01])
    means = torch.cat([wall, on_wall, floaters])
    num = len(means)
    is_floater = torch.zeros(num, dtype=torch.bool)
    is_floater[-len(floaters) :] = True
    opacities = torch.full((num,), FAINT)
    opacities[: len(wall)] = 0.95
    scales = torch.full((num, 3), 0.3)
    scales[is_floater] = 0.06
    colors = torch.zeros(num, 1, 3)  # grey
    colors[is_floater] = 8.0
    state = SplatTrainingState.from_tensors(
        {
            "means": means, "scales": scales.log(), "quats": torch.tensor([1.0, 0, 0, 0]).repeat(num, 1),
            "opacities": opacities.logit(), "sh0": colors, "shN": torch.zeros(num, 0, 3),
        }
    )  # fmt: skip
    true = SplatTrainingState.from_tensors({name: p.detach()[~is_floater] for name, p in state.params.items()})
    poses = [first, cam_to_world(-0.7), cam_to_world(0.7), cam_to_world(2.0)]
    return state, Views(state, [(pose, picture(true, pose)) for pose in poses]), is_floater


def test_floaters_that_one_view_alone_sees_are_pruned_and_what_all_agree_on_stays() -> None:
    state, data, is_floater = wall_with_floaters()
    renderer, view = Splat3DGSRenderer(), data.training_view(0)
    everything = torch.ones(HEIGHT, WIDTH)
    assert float(renderer.blend_weight_sums(state, view.view, everything)[is_floater].min()) > 0.5
    for index in (1, 2, 3):
        other = data.training_view(index)
        sums = renderer.blend_weight_sums(state, other.view, everything)
        assert float(sums[is_floater].max()) == 0, "the other cameras do not see them"
    with pytest.raises(ValueError, match=rf"shape \(H, W\) = \({HEIGHT}, {WIDTH}\), found \(1, {HEIGHT}, {WIDTH}\)"):
        renderer.blend_weight_sums(state, view.view, everything[None])
    on_wall = int((~is_floater).sum())
    strategy = with_views(refine_start_iter=0, refine_every=1, grow_grad2d=1e9, max_per_seed=0, prune_quantile=0.7)
    set_up_budget(strategy, state, data)
    left = []
    for step in range(1, 5):
        strategy.densify(step, state, random_payload(len(state), seed=step), scene_scale=1.0)
        left.append(len(state) - on_wall)
    assert left[0] == 2, "half of them"
    assert int((state.params["sh0"][:, 0, 0] == 0).sum()) == on_wall, "nothing on the wall goes while there are some"
    assert left[-1] == 0


@pytest.mark.parametrize("options", [{"prune_faint": 0.0}, {"prune_faint": 0.9 * FAINT}])
def test_without_that_rule_floaters_stay(options: dict[str, Any]) -> None:
    state, data, _ = wall_with_floaters()
    number = len(state)
    strategy = with_views(refine_start_iter=0, refine_every=1, grow_grad2d=1e9, **options)
    set_up_budget(strategy, state, data)
    strategy.densify(1, state, random_payload(number, seed=1), scene_scale=1.0)
    assert len(state) == number


@pytest.mark.parametrize(("step", "goes"), [(3000, True), (3100, False), (3499, False), (3500, True), (6001, False)])
def test_none_are_pruned_while_opacities_recover(step: int, goes: bool) -> None:
    state, data, _ = wall_with_floaters()
    number = len(state)
    strategy = with_views(refine_every=1, grow_grad2d=1e9, prune_quantile=0.7, prune_scale3d=9.0)
    set_up_budget(strategy, state, data)
    strategy.densify(step, state, random_payload(number, seed=1), scene_scale=1.0)
    assert (len(state) < number) == goes


@pytest.mark.parametrize(("clamp", "highest"), [(0.0, 0.95), (0.8, 0.8)])
def test_opacities_are_clamped_at_refinements(clamp: float, highest: float) -> None:
    state, data, _ = wall_with_floaters()
    strategy = with_views(refine_start_iter=0, refine_every=2, clamp_opacity=clamp, grow_grad2d=1e9)
    set_up_budget(strategy, state, data)
    strategy.densify(1, state, random_payload(len(state), seed=1), scene_scale=1.0)
    assert float(state.opacities.max()) == pytest.approx(0.95)
    strategy.densify(2, state, random_payload(len(state), seed=1), scene_scale=1.0)
    assert float(state.opacities.max()) == pytest.approx(highest)


def test_a_resumed_run_is_the_same() -> None:
    def run(cut: int | None) -> SplatTrainingState:
        torch.manual_seed(3)
        state = random_state(40)
        data = noise_views(state)
        settings: Any = {
            "refine_start_iter": 0, "refine_every": 4, "refine_stop_iter": 30, "max_gaussians": 90, "max_per_seed": 0,
            "num_views": 2, "prune_faint": 0.2,
        }  # fmt: skip
        strategy = with_views(**settings)
        set_up_budget(strategy, state, data)
        for step in range(1, 25):
            optimize(state, step)
            strategy.densify(step, state, random_payload(len(state), seed=step, size=1e-3), scene_scale=1.0)
            if step == cut:
                saved = strategy.state_dict()
                state.unsubscribe(strategy.on_gaussians_changed)
                strategy = with_views(**settings)
                strategy.load_state_dict(saved)
                set_up_budget(strategy, state, data)
        return state

    whole, resumed = run(None), run(10)
    assert len(whole) > 60
    for name, param in whole.params.items():
        assert torch.equal(param, resumed.params[name]), name


class Holder(SplatRenderer):
    """Passes on the images of another renderer."""

    def __init__(self) -> None:
        self.inner = Splat3DGSRenderer()

    def render(self, training_state: Any, view: Any, options: Any = None) -> Any:
        return self.inner.render(training_state, view, options)


def test_renderers_and_data_that_cannot_score_are_refused() -> None:
    state = random_state(4)
    data = noise_views(state)
    with pytest.raises(ModuleError, match=r"needs a renderer with blend_weight_sums.*found Splat2DGSRenderer"):
        set_up_budget(with_views(absgrad=False), state, data, Splat2DGSRenderer())
    with pytest.raises(ModuleError, match=r"needs a data provider with num_train_images.*found object"):
        set_up_budget(with_views(), state, object())
    set_up_budget(SplatBudgetDensification(), state, object())
    holder = Holder()
    strategy = with_views()
    set_up_budget(strategy, state, data, holder)
    assert strategy._renderer is holder.inner
    assert holder.inner.absgrad
