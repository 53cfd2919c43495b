"""The cameras of a run, as training has corrected them, written as files for nerfstudio and COLMAP."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from numpy.typing import NDArray
from torch import Tensor

from splatkit_ns.errors import SplatkitError
from splatkit_ns.files import atomic_write_text
from splatkit_ns.formats import FormatError
from splatkit_ns.formats.frames import Similarity, quat_of
from splatkit_ns.plugin.data.photographs.lenses import COEFFICIENTS, COLMAP_PARAMETERS, DENOMINATORS
from splatkit_ns.plugin.data.scenes.scene_frames import frame_to_training
from splatkit_ns.plugin.data.scenes.transforms import read_frames, transforms_file

FILES = ("transforms.json", "cameras.txt", "images.txt", "points3D.txt")
"""The files that `write_cameras` writes."""
MODELS = {CameraType.PERSPECTIVE.value: "OPENCV", CameraType.FISHEYE.value: "OPENCV_FISHEYE"}
KEPT = ("applied_transform", "applied_scale", "orientation_override")
"""The entries of a data set's transforms.json that belong to the new one, too, besides its seed points."""


@dataclass(frozen=True)
class PhotographCamera:
    """A photograph and its camera."""

    path: Path
    model: str
    """A value of `MODELS`, or FULL_OPENCV for a lens with terms that divide."""
    width: int
    height: int
    values: dict[str, float]
    """fl_x, fl_y, cx, cy, and the coefficients that its model has."""
    cam_to_world: NDArray[np.float64]
    """(4, 4), nerfstudio's axes (y up, z backward), in the data set's frame."""
    beside: dict[str, Path]
    """Its mask and depth, by their entry in transforms.json."""


def write_cameras(datamanager: Any, motions: Tensor, folder: Path) -> None:
    """Write all cameras in the frame of the data set's files: those of training corrected, the others as they are.

    transforms.json can take the place of the data set's own; the other files are a COLMAP model without points.

    Args:
        datamanager: has the cameras.
        motions: the corrections of the training cameras, (N, 3, 4), as nerfstudio's camera optimizer has them.
        folder: of the new files; existing ones are replaced.

    Raises:
        SplatkitError: a camera is neither a perspective nor a fisheye camera, or has a lens that COLMAP does not know,
            the frame is mirrored, or a file cannot be written.
    """
    try:
        move = Similarity.from_dataparser(*frame_to_training(datamanager, "dataset")).inverse()
    except FormatError as error:
        raise SplatkitError(f"The cameras cannot be written in the frame of the data set: {error}") from error
    turns = motions.detach().double().cpu().numpy()
    datasets = (datamanager.train_dataset, datamanager.eval_dataset)
    found: dict[Path, PhotographCamera] = {}
    for dataset, corrections in zip(datasets, (turns, None), strict=True):
        for number, path in enumerate(dataset.image_filenames):
            correction = None if corrections is None else corrections[number]
            found.setdefault(Path(path), _photograph_camera(dataset.dataparser_outputs, number, correction, move))
    cameras = [found[path] for path in sorted(found)]
    names = [[Path(path) for path in dataset.image_filenames] for dataset in datasets]
    files = {
        "transforms.json": json.dumps(_transforms(cameras, datamanager, folder, *names), indent=1),
        "cameras.txt": _colmap_cameras(cameras),
        "images.txt": _colmap_images(cameras),
        "points3D.txt": "# No points: POINT3D_ID X Y Z R G B ERROR TRACK[]\n",
    }
    for name, text in files.items():
        try:
            atomic_write_text(folder / name, text)
        except OSError as error:
            raise SplatkitError(f"{folder / name}: {error.strerror or error}.") from error


def _photograph_camera(
    outputs: DataparserOutputs, number: int, correction: NDArray[np.float64] | None, move: Similarity
) -> PhotographCamera:
    path, camera = Path(outputs.image_filenames[number]), outputs.cameras[number].reshape(())
    kind = int(camera.camera_type)
    if kind not in MODELS:
        raise SplatkitError(
            f"The cameras cannot be written: that of {path.name} is of the type {CameraType(kind).name.lower()}, "
            "expected perspective or fisheye."
        )
    pose = np.eye(4)
    pose[:3] = camera.camera_to_worlds.double().cpu().numpy()
    if correction is not None:
        pose[:3, :3], pose[:3, 3] = correction[:, :3] @ pose[:3, :3], pose[:3, 3] + correction[:, 3]
    pose[:3, :3], pose[:3, 3] = move.rotation @ pose[:3, :3], move.apply(pose[None, :3, 3])[0]
    values = {"fl_x": float(camera.fx), "fl_y": float(camera.fy), "cx": float(camera.cx), "cy": float(camera.cy)}
    coefficients = [] if camera.distortion_params is None else camera.distortion_params.flatten().tolist()
    values |= dict(zip(COEFFICIENTS, coefficients, strict=False))
    model, dividing = MODELS[kind], coefficients[len(COEFFICIENTS) :]
    if any(dividing):
        model, values = "FULL_OPENCV", values | dict(zip(DENOMINATORS, dividing, strict=False))  # lists may be padded
    files = {"mask_path": outputs.mask_filenames, "depth_file_path": outputs.metadata.get("depth_filenames")}
    beside = {name: Path(paths[number]) for name, paths in files.items() if paths}
    return PhotographCamera(path, model, int(camera.width), int(camera.height), values, pose, beside)


