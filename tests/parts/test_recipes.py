"""The parts of docs/recipes.md: trained as a registered method, cut, resumed, evaluated by the code of ns-eval."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from splatkit_ns import rendering
from splatkit_ns.cameras import View
from splatkit_ns.densification import SplatDefaultDensification
from splatkit_ns.errors import ModuleError
from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.methods import make_method
from splatkit_ns.modules import SplatBaseModule
from splatkit_ns.plugin.loading import load_run
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.splat import read_checkpoint
from splatkit_ns.trainer import open_run
from tests.parts import recipe_parts
from tests.parts.recipe_parts import (
    AddWhereDepthErrs,
    Exposure,
    FeatureLoss,
    HarderMoreOften,
    MovingRenderer,
    SkyRenderer,
    StopWhenFlat,
    TrustBrightLess,
)
from tests.plugin.helpers import forget_writers, make_trainer, run_config
from tests.tiny_scene import write_tiny_scene

STEPS = 16
CUT = 6
"""The step, from 0, after which the checkpoint is written that a run goes on from."""
STOP = 8
"""The number of steps after which `StopWhenFlat(window=4, share=0.9)` stops."""
PAGE = Path(__file__).parents[2] / "docs/recipes.md"
RECIPES: dict[str, dict[str, Any]] = {
    "exposure": {"image_model": Exposure()},
    "depth": {
        "modules": [AddWhereDepthErrs(every=4, error=0.01, most=5)],
        "loss_fn": Splat3DGSLossFn(depth_lambda=0.1),
    },
    "sky": {"renderer": SkyRenderer()},
    "moving": {"renderer": MovingRenderer()},
    "weights": {"modules": [TrustBrightLess(above=0.4)]},
    "harder": {"modules": [HarderMoreOften()]},
    "stop": {"modules": [StopWhenFlat(window=4, share=0.9)]},
    "features": {"loss_fn": FeatureLoss()},
}


@pytest.fixture(autouse=True)
def _no_writers_left() -> Iterator[None]:
    yield
    forget_writers()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_scene(tmp_path_factory.mktemp("scene"), depth=True)


def train(scene: Path, output: Path, parts: dict[str, Any], load: Path | None = None) -> Any:
    """A run of a method that is made of these parts, as ``ns-train`` starts it."""
    growing = SplatDefaultDensification(
        refine_start_iter=2, refine_every=5, reset_every=0, grow_grad2d=1e-6, max_gaussians=80
    )
    parser = NerfstudioDataParserConfig(load_3D_points=True, depth_unit_scale_factor=1e-3)
    method = make_method("recipe", densification=growing, **parts)
    config = run_config(scene, output, steps=STEPS, method=method, dataparser=parser)
    config.steps_per_save, config.save_only_latest_checkpoint, config.load_checkpoint = CUT, False, load
    config.save_config()
    trainer = make_trainer(config)
    trainer.train()
    return trainer


def last_of(run: Any) -> Path:
    return checkpoint_files.checkpoint_paths(run.checkpoint_dir)[-1]


def differing(one: Any, other: Any, place: str = "") -> list[str]:
    """The places at which two parts of a checkpoint do not hold the same bits."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        return [found for key in one for found in differing(one[key], other[key], f"{place}/{key}")]
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        return [found for i, value in enumerate(one) for found in differing(value, other[i], f"{place}/{i}")]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same else [place]


def figures(pipeline: Any) -> dict[str, float]:
    found = pipeline.get_average_eval_image_metrics()
    return {name: float(found[name]) for name in ("psnr", "ssim")}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_trained_resumed_and_evaluated(name: str, scene: Path, tmp_path: Path) -> None:
    whole = train(scene, tmp_path / "whole", RECIPES[name])
    forget_writers()
    resumed = train(scene, tmp_path / "cut", RECIPES[name], checkpoint_files.path_of(whole.checkpoint_dir, CUT))
    ours, theirs = read_checkpoint(last_of(whole)), read_checkpoint(last_of(resumed))
    assert ours["step"] == theirs["step"] == (STOP if name == "stop" else STEPS) - 1
    for part in ("pipeline", "optimizers", "schedulers", "splatkit"):
        assert differing(ours[part], theirs[part], part) == []

    if name == "sky":
        _renders_outside_the_run(whole)
    opened = load_run(whole.base_dir / "config.yml", device="cpu", trust=["tests"])
    measured = figures(opened.pipeline)
    assert measured == figures(whole.pipeline)
    assert measured["psnr"] > 5


def _renders_outside_the_run(whole: Any) -> None:
    """The run's own renderer draws the sky; one that is in no run says what it lacks."""
    view = View.look_at((1.0, 0.5, 0.4), (0, 0, 0), width=32, height=24)
    run = open_run(whole.base_dir / "config.yml", device="cpu", trust=["tests"])
    assert run.step == STEPS
    model = whole.pipeline.model
    black = torch.zeros(3)
    expected = rendering.render(model.training_state, view, renderer=model.renderer, sh_degree=0, background=black)
    assert torch.equal(run.render(view), expected)
    with pytest.raises(ModuleError, match=r"SkyRenderer\.render reads 'picture', which trainables\(\) makes"):
        rendering.render(model.training_state, view, renderer=SkyRenderer())


