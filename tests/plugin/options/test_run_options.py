"""A ``--load-config`` that nerfstudio could not read is a mistake in the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import tyro

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


def test_a_config_with_a_comment_is_one(folder: Path) -> None:
    assert SplatkitTrainerConfig(load_config=folder / "config.yml").load_config == folder / "config.yml"
