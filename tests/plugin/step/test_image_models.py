"""The built-in image models in runs: chosen by one option, resumed with the same bits, the same in `ns-eval`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro

from splatkit_ns.errors import OptionsError
from splatkit_ns.image_model import PPISP, AffineColor, BilateralGrid, IdentityImageModel, ImageModelChoice
from splatkit_ns.methods import make_method, splatkit_3dgs
from splatkit_ns.plugin.run.opaque_parts import instance
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig
from tests.plugin.step.part_runs import STEPS, config_of, opened_is_the_same, resumed_is_the_same, train

KINDS = {"affine": AffineColor, "bilateral-grid": BilateralGrid, "ppisp": PPISP}


def parse(*arguments: str) -> SplatkitTrainerConfig:
    """As ``ns-train splatkit-3dgs`` parses its arguments."""
    default = copy.deepcopy(splatkit_3dgs.config)
    return tyro.cli(type(default), default=default, args=list(arguments), config=(tyro.conf.FlagConversionOff,))


def test_one_option_chooses_the_model_and_none_is_the_default() -> None:
    assert isinstance(instance(parse().pipeline.model.image_model), IdentityImageModel)
    for name, kind in KINDS.items():
        assert type(instance(parse("--pipeline.model.image-model.kind", name).pipeline.model.image_model)) is kind
    config = parse("--pipeline.model.image-model.kind", "ppisp", "--pipeline.model.image-model.ppisp.prior", "0.5")
    assert instance(config.pipeline.model.image_model).prior == 0.5


def test_settings_of_image_models_have_ranges(tmp_path: Path) -> None:
    choice = ImageModelChoice(bilateral_grid=BilateralGrid(levels=1))
    with pytest.raises(OptionsError, match=r"bilateral[_-]grid\.levels is 1, expected a number of at least 2"):
        make_method("wrong", image_model=choice)


@pytest.mark.parametrize("name", KINDS)
def test_a_run_is_resumed_and_opened_with_its_model(name: str, tiny_scene: Path, tmp_path: Path) -> None:
    choice: Any = ImageModelChoice(kind=name)  # type: ignore[arg-type]
    choice.bilateral_grid = BilateralGrid(columns=3, rows=3, levels=2)
    whole = resumed_is_the_same(tiny_scene, tmp_path, image_model=choice)
    model = whole.pipeline.model
    assert type(model.image_model) is KINDS[name]
    for parameter in model.image_model.photograph_parameters():
        assert float(parameter.detach().abs().amax()) > 0
        assert float(parameter.detach().mean(0).abs().amax()) < 1e-6
    terms = {name for name in model.context.loss_terms if name.startswith("image_")}
    assert terms == {f"image_{term}" for term in model.image_model.regularizers(frame_of(model))}
    opened = opened_is_the_same(whole)
    trained = {key: value for key, value in model.state_dict().items() if key.startswith("part_params.")}
    found = opened.state_dict()
    assert trained
    assert all(torch.equal(found[key], value) for key, value in trained.items())
    told = "what PPISP makes of the render" if name == "ppisp" else "without an image model"
    assert told in model.context.data_provider.evaluation_protocol()["compared_with"]


def frame_of(model: Any) -> Any:
    return model.parts._seen


def test_a_term_of_the_image_model_must_be_its_own(tiny_scene: Path, tmp_path: Path) -> None:
    """The loss is the sum of all terms, those of the image model among them."""
    trainer = train(config_of(tiny_scene, tmp_path, image_model=AffineColor(prior=3.0)))
    context = trainer.pipeline.model.context
    assert context.step == STEPS
    torch.testing.assert_close(context.loss, torch.stack(list(context.loss_terms.values())).sum())
    assert float(context.loss_terms["image_prior"].detach()) > 0


def test_cameras_of_a_run(tiny_scene: Path, tmp_path: Path) -> None:
    data = train(config_of(tiny_scene, tmp_path)).pipeline.model.context.data_provider
    assert data.train_camera_numbers == [0] * data.num_train_images
    across, down = data.train_extent
    camera = data.datamanager.train_dataset.cameras[0]
    assert across == pytest.approx(float(camera.width / 2 / camera.fx))
    assert down == pytest.approx(float(camera.height / 2 / camera.fy))
