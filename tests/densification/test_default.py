"""`SplatDefaultDensification` against gsplat's own strategy, and where it is meant to differ."""

from __future__ import annotations

import dataclasses
import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from gsplat.strategy import DefaultStrategy
from gsplat.strategy.ops import reset_opa
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.densification import SplatBudgetDensification, SplatDefaultDensification, SplatMCMCDensification
from splatkit_ns.errors import ModuleError
from splatkit_ns.parts.payload_2dgs import Splat2DGSPayload
from splatkit_ns.rasterize import radii_have_axes
from splatkit_ns.renderer import Splat2DGSRenderer, Splat3DGSRenderer
from splatkit_ns.splat import RowChange, SplatTrainingState
from tests.densification.helpers import disc_payload, optimize, packed, payload, random_payload, random_state, set_up

SETTINGS = {"refine_start_iter": 4, "refine_every": 4, "reset_every": 12, "refine_stop_iter": 34}
EXACT = {"rtol": 1e-5, "atol": 1e-6}


def assert_same(ours: SplatTrainingState, theirs: SplatTrainingState, skip: tuple[str, ...] = ()) -> None:
    for name in ours.params:
        if name in skip:
            continue
        param, other = ours.params[name], theirs.params[name]
        torch.testing.assert_close(param.detach(), other.detach(), **EXACT, msg=lambda m, name=name: f"{name}: {m}")
        state, other_state = ours.optimizers[name].state[param], theirs.optimizers[name].state[other]
        for key in ("exp_avg", "exp_avg_sq", "step"):
            torch.testing.assert_close(state[key], other_state[key], msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"absgrad": True, "grow_grad2d": 0.0042},
        {"revised_opacity": True},
        {"pause_refine_after_reset": 5},
        {"prune_scale3d": 0.02, "grow_scale3d": 0.005},
    ],
    ids=lambda options: next(iter(options), "defaults"),
)
def test_every_step_does_what_gsplats_strategy_does(options: dict[str, Any]) -> None:
    settings = {"grow_grad2d": 0.0022, **SETTINGS, **options}
    ours, theirs = random_state(40), random_state(40)
    strategy, reference = SplatDefaultDensification(**settings), DefaultStrategy(**settings)
    set_up(strategy, ours, Splat3DGSRenderer())
    state = reference.initialize_state(scene_scale=1.3)
    numbers: set[int] = set()
    for step in range(1, 38):
        cameras = 1 + step % 2
        optimize(ours, step)
        optimize(theirs, step)
        seen = random_payload(len(ours), seed=step, cameras=cameras)
        torch.manual_seed(step)
        strategy.densify(step, ours, seen, scene_scale=1.3)
        torch.manual_seed(step)
        reference.step_post_backward(theirs.params, theirs.optimizers, state, step, seen.info)
        if step % settings["reset_every"] == 0 and step < settings["refine_stop_iter"]:
            # gsplat 1.5.3 forgets this; twice is the same as once
            reset_opa(theirs.params, theirs.optimizers, {}, 2 * strategy.prune_opa)
        assert len(ours) == len(theirs), f"step {step}"
        assert_same(ours, theirs)
        numbers.add(len(ours))
    assert len(numbers) >= 4, "the test must make the strategies work"
    assert max(numbers) > 50


def test_with_discs_it_looks_at_their_gradient_as_gsplats_strategy_does() -> None:
    settings = {"grow_grad2d": 0.0022, **SETTINGS}
    ours, theirs = random_state(40), random_state(40)
    strategy = SplatDefaultDensification(**settings)
    reference = DefaultStrategy(**settings, key_for_gradient=Splat2DGSPayload.key_for_gradient)  # type: ignore[arg-type]
    set_up(strategy, ours, Splat2DGSRenderer())
    state = reference.initialize_state(scene_scale=1.3)
    for step in range(1, 9):
        optimize(ours, step)
        optimize(theirs, step)
        plain = random_payload(len(ours), seed=step)
        assert plain.means2d.grad is not None
        seen = disc_payload(plain.means2d.grad, plain.radii)
        torch.manual_seed(step)
        strategy.densify(step, ours, seen, scene_scale=1.3)
        torch.manual_seed(step)
        reference.step_post_backward(theirs.params, theirs.optimizers, state, step, seen.info)
        assert_same(ours, theirs)
    assert len(ours) > 40, "some must have grown"


