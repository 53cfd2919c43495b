"""`SplatMCMCDensification` against the equations of arXiv:2404.09591, evaluated in other ways."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from decimal import Decimal, getcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from splatkit_ns.densification import SplatMCMCDensification, mcmc
from splatkit_ns.densification.mcmc import MAX_RATIO, add_position_noise, relocated, sample
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.rasterize import rasterization
from splatkit_ns.renderer import Splat3DGSRenderer
from splatkit_ns.rotations import rotation_matrices
from splatkit_ns.splat import RowChange, SplatTrainingState
from tests.densification.helpers import HEIGHT, LOGGER, WIDTH, packed, payload, random_state, set_up
from tests.triton_interpreter import assert_prints


def equation_9(opacity: float, ratio: int) -> tuple[Decimal, Decimal]:
    """New opacity, and new scale relative to the old one, with 80 digits and the paper's double sum."""
    getcontext().prec = 80
    old = Decimal(opacity)
    new = 1 - (1 - old) ** (Decimal(1) / ratio)
    total = Decimal(0)
    for i in range(1, ratio + 1):
        for k in range(i):
            total += math.comb(i - 1, k) * Decimal(-1) ** k / Decimal(k + 1).sqrt() * new ** (k + 1)
    return new, old / total


@pytest.mark.parametrize("ratio", [1, 2, 3, 7, 20, 51])
@pytest.mark.parametrize("opacity", [0.01, 0.3, 0.7, 0.95])
def test_relocation_is_equation_9(opacity: float, ratio: int) -> None:
    expected_opacity, expected_scale = equation_9(opacity, ratio)
    opacities, scales = relocated(torch.tensor([opacity]), torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([ratio]))
    assert float(opacities) == pytest.approx(float(expected_opacity), rel=1e-6)
    assert scales[0].tolist() == pytest.approx([float(expected_scale) * s for s in (1.0, 2.0, 0.5)], rel=1e-5)


def test_relocation_of_a_very_opaque_gaussian_onto_many_stays_finite_and_positive() -> None:
    opacities = torch.tensor([0.999, 0.9999, 1 - 1e-6])
    new, scales = relocated(opacities, torch.ones(3, 3), torch.tensor([51, 51, 80]))
    assert bool(torch.isfinite(scales).all())
    assert bool((scales > 0).all())
    assert bool(((new > 0) & (new < 1)).all())


@pytest.mark.parametrize("ratio", [2, 5, 12])
def test_coincident_gaussians_cover_a_line_as_much_as_the_one_they_replace(ratio: int) -> None:
    """What equation 9 is made for: the integral of 1 - (1 - o g)^n along a line through the centre is kept."""
    opacity, scale = torch.tensor([0.8]), torch.tensor([[1.0, 1.0, 1.0]])
    new_opacity, new_scale = relocated(opacity, scale, torch.tensor([ratio]))
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    width = float(new_scale[0, 0])
    many = 1 - (1 - float(new_opacity) * torch.exp(-(x**2) / (2 * width**2))) ** ratio
    one = 0.8 * torch.exp(-(x**2) / 2)
    assert float(many.sum()) == pytest.approx(float(one.sum()), rel=1e-5)
    assert float(many.max()) == pytest.approx(0.8, rel=1e-5)


@pytest.mark.parametrize("ratio", [2, 5])
def test_coincident_gaussians_render_like_the_one_they_replace(ratio: int) -> None:
    opacity, scale = torch.tensor([0.8]), torch.tensor([[0.3, 0.3, 0.3]])
    one = central_row(opacity, scale)
    new_opacity, new_scale = relocated(opacity, scale, torch.tensor([ratio]))
    many = central_row(new_opacity.repeat(ratio), new_scale.repeat(ratio, 1))
    assert float(many.max()) == pytest.approx(float(one.max()), abs=2e-3)
    assert float(many.sum()) == pytest.approx(float(one.sum()), rel=0.02)  # alphas below 1/255 are not drawn
    naive = central_row(opacity.repeat(ratio), scale.repeat(ratio, 1))
    assert abs(float(naive.sum() / one.sum()) - 1) > 0.2


