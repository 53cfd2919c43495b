"""Parts that are networks, or hold some: trained, set to evaluation, shared, and opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from torch import Tensor, nn

from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.image_model import SplatImageModel
from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.parts.trainables import Trainable
from splatkit_ns.plugin.loading import load_run
from splatkit_ns.renderer import RenderOptions, Splat3DGSRenderer
from splatkit_ns.splat import SplatTrainingState
from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig
from tests.plugin.step.part_runs import STEPS, config_of, resumed_is_the_same, train


def opened(trainer: Any) -> Any:
    """The model of a run that is opened, as ``splatkit`` does; evaluated twice, it has the numbers of the run."""
    config = trainer.base_dir / "config.yml"
    config.write_text(yaml.dump(trainer.config))
    model: Any = load_run(config, device="cpu", trust=["tests"]).pipeline.model
    of_run = [image.metrics for image in trainer.pipeline.model.context.data_provider.evaluate()]
    assert of_run
    for _ in range(2):
        assert of_run == [image.metrics for image in model.context.data_provider.evaluate()]
    return model


@dataclass
class Curve(nn.Module, SplatImageModel):
    """A network that is a dataclass, which cannot be hashed by itself."""

    width: int = 4

    def __post_init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, self.width), nn.Tanh(), nn.Linear(self.width, 3))

    def apply(self, rendered: Tensor, frame: Any) -> Tensor:  # type: ignore[override]
        return rendered + 0.1 * self.net(rendered)


class Shifted(nn.Module, Splat3DGSRenderer):
    """A network that moves the Gaussians of a built-in renderer, and a colour behind them."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        Splat3DGSRenderer.__init__(self, sky_degree=0)
        self.net = nn.Linear(3, 3)

    def trainables(self, **kwargs: Any) -> Any:
        self.shift = nn.Parameter(torch.zeros(3))
        return {**super().trainables(**kwargs), "shift": Trainable(self.shift, lr=0.1)}

    def render(self, training_state: Any, view: Any, options: Any = RenderOptions()) -> Any:
        means = training_state.means + 0.01 * self.net(training_state.means) + self.shift
        return super().render(SplatTrainingState({**training_state.params, "means": means}, {}), view, options)


def test_networks_that_are_dataclasses_or_built_in_renderers_too_are_trained(
    tiny_scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    whole = resumed_is_the_same(tiny_scene, tmp_path, image_model=Curve(), renderer=Shifted())
    assert set(whole.pipeline.model.part_params.groups()) == {
        *(f"Curve.net/{layer}/{name}" for layer in (0, 2) for name in ("weight", "bias")),
        *(f"Shifted.{name}" for name in ("net/weight", "net/bias", "shift", "sky")),
    }
    assert "not trained" not in messages.text
    assert "No gradient" not in messages.text
    assert Shifted().may_own_parameters


class Forgets(nn.Module, SplatImageModel):
    """A network whose `trainables` returns a parameter of its own alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 3)

    def trainables(self) -> Any:  # type: ignore[override]
        self.gain = nn.Parameter(torch.ones(3))
        return {"gain": Trainable(self.gain, lr=0.1)}

    def apply(self, rendered: Tensor, frame: Any) -> Tensor:  # type: ignore[override]
        return self.gain * self.net(rendered)


def test_a_network_that_trainables_leaves_out_is_told_with_what_to_return(
    tiny_scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    train(config_of(tiny_scene, tmp_path, image_model=Forgets()))
    assert "Forgets.trainables does not return them: net.weight, net.bias. Return a Trainable for each" in messages.text
    assert "those of a network with **super().trainables()" in messages.text


class Drops(nn.Module, SplatImageModel):
    """A network that draws random numbers in training, and one that stays in evaluation."""

    applies_in_evaluation: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3))
        self.teacher = nn.BatchNorm1d(3, affine=False).eval()

    def apply(self, rendered: Tensor, frame: Any) -> Tensor:  # type: ignore[override]
        pixels = rendered.reshape(-1, 3)
        return (pixels + 0.1 * self.net(pixels) + 0 * self.teacher(pixels)).reshape(rendered.shape)


def test_networks_of_parts_are_in_evaluation_when_the_model_is(tiny_scene: Path, tmp_path: Path) -> None:
    trainer = train(config_of(tiny_scene, tmp_path, image_model=Drops()))
    part = trainer.pipeline.model.image_model
    assert int(part.net[2].num_batches_tracked) == STEPS, "evaluation does not count"
    assert not any(layer.training for layer in opened(trainer).image_model.modules())
    trainer.pipeline.eval().eval()
    assert not any(layer.training for layer in part.modules())
    trainer.pipeline.train()
    assert [layer.training for layer in (part, part.net[1], part.net[2], part.teacher)] == [True, True, True, False]


class Tone(nn.Module, SplatImageModel):
    """A small network on the colours."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 3)

    def apply(self, rendered: Tensor, frame: Any) -> Tensor:  # type: ignore[override]
        return rendered + 0.1 * self.net(rendered)


@dataclass
class Compares(Splat3DGSLossFn):
    """Uses the network of an image model."""

    net: Any = None

    def compute_loss(self, training_state: Any, **others: Any) -> Any:
        terms = super().compute_loss(training_state=training_state, **others)
        return {**terms, "colours": 0.1 * self.net(training_state.means).square().mean()}


def test_a_network_that_two_parts_share_stays_one(tiny_scene: Path, tmp_path: Path) -> None:
    tone = Tone()
    parts: dict[str, Any] = {"image_model": tone, "loss_fn": Compares(net=tone.net)}
    trainer = train(config_of(tiny_scene, tmp_path, **parts))
    model = trainer.pipeline.model
    assert model.loss_fn.net is model.image_model.net
    assert model.loss_fn.net is not tone.net
    assert set(model.part_params.groups()) == {"Tone.net/weight", "Tone.net/bias"}
    again = opened(trainer)
    assert again.loss_fn.net is again.image_model.net

    for settings in ({}, {"pipeline.model.loss_fn.ssim_lambda": 0.1}):
        config = SplatTrainerConfig(max_steps=2, device="cpu", output_dir=tmp_path / "python", settings=settings)
        result = SplatTrainer(config, NerfstudioDataProvider(tiny_scene), **parts).run()
        copies: Any = result.run_model
        assert copies.loss_fn.net is copies.image_model.net
