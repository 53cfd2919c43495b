"""What the command line makes of a method: flags for dataclasses, plain classes whole, modules by flag and by path."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from pathlib import Path

import pytest
import tyro
import yaml
from nerfstudio.engine.optimizers import RAdamOptimizerConfig

from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.densification import SplatBudgetDensification, SplatMCMCDensification
from splatkit_ns.errors import ModuleError, OptionsError
from splatkit_ns.methods import make_method, splatkit_3dgs
from splatkit_ns.modules import SplatExporter, SplatTimer
from splatkit_ns.plugin.options.length import fit_to_length
from splatkit_ns.plugin.run.opaque_parts import instance
from splatkit_ns.plugin.run.parts.modules import import_module, run_modules
from splatkit_ns.plugin.trainer import SplatkitTrainer, SplatkitTrainerConfig
from splatkit_ns.renderer import Splat3DGSRenderer
from tests.methods import user_parts

METHODS = {"splatkit-3dgs": splatkit_3dgs.config, "users-own": user_parts.method.config}
UNION = tyro.conf.SuppressFixed[tyro.conf.FlagConversionOff[tyro.extras.subcommand_type_from_defaults(METHODS)]]


def parse(*arguments: str) -> SplatkitTrainerConfig:
    """As ``ns-train`` parses its arguments."""
    return tyro.cli(UNION, args=list(arguments))


def help_of(method: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
        parse(method, "--help")
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", output.getvalue()))


def test_help_shows_built_in_modules_in_groups() -> None:
    text = help_of("splatkit-3dgs")
    for flag, words in {
        "--modules.exporter.export-steps": "Steps after which to export, counted from 1",
        "--modules.evaluator.eval-steps": "Steps after which to evaluate, counted from 1",
        "--modules.progress.update-every": "Steps between updates",
        "--modules.tensorboard.scalars-every": "Steps between scalars",
        "--modules.checkpointer.every": "Steps between checkpoints",
        "--modules.timer.every": "Steps between reports",
        "--modules.own": "Modules of your own, as import paths",
    }.items():
        assert re.search(rf"{flag} \S+( \[?\S+\]*)* {words}", text), flag
    assert "modules.exporter options" in text
    assert "attached" not in text


def test_flags_reach_the_modules() -> None:
    config = parse("splatkit-3dgs", "--modules.exporter.export-steps", "7", "30", "--modules.timer.every", "5")
    modules = run_modules(config, Path("run"))
    assert [type(module) for module in modules] == [SplatExporter, SplatTimer]
    exporter = modules[0]
    assert isinstance(exporter, SplatExporter)
    assert list(exporter.export_steps) == [7, 30]
    assert exporter.output_dir == Path("run/export"), "relative folders lie in the run's folder"
    assert config.modules.exporter.output_dir == "export", "and the config stays as it was given"


def test_a_number_that_is_given_is_not_fitted_even_if_it_is_the_methods_own() -> None:
    config = parse(
        "splatkit-3dgs", "--max-num-iterations", "200", "--pipeline.model.densification.refine-every", "50",
        "--pipeline.model.init-opacity", "0.5",
    )  # fmt: skip
    fit_to_length(config)
    model = config.pipeline.model
    assert isinstance(model.densification, SplatBudgetDensification)
    assert (model.densification.refine_every, model.densification.refine_stop_iter) == (50, 160)
    assert (model.init_opacity, model.init_scale) == (0.5, 1.0)
    config = parse("splatkit-3dgs", "--max-num-iterations", "200", "--pipeline.model.densification.growth", "0.1")
    fit_to_length(config)
    assert isinstance(config.pipeline.model.densification, SplatMCMCDensification), "a setting that only MCMC has"
    assert re.search(
        r"--pipeline.model.densification.refine-stop-iter INT [^-]*default: 16000", help_of("splatkit-3dgs")
    )


def test_nothing_is_attached_by_default() -> None:
    assert run_modules(parse("splatkit-3dgs"), Path()) == []


def test_a_users_method_keeps_its_parts_whole() -> None:
    config = parse("users-own", "--pipeline.model.loss-fn.weight", "0.75")
    assert config.method_name == "users-own"
    assert config.max_num_iterations == 20
    model = config.pipeline.model
    assert model.sh_degree == 2
    assert model.loss_fn == user_parts.WeightedLoss(0.75)
    assert model.renderer == Splat3DGSRenderer()
    densification = instance(model.densification)
    assert isinstance(densification, user_parts.PlainDensification)
    assert densification.every == 4
    (counter,) = run_modules(config, Path())
    assert isinstance(counter, user_parts.Counter)
    assert counter.count == 100
    assert counter is not run_modules(config, Path())[0], "each run has its own"


def test_a_users_dataclass_fields_are_flags_with_help() -> None:
    text = help_of("users-own")
    assert "--pipeline.model.loss-fn.weight FLOAT Weight of the difference. (default: 0.25)" in text
    assert "densification.every" not in text


def test_a_users_config_survives_yaml() -> None:
    config = yaml.load(yaml.dump(parse("users-own")), Loader=yaml.Loader)
    assert instance(config.pipeline.model.densification).every == 4
    assert dataclasses.asdict(config)["method_name"] == "users-own"


def test_a_users_method_trains_with_an_own_module(tiny_scene: Path, tmp_path: Path) -> None:
    config = parse(
        "users-own",
        *("--modules.own", "tests.methods.user_parts:Counter", "tests.methods.user_parts:needs_an_argument"),
        *("--modules.exporter.export-steps", "4", "--vis", "none", "--output-dir", str(tmp_path)),
        *("--max-num-iterations", "4", "--machine.device-type", "cpu"),
    )
    config.pipeline.datamanager = NerfstudioDataProvider(tiny_scene).datamanager_config()
    config.set_timestamp()
    trainer = SplatkitTrainer(config)
    trainer.setup()
    trainer.train()
    model = trainer.pipeline.model
    assert len(model.training_state) == 2 * 48
    counts = [module.count for module in model.context.modules if isinstance(module, user_parts.Counter)]
    assert counts == [104, 4]
    assert (trainer.base_dir / "export" / "splats" / "step_000004.ply").is_file()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package:Thing", "no_such_package cannot be imported: ModuleNotFoundError.*PYTHONPATH"),
        ("tests.methods.user_parts", "expected package.module:name"),
        ("tests.methods.user_parts:Missing", "tests.methods.user_parts has no 'Missing'"),
        ("tests.methods.user_parts:Countr", r"has no 'Countr'\. Did you mean Counter\?"),
        ("tests.methods.user_parts:Counter.nothing", "has no 'Counter.nothing'"),
        ("tests.methods.user_parts:a_number.nothing", "has no 'a_number.nothing'"),
        ("tests.methods.user_parts:NeedsAnArgument", "cannot be made without arguments .*'number'"),
        (
            "splatkit_ns.loss_fn:Splat3DGSLossFn",
            r"is a SplatLossFn, .*compute_loss\(\) is not called there: .* loss_fn",
        ),
        ("tests.methods.user_parts:a_number", "is of type int, expected a subclass of SplatBaseModule"),
        ("tests.methods.user_parts:dataclass", "is of type function, expected a subclass of SplatBaseModule"),
    ],
)
def test_import_paths_that_lead_nowhere(path: str, message: str) -> None:
    with pytest.raises(ModuleError, match=message) as caught:
        import_module(path)
    assert path in str(caught.value)


def test_a_bug_where_a_module_is_made_keeps_its_traceback() -> None:
    with pytest.raises(TypeError, match="can only concatenate"):
        import_module("tests.methods.user_parts:HasABug")


@pytest.mark.parametrize("name", ["", "my method", "-mine", "mine/too", "mine+more"])
def test_make_method_refuses_what_is_no_name(name: str) -> None:
    with pytest.raises(OptionsError, match=re.escape(f"name is {name!r}, expected letters and digits")):
        make_method(name)
    assert make_method("My_method-2.5").config.method_name == "My_method-2.5"


def test_a_method_that_names_some_optimizers_keeps_the_others() -> None:
    own = {"sh0": {"optimizer": RAdamOptimizerConfig(lr=0.003), "scheduler": None}}
    made, usual = make_method("own", optimizers=own).config.optimizers, make_method("usual").config.optimizers
    assert made == {**usual, **own}
    assert made != usual


def test_make_method_refuses_wrong_parts() -> None:
    with pytest.raises(ModuleError, match="loss_fn is the class WeightedLoss itself"):
        make_method("wrong", loss_fn=user_parts.WeightedLoss)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="sh_degrees"):
        make_method("wrong", sh_degrees=2)
