"""Data sets that tests copy and break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugin.helpers import forget_writers
from tests.tiny_scene import write_tiny_blender, write_tiny_colmap, write_tiny_scene


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders by format; do not change them."""
    root = tmp_path_factory.mktemp("scenes")
    return {
        "nerfstudio": write_tiny_scene(root / "nerfstudio", masks=True),
        "colmap": write_tiny_colmap(root / "colmap"),
        "blender": write_tiny_blender(root / "blender"),
        "small": write_tiny_scene(root / "small", width=9, height=8),
    }


@pytest.fixture(autouse=True)
def _no_writers_left() -> Iterator[None]:
    """nerfstudio keeps the writers of a run in a global, and the next run would write to them, too."""
    yield
    forget_writers()
