"""`SplatTrainerConfig` starts from any method and reaches all of its settings."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from splatkit_ns.densification import SplatBudgetDensification
from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.loss_fn import Splat2DGSLossFn, Splat3DGSLossFn
from splatkit_ns.methods import gaussian_optimizers, make_method, splatkit_3dgs_fast
from splatkit_ns.modules import RowTrainable, SplatBaseModule
from splatkit_ns.plugin.optimizers import LateDecayConfig
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig
from splatkit_ns.renderer import Splat2DGSRenderer, Splat3DGSRenderer
from splatkit_ns.splat import SplatModel
from splatkit_ns.trainer import SplatTrainerConfig
from tests.trainer.helpers import make_trainer, train


def run_config(scene: Path, output: Path, parts: dict[str, Any] | None = None, **config: Any) -> SplatkitTrainerConfig:
    """The config of nerfstudio's trainer for a run with these settings."""
    trainer = make_trainer(scene, output, config.pop("max_steps", 6), config=config, **(parts or {}))
    return trainer._run_config([])


def test_a_preset_changed_in_python(tiny_scene: Path, tmp_path: Path) -> None:
    before = deepcopy(splatkit_3dgs_fast.config)
    result = train(
        tiny_scene,
        tmp_path,
        2,
        config={"method": "splatkit-3dgs-fast", "settings": {"pipeline.model.renderer.dropout": 0.3}},
    )
    assert result.output_dir.parent.name == "splatkit-3dgs-fast"
    renderer, densification = result.modules[0], result.modules[2]
    assert isinstance(renderer, Splat3DGSRenderer)
    assert isinstance(densification, SplatBudgetDensification), "as in every short run"
    assert (renderer.dropout, densification.max_per_seed) == (0.3, 9)
    assert splatkit_3dgs_fast.config == before, "the preset itself is not touched"


def test_the_methods_values_stay_unless_others_are_given(tiny_scene: Path, tmp_path: Path) -> None:
    config = SplatTrainerConfig(method="splatkit-3dgs-fast").method_config()
    assert (config.max_num_iterations, config.pipeline.model.sh_degree_interval) == (6500, 500)
    made = run_config(tiny_scene, tmp_path, method="splatkit-3dgs-fast", init_scale=0.2)
    assert (made.pipeline.model.init_opacity, made.pipeline.model.init_scale) == (0.5, 0.2)
    assert isinstance(made.optimizers["quats"]["scheduler"], LateDecayConfig)
    plain = run_config(tiny_scene, tmp_path)
    assert (plain.method_name, plain.pipeline.model.init_opacity) == ("splatkit-3dgs-adc", 0.1)


def test_settings_reach_every_option_of_the_run(tiny_scene: Path, tmp_path: Path) -> None:
    model = SplatModel.load_ply(_exported(tiny_scene, tmp_path))
    settings = {
        "pipeline.model.init_ply": str(tmp_path / "start.ply"),
        "--pipeline.model.camera-optimizer.mode": "SO3xR3",
        "on_nan": "skip",
        "cuda_graphs": False,
        "optimizers": gaussian_optimizers(lr_share=0.5),
        "optimizers.means.scheduler.lr_final": 1e-5,
        "steps_per_eval_all_images": 0,
    }
    made = run_config(tiny_scene, tmp_path, settings=settings)
    assert made.pipeline.model.init_ply == tmp_path / "start.ply", "a path, as the command line makes it"
    assert made.pipeline.model.camera_optimizer.mode == "SO3xR3"
    assert (made.on_nan, made.cuda_graphs, made.steps_per_eval_all_images) == ("skip", False, 0)
    assert made.optimizers["quats"]["scheduler"].lr_share == 0.5
    assert made.optimizers["means"]["scheduler"].lr_final == 1e-5
    result = train(tiny_scene, tmp_path, 1, config={"settings": settings})
    assert len(result.training_state) == len(model)


def _exported(scene: Path, folder: Path) -> Path:
    path = folder / "start.ply"
    train(scene, folder, 1).training_state.to_splat_model().save_ply(path)
    return path


def test_learning_rates_are_those_of_the_command_line(tiny_scene: Path, tmp_path: Path) -> None:
    mine = make_method("my-method", learning_rates={"quats": 0.002, "means": 0.1})
    made = run_config(tiny_scene, tmp_path, method=mine, learning_rates={"means": 1e-3, "camera_opt": 2e-4})
    assert made.learning_rates == {"quats": 0.002, "means": 1e-3, "camera_opt": 2e-4}


def test_a_group_that_does_not_exist_is_told_before_data_is_loaded_if_no_part_may_own_it(tmp_path: Path) -> None:
    rates = {"colours": 1.0}
    with pytest.raises(
        OptionsError, match=r"learning_rates names the group 'colours', .*; there are: means, .*camera_opt"
    ):
        make_trainer(tmp_path / "no data", tmp_path / "out", config={"learning_rates": rates})
    make_trainer(tmp_path / "no data", tmp_path / "out", config={"learning_rates": rates}, modules=[OwnsColours()])
    SplatTrainerConfig(learning_rates=rates).check()


class OwnsColours(SplatBaseModule):
    """A part whose parameters are known only when it is in a run."""

    def trainables(self) -> dict[str, RowTrainable]:
        return {"colours": RowTrainable(lr=1.0)}


