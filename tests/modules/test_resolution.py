"""The resolution schedule: spectra of images that are known, and what training sees of it."""

from __future__ import annotations

import copy
import logging
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns import methods
from splatkit_ns.errors import ModuleError, OptionsError
from splatkit_ns.methods import make_method
from splatkit_ns.modules import SplatBaseModule, SplatResolutionSchedule
from splatkit_ns.modules.resolution import amplitude_shares, last_steps
from splatkit_ns.plugin.options.check import check_options
from splatkit_ns.plugin.run.parts.modules import run_modules
from tests.plugin.helpers import forget_writers, make_trainer, run_config


def wave(period: float, size: int = 96) -> torch.Tensor:
    """Stripes of this many pixels, (size, size, 3) uint8."""
    x = torch.arange(size, dtype=torch.float32)
    row = (127.5 + 127.5 * torch.cos(2 * math.pi * x / period)).round()
    return row[None, :, None].expand(size, size, 3).to(torch.uint8)


def test_stripes_fit_into_images_that_can_hold_them() -> None:
    shares = amplitude_shares(wave(period=8), 4)
    assert shares[0] == 1
    assert shares[1] == pytest.approx(1, abs=0.02), "at half the size they are 4 pixels wide"
    fine = amplitude_shares(wave(period=3), 4)
    assert fine[1] == pytest.approx(0.5, abs=0.05), "of these only the mean is left, which is half of the sum"


def test_small_images_are_not_divided_further() -> None:
    assert len(amplitude_shares(wave(8, size=70), 8)) == 2


def test_the_wanted_share_rises_exponentially() -> None:
    ends = last_steps([[1.0, 0.6, 0.4, 0.3, 0.27]], last=1000, max_downscale=4)
    first = 0.27  # what images divided by five would hold
    assert list(ends) == [2, 3, 4]
    for n, share in ((2, 0.6), (3, 0.4), (4, 0.3)):
        wanted = first * (1 / first) ** (ends[n] / 1000)
        assert wanted == pytest.approx(share, rel=5e-3)
    steps = sorted(ends.items())
    assert all(end > later for (_, end), (_, later) in pairwise(steps))


def test_every_image_keeps_a_quarter_of_its_amplitudes() -> None:
    smooth, fine = [1.0, 0.9, 0.8, 0.7], [1.0, 0.4, 0.2, 0.1]
    assert list(last_steps([smooth, fine], last=100, max_downscale=4)) == [2]


def test_images_that_cannot_be_divided_stay_whole() -> None:
    assert last_steps([[1.0]], last=100, max_downscale=4) == {}
    assert last_steps([[1.0, 0.1]], last=100, max_downscale=4) == {}


def plain(value: int, height: int = 333, width: int = 501) -> torch.Tensor:
    return torch.full((height, width, 3), value, dtype=torch.uint8)


def test_a_black_image_does_not_keep_the_others_whole() -> None:
    assert amplitude_shares(plain(0), 5) == [1.0] * 5
    detailed = [1.0, 0.8, 0.6, 0.5, 0.4]
    ends = last_steps([detailed, amplitude_shares(plain(0), 5)], last=1000, max_downscale=4)
    assert list(ends) == [2, 3, 4]
    assert all(0 < end < 1000 for end in ends.values())


@pytest.mark.parametrize("values", [(0,), (137,), (0, 255)])
def test_images_that_lose_nothing_are_small_to_the_last_step(values: tuple[int, ...]) -> None:
    """Sums of their amplitudes differ in the seventh digit, whatever they are divided by."""
    ends = last_steps([amplitude_shares(plain(value), 5) for value in values], last=1000, max_downscale=4)
    assert list(ends) == [2, 3, 4]
    assert list(ends.values()) == pytest.approx([1000] * 3, abs=1)
    assert last_steps([[1.0] * 5], last=1000, max_downscale=4) == dict.fromkeys((2, 3, 4), 1000)


class Sizes(SplatBaseModule[Any]):
    """Notes the height of each training image, and of the last evaluation image."""

    def __init__(self) -> None:
        self.heights: list[int] = []

    def post_step(self, target_frames: torch.Tensor, rendered_frames: torch.Tensor, Ks: torch.Tensor) -> None:
        assert target_frames.shape == rendered_frames.shape
        assert float(Ks[0, 1, 2]) == pytest.approx(target_frames.shape[1] / 2, abs=1)
        self.heights.append(target_frames.shape[1])


def test_training_images_grow_and_evaluation_images_are_whole(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("splatkit_ns.modules.resolution.SMALLEST_SIDE", 11)
    schedule = SplatResolutionSchedule(max_downscale=3, full_from=0.8)
    method = make_method("small-first", modules=[schedule, Sizes()])
    trainer = make_trainer(run_config(tiny_scene, tmp_path, steps=20, method=method))
    trainer.train()
    forget_writers()
    model = trainer.pipeline.model
    whole = model.context.target_frames.shape[1]
    heights = next(module for module in trainer.modules if isinstance(module, Sizes)).heights
    assert heights == sorted(heights)
    assert heights[0] < whole == heights[-1]
    assert heights[int(0.8 * 20) :] == [whole] * 4
    assert "Images of training: 1/" in capsys.readouterr().out
    camera, batch = trainer.pipeline.datamanager.next_eval(0)
    model.parts.frames.downscale = 2
    trainer.pipeline.eval()
    assert model.get_outputs_for_camera(camera)["rgb"].shape[0] == batch["image"].shape[0]


def test_on_a_fixed_schedule_the_divisor_is_halved_every_so_many_steps() -> None:
    schedule = SplatResolutionSchedule(max_downscale=4, halve_every=3)
    schedule.on_setup(logging.getLogger(), None, 100)
    assert [schedule.downscale(step) for step in range(1, 12)] == [4, 4, 4, 2, 2, 2, 1, 1, 1, 1, 1]


def test_the_models_options_name_the_same_schedule_as_in_splatfacto(tmp_path: Path) -> None:
    config: Any = copy.deepcopy(methods.splatkit_3dgs.config)
    config.pipeline.model.num_downscales, config.pipeline.model.resolution_schedule = 2, 3
    (schedule,) = (part for part in run_modules(config, tmp_path) if isinstance(part, SplatResolutionSchedule))
    assert (schedule.max_downscale, schedule.halve_every) == (4, 3)
    config.modules.resolution.max_downscale = 2
    with pytest.raises(OptionsError, match=r"num-downscales is 2 and .*max-downscale is 2, expected only one"):
        check_options(config)


@pytest.mark.parametrize("settings", [{"max_downscale": 0}, {"full_from": 0.0}, {"full_from": 1.1}])
def test_bad_settings_are_one_message(settings: dict[str, Any]) -> None:
    with pytest.raises(ModuleError, match="SplatResolutionSchedule"):
        SplatResolutionSchedule(**settings).on_setup(logging.getLogger(), None, 100)


def test_without_images_to_look_at_it_says_so() -> None:
    with pytest.raises(ModuleError, match="needs training images"):
        SplatResolutionSchedule().on_setup(logging.getLogger(), None, 100)
