"""Parts that other parts hold take part as all others do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from nerfstudio.utils.eval_utils import eval_setup
from torch import nn

from splatkit_ns.densification import SplatDensification, SplatMCMCDensification
from splatkit_ns.image_model import SplatImageModel
from splatkit_ns.loss_fn import Splat3DGSLossFn, SplatLossFn
from splatkit_ns.modules import RowTrainable, SplatBaseModule, Trainable, call_named
from splatkit_ns.parts.base import SplatBaseModule as Part
from splatkit_ns.parts.context import StepContext
from splatkit_ns.parts.dispatch import HOOKS, ModuleDispatcher, named_parts
from splatkit_ns.parts.nesting import held_parts, passed_on, with_held_parts
from splatkit_ns.renderer import Splat3DGSRenderer, SplatRenderer
from splatkit_ns.splat import read_checkpoint
from splatkit_ns.trainer.result import open_run
from tests.trainer.helpers import train


class Leaf(Part):
    """Holds nothing."""


class Holder(Part):
    """Holds what it is given."""

    def __init__(self, *held: Any) -> None:
        self.held = held


class Idle(Holder):
    """Is switched off."""

    @property
    def is_idle(self) -> bool:
        return True


def test_parts_in_attributes_lists_and_dicts_come_before_their_holder() -> None:
    a, b, c = Leaf(), Leaf(), Leaf()
    middle = Holder(b)
    outer = Holder(a, middle, 3, "text")
    outer.by_name = {"c": c}  # type: ignore[attr-defined]
    assert held_parts(outer) == [a, middle, c]
    assert with_held_parts([outer, a]) == [b, middle, c, outer, a], "what is in the list itself stays where it is"
    assert with_held_parts([Idle(a)])[1:] == [], "what is switched off costs nothing"
    circle = Holder()
    circle.held = (Holder(circle), circle)
    assert with_held_parts([circle]) == [circle.held[0], circle]


def test_submodules_of_a_network_are_found() -> None:
    class Net(nn.Module, SplatImageModel):
        def __init__(self, *held: Any) -> None:
            super().__init__()
            self.one, self.many = nn.Linear(1, 1), nn.ModuleList(held)

        def apply(self, rendered: Any, frame: Any) -> Any:
            return rendered

    inner = Net()
    assert held_parts(Net(inner)) == [inner]


def test_a_holder_keeps_its_name() -> None:
    outer, inner, other = Holder(Holder(Leaf())), Leaf(), Leaf()
    outer.more = inner  # type: ignore[attr-defined]
    assert list(named_parts([outer, other])) == ["Leaf_2", "Holder_2", "Leaf_3", "Holder", "Leaf"]


def test_modules_change_no_name_of_what_a_loss_holds() -> None:
    """Those who open the run know the loss, but not its modules."""
    loss, module = Holder(Leaf()), Leaf()
    assert list(named_parts([loss])) == ["Leaf", "Holder"]
    assert list(named_parts([loss], [module])) == ["Leaf", "Holder", "Leaf_2"]
    assert list(named_parts([loss], [Holder(Leaf())])) == ["Leaf", "Holder", "Leaf_2", "Holder_2"]


class Scale(SplatBaseModule[Any]):
    """A learnt number."""

    def trainables(self) -> Any:
        self.value = nn.Parameter(torch.zeros(()))
        return {"value": Trainable(self.value, lr=0.01)}


@dataclass
class Scaled(Splat3DGSLossFn):
    """Draws the number that it holds, and those of modules, away from 0."""

    scale: Scale = field(default_factory=Scale)

    def compute_loss(self, modules: Any, **others: Any) -> Any:
        found = [module.value for module in modules if isinstance(module, Scale)]
        return {**super().compute_loss(**others), "scales": sum((value - 1) ** 2 for value in found)}


def test_a_held_part_and_a_module_of_its_class_are_both_trained(tiny_scene: Path, tmp_path: Path) -> None:
    result = train(tiny_scene, tmp_path, 2, loss_fn=Scaled(), modules=[Scale()])
    assert [float(module.value.detach()) > 0 for module in result.modules if isinstance(module, Scale)] == [True, True]
    weights = read_checkpoint(result.checkpoint_path)["pipeline"]
    assert {"_model.part_params.Scale.value", "_model.part_params.Scale_2.value"} <= weights.keys()


@dataclass
class Brighter(SplatRenderer):
    """Changes the images of a renderer, and has a parameter of its own."""

    inner: SplatRenderer = field(default_factory=lambda: Splat3DGSRenderer(sky_degree=0, sky_lr=0.05))

    def trainables(self) -> Any:
        self.gain = nn.Parameter(torch.zeros(()))
        return {"gain": Trainable(self.gain, lr=0.01)}

    def render(self, training_state: Any, view: Any, options: Any) -> Any:
        payload = self.inner.render(training_state, view, options)
        return replace(payload, renders=payload.renders * self.gain.exp())


@dataclass
class Slower(SplatDensification):
    """Leaves every other step to another strategy."""

    inner: SplatDensification = field(
        default_factory=lambda: SplatMCMCDensification(
            gradient_power=1.0, refine_start_iter=1, refine_every=2, noise_lr=0.0, growth=0.2
        )
    )

    def densify(self, step: int, **others: Any) -> None:
        if step % 2 == 0:
            self.inner.densify(step=step, **others)


class Weights(nn.Module, SplatLossFn):
    """A loss with a learnt weight, which counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("steps", torch.zeros(()))

    def trainables(self, num_train_images: int) -> Any:
        return {"weight": Trainable(self.weight, lr=0.01), "error": RowTrainable(lr=0.1)}

    def compute_loss(self, rendered_frames: Any, target_frames: Any, training_state: Any, **others: Any) -> Any:
        self.steps += 1
        error = (rendered_frames - target_frames).square().mean()
        return (-self.weight).exp() * error + self.weight + training_state.params["error"].square().mean()


