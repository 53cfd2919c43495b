"""Two processes train as one process does that takes two images at each step, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig

from splatkit_ns.densification import SplatMCMCDensification
from splatkit_ns.renderer import Splat3DGSRenderer
from tests.faults.runs import CHEAP, MAX_STEPS, make_config
from tests.plugin.step.test_trainables import Exposure
from tests.ranks.bodies import Trained, in_one_process, in_ranks

EVERYTHING: dict[str, Any] = {
    "model_renderer": Splat3DGSRenderer(dropout=0.2),
    "model_background_color": "random",
    "model_image_model": Exposure(),
    "model_camera_optimizer": CameraOptimizerConfig(mode="SO3xR3"),
    "gradient_accumulation_steps": {"shN": 3},
    "steps_per_eval_image": 0,
}
"""Numbers that each rank draws for itself, a part with parameters for each image, and poses that are trained."""


@pytest.fixture(scope="module")
def two_ranks(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return in_ranks(make_config(scene, tmp_path_factory.mktemp("ranks"), **EVERYTHING))


def test_two_ranks_have_the_same_bits(two_ranks: Trained) -> None:
    first, second = two_ranks.parameters
    assert first.keys() == second.keys() >= {"means", "shN", "Exposure.log_gain", "camera_opt"}
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_they_are_those_of_one_process_with_the_mean_gradient(two_ranks: Trained, scene: Path, tmp_path: Path) -> None:
    one = in_one_process(make_config(scene, tmp_path, **EVERYTHING))
    assert two_ranks.numbers == one.numbers
    assert len(set(one.numbers)) > 3, "Gaussians come and go"
    for name, expected in one.parameters[0].items():
        assert torch.equal(two_ranks.parameters[0][name], expected), name


def test_steps_count_images_and_no_image_is_trained_twice_at_once(two_ranks: Trained) -> None:
    first, second = two_ranks.images
    assert len(first) == len(second) == MAX_STEPS // 2
    assert all(a != b for a, b in zip(first, second, strict=True))
    both = [image for pair in zip(first, second, strict=True) for image in pair]
    number = len(set(both))
    assert number == 11, "one of twelve is for evaluation"
    assert sorted(both[:number]) == sorted(set(both)), "each image once in a round"


def test_relocated_gaussians_and_their_noise_are_the_same_too(scene: Path, tmp_path: Path) -> None:
    two = in_ranks(make_config(scene, tmp_path / "two", **CHEAP))
    one = in_one_process(make_config(scene, tmp_path / "one", **CHEAP))
    assert two.numbers == one.numbers
    assert two.numbers[-1] > two.numbers[0]
    for name, expected in one.parameters[0].items():
        assert torch.equal(two.parameters[0][name], expected), name
        assert torch.equal(two.parameters[1][name], expected), name


def test_the_limit_that_follows_the_images_is_the_same_too(scene: Path, tmp_path: Path) -> None:
    schedule: Any = {"refine_start_iter": 4, "refine_every": 5, "refine_stop_iter": 30, "growth": 0.2}
    limits: Any = {"max_per_seed": 1.5, "pixels_per_gaussian": 1.0}
    by_need = SplatMCMCDensification(**schedule, **limits, usual_error=0.6)
    usual = SplatMCMCDensification(**schedule, **limits)
    two = in_ranks(make_config(scene, tmp_path / "two", **CHEAP, model_densification=by_need))
    one = in_one_process(make_config(scene, tmp_path / "one", **CHEAP, model_densification=by_need))
    without = in_one_process(make_config(scene, tmp_path / "usual", **CHEAP, model_densification=usual))
    assert two.numbers == one.numbers
    assert two.numbers[-1] != without.numbers[-1]
    for name, expected in one.parameters[0].items():
        assert torch.equal(two.parameters[0][name], expected), name
        assert torch.equal(two.parameters[1][name], expected), name
