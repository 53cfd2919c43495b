"""Makes the scene of `make demo`: pictures of a still life with exact poses and seed points, as nerfstudio reads them.

    python examples/make_demo_scene.py OUT [--views 48] [--width 160] [--height 120] [--seed 0]

OUT holds `transforms.json`, `images/*.png` and `sparse_pc.ply` afterwards. The same settings give the same scene.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plyfile
from demo_scene.cameras import Lens, orbit
from demo_scene.meshes import Array
from PIL import Image
from tqdm import tqdm

if TYPE_CHECKING:
    from demo_scene.still_life import StillLife

VERSION = 1  # raised when the same settings give other pictures
SAMPLES_PER_SIDE = 4  # a pixel is the mean of 4 x 4 rays
SEED_POINTS = 6000
SEED_JITTER = 0.006  # deviation in scene units, as structure from motion would have it
GAMMA = 2.2


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that `transforms.json` stores, by which a scene of this script is recognised."""
    names = ("views", "width", "height", "seed")
    return {"name": "splatkit-ns demo scene", "version": VERSION, **{name: getattr(arguments, name) for name in names}}


def stored_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the demo scene in `folder`; None if there is none."""
    try:
        made_by = json.loads((folder / "transforms.json").read_text()).get("made_by", {})
    except (OSError, ValueError, AttributeError):
        return None
    return made_by if isinstance(made_by, dict) and made_by.get("name") == "splatkit-ns demo scene" else None


def photograph(scene: StillLife, lens: Lens, pose: Array) -> Array:
    """(height, width, 3) linear RGB as seen from the camera-to-world matrix `pose`."""
    step = 1 / SAMPLES_PER_SIDE
    rows, columns = np.arange(step / 2, lens.height, step), np.arange(step / 2, lens.width, step)
    y, x = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    colors = scene.look(pose[:3, 3], lens.directions(pose, x, y)).colors
    return colors.reshape(lens.height, SAMPLES_PER_SIDE, lens.width, SAMPLES_PER_SIDE, 3).mean(axis=(1, 3))


def seed_points(scene: StillLife, lens: Lens, pose: Array, count: int, generator: np.random.Generator) -> Array:
    """(count, 6): positions of surface points that the camera sees, slightly off, and their linear RGB."""
    x, y = generator.uniform(0, lens.width, count), generator.uniform(0, lens.height, count)
    hits = scene.look(pose[:3, 3], lens.directions(pose, x, y))
    return np.concatenate([hits.points + SEED_JITTER * generator.standard_normal((count, 3)), hits.colors], axis=1)


def to_bytes(linear: Array) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Linear RGB in [0, 1] as it is stored: 8 bits, gamma 2.2."""
    return np.round(255 * np.clip(linear, 0, 1) ** (1 / GAMMA)).astype(np.uint8)


def write_points(path: Path, points: Array) -> None:
    """Writes (N, 6) positions and linear RGB as a binary PLY of float x y z and uchar red green blue."""
    columns = [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.empty(len(points), columns)
    for index, name in enumerate("xyz"):
        rows[name] = points[:, index]
    for index, name in enumerate(("red", "green", "blue")):
        rows[name] = to_bytes(points[:, 3 + index])
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], byte_order="<").write(str(path))


def make_scene(folder: Path, settings: dict[str, Any]) -> None:
    """Writes the scene into the empty or missing `folder`."""
    from demo_scene.still_life import StillLife  # open3d takes seconds to import

    lens = Lens(settings["width"], settings["height"])
    poses = orbit(settings["views"])
    generator = np.random.default_rng(settings["seed"])
    scene = StillLife(settings["seed"])
    (folder / "images").mkdir(parents=True, exist_ok=True)
    frames: list[dict[str, Any]] = []
    points: list[Array] = []
    for index, pose in enumerate(tqdm(poses, desc="views", unit="view", disable=None)):
        name = f"images/view_{index:03d}.png"
        Image.fromarray(to_bytes(photograph(scene, lens, pose))).save(folder / name)
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
        points.append(seed_points(scene, lens, pose, -(-SEED_POINTS // len(poses)), generator))
    write_points(folder / "sparse_pc.ply", np.concatenate(points))
    transforms = {
        "made_by": settings,
        "camera_model": "OPENCV",
        "w": lens.width,
        "h": lens.height,
        "fl_x": lens.focal,
        "fl_y": lens.focal,
        "cx": lens.width / 2,
        "cy": lens.height / 2,
        "ply_file_path": "sparse_pc.ply",
        "applied_transform": np.eye(4)[:3].tolist(),
        "frames": frames,
    }
    (folder / "transforms.json").write_text(json.dumps(transforms, indent=1) + "\n")


def main(words: list[str] | None = None) -> None:
    """Reads the command line, makes the scene beside OUT, and moves it there when it is whole."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make; an older demo scene there is replaced")
    for name, default, least in (("views", 48, 2), ("width", 160, 8), ("height", 120, 8), ("seed", 0, 0)):
        parser.add_argument(f"--{name}", type=_at_least(least), default=default, help=f"{default} if not given")
    arguments = parser.parse_args(words)
    out: Path = arguments.out
    settings = settings_of(arguments)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        stored = stored_settings(out) if out.is_dir() else None
        if stored is None:
            parser.error(f"{out} exists and is not a demo scene: name another folder, or remove it yourself")
        if stored == settings:
            print(f"{out} is already there with these settings")
            return
    draft = out.with_name(out.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    make_scene(draft, settings)
    shutil.rmtree(out, ignore_errors=True)
    draft.rename(out)
    print(f"{settings['views']} views of {settings['width']}x{settings['height']} pixels in {out}")


def _at_least(least: int) -> Any:
    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return integer


if __name__ == "__main__":
    sys.exit(main())