@pytest.fixture(scope="module")
def plain(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with depth in the loss and no part of a recipe."""
    run = train(scene, tmp_path_factory.mktemp("plain"), {"loss_fn": Splat3DGSLossFn(depth_lambda=0.1)})
    forget_writers()
    return run


def test_parts_do_what_they_say(scene: Path, tmp_path: Path, plain: Any) -> None:
    """What each recipe has learnt or changed, after a run."""
    model = train(scene, tmp_path / "a", RECIPES["exposure"]).pipeline.model
    forget_writers()
    assert int((model.image_model.log_gain.abs().sum(1) > 0).sum()) > 3
    model = train(scene, tmp_path / "b", RECIPES["features"]).pipeline.model
    forget_writers()
    assert model.gauss_params["features"].shape == (len(model.gauss_params["means"]), 8)
    assert len(model.gauss_params["means"]) > 48  # some have been split
    assert not torch.equal(model.loss_fn.decoder, torch.eye(8, 3))
    run = train(scene, tmp_path / "c", RECIPES["sky"])
    forget_writers()
    assert float(run.pipeline.model.renderer.picture.detach().abs().sum()) > 0
    moving = train(scene, tmp_path / "m", RECIPES["moving"]).pipeline.model
    forget_writers()
    assert float(moving.renderer.field.detach().abs().sum()) > 0
    assert len(moving.gauss_params["means"]) > 48  # gradients on the screen reach densification
    camera, _ = run.pipeline.datamanager.fixed_indices_eval_dataloader[0]
    outputs = run.pipeline.eval().model.get_outputs_for_camera(camera)
    assert outputs["sky"].shape == outputs["rgb"].shape
    with_points = train(scene, tmp_path / "d", RECIPES["depth"]).pipeline.model
    assert len(with_points.gauss_params["means"]) > len(plain.pipeline.model.gauss_params["means"])


def test_new_gaussians_lie_on_the_data_s_surface(scene: Path, tmp_path: Path) -> None:
    """Seen by the camera of the step, each new Gaussian has the depth and the place of its pixel."""

    class Watched(AddWhereDepthErrs):
        def post_step(self, step, max_steps, training_state, rend_out, target_depths, target_frames, view, scene_scale):
            before = len(training_state)
            super().post_step(
                step, max_steps, training_state, rend_out, target_depths, target_frames, view, scene_scale
            )
            new = training_state.means[before:].detach()
            if len(new):
                seen = new @ view.world_to_cams[0, :3, :3].T + view.world_to_cams[0, :3, 3]
                pixels = seen @ view.Ks[0].T / seen[:, 2:]
                columns, rows = pixels[:, 0].long(), pixels[:, 1].long()
                assert torch.allclose(target_depths[0, rows, columns, 0], seen[:, 2], atol=1e-4)
                found.append(len(new))

    found: list[int] = []
    train(scene, tmp_path, {**RECIPES["depth"], "modules": [Watched(every=4, error=0.01, most=5)]})
    assert found == [5, 5]


def test_weights_reach_the_loss(scene: Path, tmp_path: Path) -> None:
    """Pixels that all weigh the same change nothing, and others do."""
    plain = train(scene, tmp_path / "a", {}).pipeline.model.gauss_params
    forget_writers()
    same = train(scene, tmp_path / "b", {"modules": [TrustBrightLess(above=2.0)]}).pipeline.model.gauss_params
    forget_writers()
    less = train(scene, tmp_path / "c", RECIPES["weights"]).pipeline.model.gauss_params
    assert torch.allclose(plain["sh0"], same["sh0"], atol=1e-4)
    assert not torch.allclose(plain["sh0"], less["sh0"], atol=1e-4)


def test_photographs_that_a_part_names_are_drawn_next(scene: Path, tmp_path: Path) -> None:
    class Chooses(SplatBaseModule):
        def pre_batch(self, step, data_provider):
            if step in (2, 3):
                data_provider.draw_next([3])
            if step == 5:
                data_provider.draw_next([0, 1])

        def pre_step(self, image_index):
            drawn.append(image_index)

    drawn: list[int] = []
    train(scene, tmp_path, {"modules": [Chooses()]})
    assert (drawn[1], drawn[2], drawn[4], drawn[5]) == (3, 3, 0, 1)
    others = [index for place, index in enumerate(drawn) if place not in (1, 2, 4, 5)]
    number = len(set(drawn))
    assert sorted(others[:number]) == list(range(number))  # the order of the others is as it was


def classes_in(code: str) -> dict[str, str]:
    """The source of each class, its decorators included, without line breaks and indentation."""
    lines = code.splitlines()
    return {
        node.name: ast.dump(ast.parse("\n".join(lines[node.decorator_list[0].lineno - 1 : node.end_lineno])))
        for node in ast.parse(code).body
        if isinstance(node, ast.ClassDef)
    }


def test_the_page_has_these_parts_of_thirty_lines_at_most() -> None:
    source = Path(str(recipe_parts.__file__)).read_text()
    page = "\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S))
    ours, shown = classes_in(source), classes_in(page)
    assert ours == {name: shown.get(name) for name in ours}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.decorator_list[0].lineno + 1 <= 30, node.name
