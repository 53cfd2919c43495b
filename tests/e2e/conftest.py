"""Runs that several tests look at."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nerfstudio.scripts import train

from tests.plugin.helpers import run_config


@pytest.fixture(scope="session")
def trained(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config.yml of a run of 30 steps that ``ns-train`` made."""
    config = run_config(tiny_scene, tmp_path_factory.mktemp("trained"), steps=30)
    config.pipeline.model.sh_degree_interval = 10
    train.main(config)
    return config.get_base_dir() / "config.yml"


@pytest.fixture
def some_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program named ffmpeg on PATH: ``ns-render`` asks for it, and then does not use it for images."""
    if shutil.which("ffmpeg") is None:
        stub = tmp_path / "bin" / "ffmpeg"
        stub.parent.mkdir()
        stub.write_text("#!/bin/sh\nexit 1\n")
        stub.chmod(0o755)
        monkeypatch.setenv("PATH", str(stub.parent), prepend=":")
