"""A ``--load-config`` that nerfstudio could not read is a mistake in the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tyro

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.loading import read_config
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, with files that are no configs."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "nerfstudio_models").mkdir()
    (folder / "config.yml").write_text(f"# a comment\n!!python/object:{SplatkitTrainerConfig.__module__}.Config {{}}\n")
    (folder / "transforms.json").write_text('{"frames": []}')
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "{here.name} is a folder. Its config is {here}/config.yml."),
        ("nerfstudio_models", "nerfstudio_models is a folder. Its config is {here}/config.yml."),
        ("nosuch.yml", "nosuch.yml does not exist. Its config is {here}/config.yml."),
        ("nosuch/config.yml", "config.yml does not exist. ns-train prints the path when it starts."),
        ("transforms.json", "transforms.json is no config.yml of a run."),
    ],
)
def test_what_is_no_config(folder: Path, capsys: pytest.CaptureFixture[str], name: str, message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        tyro.cli(SplatkitTrainerConfig, args=["--load-config", str(folder / name)])
    assert caught.value.code == 2
    printed = "".join(capsys.readouterr().err.replace("│", "").split())
    assert "".join(message.format(here=folder).split()) in printed


def test_the_newest_run_of_a_folder_of_several_is_named(tmp_path: Path) -> None:
    for age, name in enumerate(("scene/a/new", "other/a/old")):
        path = tmp_path / name / "config.yml"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    for read in (read_config, lambda path: SplatkitTrainerConfig(load_config=path)):
        with pytest.raises((SplatkitError, ValueError), match=f"The newest run in it is {tmp_path}/scene/a/new/config"):
            read(tmp_path)
        with pytest.raises((SplatkitError, ValueError), match=f"The newest run in it is {tmp_path}/other/a/old/config"):
            read(tmp_path / "other")


def test_a_config_with_a_comment_is_one(folder: Path) -> None:
    assert SplatkitTrainerConfig(load_config=folder / "config.yml").load_config == folder / "config.yml"
