"""The tiny scene that runs of this folder train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_scene import write_tiny_scene


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_scene(tmp_path_factory.mktemp("scene"), num_views=12)