def test_a_run_is_filed_under_its_method_and_the_parts_that_differ(tiny_scene: Path, tmp_path: Path) -> None:
    def name(parts: dict[str, Any] | None = None, **config: Any) -> str | None:
        return run_config(tiny_scene, tmp_path, parts, **config).method_name

    assert name(method="splatkit-2dgs") == "splatkit-2dgs"
    assert name({"renderer": Splat2DGSRenderer(), "loss_fn": Splat2DGSLossFn()}) == (
        "splatkit-3dgs-adc+Splat2DGSRenderer+Splat2DGSLossFn"
    )
    assert name({"loss_fn": Splat3DGSLossFn(ssim_lambda=0.1)}) == "splatkit-3dgs-adc"
    mine = make_method("my-method", loss_fn=Splat3DGSLossFn(ssim_lambda=0.3), max_num_iterations=77)
    made = run_config(tiny_scene, tmp_path, method=mine)
    assert (made.method_name, made.pipeline.model.loss_fn.ssim_lambda) == ("my-method", 0.3)  # type: ignore[attr-defined]
    assert SplatTrainerConfig(method=mine).method_config().max_num_iterations == 77


def test_settings_of_a_part_that_is_handed_over_leave_the_callers_alone(tiny_scene: Path, tmp_path: Path) -> None:
    loss_fn = Splat3DGSLossFn(ssim_lambda=0.1)
    made = run_config(tiny_scene, tmp_path, {"loss_fn": loss_fn}, settings={"pipeline.model.loss_fn.ssim_lambda": 0.4})
    assert made.pipeline.model.loss_fn.ssim_lambda == 0.4  # type: ignore[attr-defined]
    assert loss_fn.ssim_lambda == 0.1


def test_all_mistakes_are_told_at_once_by_their_names_in_python(tiny_scene: Path, tmp_path: Path) -> None:
    config = {
        "sh_degree": 4,
        "device": "cuda:1",
        "learning_rates": {"scales": -1.0},
        "settings": {
            "pipeline.model.init_plyy": "a.ply",
            "pipeline.model.init_ply": "gone.ply",
            "machine.seed": -3,
            "max_num_iterations": 5,
            "pipeline.model.renderer": Splat2DGSRenderer(),
            "modules.own": ("nosuch:X",),
            "optimizers.means.optimizer.lrr": 1.0,
        },
    }
    loss_fn = Splat3DGSLossFn(ssim_lambda=2.0)
    with pytest.raises(OptionsError) as caught:
        make_trainer(tiny_scene, tmp_path / "out", config=config, loss_fn=loss_fn)
    expected = [
        "Splat3DGSLossFn.ssim_lambda is 2.0, expected a number between 0 and 1",
        "device is 'cuda:1', expected cuda, cpu or None (to use another GPU, set the environment variable "
        "CUDA_VISIBLE_DEVICES)",
        "max_steps and settings['max_num_iterations'] are the same: give one of them",
        "settings['pipeline.model.renderer']: hand the part to SplatTrainer, as renderer=…",
        "settings['pipeline.model.init_plyy'] does not exist: SplatkitModelConfig has no 'init_plyy'; did you mean "
        "init_ply?",
        "settings['optimizers.means.optimizer.lrr'] does not exist: FusedAdamConfig has no 'lrr'; did you mean lr?",
        "sh_degree is 4, expected 0, 1, 2 or 3",
        "settings['machine.seed'] is -3, expected a number of at least 0",
        "learning_rates of scales is -1.0, expected a number above 0",
        "settings['pipeline.model.init_ply']: there is no file gone.ply",
    ]
    found = caught.value.problems
    assert set(expected) <= set(found), [line for line in expected if line not in found]
    assert [line for line in found if line not in expected] == [
        "--modules.own nosuch:X: nosuch cannot be imported: ModuleNotFoundError: No module named 'nosuch'. Install "
        "it, or put its folder on PYTHONPATH."
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"learning_rates": [1e-3]}, r"learning_rates is \[0\.001\], expected a dict of rates by name, such as means"),
        ({"learning_rates": None}, "learning_rates is None, expected a dict"),
        ({"settings": ["batch_size"]}, r"settings is \['batch_size'\], expected a dict of values by option"),
    ],
)
def test_settings_that_are_no_dicts(tiny_scene: Path, tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        make_trainer(tiny_scene, tmp_path, config=config)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("splatkit-3dgs-fats", "There is no method 'splatkit-3dgs-fats'; did you mean splatkit-3dgs-fast"),
        (3, "method is 3, expected the name of a splatkit method"),
    ],
)
def test_a_method_that_does_not_exist(tiny_scene: Path, tmp_path: Path, method: Any, message: str) -> None:
    with pytest.raises(SplatkitError, match=message):
        make_trainer(tiny_scene, tmp_path, config={"method": method})


def test_a_setting_of_a_part_that_is_no_dataclass(tiny_scene: Path, tmp_path: Path) -> None:
    class Plain(Splat3DGSLossFn):
        def __init__(self, weight: float) -> None:
            super().__init__()
            self.weight = weight

    settings = {"pipeline.model.loss_fn.weight": 0.4}
    with pytest.raises(OptionsError, match=r"Plain is no dataclass .* 'weight' has to be set where it is made"):
        make_trainer(tiny_scene, tmp_path, config={"settings": settings}, loss_fn=Plain(0.2))
