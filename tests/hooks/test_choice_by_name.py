"""Hooks and writers are chosen by name: in Python, on the command line and in YAML."""

from __future__ import annotations

import inspect
import re
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import tyro
import yaml
from torch import Tensor

from splatkit_ns.errors import ModuleError, OptionsError, SplatkitError
from splatkit_ns.hooks import HOOK_REGISTRY, WRITER_REGISTRY, Hook, LogHook, Writer, open_writers, parse_hooks
from splatkit_ns.methods import splatkit_3dgs
from splatkit_ns.plugin.options.check import check_options
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig
from splatkit_ns.trainer import SplatTrainerConfig


class NeedsAnArgument(Hook):
    """Cannot be made from its name alone."""

    def __init__(self, every: int) -> None:
        self.every = every


class OnlyScalars(Writer):
    """Leaves images and the config out."""

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir

    def write_scalar(self, name: str, scalar: float | Tensor, step: int) -> None:
        del name, scalar, step


def test_names_and_import_paths() -> None:
    hooks = parse_hooks(["LogHook", "splatkit_ns.hooks.checkpoint:CheckPointHook", LogHook(every=3)])
    assert [type(hook).__name__ for hook in hooks] == ["LogHook", "CheckPointHook", "LogHook"]
    assert {"LogHook", "CheckPointHook"} <= set(HOOK_REGISTRY.names())
    assert {"JsonLinesWriter", "TensorboardWriter", "WandbWriter"} <= set(WRITER_REGISTRY.names())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LogHok", r"There is no hook named 'LogHok'\. Did you mean LogHook\? Known: CheckPointHook, LogHook"),
        ("checkpointhook", "Did you mean CheckPointHook"),
        (
            "no_such_package.hooks:Mine",
            "'no_such_package.hooks:Mine': .* cannot be imported: ModuleNotFoundError: .*PYTHONPATH",
        ),
        ("splatkit_ns.hooks.log:LogHoook", r"has no 'LogHoook'\. Did you mean LogHook"),
        ("pathlib:Path", "pathlib:Path is not a hook: expected a subclass of Hook"),
        (":Mine", "The hook ':Mine': expected package.module:name"),
        (f"{__name__}:NeedsAnArgument", "cannot be made: .*missing a required argument: 'every'.*defaults"),
    ],
)
def test_unknown_hooks_are_refused_with_the_nearest_names(name: str, message: str) -> None:
    with pytest.raises(SplatkitError, match=message):
        parse_hooks([name])


def test_unknown_writers_are_refused_with_the_nearest_names() -> None:
    with pytest.raises(SplatkitError, match=r"no writer named 'TensorBoard'\. Did you mean TensorboardWriter\?"):
        WRITER_REGISTRY.get("TensorBoard")


def test_a_file_of_hooks_with_a_mistake_in_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hooks_with_a_mistake.py").write_text("def before_train(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SplatkitError, match=r"'hooks_with_a_mistake:Mine': .* imported: SyntaxError: .*line 1"):
        HOOK_REGISTRY.get("hooks_with_a_mistake:Mine")


def test_a_writer_that_lacks_methods_is_named(tmp_path: Path) -> None:
    with pytest.raises(SplatkitError, match=f"The writer '{__name__}:OnlyScalars' cannot be made: .*write_image"):
        open_writers([f"{__name__}:OnlyScalars"], tmp_path, "experiment", "project")


def test_a_class_instead_of_an_instance_is_refused() -> None:
    with pytest.raises(ModuleError, match="holds the class LogHook itself"):
        parse_hooks([LogHook])


def test_what_is_registered_must_be_a_hook() -> None:
    with pytest.raises(SplatkitError, match="is not a hook"):
        HOOK_REGISTRY.register()(int)  # type: ignore[type-var]
    assert "int" not in HOOK_REGISTRY.names()


def test_registering_without_parentheses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HOOK_REGISTRY, "_classes", dict(HOOK_REGISTRY._classes))  # type: ignore[attr-defined]

    @HOOK_REGISTRY.register
    class Bare(Hook):
        pass

    assert inspect.isclass(Bare)
    assert HOOK_REGISTRY.get("Bare") is Bare
    with pytest.raises(SplatkitError, match="is not a hook"):
        HOOK_REGISTRY.register(int)  # type: ignore[type-var]


@pytest.mark.parametrize("name", ["LogHook", "CheckPointHook"])
def test_steps_between_entries_must_be_positive(name: str) -> None:
    with pytest.raises(OptionsError, match="every is 0, expected at least 1"):
        HOOK_REGISTRY.build(name, every=0)


