"""``splatkit train``: the arguments, messages and results of ``ns-train``."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import torch
import tyro
import yaml

from splatkit_ns.cli import main
from splatkit_ns.cli._training import read_arguments
from splatkit_ns.cli.commands import SWITCH, without_compiling
from splatkit_ns.methods import splatkit_3dgs, splatkit_3dgs_adc
from splatkit_ns.plugin import ns_train
from splatkit_ns.plugin.run.checkpoints import path_of
from splatkit_ns.plugin.step.training_step import StepResult, TrainingStep
from tests.cli.helpers import refused
from tests.plugin.helpers import forget_writers

OPTIONS = ("--machine.device-type", "cpu", "--vis", "tensorboard", "--logging.local-writer.enable", "False")

HELD_OUT = ("nerfstudio-data", "--eval-mode", "interval", "--eval-interval", "4")


def as_ns_train_reads(*arguments: str) -> object:
    methods = {"splatkit-3dgs": splatkit_3dgs.config, "splatkit-3dgs-adc": splatkit_3dgs_adc.config}
    union = tyro.conf.SuppressFixed[tyro.conf.FlagConversionOff[tyro.extras.subcommand_type_from_defaults(methods)]]
    return tyro.cli(union, args=arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["splatkit-3dgs"],
        ["splatkit-3dgs", "--data", "d", "--max_num_iterations", "7", "--pipeline.model.densification.growth", "0.2"],
        ["splatkit-3dgs-adc", "--machine.num-devices=2", "colmap", "--colmap-path", "sparse/0"],
    ],
)
def test_arguments_are_those_of_ns_train(arguments: list[str]) -> None:
    assert yaml.dump(read_arguments(arguments)) == yaml.dump(as_ns_train_reads(*arguments))


def test_without_a_method_it_lists_them(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NERFSTUDIO_METHOD_CONFIGS", "users-own=tests.methods.user_parts:method")
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name in ("splatkit-3dgs", "splatkit-3dgs-fast", "splatkit-2dgs", "users-own"):
        assert re.search(rf"• {name} ", text), name
    with pytest.raises(SystemExit) as caught:
        main(["train"])
    assert caught.value.code == 2


def test_a_method_of_the_environment_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NERFSTUDIO_METHOD_CONFIGS", "users-own=tests.methods.user_parts:method")
    config = read_arguments(["users-own", "--pipeline.model.loss-fn.weight", "0.75"])
    assert config.pipeline.model.loss_fn.weight == 0.75  # type: ignore[attr-defined]
    monkeypatch.setenv("NERFSTUDIO_METHOD_CONFIGS", "splatkit-3dgs=tests.methods.user_parts:method")
    assert read_arguments(["splatkit-3dgs"]).max_num_iterations == 20, "of the environment, as in ns-train"


def test_other_methods_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(capsys, "train", "splatkit-3dg", "--data", "d")
    assert "There is no method 'splatkit-3dg'; did you mean splatkit-3dgs" in text
    text = refused(capsys, "train", "nerfacto")
    assert "there are: splatkit-2dgs, splatkit-3dgs, " in text
    assert "Methods of nerfstudio itself are trained by ns-train." in text


def test_a_run_is_that_of_ns_train_and_goes_on(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [*OPTIONS, "--data", str(tiny_scene), "--experiment-name", "e"]
    assert (
        main(["train", "splatkit-3dgs-adc", *options, "--timestamp", "a", "--max-num-iterations", "6", *HELD_OUT]) == 0
    )
    forget_writers()
    run = tmp_path / "outputs/e/splatkit-3dgs-adc/a"
    assert path_of(run / "nerfstudio_models", 5).is_file()
    more = ["--timestamp", "b", "--max-num-iterations", "9", "--load-dir", str(run / "nerfstudio_models"), *HELD_OUT]
    assert main(["train", "splatkit-3dgs-adc", *options, *more]) == 0
    forget_writers()
    assert path_of(run.parent / "b/nerfstudio_models", 8).is_file()
    assert "Resuming after step 6" in capsys.readouterr().out
    config = yaml.load((run.parent / "b/config.yml").read_text(), Loader=yaml.Loader)
    assert (config.timestamp, config.pipeline.datamanager.data) == ("b", tiny_scene)


def test_mistakes_end_with_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    options = [*OPTIONS, "--data", str(tmp_path / "data"), "--output-dir", str(tmp_path / "out")]
    text = refused(capsys, "train", "splatkit-3dgs", *options)
    assert "is empty. Photographs or a video are turned into a data set by: splatkit poses" in text
    text = refused(capsys, "train", "splatkit-3dgs", *options, "--pipeline.model.sh-degree", "7")
    assert "sh-degree" in text
    (tmp_path / "config.yml").write_text("!!python/object/apply:os.system [exit 1]")
    text = refused(capsys, "train", "splatkit-3dgs", "--load-config", str(tmp_path / "config.yml"))
    assert "was refused, and nothing in it was run: it names 'os.system' (line 1)" in text
    assert "such as my_parts, use ns-train, which trusts every config." in text


def test_ctrl_c_saves_and_ends_with_130(tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = TrainingStep.run

    def interrupted(self: TrainingStep, step: int) -> StepResult:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return run(self, step)

    monkeypatch.setattr(TrainingStep, "run", interrupted)
    options = [*OPTIONS, "--data", str(tiny_scene), "--output-dir", str(tmp_path), *HELD_OUT]
    with pytest.raises(SystemExit) as caught:
        main(["train", "splatkit-3dgs-adc", *options])
    forget_writers()
    assert caught.value.code == 130
    assert [path.name for path in tmp_path.rglob("*.ckpt")] == ["step-000000002.ckpt"]


def test_functions_are_not_compiled_while_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    with without_compiling():
        assert torch.compile(as_ns_train_reads) is as_ns_train_reads
    assert os.environ[SWITCH] == "0"
    monkeypatch.delenv(SWITCH)
    with without_compiling():
        pass
    assert SWITCH not in os.environ
    assert torch.compile(as_ns_train_reads) is not as_ns_train_reads


def test_several_ranks_start_from_it(tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config makes the object that starts them, as for ``ns-train``."""
    asked: list[int] = []
    monkeypatch.setattr("splatkit_ns.plugin.run.rank_processes.run_in_ranks", lambda config, *_, **__: asked.append(
        config.ranks_to_start
    ))  # fmt: skip
    arguments = ["splatkit-3dgs", *OPTIONS, "--data", str(tiny_scene), "--output-dir", str(tmp_path)]
    ns_train.train(read_arguments([*arguments, "--machine.num-devices", "3"]))
    assert asked == [3]