class Sum(nn.Module, SplatLossFn):
    """The sum of two losses, with a network of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.plain, self.bias = Weights(), Splat3DGSLossFn(), nn.Linear(1, 1)

    def compute_loss(self, rendered_frames: Any, **others: Any) -> Any:
        arguments = {"rendered_frames": rendered_frames, **others}
        mine = self.bias(rendered_frames.mean().reshape(1)).square().sum()
        return {
            "a": self.weights.compute_loss(**arguments),
            "b": sum(self.plain.compute_loss(**arguments).values()),
            "c": mine,
        }


class Smooth(SplatLossFn):
    """A loss that names one argument."""

    def compute_loss(self, rendered_frames: Any) -> Any:
        return rendered_frames.diff(dim=1).abs().mean()


def test_a_method_of_a_held_part_gets_the_arguments_that_it_names() -> None:
    arguments = {"rendered_frames": torch.rand(1, 4, 4, 3), "target_frames": torch.zeros(1, 4, 4, 3), "step": 3}
    assert call_named(Smooth().compute_loss, arguments) == Smooth().compute_loss(arguments["rendered_frames"])
    assert call_named(lambda step, scale=2, **others: (step, scale, {*others}), arguments) == (
        3, 2, {"rendered_frames", "target_frames"},
    )  # fmt: skip


def test_parts_that_hold_parts_train_resume_and_open(
    tiny_scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    parts: dict[str, Any] = {"renderer": Brighter(), "densification": Slower(), "loss_fn": Sum()}
    whole = train(tiny_scene, tmp_path / "whole", 8, **parts)
    names = {type(part).__name__: part for part in whole.modules}
    assert list(names) == [
        "Splat3DGSRenderer", "Brighter", "Weights", "Splat3DGSLossFn", "Sum", "SplatMCMCDensification", "Slower",
    ]  # fmt: skip
    assert whole.run_model.part_params.schedules.keys() == {
        "Splat3DGSRenderer.sky", "Brighter.gain", "Weights.weight", "error", "Sum.bias/weight", "Sum.bias/bias",
    }  # fmt: skip
    renderer: Any = names["Brighter"]
    assert renderer.inner is names["Splat3DGSRenderer"]
    assert renderer.inner.absgrad, "asked for through the holder"
    assert float(renderer.inner.sky.detach().abs().max()) > 0
    assert float(renderer.gain.detach()) != 0
    loss_fn: Any = names["Sum"]
    assert (float(loss_fn.weights.steps), float(loss_fn.weights.weight.detach())) == (8, pytest.approx(-0.06, abs=0.04))
    assert not [text for text in messages.messages if "not trained" in text]

    first = train(tiny_scene, tmp_path / "first", 8, **parts, config={"steps_per_save": 5})
    path = first.checkpoint_path.with_name("step-000000005.ckpt")
    resumed = train(tiny_scene, tmp_path / "resumed", 8, **parts, ckpt_path=path)
    for name, param in first.training_state.params.items():
        assert torch.equal(param, resumed.training_state.params[name]), name
    found: Any = {type(part).__name__: part for part in resumed.modules}
    assert torch.equal(found["Splat3DGSRenderer"].sky, renderer.inner.sky)
    assert float(found["Weights"].steps) == 8, "its buffer is in the checkpoint"

    opened = open_run(whole.output_dir / "config.yml", device="cpu", trust=[__name__, "torch", "collections"])
    for image, expected in zip(opened.images(), whole.images(), strict=True):
        assert torch.equal(image.rendered, expected.rendered)
    _, pipeline, _, step = eval_setup(whole.output_dir / "config.yml")  # as nerfstudio's commands open it
    assert step == 7
    assert torch.equal(pipeline.model.renderer.inner.sky, renderer.inner.sky)  # type: ignore[union-attr]


class Nothing(SplatDensification):
    """Leaves all as it is."""

    def densify(self) -> None:
        """Nothing."""


class ByHand(Slower):
    """Passes on what is called anyway."""

    def on_gaussians_changed(self, row_change: Any) -> None:
        self.inner.on_gaussians_changed(row_change=row_change)

    def on_setup(self, **others: Any) -> None:
        super().on_setup(**others)

    def post_train(self) -> None:
        assert self.inner is not None


def test_hooks_that_are_passed_on_by_hand_are_told() -> None:
    assert passed_on(ByHand(), HOOKS) == [("on_gaussians_changed", "inner")]
    assert passed_on(Slower(), HOOKS) == passed_on(Leaf(), HOOKS) == []
    logger = Mock()
    context = StepContext(logger, max_steps=1)
    ModuleDispatcher([ByHand(inner=Nothing())], context).setup()
    (told,) = logger.warning.call_args_list
    assert told.args[0] % told.args[1:] == (
        "ByHand.on_gaussians_changed seems to call inner.on_gaussians_changed: it is called of held parts anyway, so "
        "that it would run twice."
    )