def cli(*arguments: str) -> SplatkitTrainerConfig:
    config = tyro.cli(SplatkitTrainerConfig, default=deepcopy(splatkit_3dgs.config), args=list(arguments))
    assert isinstance(config, SplatkitTrainerConfig)
    return config


def test_on_the_command_line_and_through_yaml() -> None:
    config = cli("--hooks", "LogHook", "my.hooks:Mine", "--writers", "JsonLinesWriter", "--max-num-iterations", "7")
    assert config.hooks == ("LogHook", "my.hooks:Mine")
    assert config.writers == ("JsonLinesWriter",)
    loaded = yaml.load(yaml.dump(config), Loader=yaml.Loader)
    assert loaded.hooks == config.hooks
    assert loaded.writers == config.writers


def test_configs_written_before_there_were_hooks_still_load() -> None:
    lines = yaml.dump(cli()).splitlines()
    text = "\n".join(line for line in lines if not line.startswith(("hooks:", "writers:")))
    loaded = yaml.load(text, Loader=yaml.Loader)
    assert (loaded.hooks, loaded.writers) == ((), ())


def test_all_mistakes_are_told_at_once_before_data_is_loaded(tmp_path: Path) -> None:
    config = cli("--hooks", "LogHok", "--max-num-iterations", "0", "--output-dir", str(tmp_path))
    with pytest.raises(OptionsError) as caught:
        check_options(config)
    assert len(caught.value.problems) == 2
    assert "LogHook" in str(caught.value)


def test_the_last_one_registered_under_a_name_counts_and_the_log_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HOOK_REGISTRY, "_classes", dict(HOOK_REGISTRY._classes))  # type: ignore[attr-defined]
    logger = Mock()
    monkeypatch.setattr("splatkit_ns.hooks.registry.logger", logger)
    HOOK_REGISTRY.register()(LogHook)  # as when its module is reloaded
    assert logger.warning.call_args_list == []

    @HOOK_REGISTRY.register("LogHook")
    class Mine(Hook):
        pass

    assert HOOK_REGISTRY.get("LogHook") is Mine
    (call,) = logger.warning.call_args_list
    text = call.args[0] % call.args[1:]
    assert re.fullmatch(
        r"The hook 'LogHook' is now tests\S+\.Mine, in place of splatkit_ns\.hooks\.log\.LogHook\.", text
    )


class HasABug(Hook):
    """Can be made from its name alone, were it not for the mistake in it."""

    def __init__(self) -> None:
        self.every = "every " + 5  # type: ignore[operator]


class NeedsMore(OnlyScalars):
    """A writer with an argument of its own."""

    def __init__(self, log_dir: Path, every: int) -> None:
        super().__init__(log_dir)
        self.every = every

    def write_image(self, name: str, image: Tensor, step: int) -> None: ...

    def write_config(self, name: str, config_dict: Any, step: int) -> None: ...


def test_a_bug_where_a_hook_is_made_keeps_its_traceback() -> None:
    with pytest.raises(TypeError, match="can only concatenate"):
        parse_hooks([f"{__name__}:HasABug"])


def test_a_writer_with_an_argument_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SplatkitError, match=r"NeedsMore' cannot be made: missing a required argument: 'every'\. A wr"):
        open_writers([f"{__name__}:NeedsMore"], tmp_path, "experiment", "project")


def test_one_name_in_place_of_several_is_told_of_the_comma(tmp_path: Path) -> None:
    message = r"hooks is 'LogHook', expected a tuple or list of names: \(\"LogHook\",\), with the comma"
    with pytest.raises(ModuleError, match=message):
        parse_hooks("LogHook")
    with pytest.raises(ModuleError, match="hooks is None, expected a tuple or list of names"):
        parse_hooks(None)  # type: ignore[arg-type]
    with pytest.raises(ModuleError, match="writers is 'JsonLinesWriter', expected a tuple or list"):
        open_writers("JsonLinesWriter", tmp_path, "experiment", "project")
    config = cli("--output-dir", str(tmp_path))
    config.hooks = "LogHook"  # type: ignore[assignment]
    with pytest.raises(OptionsError, match=message):
        check_options(config)
    settings = SplatTrainerConfig(max_steps=1, hooks="LogHook", writers="JsonLinesWriter")  # type: ignore[arg-type]
    with pytest.raises(OptionsError, match="hooks is 'LogHook', expected a tuple or list of names") as caught:
        settings.check()
    assert len(caught.value.problems) == 2
