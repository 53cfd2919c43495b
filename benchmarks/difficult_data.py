"""Data sets that are made difficult in a known way, from data sets in nerfstudio's format."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from plyfile import PlyData, PlyElement
from scipy.spatial.transform import Rotation

EVAL_INTERVAL = 8
FIGURES = "figures"
"""The folder of the masks of what was painted into photographs."""
SEEN = "seen.npz"
"""The file that tells which seed points photographs show."""

Pixels = NDArray[np.float64]


def to_light(values: Pixels) -> Pixels:
    """Linear light of sRGB values, both in [0, 1] (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def to_srgb(light: Pixels) -> Pixels:
    """The inverse of `to_light`."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def uneven(values: Pixels, rng: np.random.Generator) -> Pixels:
    """A photograph (H, W, 3) in [0, 1] as another exposure, white balance and tone curve would have made it."""
    gain = 2 ** rng.uniform(-1, 1)
    balance = np.exp(rng.uniform(-0.2, 0.2, 3) * [1, 0, 1])
    gamma = np.exp(rng.uniform(-0.2, 0.2))
    return to_srgb(np.clip(to_light(values) * gain * balance, 0, 1)) ** gamma


def painted(values: Pixels, rng: np.random.Generator) -> Pixels:
    """A photograph in which something stands that no other shows; two of three stay as they are.

    It is a body and a head, as high as a third to two thirds of the image, striped or plain.
    """
    if rng.random() > 1 / 3:
        return values
    height, width, _ = values.shape
    tall = rng.uniform(1 / 3, 2 / 3) * height
    x, y = rng.uniform(0.15, 0.85) * width, rng.uniform(0.35, 0.75) * height
    rows, columns = np.mgrid[:height, :width] + 0.5
    body = ((columns - x) / (0.17 * tall)) ** 2 + ((rows - y) / (0.4 * tall)) ** 2 < 1
    head = (columns - x) ** 2 + (rows - y + 0.45 * tall) ** 2 < (0.11 * tall) ** 2
    colors = rng.uniform(0, 1, (3, 3))
    stripes = (rows // rng.uniform(3, 15)).astype(int) % 2 * (rng.random() < 0.5)
    changed = values.copy()
    changed[body] = colors[stripes[body]]
    changed[head] = colors[2]
    return changed


CHANGES: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {"appearance": uneven, "distractors": painted}
KINDS = ("nothing", *CHANGES, "poses")


def make(kind: str, scene: Path, folder: Path, points: int | None = None, seed: int = 0) -> Path:
    """Write a data set whose training photographs or their cameras are changed; those held out stay as they are.

    Args:
        kind: one of `KINDS`: nothing, a change of the pixels (written as PNG), or poses that are wrong by half a degree
            and a hundredth of the scene.
        scene: the data set.
        folder: the new one.
        points: the number of seed points that are kept, drawn at random; None for all.
        seed: of the changes.
    """
    meta = read_with_whole_paths(scene)
    frames = sorted(meta["frames"], key=lambda frame: frame["file_path"])
    test, training = split(frames)
    if kind == "poses":
        perturb(training, np.random.default_rng(seed))
    if kind in CHANGES:
        (folder / "images").mkdir(parents=True)
        (folder / FIGURES).mkdir()

        def change(number: int) -> None:
            path = training[number]["file_path"]
            with Image.open(path) as image:
                values = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
            changed = CHANGES[kind](values, np.random.default_rng([seed, number]))
            target = folder / "images" / f"{Path(path).stem}.png"
            Image.fromarray((changed * 255).round().astype(np.uint8)).save(target, compress_level=1)
            if kind == "distractors":
                Image.fromarray((changed != values).any(-1)).save(folder / FIGURES / target.name)
            training[number]["file_path"] = str(target)

        with ThreadPoolExecutor() as pool:
            list(pool.map(change, range(len(training))))
    return write(meta, folder, training, test, points, seed)


def few(scene: Path, folder: Path, num: int, depths: Path) -> Path:
    """Write a data set with only a few of the training photographs, spread evenly, and depth beside them.

    Of the seed points, those stay that at least two of these photographs show, as structure from motion would find.

    Args:
        scene: the data set.
        folder: the new one.
        num: the number of training photographs.
        depths: the folder of the inverse depth of the photographs, each under the photograph's name and ``.png``, and
            of SEEN.
    """
    meta = read_with_whole_paths(scene)
    test, training = split(sorted(meta["frames"], key=lambda frame: frame["file_path"]))
    chosen = [training[round(i)] for i in np.linspace(0, len(training) - 1, num)]
    for frame in meta["frames"]:
        frame["depth_file_path"] = str(depths / f"{Path(frame['file_path']).name}.png")
    with np.load(depths / SEEN) as seen:
        is_seen = sum(seen[Path(frame["file_path"]).name].astype(int) for frame in chosen) >= 2
    return write(meta, folder, chosen, test, points=is_seen)


def write_inverse_depth(depths: NDArray[np.float32], alphas: NDArray[np.float32], path: Path, seed: int) -> None:
    """Write the inverse depth that a network would have guessed: in 16 bits, with a scale and shift of its own.

    Args:
        depths: rendered depths (H, W).
        alphas: (H, W); where less than half is covered the depth is unknown, 0.
        path: the PNG file.
        seed: of scale and shift.
    """
    rng = np.random.default_rng(seed)
    known = (alphas > 0.5) & (depths > 0)
    inverse = np.where(known, 1 / np.where(known, depths, 1), 0)
    low, high = np.quantile(inverse[known], [0.001, 0.999]) if known.any() else (0.0, 1.0)
    bottom, top = rng.uniform(0.05, 0.3), rng.uniform(0.5, 0.95)
    values = np.clip(bottom + (top - bottom) * (inverse - low) / max(high - low, 1e-9), 1e-4, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(known, values * 65535, 0).round().astype(np.uint16)).save(path)


def perturb(
    frames: Sequence[dict[str, Any]], rng: np.random.Generator, degrees: float = 0.5, share: float = 0.01
) -> None:
    """Turn each camera about a random axis, and move it in a random direction.

    Args:
        frames: entries of transforms.json; they are changed.
        rng: draws axes and directions.
        degrees: the angle.
        share: the distance, as a share of the largest distance of a camera from the mean of all.
    """
    poses = np.array([frame["transform_matrix"] for frame in frames], dtype=np.float64)
    radius = np.linalg.norm(poses[:, :3, 3] - poses[:, :3, 3].mean(0), axis=1).max()
    for frame, pose in zip(frames, poses, strict=True):
        axis, direction = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
        pose[:3, :3] = Rotation.from_rotvec(degrees * axis, degrees=True).as_matrix() @ pose[:3, :3]
        pose[:3, 3] += share * radius * direction
        frame["transform_matrix"] = pose.tolist()


def read_with_whole_paths(scene: Path) -> dict[str, Any]:
    """The transforms.json of a data set, with absolute paths of its files."""
    meta = json.loads((scene / "transforms.json").read_text())
    for entries in (meta, *meta["frames"]):
        for key in ("file_path", "mask_path", "ply_file_path"):
            if key in entries:
                entries[key] = str((scene / entries[key]).resolve())
    return meta


def split(frames: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The frames that are held out, every eighth, and those for training."""
    test = frames[::EVAL_INTERVAL]
    return test, [frame for frame in frames if frame not in test]


def write(
    meta: dict[str, Any],
    folder: Path,
    training: list[dict[str, Any]],
    test: list[dict[str, Any]],
    points: int | NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> Path:
    """Write a transforms.json that names the photographs for training and those held out; returns its folder.

    Of the seed points, ``points`` says how many are kept, drawn at random, or which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if points is not None:
        rows = PlyData.read(meta["ply_file_path"])["vertex"].data
        rows = rows[np.random.default_rng(seed).permutation(len(rows))[:points] if isinstance(points, int) else points]
        PlyData([PlyElement.describe(rows, "vertex")]).write(str(folder / "points.ply"))
        meta["ply_file_path"] = "points.ply"
    meta["train_filenames"] = [frame["file_path"] for frame in training]
    meta["val_filenames"] = meta["test_filenames"] = [frame["file_path"] for frame in test]
    (folder / "transforms.json").write_text(json.dumps(meta, indent=1))
    return folder
