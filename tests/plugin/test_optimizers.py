"""Learning rates: Python floats, and the schedule's values by its formula."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from nerfstudio.plugins.types import MethodSpecification

from splatkit_ns import methods
from splatkit_ns.errors import OptionsError
from splatkit_ns.methods import gaussian_optimizers
from splatkit_ns.parts.trainables import Schedule
from splatkit_ns.plugin.optimizers import (
    ExponentialDecayConfig,
    FusedAdamConfig,
    LateDecayConfig,
    changed_optimizers,
    part_optimizers,
    run_optimizers,
)
from splatkit_ns.plugin.options.groups import GroupOptions
from splatkit_ns.splat import LEARNING_RATES


def schedule(
    rate: float, config: ExponentialDecayConfig | LateDecayConfig, steps: int
) -> tuple[torch.optim.Optimizer, list[float]]:
    optimizer = FusedAdamConfig(lr=rate).setup([torch.nn.Parameter(torch.zeros(2))])
    scheduler = config.setup().get_scheduler(optimizer, rate)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return optimizer, rates


def test_the_rate_falls_exponentially_and_then_stays() -> None:
    _, rates = schedule(1e-2, ExponentialDecayConfig(lr_final=1e-4, max_steps=10), 14)
    expected = [1e-2 * (1e-4 / 1e-2) ** (min(step, 10) / 10) for step in range(14)]
    assert rates == pytest.approx(expected)


def test_a_warm_up_rises_like_a_quarter_of_a_sine() -> None:
    _, rates = schedule(1.0, ExponentialDecayConfig(lr_final=0.01, max_steps=14, warmup_steps=4), 15)
    assert rates[:4] == pytest.approx([math.sin(math.pi / 2 * step / 4) for step in range(4)], abs=1e-12)
    assert rates[4:] == pytest.approx([0.01 ** (step / 10) for step in range(11)])


def test_a_late_fall_begins_late() -> None:
    _, rates = schedule(2.0, LateDecayConfig(lr_share=0.01, max_steps=20, decay_from=0.8), 22)
    assert rates[:17] == [2.0] * 17
    assert rates[17:] == pytest.approx([2 * 0.01**share for share in (0.25, 0.5, 0.75, 1, 1)])
    _, rates = schedule(1.0, LateDecayConfig(max_steps=5, decay_from=1.0), 7)
    assert rates == pytest.approx([1.0] * 6 + [0.1])


def test_rates_are_python_floats_so_that_checkpoints_load_safely() -> None:
    optimizer, rates = schedule(1e-2, ExponentialDecayConfig(lr_final=1e-4, max_steps=10), 5)
    assert {type(rate) for rate in rates} == {float}
    assert type(optimizer.param_groups[0]["lr"]) is float
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["param_groups"][0]["lr"] == optimizer.param_groups[0]["lr"]


def test_a_schedule_without_an_end_says_so() -> None:
    for config in (ExponentialDecayConfig(), LateDecayConfig()):
        with pytest.raises(ValueError, match="max_steps is not set"):
            schedule(1e-2, config, 1)


def test_a_run_fills_in_its_length_and_scale_without_touching_the_config() -> None:
    configs = gaussian_optimizers()
    made = run_optimizers(configs, ["means", "quats"], 700, {"means": 2.5})
    assert set(made) == {"means", "quats"}
    assert made["means"]["optimizer"].lr == pytest.approx(2.5 * LEARNING_RATES["means"])
    assert made["means"]["scheduler"].lr_final == pytest.approx(2.5 * LEARNING_RATES["means"] / 100)
    assert made["means"]["scheduler"].max_steps == 700
    assert made["quats"]["optimizer"].lr == LEARNING_RATES["quats"]
    assert configs["means"]["scheduler"].max_steps is None
    assert configs["means"]["optimizer"].lr == LEARNING_RATES["means"]


def test_changes_of_single_groups_keep_the_shape_of_their_schedules() -> None:
    configs = gaussian_optimizers(lr_share=0.1)
    options = GroupOptions(
        learning_rates={"means": 1e-3, "camera_opt": 2e-4, "sh0": 0.02, "quats": 0.004},
        final_learning_rates={"sh0": 0.001},
        warmup_steps={"means": 7, "sh0": 5},
        max_norms={"shN": 0.5},
    )
    made = changed_optimizers(configs, options)
    assert made["means"]["optimizer"].lr == 1e-3
    assert made["means"]["scheduler"].lr_final == pytest.approx(1e-5)
    assert made["means"]["scheduler"].warmup_steps == 7
    assert made["camera_opt"]["scheduler"].lr_final == pytest.approx(1e-6)
    assert made["camera_opt"]["scheduler"].warmup_steps == 1000
    assert made["sh0"]["scheduler"] == ExponentialDecayConfig(lr_final=0.001, warmup_steps=5)
    assert (made["quats"]["optimizer"].lr, made["quats"]["scheduler"]) == (0.004, configs["quats"]["scheduler"])
    assert made["shN"]["optimizer"].max_norm == 0.5
    assert made["scales"] == configs["scales"]
    assert configs == gaussian_optimizers(lr_share=0.1), "the method's own stay"


def test_a_rate_can_rise_and_then_stay() -> None:
    made = changed_optimizers(gaussian_optimizers(), GroupOptions(warmup_steps={"sh0": 4}))["sh0"]
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=made["optimizer"].lr)
    made["scheduler"].max_steps = 10
    steps = made["scheduler"].setup().get_scheduler(optimizer, made["optimizer"].lr)
    factors = [steps.lr_lambdas[0](step) for step in range(10)]
    assert factors[0] == 0 < factors[1] < factors[3] < 1
    assert factors[4:] == [1.0] * 6
    assert part_optimizers({"a": Schedule(lr=0.1, warmup_steps=4)})["a"]["scheduler"] == ExponentialDecayConfig(
        lr_final=0.1, warmup_steps=4
    )


def test_a_schedule_without_a_warm_up_is_not_given_one_in_silence() -> None:
    with pytest.raises(OptionsError, match="--warmup-steps of sh0: LateDecayConfig has none"):
        changed_optimizers(gaussian_optimizers(lr_share=0.1), GroupOptions(warmup_steps={"sh0": 4}))


def test_all_rates_can_fall_late_and_those_of_means_fall_all_the_time() -> None:
    made = run_optimizers(gaussian_optimizers(lr_share=0.1, decay_from=0.7), list(LEARNING_RATES), 700, {})
    assert isinstance(made["means"]["scheduler"], ExponentialDecayConfig)
    for name in LEARNING_RATES.keys() - {"means"}:
        late = made[name]["scheduler"]
        assert (late.lr_share, late.decay_from, late.max_steps) == (0.1, 0.7, 700)


def test_the_cameras_keep_their_schedule() -> None:
    made = run_optimizers(gaussian_optimizers(lr_share=0.1), ["camera_opt"], 700, {})["camera_opt"]["scheduler"]
    assert isinstance(made, ExponentialDecayConfig)
    assert (made.lr_final, made.warmup_steps) == (5e-7, 1000)


@pytest.mark.parametrize(
    ("method", "decay_from", "dropout_full_from"),
    [
        (methods.splatkit_3dgs, 0.9, 1.0),
        (methods.splatkit_3dgs_fast, 0.8, 1.0),
        (methods.splatkit_3dgs_big, 0.9, 1 / 3),
        (methods.splatkit_3dgs_small, 0.9, 1.0),
        (methods.splatkit_2dgs, 0.9, 1.0),
        (methods.splatkit_3dgs_adc, None, 1.0),
        (methods.splatkit_3dgs_mcmc, None, 1.0),
    ],
)
def test_which_methods_come_to_rest(
    method: MethodSpecification, decay_from: float | None, dropout_full_from: float
) -> None:
    config: Any = method.config
    for name in LEARNING_RATES.keys() - {"means"}:
        late = config.optimizers[name]["scheduler"]
        assert (late and late.decay_from) == decay_from, name
    assert config.pipeline.model.renderer.dropout_full_from == dropout_full_from


def test_an_end_that_is_given_stays() -> None:
    configs = gaussian_optimizers()
    configs["means"]["scheduler"].max_steps = 50
    assert run_optimizers(configs, ["means"], 700, {})["means"]["scheduler"].max_steps == 50


def test_the_methods_have_an_optimizer_for_every_parameter_and_the_cameras() -> None:
    assert set(gaussian_optimizers()) == {*LEARNING_RATES, "camera_opt"}
