"""Data sets that tests copy and break."""

from __future__ import annotations

from pathlib import Path

import pytest

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
