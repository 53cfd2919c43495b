"""The demo scene: what nerfstudio reads of it agrees with itself, and nothing of the user's is overwritten."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "examples" / "make_demo_scene.py"
SMALL = ("--views", "6", "--width", "80", "--height", "60")


def make(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "scene"
    done = make(folder, *SMALL)
    assert done.returncode == 0, done.stderr
    return folder


def test_seed_points_projected_through_nerfstudios_cameras_have_the_pictures_colors(scene: Path) -> None:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    config = NerfstudioDataParserConfig(data=scene, downscale_factor=1, eval_mode="all", load_3D_points=True)
    parsed = config.setup().get_dataparser_outputs("train")
    points = parsed.metadata["points3D_xyz"].double().numpy()
    colors = parsed.metadata["points3D_rgb"].double().numpy() / 255
    assert len(parsed.image_filenames) == 6
    assert len(points) == 6000

    shifts = [(0, 0), *((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column)]
    for index, path in enumerate(parsed.image_filenames):
        picture = np.asarray(Image.open(path), dtype=np.float64) / 255
        pose = parsed.cameras.camera_to_worlds[index].double().numpy()
        # A sixth of the points was drawn from this view, so nothing hides them there.
        own = slice(index * 1000, (index + 1) * 1000)
        in_camera = (points[own] - pose[:, 3]) @ pose[:, :3]
        depth = -in_camera[:, 2]  # OpenGL: the camera looks along -z
        camera = parsed.cameras[index]
        column = np.floor(camera.fx.item() * in_camera[:, 0] / depth + camera.cx.item()).astype(int)
        row = np.floor(-camera.fy.item() * in_camera[:, 1] / depth + camera.cy.item()).astype(int)
        inside = (depth > 0) & (column > 0) & (column < 79) & (row > 0) & (row < 59)
        assert inside.mean() > 0.93
        seen = [picture[row[inside] + down, column[inside] + right] for down, right in shifts]
        errors = [np.abs(there - colors[own][inside]).mean() for there in seen]
        assert errors[0] < 0.04
        assert errors[0] < 0.8 * min(errors[1:])  # half a pixel off would show


def test_it_is_read_without_a_note(scene: Path) -> None:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    from splatkit_ns.plugin.data.checks.data_folder import check_folder
    from splatkit_ns.plugin.reporting.console import collected_notes

    with collected_notes() as notes:
        check_folder(NerfstudioDataParserConfig(data=scene))
    assert notes == []


def test_pictures_have_the_declared_size_and_something_to_see(scene: Path) -> None:
    paths = sorted((scene / "images").iterdir())
    assert len(paths) == 6
    for path in paths:
        picture = Image.open(path)
        assert picture.size == (80, 60)
        assert picture.mode == "RGB"
        assert np.asarray(picture).std() > 25


def test_same_settings_give_the_same_bytes(scene: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "again", *SMALL).returncode == 0
    names = sorted(path.relative_to(scene) for path in scene.rglob("*") if path.is_file())
    assert len(names) == 8
    for name in names:
        assert (scene / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "transforms.json").write_text('{"frames": []}')
    done = make(tmp_path, *SMALL)
    assert done.returncode == 2
    assert "is not a demo scene" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["transforms.json"]


def test_scene_with_the_same_settings_is_kept(scene: Path) -> None:
    before = (scene / "transforms.json").stat().st_mtime_ns
    done = make(scene, *SMALL)
    assert done.returncode == 0
    assert "already there" in done.stdout
    assert (scene / "transforms.json").stat().st_mtime_ns == before