def test_sizes_on_the_screen_count_as_in_gsplat() -> None:
    """Which Gaussians go and stay is the same; where halves land is not, as fewer random numbers are drawn."""
    settings = {**SETTINGS, "refine_scale2d_stop_iter": 40, "grow_scale2d": 0.2, "prune_scale2d": 0.35}
    ours, theirs = random_state(40), random_state(40)
    strategy, reference = SplatDefaultDensification(**settings), DefaultStrategy(**settings)
    set_up(strategy, ours)
    state = reference.initialize_state(scene_scale=1.0)
    numbers: set[int] = set()
    for step in range(1, 34):
        optimize(ours, step)
        optimize(theirs, step)
        seen = random_payload(len(ours), seed=step)
        strategy.densify(step, ours, seen, scene_scale=1.0)
        reference.step_post_backward(theirs.params, theirs.optimizers, state, step, seen.info)
        if step % settings["reset_every"] == 0:
            reset_opa(theirs.params, theirs.optimizers, {}, 2 * strategy.prune_opa)
        assert len(ours) == len(theirs), f"step {step}"
        assert_same(ours, theirs, skip=("means",))
        numbers.add(len(ours))
    assert len(numbers) > 3


@pytest.mark.parametrize("kind", [SplatDefaultDensification, SplatBudgetDensification])
@pytest.mark.parametrize("absgrad", [False, True])
def test_packed_renders_are_counted_as_gsplats_strategy_counts_them(
    kind: type[SplatDefaultDensification], absgrad: bool
) -> None:
    settings: Any = {"absgrad": absgrad, "refine_start_iter": 100, "refine_scale2d_stop_iter": 100}
    state = random_state(40)
    strategy, unpacked, reference = kind(**settings), kind(**settings), DefaultStrategy(**settings)
    for each in (strategy, unpacked):
        set_up(each, state, Splat3DGSRenderer())
    counted = reference.initialize_state(scene_scale=1.0)
    for step in range(1, 5):
        seen = random_payload(40, seed=step, cameras=2)
        unpacked.densify(step, state, seen, scene_scale=1.0)
        strategy.densify(step, state, packed(seen), scene_scale=1.0)
        reference.step_post_backward(state.params, state.optimizers, counted, step, packed(seen).info, packed=True)
    for name in ("grad2d", "count"):
        torch.testing.assert_close(strategy.statistics[name], counted[name])
    for name, value in unpacked.statistics.items():
        torch.testing.assert_close(strategy.statistics[name], value)
        assert len(value.unique()) > 2, "the test must tell Gaussians apart"


@pytest.mark.parametrize("absgrad", [False, True])
def test_gaussians_that_are_made_of_some_of_the_trained_ones_count_for_these(absgrad: bool) -> None:
    made_of = torch.tensor([4, 0, 4, 2])  # one twice, others not at all
    settings: Any = {"absgrad": absgrad, "refine_start_iter": 100, "refine_scale2d_stop_iter": 100}
    strategy, reference = SplatDefaultDensification(**settings), SplatDefaultDensification(**settings)
    state = random_state(6)
    for each in (strategy, reference):
        set_up(each, state, Splat3DGSRenderer())
    seen = random_payload(4, seed=1)
    grads, radii = seen.means2d.grad, seen.radii.float()
    assert grads is not None
    for row, owner in enumerate(made_of):  # a render of all trained ones, for each that is drawn
        all_grads, all_radii = torch.zeros(1, 6, 2), torch.zeros(1, 6)
        all_grads[0, owner], all_radii[0, owner] = grads[0, row], radii[0, row]
        reference.densify(1, state, payload(all_grads, all_radii), scene_scale=1.0)
    strategy.densify(1, state, dataclasses.replace(seen, gaussian_ids=made_of), scene_scale=1.0)
    for name, value in reference.statistics.items():
        torch.testing.assert_close(strategy.statistics[name], value)
    with pytest.raises(ModuleError, match=r"drew 4 Gaussians, but 6 are trained.* payload have gaussian_ids"):
        strategy.densify(2, state, random_payload(4, seed=2), scene_scale=1.0)


