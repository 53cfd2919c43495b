"""A data set of NerfBaselines, which is in memory, as files that nerfstudio reads."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
from numpy.typing import NDArray
from PIL import Image

from splatkit_ns.errors import SplatkitError

PINHOLE = 0
"""NerfBaselines' number of this camera model."""
PNG_EFFORT = 1
"""The level of compression, up to 9: low, since each file is written and read only once."""


def write_dataset(dataset: Any, folder: Path) -> None:
    """Write ``transforms.json``, images, masks and seed points.

    Args:
        dataset: with ``cameras`` (pinhole, camera-to-world matrices with OpenCV axes), ``images`` (H, W, 3 or 4) uint8,
            and, if there are any, ``masks`` (H, W), false or 0 where pixels are left out, ``points3D_xyz`` (M, 3) and
            ``points3D_rgb`` (M, 3) uint8. Transparent images are laid on the colour in its metadata, or black.
        folder: exists, and is empty.

    Raises:
        SplatkitError: a camera is no pinhole camera, or an image has another size than its camera.
    """
    cameras, images, masks = dataset["cameras"], dataset["images"], dataset.get("masks")
    background = dataset["metadata"].get("background_color")
    (folder / "images").mkdir()
    if masks is not None:  # an empty folder would be taken for masks that frames do not name
        (folder / "masks").mkdir()

    def frame(index: int) -> dict[str, Any]:
        camera, name = cameras[index], f"{index:06d}.png"
        image = opaque(images[index], background)
        entry = {"file_path": f"images/{name}", **_camera(camera, image, name)}
        Image.fromarray(image).save(folder / "images" / name, compress_level=PNG_EFFORT)
        if masks is not None:
            kept = np.asarray(masks[index]).squeeze() > 0
            Image.fromarray(kept.astype(np.uint8) * 255).save(folder / "masks" / name, compress_level=PNG_EFFORT)
            entry["mask_path"] = f"masks/{name}"
        return entry

    with ThreadPoolExecutor() as threads:
        meta: dict[str, Any] = {"camera_model": "PINHOLE", "frames": list(threads.map(frame, range(len(images))))}
    points = dataset.get("points3D_xyz")
    if points is not None and len(points) > 0:
        meta["ply_file_path"] = "points.ply"
        write_points(folder / "points.ply", points, dataset.get("points3D_rgb"))
    (folder / "transforms.json").write_text(json.dumps(meta))


def opaque(image: Any, background: Any) -> NDArray[np.uint8]:
    """An image (H, W, 3) uint8; one with alpha (H, W, 4) is laid on a colour of NerfBaselines', or on black.

    It is rounded as in its `image_to_srgb`, with which other methods of that program make theirs.

    Raises:
        SplatkitError: the image is of another type than uint8.
    """
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        raise SplatkitError(f"An image of the data set has the type {pixels.dtype}, expected uint8.")
    if pixels.shape[-1] != 4:
        return pixels[..., :3]
    values = pixels.astype(np.float32) / np.float32(255)
    mixed = values[..., :3] * values[..., 3:] + (1 - values[..., 3:]) * colour(background).astype(np.float32)
    return (np.clip(mixed, 0, 1) * 255 + 0.5).astype(np.uint8)


def colour(background: Any) -> NDArray[np.float64]:
    """A colour of NerfBaselines' as (3,) in [0, 1]: numbers up to 255, or floats; None means black."""
    if background is None:
        return np.zeros(3)
    given = np.asarray(background)
    return given.astype(np.float64) / (255 if np.issubdtype(given.dtype, np.integer) else 1)


def _camera(camera: Any, image: NDArray[np.uint8], name: str) -> dict[str, Any]:
    if int(camera.camera_models) != PINHOLE:
        raise SplatkitError(f"The camera of image {name} is no pinhole camera, and only those can be trained on.")
    width, height = (int(size) for size in camera.image_sizes)
    if image.shape[:2] != (height, width):
        raise SplatkitError(
            f"Image {name} has {image.shape[1]}×{image.shape[0]} pixels, its camera says {width}×{height}."
        )
    fl_x, fl_y, cx, cy = (float(value) for value in camera.intrinsics)
    pose = np.eye(4)
    pose[:3] = np.asarray(camera.poses, np.float64)[:3, :4]
    pose[:, 1:3] *= -1  # nerfstudio's axes: y up, looking along -z
    sizes = {"w": width, "h": height, "fl_x": fl_x, "fl_y": fl_y, "cx": cx, "cy": cy}
    return {**sizes, "transform_matrix": pose.tolist()}


def write_points(path: Path, points: Any, colours: Any) -> None:
    """Write a point cloud; without colours it is grey."""
    xyz = np.asarray(points)
    rgb = np.full(xyz.shape, 128) if colours is None else np.asarray(colours)
    names = ("red", "green", "blue")
    rows = np.empty(len(xyz), [(axis, "<f8") for axis in "xyz"] + [(name, "u1") for name in names])
    for column, axis in enumerate("xyz"):
        rows[axis] = xyz[:, column]
    for column, name in enumerate(names):
        rows[name] = rgb[:, column]
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], byte_order="<").write(str(path))
