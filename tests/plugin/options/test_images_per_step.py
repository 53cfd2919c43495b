"""The number of images that each process renders at a step, if no option says it."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace
from typing import Any, cast

import pytest

from splatkit_ns.hooks import CheckPointHook, Hook, HookModule, LogHook
from splatkit_ns.methods import splatkit_3dgs_adc, splatkit_3dgs_big, splatkit_3dgs_fast
from splatkit_ns.modules import SplatBaseModule, SplatTimer
from splatkit_ns.parts.context import StepContext
from splatkit_ns.plugin.options.images_per_step import batch_size_of


class Mine(SplatBaseModule[Any]):
    """A part of a user."""


class MyHook(Hook):
    """A hook of a user."""


def context(ranks: int, images: int, pixels: int = 750_000) -> StepContext:
    data = SimpleNamespace(num_train_pixels=images * pixels)
    return cast(StepContext, SimpleNamespace(world_size=ranks, num_train_images=images, modules=[], data_provider=data))


@pytest.mark.parametrize(
    ("ranks", "images", "changes", "expected"),
    [
        (2, 43, {"max_num_iterations": 14_620}, 2),
        (2, 366, {"max_num_iterations": 30_000}, 2),
        (4, 366, {"max_num_iterations": 30_000}, 2),
        (1, 366, {"max_num_iterations": 30_000}, 1),
        (2, 39, {"max_num_iterations": 30_000}, 1),
        (2, 366, {"max_num_iterations": 12_999}, 1),
        (8, 366, {"max_num_iterations": 30_000}, 1),
        (2, 366, {"max_num_iterations": 30_000, "on_nan": "skip"}, 1),
        (2, 366, {"max_num_iterations": 30_000, "count_images": False}, 1),
        (2, 366, {"max_num_iterations": 30_000, "batch_size": 1}, 1),
        (1, 3, {"max_num_iterations": 10, "batch_size": 3}, 3),
    ],
)
def test_two_images_with_several_gpus_in_long_runs(
    ranks: int, images: int, changes: dict[str, Any], expected: int
) -> None:
    config: Any = deepcopy(splatkit_3dgs_big.config)
    config.machine.device_type = "cuda"
    vars(config).update(changes)
    assert batch_size_of(config, context(ranks, images), []) == expected


@pytest.mark.parametrize(
    ("ranks", "images", "changes", "expected"),
    [
        (1, 100, {"max_num_iterations": 6500}, 2),
        (1, 99, {"max_num_iterations": 6435}, 1),
        (1, 19, {"max_num_iterations": 6500}, 1),
        (1, 100, {"max_num_iterations": 6500, "pairs_on_one_gpu": False}, 1),
        (1, 100, {"max_num_iterations": 6500, "batch_size": 1}, 1),
        (2, 366, {"max_num_iterations": 6500}, 1),
    ],
)
def test_two_images_on_one_gpu_with_methods_that_ask_for_it(
    ranks: int, images: int, changes: dict[str, Any], expected: int
) -> None:
    config: Any = deepcopy(splatkit_3dgs_fast.config)
    config.machine.device_type = "cuda"
    vars(config).update(changes)
    assert batch_size_of(config, context(ranks, images), []) == expected


def test_one_large_image_fills_one_gpu() -> None:
    config: Any = deepcopy(splatkit_3dgs_fast.config)
    config.machine.device_type = "cuda"
    assert batch_size_of(config, context(1, 100, pixels=1_999_999), []) == 2
    assert batch_size_of(config, context(1, 100, pixels=2_000_000), []) == 1
    config.max_num_iterations = 30_000
    assert batch_size_of(config, context(2, 100, pixels=12_000_000), []) == 2, "several exchange half as often"


def test_one_image_on_cpus_and_with_parts_of_users() -> None:
    config: Any = deepcopy(splatkit_3dgs_big.config)
    config.max_num_iterations, config.machine.device_type = 30_000, "cuda"
    assert batch_size_of(config, context(2, 366), [SplatTimer()]) == 2
    assert batch_size_of(config, context(2, 366), [Mine()]) == 1
    assert batch_size_of(config, context(2, 366), [HookModule([LogHook(), CheckPointHook()])]) == 2
    assert batch_size_of(config, context(2, 366), [HookModule([LogHook(), MyHook()])]) == 1
    assert batch_size_of(splatkit_3dgs_adc.config, context(2, 366), []) == 1, "other methods have a number"
    config.machine.device_type = "cpu"
    assert batch_size_of(config, context(2, 366), []) == 1