@pytest.mark.gpu
@pytest.mark.usefixtures("compiled_gsplat")
def test_packed_renders_of_a_gpu_are_counted_like_others() -> None:
    cam_to_worlds = torch.eye(4, device="cuda").repeat(2, 1, 1)
    cam_to_worlds[:, 2, 3] = torch.tensor([-2.0, -1.0])  # the second does not see all
    Ks = torch.tensor([[40.0, 0.0, 32.0], [0.0, 40.0, 24.0], [0.0, 0.0, 1.0]], device="cuda").repeat(2, 1, 1)
    counted: list[dict[str, Tensor]] = []
    for packs in (False, True):
        tensors = {name: param.detach() for name, param in random_state(400).params.items()}
        state = SplatTrainingState.from_tensors(tensors, device="cuda")
        renderer = Splat3DGSRenderer(packed=packs)
        renderer.on_setup(state)
        strategy = SplatDefaultDensification(absgrad=True, refine_scale2d_stop_iter=100)
        set_up(strategy, state, renderer)
        out = renderer.render(state, View(cam_to_worlds, Ks, 64, 48))
        assert (out.gaussian_ids is not None) == packs
        out.retain_gradients()
        out.renders.square().mean().backward()
        strategy.densify(1, state, out, scene_scale=1.0)
        counted.append(strategy.statistics)
    others, ours = counted
    assert set(others["count"].tolist()) == {0.0, 1.0, 2.0}
    shown = state.opacities.detach() >= 1 / 255
    assert not bool(others["count"][~shown].any()), "no pixel shows those"
    assert not bool(ours["grad2d"][~shown].any())
    if radii_have_axes():  # gsplat 1.4 counts them in packed renders
        assert not bool(ours["count"][~shown].any())
    difference = (ours["count"] - others["count"]).abs()[shown]
    assert float(difference.max()) <= 1
    assert int((difference > 0).sum()) <= 20
    # a radius of gsplat 1.4 is of three standard deviations of the longest axis, whatever the opacity; ours, as those
    # of 1.5, are along x and y, to where alpha is 1/255
    alike = shown & (ours["count"] == others["count"])
    reach = (2 * (255 * state.opacities.detach()[alike]).log()).sqrt()
    longest = 1.0 if radii_have_axes() else 3 * 2**0.5 / reach
    assert bool((ours["radii"][alike] <= longest * others["radii"][alike] + 1.01 / 64).all())
    assert float((ours["grad2d"] - others["grad2d"]).norm() / others["grad2d"].norm()) < 0.05


def test_opacities_are_reset_at_multiples_only_and_never_before_or_after() -> None:
    state = random_state(20)
    strategy = SplatDefaultDensification(refine_start_iter=1000, reset_every=7, refine_stop_iter=22)
    set_up(strategy, state)
    reset_at: list[int] = []
    for step in range(1, 40):
        with torch.no_grad():
            state.params["opacities"].fill_(2.0)
        strategy.densify(step, state, random_payload(20, seed=step), scene_scale=1.0)
        if bool((state.params["opacities"] < 2.0).any()):
            reset_at.append(step)
            torch.testing.assert_close(state.opacities.detach(), torch.full((20,), 2 * strategy.prune_opa))
    assert reset_at == [7, 14, 21]


def test_without_resets_opacities_and_large_gaussians_stay() -> None:
    state = random_state(20, max_scale=3.0)
    with torch.no_grad():
        state.params["opacities"].fill_(2.0)
    strategy = SplatDefaultDensification(refine_start_iter=0, refine_every=1, reset_every=0, grow_grad2d=1e9)
    set_up(strategy, state)
    for step in range(1, 10):
        strategy.densify(step, state, random_payload(20, seed=step), scene_scale=1.0)
    assert len(state) == 20
    assert bool((state.params["opacities"] == 2.0).all())


