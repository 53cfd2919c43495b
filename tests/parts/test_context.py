"""Binding of arguments by name, and what a new step forgets."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from splatkit_ns.errors import ModuleError
from splatkit_ns.parts.context import LOSS_ARGUMENTS, RUN_ARGUMENTS, StepContext, bind_arguments, is_finite


def context(**values: Any) -> StepContext:
    return StepContext(logger=logging.getLogger("test"), max_steps=10, **values)


def test_every_name_that_may_be_asked_for_is_known_to_the_context() -> None:
    made = context()
    for name in LOSS_ARGUMENTS:
        assert hasattr(made, name), name
    assert set(LOSS_ARGUMENTS) == {
        "logger", "renderer", "data_provider", "loss_fn", "densification", "modules", "max_steps", "training_state",
        "step", "loss", "rendered_frames", "target_frames", "rend_out", "masks", "world_rank", "world_size",
        "scene_scale", "num_train_images", "image_model", "images_per_step", "image_index", "image_name",
        "pixel_weights", "loss_terms", "target_depths", "target_normals", "target_alphas", "view", "cam_to_worlds",
        "Ks", "stop",
    }  # fmt: skip


def test_values_are_read_at_the_call_not_at_the_binding() -> None:
    made = context(step=1)
    call = bind_arguments(lambda step: step, RUN_ARGUMENTS, "f")
    made.step = 5
    assert call(made) == 5


def test_extra_arguments_come_with_the_call() -> None:
    call = bind_arguments(lambda row_change, step: (row_change, step), RUN_ARGUMENTS, "f", extra=("row_change",))
    assert call(context(step=2), row_change="new rows") == ("new rows", 2)


def test_defaults_give_way_to_what_there_is() -> None:
    assert bind_arguments(lambda step=-1: step, RUN_ARGUMENTS, "f")(context(step=4)) == 4


def test_an_unknown_name_is_refused_even_with_a_default_or_kwargs() -> None:
    """A misspelt name with a default would silently keep it."""

    def with_default(iteration: int = 0) -> None: ...

    def with_kwargs(iteration: int, **kwargs: Any) -> None: ...

    for method in (with_default, with_kwargs):
        with pytest.raises(ModuleError, match=r"MyLoss.f takes 'iteration'"):
            bind_arguments(method, RUN_ARGUMENTS, "MyLoss.f")


def test_positional_only_arguments_are_refused() -> None:
    def method(step: int, /) -> None: ...

    with pytest.raises(ModuleError, match=r"MyLoss.f takes an argument by position only \('/'\)"):
        bind_arguments(method, RUN_ARGUMENTS, "MyLoss.f")


class WithoutSelf:
    """Python would pass the object itself as the step."""

    def post_step(step: int) -> None:  # type: ignore[reportSelfClsParameterName]
        ...

    async def pre_step(self, step: int) -> None: ...

    @staticmethod
    def on_evaluate(step: int) -> int:
        return step


def test_methods_that_would_be_called_wrongly_or_never_run_are_refused() -> None:
    part = WithoutSelf()
    with pytest.raises(ModuleError, match=r"MyPart.post_step has no self: its first argument is 'step'"):
        bind_arguments(part.post_step, RUN_ARGUMENTS, "MyPart.post_step")
    with pytest.raises(ModuleError, match=r"MyPart.pre_step is async, and would never run"):
        bind_arguments(part.pre_step, RUN_ARGUMENTS, "MyPart.pre_step")
    assert bind_arguments(part.on_evaluate, RUN_ARGUMENTS, "MyPart.on_evaluate")(context(step=3)) == 3


def test_star_args_stay_empty() -> None:
    assert bind_arguments(lambda *args, step: (args, step), RUN_ARGUMENTS, "f")(context(step=3)) == ((), 3)


def test_a_new_step_forgets_images_and_losses() -> None:
    made = context(step=3, loss=torch.tensor(1.0), masks=torch.ones(1, 2, 2), rend_out=object(), scene_scale=2.0)
    made.loss_terms = {"l1": torch.tensor(1.0)}
    made.image_name = "dog.png"
    made.start_step(4)
    assert made.step == 4
    assert (made.loss, made.masks, made.rend_out, made.target_frames, made.rendered_frames) == (None,) * 5
    assert (made.loss_terms, made.image_name) == ({}, "")
    assert made.scene_scale == 2.0


def test_is_finite() -> None:
    assert is_finite(torch.tensor(1.0))
    assert not is_finite(torch.tensor(float("nan")))
    assert not is_finite(torch.tensor(float("-inf")))