def central_row(opacities: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """(64,) the middle row of a white picture of Gaussians at one place."""
    num = len(opacities)
    K = torch.tensor([[[100.0, 0, 32], [0, 100, 32.5], [0, 0, 1]]])
    viewmat = torch.eye(4)[None].clone()
    viewmat[0, 2, 3] = 4.0
    quats = torch.tensor([[1.0, 0, 0, 0]]).repeat(num, 1)
    image, _, _ = rasterization(
        torch.zeros(num, 3), quats, scales, opacities, torch.ones(num, 3), viewmat, K, 64, 65, eps2d=0.0
    )
    return image[0, 32, :, 0]


def test_dead_gaussians_move_to_live_ones_and_the_number_stays() -> None:
    state = random_state(100)
    with torch.no_grad():
        state.params["opacities"][:30] = -10.0
    positions = state.means.detach().clone()
    strategy = SplatMCMCDensification(refine_start_iter=0, refine_every=1, max_gaussians=100, noise_lr=0.0)
    set_up(strategy, state)
    strategy.densify(1, state)
    assert len(state) == 100
    assert bool((state.opacities >= strategy.min_opacity - 1e-7).all())
    distances = (state.means.detach()[:30, None] - positions[None, 30:]).norm(dim=-1)
    assert float(distances.min(dim=1).values.max()) == pytest.approx(0.0, abs=1e-6), "they sit where live ones are"


def test_relocated_rows_are_told_to_listeners_and_lose_their_moments() -> None:
    state = random_state(50)
    with torch.no_grad():
        state.params["opacities"][:5] = -10.0
    changes: list[RowChange] = []
    state.subscribe(changes.append)
    strategy = SplatMCMCDensification(refine_start_iter=0, refine_every=1, max_gaussians=50, noise_lr=0.0)
    set_up(strategy, state)
    strategy.densify(1, state)
    (change,) = changes
    new = change.source < 0
    assert bool(new[:5].all())
    assert int(new.sum()) > 5, "those they were put on count as new, too"
    moments = state.optimizers["means"].state[state.params["means"]]["exp_avg"]
    assert float(moments[new].abs().max()) == 0
    assert float(moments[~new].abs().min(dim=1).values.max()) > 0


def test_it_grows_by_five_per_cent_up_to_the_cap() -> None:
    state = random_state(100)
    with torch.no_grad():
        state.params["opacities"].fill_(0.5)
    strategy = SplatMCMCDensification(refine_start_iter=10, refine_every=5, refine_stop_iter=36, max_gaussians=114)
    set_up(strategy, state)
    numbers = {}
    for step in range(1, 50):
        strategy.densify(step, state)
        numbers[step] = len(state)
    assert [numbers[step] for step in (1, 10, 14, 15, 20, 25, 30, 49)] == [100, 100, 100, 105, 110, 114, 114, 114]


def test_a_run_that_starts_above_the_cap_is_thinned() -> None:
    state = random_state(50)
    strategy = SplatMCMCDensification(max_gaussians=20, refine_start_iter=0, refine_every=1)
    set_up(strategy, state)
    assert len(state) == 20
    strategy.densify(1, state)
    assert len(state) == 20


def test_all_dead_or_none_dead_changes_nothing_but_the_positions() -> None:
    for logit in (-10.0, 3.0):
        state = random_state(20)
        with torch.no_grad():
            state.params["opacities"].fill_(logit)
        before = state.scales.detach().clone()
        strategy = SplatMCMCDensification(refine_start_iter=0, refine_every=1, max_gaussians=20)
        set_up(strategy, state)
        strategy.densify(1, state)
        assert torch.equal(state.scales.detach(), before)


def noisy_state(opacity: float, num: int = 40_000) -> SplatTrainingState:
    """The same Gaussian many times, long and turned."""
    return SplatTrainingState.from_tensors(
        {
            "means": torch.zeros(num, 3),
            "scales": torch.tensor([0.5, 0.1, 0.02]).log().repeat(num, 1),
            "quats": torch.tensor([0.8, 0.3, -0.4, 0.33]).repeat(num, 1),
            "opacities": torch.full((num,), opacity).logit(),
            "sh0": torch.zeros(num, 1, 3),
            "shN": torch.zeros(num, 0, 3),
        }
    )


def test_noise_has_the_covariance_of_equation_8() -> None:
    """Noise is Sigma times a normal vector, so its covariance is Sigma², times the gate and the strength squared."""
    torch.manual_seed(0)
    opacity, strength = 0.004, 3.0
    state = noisy_state(opacity)
    add_position_noise(state, strength)
    noise = state.means.detach().double()
    rotation = rotation_matrices(state.quats[:1])[0].double()
    covariance = rotation @ torch.diag(torch.tensor([0.5, 0.1, 0.02]).double() ** 2) @ rotation.T
    gate = 1 / (1 + math.exp(-100 * (1 - opacity - 0.995)))
    expected = covariance @ covariance * (gate * strength) ** 2
    found = noise.T @ noise / len(noise)
    assert float((found - expected).norm() / expected.norm()) < 0.03
    assert float(noise.mean(0).norm()) < 0.02


class Data:
    """Says how many pixels there are."""

    def __init__(self, num_train_pixels: int) -> None:
        self.num_train_pixels = num_train_pixels


@pytest.mark.parametrize(
    ("pixels", "per_seed", "most", "expected"),
    [
        (100_000, 0.0, 130, 130),  # no limit but the absolute one
        (100_000, 1.2, 1000, 120),  # seeds decide
        (100_000, 1.2, 110, 110),
        (200_000, 1.2, 1000, 200),  # few seeds for so many pixels
        (5_250, 1.2, 1000, 105),  # few pixels for so many seeds
    ],
)
def test_growth_ends_at_the_limit_that_seeds_and_pixels_give(
    pixels: int, per_seed: float, most: int, expected: int
) -> None:
    state = random_state(100)
    strategy = SplatMCMCDensification(
        refine_start_iter=0, refine_every=1, noise_lr=0.0, growth=0.5, max_gaussians=most, max_per_seed=per_seed
    )
    strategy.on_setup(LOGGER, state, Data(pixels))
    for step in range(1, 20):
        strategy.densify(step, state)
    assert len(state) == expected


def test_how_many_pixels_a_gaussian_needs_can_be_set() -> None:
    state = random_state(100)
    settings: Any = {"refine_start_iter": 0, "refine_every": 1, "noise_lr": 0.0, "growth": 0.5, "max_per_seed": 9.0}
    strategy = SplatMCMCDensification(**settings, pixels_per_gaussian=10.0)
    strategy.on_setup(LOGGER, state, Data(2000))
    for step in range(1, 20):
        strategy.densify(step, state)
    assert len(state) == 200


def test_a_resumed_run_keeps_the_limit_of_its_start() -> None:
    settings: Any = {"refine_start_iter": 0, "refine_every": 1, "noise_lr": 0.0, "growth": 0.1, "max_per_seed": 1.5}
    state = random_state(100)
    first = SplatMCMCDensification(**settings)
    first.on_setup(LOGGER, state)
    first.densify(1, state)
    assert len(state) == 110
    resumed = SplatMCMCDensification(**settings)
    resumed.load_state_dict(first.state_dict())
    resumed.on_setup(LOGGER, state)
    for step in range(2, 20):
        resumed.densify(step, state)
    assert len(state) == 150


def pulled(power: float, **settings: Any) -> tuple[SplatMCMCDensification, SplatTrainingState]:
    """A strategy on 400 Gaussians of one opacity, with a renderer that computes absolute gradients."""
    state = random_state(400)
    with torch.no_grad():
        state.params["opacities"].fill_(0.0)
    strategy = SplatMCMCDensification(
        refine_start_iter=0, refine_every=3, noise_lr=0.0, growth=0.5, gradient_power=power, **settings
    )
    state.subscribe(strategy.on_gaussians_changed)
    strategy.on_setup(LOGGER, state, renderer=Splat3DGSRenderer())
    return strategy, state


def pull(first: int) -> SplatRenderPayload:
    """A render in which the gradients of the first Gaussians are four times as large as those of the others."""
    gradients = torch.full((1, 400, 2), 1e-4)
    gradients[:, :first] *= 4
    return payload(gradients, torch.ones(1, 400, dtype=torch.int32))


@pytest.mark.parametrize(("power", "share"), [(0.0, 0.25), (0.5, 0.4), (1.0, 4 / 7), (2.0, 16 / 19)])
@pytest.mark.parametrize("form", [lambda rendered: rendered, packed])
def test_gaussians_are_drawn_in_proportion_to_a_power_of_their_gradients(power: float, share: float, form: Any) -> None:
    torch.manual_seed(0)
    strategy, state = pulled(power)
    changes: list[RowChange] = []
    state.subscribe(changes.append)
    for step in (1, 2, 3):
        strategy.densify(step, state, form(pull(first=100)))
    (change,) = changes
    assert len(state) == 600
    assert float((change.parents[400:] < 100).float().mean()) == pytest.approx(share, abs=0.09)


def test_gradients_are_summed_up_between_refinements_and_go_on_in_a_resumed_run() -> None:
    strategy, state = pulled(1.0)
    for step in (1, 2):
        strategy.densify(step, state, pull(first=100))
    expected = 2 * math.hypot(8e-4 * WIDTH / 2, 8e-4 * HEIGHT / 2)  # the payload's absolute gradients are doubled
    assert float(strategy.gradient_sums[0]) == pytest.approx(expected)
    resumed = SplatMCMCDensification(gradient_power=1.0)
    resumed.load_state_dict(strategy.state_dict())
    resumed.on_setup(LOGGER, state, renderer=Splat3DGSRenderer())
    assert torch.equal(resumed.gradient_sums, strategy.gradient_sums)
    strategy.densify(3, state, pull(first=100))
    assert strategy.gradient_sums.shape == (600,)
    assert not bool(strategy.gradient_sums.any())
    signed = SplatMCMCDensification(gradient_power=1.0)
    signed.on_setup(LOGGER, random_state(400))
    signed.densify(1, state, pull(first=100))
    assert float(signed.gradient_sums[0]) == pytest.approx(expected / 4), "without absolute gradients, plain ones"
    assert "gradient_sums" not in pulled(0.0)[0].state_dict()


@dataclass
class Channels(Splat3DGSRenderer):
    """A renderer of a user's."""

    kind: str | None = "absolute"

    def screen_gradients(self, lenses: Any = ("pinhole",)) -> Any:
        return self.kind


@pytest.mark.parametrize(
    ("kind", "share", "said"),
    [
        ("signed", 4 / 7, "Channels computes no absolute gradients on the screen: SplatMCMCDensification draws by"),
        (None, 1 / 4, "Channels computes no gradients on the screen here: SplatMCMCDensification draws by opacities"),
    ],
)
def test_what_gradients_there_are_is_used_and_said(
    kind: str | None, share: float, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    strategy, state = pulled(1.0)
    changes: list[RowChange] = []
    state.subscribe(changes.append)
    with caplog.at_level(logging.INFO, LOGGER.name):
        strategy.on_setup(LOGGER, state, renderer=Channels(kind=kind))
    assert [text.startswith(said) for text in caplog.messages] == [True]
    assert ("gradient_sums" in strategy.state_dict()) == (kind is not None)
    for step in (1, 2, 3):
        strategy.densify(step, state, pull(first=100))
    (change,) = changes
    assert float((change.parents[400:] < 100).float().mean()) == pytest.approx(share, abs=0.09)


def test_a_renderer_that_forgets_the_absolute_gradients_is_told_once_and_trains(
    caplog: pytest.LogCaptureFixture,
) -> None:
    strategy, state = pulled(1.0)
    for step in (1, 2):
        rendered = pull(first=100)
        del rendered.means2d.absgrad  # type: ignore[attr-defined]
        strategy.densify(step, state, rendered)
    assert float(strategy.gradient_sums[0]) > float(strategy.gradient_sums[-1]) > 0  # type: ignore[index]
    (told,) = caplog.messages
    assert told.startswith("SplatMCMCDensification draws by signed gradients: means2d of SplatRenderPayload has no abs")
    assert "Pass absgrad=self.absgrad to rasterization" in told


def test_ranks_put_their_gradients_together() -> None:
    class Ranks:
        size, is_first = 2, False

        def add(self, values: torch.Tensor) -> None:
            values.mul_(2)

    strategy, state = pulled(1.0)
    strategy.densify(1, state, pull(first=100))
    before = strategy.gradient_sums.clone()
    strategy.gather_from_ranks(Ranks())  # type: ignore[arg-type]
    assert torch.equal(strategy.gradient_sums, 2 * before)
    strategy.forget_gathered(Ranks())  # type: ignore[arg-type]
    assert not bool(strategy.gradient_sums.any())


KERNEL_CHECK = """
import torch
from torch import Tensor
from splatkit_ns.densification._noise_triton import add_noise
from splatkit_ns.rotations import rotation_matrices

def check(device, number):
    generator = torch.Generator().manual_seed(0)
    quats = torch.randn(number, 4, generator=generator)
    log_scales = torch.randn(number, 3, generator=generator) * 0.3 - 1
    logits = torch.full((number,), -5.0) + torch.rand(number, generator=generator)
    before = torch.rand(number, 3, generator=generator)
    rotations = rotation_matrices(quats).double()
    covariances = rotations @ torch.diag_embed((2 * log_scales.double()).exp()) @ rotations.mT
    gates = torch.sigmoid(100 * (1 - torch.sigmoid(logits.double()) - 0.995))[:, None]

    def normals(seed):
        means = before.clone().to(device)
        numbers = torch.tensor([2.0, seed], dtype=torch.float64, device=device)
        add_noise(means, quats.to(device), log_scales.to(device), logits.to(device), numbers)
        moved = (means.cpu() - before).double() / (2.0 * gates)
        return torch.linalg.solve(covariances, moved[:, :, None])[:, :, 0]

    drawn = normals(7)
    assert torch.equal(drawn, normals(7))
    assert not torch.isclose(drawn, normals(8)).any(dim=1).all()
    bound = 4 / number**0.5
    assert drawn.mean(0).abs().max() < bound, drawn.mean(0)
    assert (torch.cov(drawn.T) - torch.eye(3)).abs().max() < 2 * bound, torch.cov(drawn.T)
    assert torch.corrcoef(torch.cat([drawn[:-1], drawn[1:]], 1).T)[:3, 3:].abs().max() < bound
    assert abs(float((drawn.abs() < 1).double().mean()) - 0.6827) < bound
"""
"""Undoes what the kernel does to its normal numbers, and looks whether they are normal and independent."""


def test_noise_kernel_is_a_covariance_times_normal_numbers() -> None:
    assert_prints(KERNEL_CHECK + "check('cpu', 1001)\nprint('as equation 8')", "as equation 8\n")


@pytest.mark.gpu
def test_noise_kernel_on_the_gpu() -> None:
    exec(KERNEL_CHECK + "check('cuda', 200_001)", {})


def test_motion_in_a_graph_is_the_noise_that_densify_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Except at the steps at which Gaussians are relocated: there it does nothing, and noise follows as ever."""
    launched: list[tuple[float, float]] = []

    def kernel(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, numbers: Tensor) -> None:
        launched.append(tuple(numbers.tolist()))

    monkeypatch.setattr(mcmc, "_kernel_for", lambda state: kernel)
    strategy, state = SplatMCMCDensification(refine_start_iter=0, refine_every=4), noisy_state(0.4, num=10)
    set_up(strategy, state)
    rate = state.optimizers["means"].param_groups[0]["lr"]
    motion = strategy.motion(state)
    assert motion is not None
    expected: list[tuple[float, float]] = []
    for step in range(2, 11, 2):
        for with_motion in (False, True):
            torch.manual_seed(step)
            if with_motion:
                numbers = torch.tensor(motion.numbers(step, 2, rate), dtype=torch.float64)
                motion.launch(numbers)
                motion.done(step, 2)
            torch.manual_seed(step)
            strategy.densify(step, state, images_per_step=2)
        refines = step in (4, 8)
        noise = launched[0]
        assert noise[0] == pytest.approx(5e5 * rate)
        if refines:
            assert (launched[1][0], launched[2][0]) == (0.0, noise[0])
        else:
            assert launched[1:] == [noise]
        expected.append(noise)
        launched.clear()
    assert len(set(expected)) == 5, "another seed at each step"


def test_opaque_gaussians_do_not_shake() -> None:
    state = noisy_state(0.9, num=100)
    add_position_noise(state, 1.0)
    assert float(state.means.detach().abs().max()) < 1e-12


def test_noise_goes_on_after_refinement_and_follows_the_learning_rate() -> None:
    spread = []
    for rate in (1e-4, 2e-4):
        torch.manual_seed(0)
        state = noisy_state(0.004, num=1000)
        state.optimizers["means"].param_groups[0]["lr"] = rate
        strategy = SplatMCMCDensification(refine_stop_iter=10)
        set_up(strategy, state)
        strategy.densify(500, state)
        spread.append(float(state.means.detach().norm()))
    assert spread[1] == pytest.approx(2 * spread[0], rel=1e-5)
    assert spread[0] > 0


def test_sampling_is_in_proportion_to_the_weights() -> None:
    torch.manual_seed(0)
    counts = torch.bincount(sample(torch.tensor([0.0, 1.0, 3.0, 0.0]), 40_000), minlength=4)
    assert counts[0] == 0
    assert counts[3] == 0
    assert float(counts[2] / counts[1]) == pytest.approx(3.0, rel=0.05)


def test_more_than_the_largest_ratio_counts_as_that() -> None:
    arguments = torch.tensor([0.5]), torch.ones(1, 3)
    capped = relocated(*arguments, torch.tensor([MAX_RATIO]))
    for mine, other in zip(relocated(*arguments, torch.tensor([500])), capped, strict=True):
        assert torch.equal(mine, other)