@pytest.mark.parametrize(("max_steps", "resets"), [(3000, False), (3499, False), (3500, True), (30_000, True)])
def test_no_reset_shortly_before_training_ends(max_steps: int, resets: bool) -> None:
    state = random_state(20)
    with torch.no_grad():
        state.params["opacities"].fill_(2.0)
    strategy = SplatDefaultDensification(refine_stop_iter=40_000)
    set_up(strategy, state)
    strategy.densify(3000, state, random_payload(20, seed=0), scene_scale=1.0, max_steps=max_steps)
    assert bool((state.params["opacities"] < 2.0).all()) == resets


def test_a_reset_forgets_the_moments_of_opacities_alone() -> None:
    state = random_state(20)
    strategy = SplatDefaultDensification(reset_every=3)
    set_up(strategy, state)
    strategy.densify(3, state, random_payload(20, seed=0), scene_scale=1.0)
    moments = {name: state.optimizers[name].state[param] for name, param in state.params.items()}
    assert float(moments["opacities"]["exp_avg"].abs().max()) == 0
    assert float(moments["opacities"]["exp_avg_sq"].abs().max()) == 0
    assert float(moments["opacities"]["step"]) == 1
    assert float(moments["means"]["exp_avg"].abs().min()) > 0


def test_the_cap_holds_and_the_highest_gradients_grow_first() -> None:
    state = random_state(40, max_scale=0.005)  # small enough to be cloned
    with torch.no_grad():
        state.params["opacities"].fill_(1.0)
    marker = torch.arange(40.0)
    with torch.no_grad():
        state.params["sh0"][:, 0, 0] = marker
    strategy = SplatDefaultDensification(refine_start_iter=0, refine_every=1, max_gaussians=45)
    set_up(strategy, state)
    gradients = torch.zeros(1, 40, 2)
    gradients[0, :, 0] = torch.linspace(1, 2, 40)
    strategy.densify(1, state, payload(gradients, torch.ones(1, 40, dtype=torch.int32)), scene_scale=1.0)
    assert len(state) == 45
    assert state.params["sh0"][40:, 0, 0].tolist() == [35.0, 36.0, 37.0, 38.0, 39.0]
    for step in range(2, 6):
        everyone = payload(torch.ones(1, 45, 2), torch.ones(1, 45, dtype=torch.int32))
        strategy.densify(step, state, everyone, scene_scale=1.0)
        assert len(state) == 45


def test_the_cap_also_holds_for_gaussians_that_are_cloned_and_split() -> None:
    """Small ones in the world that are large on the screen; gsplat lets them do both."""
    state = random_state(40)
    with torch.no_grad():
        state.params["scales"].fill_(-9.0)
        state.params["opacities"].fill_(2.0)
    settings: Any = {"refine_start_iter": 0, "refine_every": 1, "refine_scale2d_stop_iter": 100}
    everyone = payload(torch.ones(1, 40, 2), torch.full((1, 40), 1000, dtype=torch.int32))
    for most, expected in ((200, 120), (100, 80), (50, 50)):
        strategy = SplatDefaultDensification(max_gaussians=most, **settings)
        own = random_state(40)
        for name, param in own.params.items():
            param.data = state.params[name].data.clone()
        set_up(strategy, own)
        strategy.densify(1, own, everyone, scene_scale=1.0)
        assert len(own) == expected


def test_a_run_that_starts_above_the_cap_is_thinned_and_never_grows_past_it() -> None:
    state = random_state(50)
    strategy = SplatDefaultDensification(max_gaussians=30, refine_start_iter=0, refine_every=1)
    set_up(strategy, state)
    assert len(state) == 30
    for step in range(1, 10):
        strategy.densify(step, state, random_payload(len(state), seed=step, size=1.0), scene_scale=1.0)
        assert 0 < len(state) <= 30


