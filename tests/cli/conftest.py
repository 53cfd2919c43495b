"""A run to export from."""

from __future__ import annotations

from pathlib import Path

import pytest
from nerfstudio.scripts import train

from tests.made_scene import TO_SAVED, write_made_scene
from tests.plugin.helpers import forget_writers, run_config


@pytest.fixture(scope="session")
def made_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the made scene, small; its own frame is not that of its files. Do not change it."""
    folder = tmp_path_factory.mktemp("made")
    return write_made_scene(folder, num_views=16, width=96, height=72, num_points=3000, applied_transform=TO_SAVED)


@pytest.fixture(scope="session")
def made_run(made_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config.yml of a short run on it, with colours that depend on the direction; do not change its folder."""
    config = run_config(made_data, tmp_path_factory.mktemp("made_run"), steps=60)
    config.pipeline.model.sh_degree_interval = 10
    config.pipeline.model.init_opacity, config.pipeline.model.init_scale = 0.5, 0.5
    config.steps_per_save = 40
    config.save_only_latest_checkpoint = False
    train.main(config)
    forget_writers()
    return config.get_base_dir() / "config.yml"
