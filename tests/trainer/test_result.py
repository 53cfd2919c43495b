"""The result of a run: its history, its images, and renders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from splatkit_ns.cameras import View
from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.modules import SplatBaseModule, SplatEvaluator, SplatRenderPayload
from splatkit_ns.renderer import RenderOptions, Splat2DGSRenderer, Splat3DGSRenderer
from splatkit_ns.trainer import SplatTrainerResult
from tests.trainer.helpers import train


class KeepsFigures(SplatBaseModule[SplatRenderPayload]):
    """Notes the loss of every step."""

    def on_setup(self) -> None:
        self.losses: dict[int, float] = {}

    def post_step(self, step: int, loss: torch.Tensor) -> None:
        self.losses[step] = float(loss.detach())


@pytest.fixture(scope="module")
def result(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> SplatTrainerResult:
    folder = tmp_path_factory.mktemp("run")
    modules = [KeepsFigures(), SplatEvaluator(folder / "eval", [8], save_images=False)]
    config = {"steps_per_log": 3, "background_color": "white"}
    return train(tiny_scene, folder, 8, config=config, modules=modules, renderer=Splat3DGSRenderer("antialiased"))


def test_history_has_the_logged_steps_and_the_last(result: SplatTrainerResult) -> None:
    losses = next(module.losses for module in result.modules if isinstance(module, KeepsFigures))
    assert [entry["step"] for entry in result.history] == [4, 7, 8]
    for entry in result.history:
        assert entry["loss"] == pytest.approx(losses[int(entry["step"])])
        terms = [value for name, value in entry.items() if name.startswith("loss/")]
        assert len(terms) > 1
        assert sum(terms) == pytest.approx(entry["loss"])
        assert entry["num_gaussians"] == len(result.training_state)
        assert 0 < entry["psnr"] < 60
    seconds = [entry["seconds"] for entry in result.history]
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    assert result.history[0]["learning_rate/means"] > result.history[1]["learning_rate/means"] > 0
    last = {name: value for name, value in result.metrics.items() if not name.startswith("eval/")}
    assert last.items() <= result.history[-1].items()


def test_a_run_has_a_history_of_its_own(result: SplatTrainerResult, tiny_scene: Path, tmp_path: Path) -> None:
    before = [dict(entry) for entry in result.history]
    other = train(tiny_scene, tmp_path, 4, config={"steps_per_log": 3})
    assert [entry["step"] for entry in other.history] == [4]
    assert "learning_rate/means" in other.history[0], "the last step was logged, and appears once"
    assert result.history == before


def test_images_are_those_of_the_evaluation(result: SplatTrainerResult, tiny_scene: Path) -> None:
    found = list(result.images())
    provider = NerfstudioDataProvider(tiny_scene)
    held_out = provider.photographs("eval")
    assert [image.name for image in found] == [photograph.name for photograph in held_out]
    assert sum(image.metrics["psnr"] for image in found) / len(found) == pytest.approx(result.metrics["eval/psnr"])
    for image, photograph in zip(found, held_out, strict=True):
        torch.testing.assert_close(image.target, photograph.image)
        torch.testing.assert_close(image.rendered, result.render(photograph.view), atol=1e-6, rtol=0)


def test_render_uses_the_runs_renderer_and_background(result: SplatTrainerResult) -> None:
    view = View.look_at((1.0, 0.5, 0.4), (0, 0, 0), width=32, height=24)
    options = RenderOptions(sh_degree=1, backgrounds=torch.ones(1, 3))
    expected = Splat3DGSRenderer("antialiased").render(result.training_state, view, options).renders[0]
    assert torch.equal(result.render(view), expected.detach().clamp(0, 1))
    assert [frame.shape for frame in result.render([view, view], depth=True)] == [(24, 32)] * 2


def test_discs_are_rendered_as_discs(tiny_scene: Path, tmp_path: Path) -> None:
    result = train(tiny_scene, tmp_path, 2, renderer=Splat2DGSRenderer())
    view = View.look_at((1.0, 0.5, 0.4), (0, 0, 0), width=32, height=24)
    expected = Splat2DGSRenderer().render(result.training_state, view, RenderOptions(sh_degree=1)).renders[0]
    assert torch.equal(result.render(view), expected.detach().clamp(0, 1))