@pytest.mark.parametrize("kind", [SplatDefaultDensification, SplatBudgetDensification])
@pytest.mark.parametrize("cause", ["opacities", "sizes", "sizes on the screen"])
def test_when_all_would_be_removed_none_is_and_one_warning_says_why(
    kind: type[SplatDefaultDensification], cause: str, messages: pytest.LogCaptureFixture
) -> None:
    state = random_state(20)
    with torch.no_grad():
        state.params["opacities"].fill_(-9.0 if cause == "opacities" else 2.0)
        state.params["scales"].fill_(3.0 if cause == "sizes" else -5.0)
    strategy = kind(refine_start_iter=2, refine_every=1, reset_every=2, grow_grad2d=1e9, refine_scale2d_stop_iter=9)
    strategy.grow_scale2d = math.inf
    set_up(strategy, state, Splat3DGSRenderer())
    radius = 1000 if cause == "sizes on the screen" else 1
    for step in range(3, 6):
        seen = payload(torch.ones(1, 20, 2), torch.full((1, 20), radius, dtype=torch.int32))
        strategy.densify(step, state, seen, scene_scale=1.0)
        assert len(state) == 20
    assert messages.text.count("at step 3 all 20 Gaussians are below prune_opa (0.005) or too large") == 1
    assert messages.text.count("Likely causes") == 1


@pytest.mark.parametrize("kind", [SplatDefaultDensification, SplatBudgetDensification, SplatMCMCDensification])
def test_a_strategy_without_a_step_to_refine_at_says_so(
    kind: type[SplatDefaultDensification | SplatMCMCDensification], messages: pytest.LogCaptureFixture
) -> None:
    set_up(kind(refine_start_iter=3, refine_stop_iter=5), random_state(20), Splat3DGSRenderer())
    assert messages.text == ""
    set_up(kind(refine_start_iter=4, refine_stop_iter=5), random_state(20), Splat3DGSRenderer())
    assert (
        f"{kind.__name__} neither adds nor removes Gaussians: no step is after refine_start_iter (4)" in messages.text
    )


def test_statistics_follow_rows_that_others_change() -> None:
    state = random_state(10)
    strategy = SplatDefaultDensification(refine_start_iter=1000, refine_scale2d_stop_iter=100)
    set_up(strategy, state)
    gradients = torch.zeros(1, 10, 2)
    gradients[0, :, 1] = torch.arange(10.0)
    radii = torch.ones(1, 10, dtype=torch.int32)
    strategy.densify(1, state, payload(gradients, radii), scene_scale=1.0)
    before = strategy.statistics["grad2d"].clone()
    assert before.tolist() == [i * 24.0 for i in range(10)]  # half the height of 48
    removed = torch.zeros(10, dtype=torch.bool)
    removed[[0, 4]] = True
    state.remove(removed)
    state.duplicate(torch.tensor([True] + [False] * 7))
    kept = [1, 2, 3, 5, 6, 7, 8, 9]
    assert strategy.statistics["grad2d"].tolist() == [*before[kept].tolist(), 0.0]
    assert strategy.statistics["count"].tolist() == [1.0] * 8 + [0.0]
    strategy.densify(2, state, random_payload(9, seed=0), scene_scale=1.0)


def test_statistics_survive_a_checkpoint() -> None:
    state = random_state(10)
    strategy = SplatDefaultDensification()
    set_up(strategy, state)
    strategy.densify(1, state, random_payload(10, seed=3), scene_scale=1.0)
    resumed = SplatDefaultDensification()
    resumed.load_state_dict(deepcopy(strategy.state_dict()))
    set_up(resumed, state)
    for name, value in strategy.statistics.items():
        assert torch.equal(resumed.statistics[name], value)
    assert float(resumed.statistics["count"].sum()) > 0


@pytest.mark.parametrize("kind", [SplatDefaultDensification, SplatMCMCDensification])
def test_gaussians_that_other_parts_added_above_the_cap_stay_in_a_resumed_run(kind: Any) -> None:
    """As in a run that is not interrupted. A lower cap, as the message on too little memory advises, counts at once."""
    state = random_state(40)
    first = kind(max_gaussians=50)
    set_up(first, state)
    state.add(torch.zeros(20, 3))
    for cap, expected in ((50, 60), (70, 60), (45, 45)):
        resumed = kind(max_gaussians=cap)
        resumed.load_state_dict(deepcopy(first.state_dict()))
        set_up(resumed, state)
        assert len(state) == expected
    before_caps_were_stored = {name: value for name, value in first.state_dict().items() if name != "max_gaussians"}
    old = kind(max_gaussians=42)
    old.load_state_dict(before_caps_were_stored)
    set_up(old, state)
    assert len(state) == 42


