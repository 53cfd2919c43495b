"""The made scene, seen and trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from nerfstudio.scripts import train

from splatkit_ns.mesh.views import DepthView
from tests.made_scene import TO_SAVED, Array, MadeView, made_views, seen_points, write_made_scene
from tests.mesh.helpers import true_view
from tests.plugin.helpers import forget_writers, run_config


@pytest.fixture(scope="session")
def pictures() -> list[MadeView]:
    return made_views()


@pytest.fixture(scope="session")
def true_views(pictures: list[MadeView]) -> list[DepthView]:
    return [true_view(picture) for picture in pictures]


@pytest.fixture(scope="session")
def seen(pictures: list[MadeView]) -> Array:
    """Points of the surfaces that the cameras saw."""
    return seen_points(pictures)


@pytest.fixture(scope="session")
def made_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the made scene, small; its own frame is not that of its files. Do not change it."""
    folder = tmp_path_factory.mktemp("made")
    return write_made_scene(folder, num_views=16, width=96, height=72, num_points=10_000, applied_transform=TO_SAVED)


@pytest.fixture(scope="session")
def made_run(made_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config.yml of a short 3DGS run on it; do not change its folder."""
    config = run_config(made_data, tmp_path_factory.mktemp("made_run"), steps=120)
    config.pipeline.datamanager.dataparser.eval_mode = "all"
    config.pipeline.model.init_opacity, config.pipeline.model.init_scale = 0.5, 0.5
    train.main(config)
    forget_writers()
    return config.get_base_dir() / "config.yml"