def _transforms(
    cameras: list[PhotographCamera], datamanager: Any, folder: Path, training: list[Path], held_out: list[Path]
) -> dict[str, Any]:
    """The content of transforms.json, with paths relative to its folder, and the split of the run."""
    meta: dict[str, Any] = {"camera_model": cameras[0].model}
    parser = datamanager.config.dataparser
    normals: dict[Path, Path] = {}
    if isinstance(parser, NerfstudioDataParserConfig):
        path = transforms_file(Path(parser.data))
        old, entries = read_frames(path)
        meta |= {name: old[name] for name in KEPT if name in old}
        if "ply_file_path" in old:
            meta["ply_file_path"] = _relative(path.parent / old["ply_file_path"], folder)
        named = [entry for entry in entries if "normal_file_path" in entry]
        normals = {(path.parent / e["file_path"]).resolve(): path.parent / e["normal_file_path"] for e in named}
    meta["frames"] = []
    for camera in cameras:
        entry: dict[str, Any] = {"file_path": _relative(camera.path, folder), "camera_model": camera.model}
        beside = dict(camera.beside)
        if camera.path.resolve() in normals:
            beside["normal_file_path"] = normals[camera.path.resolve()]
        entry |= {name: _relative(path, folder) for name, path in beside.items()}
        entry |= {"w": camera.width, "h": camera.height, **camera.values}
        meta["frames"].append(entry | {"transform_matrix": camera.cam_to_world.tolist()})
    meta["train_filenames"] = [_relative(path, folder) for path in training]
    meta["val_filenames"] = meta["test_filenames"] = [_relative(path, folder) for path in held_out]
    return meta


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _colmap_cameras(cameras: list[PhotographCamera]) -> str:
    lines = ["# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]"]
    lines += [f"{number} {_colmap_line(cameras[first])}" for first, number in _colmap_numbers(cameras).values()]
    return "\n".join(lines) + "\n"


def _colmap_numbers(cameras: list[PhotographCamera]) -> dict[str, tuple[int, int]]:
    """The index of the first photograph with the same intrinsics, and COLMAP's number of these, by their line."""
    found: dict[str, tuple[int, int]] = {}
    for index, camera in enumerate(cameras):
        found.setdefault(_colmap_line(camera), (index, len(found) + 1))
    return found


def _colmap_line(camera: PhotographCamera) -> str:
    """COLMAP's model, size and parameters of a camera."""
    model, values = camera.model, camera.values
    if model == "OPENCV":
        bends = [name for name in COEFFICIENTS if values.get(name)]
        if "k4" in bends:  # COLMAP's k4 is the first term that divides
            raise SplatkitError(
                f"The cameras cannot be written: that of {camera.path.name} has a fourth radial term (k4), which no "
                "camera model of COLMAP has."
            )
        model = "FULL_OPENCV" if "k3" in bends else "OPENCV" if bends else "PINHOLE"
    parameters = [values.get(name, 0.0) for name in COLMAP_PARAMETERS[model]]
    return " ".join([model, str(camera.width), str(camera.height), *map(repr, parameters)])


def _colmap_images(cameras: list[PhotographCamera]) -> str:
    folder = Path(os.path.commonpath([camera.path.parent for camera in cameras]))
    numbers = _colmap_numbers(cameras)
    lines = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, and a line of POINTS2D[], which is empty"]
    for number, camera in enumerate(cameras, start=1):
        rotation = (camera.cam_to_world[:3, :3] * [1.0, -1.0, -1.0]).T
        quaternion, translation = quat_of(rotation), -rotation @ camera.cam_to_world[:3, 3]
        values = [repr(float(value)) for value in (*quaternion, *translation)]
        _, camera_number = numbers[_colmap_line(camera)]
        name = camera.path.relative_to(folder).as_posix()
        lines += [" ".join([str(number), *values, str(camera_number), name]), ""]
    return "\n".join(lines) + "\n"