def test_statistics_of_another_number_of_gaussians_start_anew() -> None:
    state = random_state(10)
    strategy = SplatDefaultDensification()
    strategy.load_state_dict({name: torch.ones(7) for name in ("grad2d", "count", "radii")})
    set_up(strategy, state)
    assert strategy.statistics["count"].tolist() == [0.0] * 10


def test_unseen_gaussians_have_no_statistics() -> None:
    state = random_state(4)
    strategy = SplatDefaultDensification()
    set_up(strategy, state)
    radii = torch.tensor([[3, 0, 5, 0]], dtype=torch.int32)
    strategy.densify(1, state, payload(torch.ones(1, 4, 2), radii), scene_scale=1.0)
    assert strategy.statistics["count"].tolist() == [1.0, 0.0, 1.0, 0.0]
    assert (strategy.statistics["grad2d"] > 0).tolist() == [True, False, True, False]


def test_absgrad_is_asked_of_the_renderer() -> None:
    renderer = Splat3DGSRenderer()
    set_up(SplatDefaultDensification(absgrad=True), random_state(4), renderer)
    assert renderer.absgrad


def test_a_renderer_without_absgrad_is_refused() -> None:
    class Plain:
        pass

    with pytest.raises(ModuleError, match=r"SplatDefaultDensification needs absolute gradients.*Plain does not offer"):
        set_up(SplatDefaultDensification(absgrad=True), random_state(4), Plain())


def test_a_renderer_that_forgets_absolute_gradients_is_told_what_to_do() -> None:
    strategy, state = SplatDefaultDensification(absgrad=True), random_state(4)
    set_up(strategy, state, Splat3DGSRenderer())
    seen = payload(torch.ones(1, 4, 2), torch.ones(1, 4))
    del seen.means2d.absgrad  # type: ignore[attr-defined]
    with pytest.raises(ModuleError, match=r"Pass absgrad=self\.absgrad to .* Or set absgrad of the densification to F"):
        strategy.densify(1, state, seen, scene_scale=1.0)


def test_row_changes_are_carried_without_being_set_up() -> None:
    """A checkpoint may be loaded, and rows change, before `on_setup`."""
    strategy = SplatDefaultDensification()
    strategy.load_state_dict({name: torch.arange(3.0) for name in ("grad2d", "count", "radii")})
    strategy.on_gaussians_changed(RowChange(torch.tensor([2, 0, -1]), 3))
    assert strategy.statistics["count"].tolist() == [2.0, 0.0, 0.0]


def test_as_many_that_grow_as_were_removed_before_make_no_mask_ambiguous() -> None:
    """Its masks are of the Gaussians of the moment, also if there are as many as at the start of `densify`."""
    state = random_state(60)
    with torch.no_grad():
        state.params["opacities"][:] = 0.0
        state.params["scales"][:] = math.log(0.001)
        state.params["opacities"][3] = -10.0
    settings: Any = {"refine_start_iter": 1, "refine_every": 1, "reset_every": 2, "refine_scale2d_stop_iter": 100}
    strategy = SplatDefaultDensification(grow_grad2d=1.0, **settings)
    set_up(strategy, state)
    radii = torch.zeros(1, 60, dtype=torch.int32)
    radii[0, :3] = 60  # of 64 pixels: too large
    radii[0, 4:7] = 1
    gradients = torch.zeros(1, 60, 2)
    gradients[0, 4:7] = 1.0
    numbers: list[int] = []
    state.subscribe(lambda change: numbers.append(change.num_after))
    with state.track_row_changes():
        strategy.densify(3, state, payload(gradients, radii), scene_scale=1.0)
    assert numbers == [57, 60, 59]
    assert float(state.opacities.min()) == 0.5
