"""The lens and size of each photograph, as transforms.json and COLMAP write them, and nerfstudio's cameras of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, Cameras, CameraType

from splatkit_ns.plugin.data.errors import DataError

FISHEYES = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
MODELS: dict[str, CameraType] = {
    **CAMERA_MODEL_TO_TYPE,
    "FULL_OPENCV": CameraType.PERSPECTIVE,
    **dict.fromkeys(FISHEYES, CameraType.FISHEYE),
}
"""The names that 'camera_model' may have."""
COLMAP_PARAMETERS: dict[str, tuple[str, ...]] = {
    "SIMPLE_PINHOLE": ("fl", "cx", "cy"),
    "PINHOLE": ("fl_x", "fl_y", "cx", "cy"),
    "SIMPLE_RADIAL": ("fl", "cx", "cy", "k1"),
    "RADIAL": ("fl", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "SIMPLE_RADIAL_FISHEYE": ("fl", "cx", "cy", "k1"),
    "RADIAL_FISHEYE": ("fl", "cx", "cy", "k1", "k2"),
    "OPENCV_FISHEYE": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4"),
}
"""COLMAP's camera models that can be used, with their parameters in COLMAP's order."""

PAIRS = (("fl_x", "fl_y"), ("cx", "cy"), ("w", "h"))
INTRINSICS = tuple(key for pair in PAIRS for key in pair)
COEFFICIENTS = ("k1", "k2", "k3", "k4", "p1", "p2")
"""In the order of nerfstudio's distortion parameters; k4 is the fourth radial term."""
DENOMINATORS = ("k4", "k5", "k6")
"""The terms by which a FULL_OPENCV lens divides; they come after the six others."""
DISTORTION = (*COEFFICIENTS, "k5", "k6", "distortion_params")
FLAGS = ("is_fisheye", "latlong", "equirectangular", "ftheta_p0")
"""Marks by which instant-ngp tells the kind of a lens."""

UNDISTORT = (
    "Undistort the images first: colmap image_undistorter --image_path IMAGES --input_path MODEL --output_path FOLDER"
)


@dataclass(frozen=True)
class Lens:
    """The size and the intrinsics of one photograph, in pixels."""

    kind: CameraType
    width: int
    height: int
    fl_x: float
    fl_y: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()
    """`COEFFICIENTS` and, if there are nine, `DENOMINATORS`; as nerfstudio has them for FISHEYE624."""


def lens_of_frame(meta: Mapping[str, Any], frame: Mapping[str, Any], where: str) -> Lens:
    """The lens of a frame of transforms.json: its own values where it has some, those at the top where it has none.

    Args:
        meta: the content of the file.
        frame: one of its frames.
        where: the file and the frame, for messages.

    Raises:
        DataError: a value is missing, of a wrong type or without its pair, or the kind of lens cannot be used.
    """
    numbers = {key: value for pair in PAIRS for key, value in _pair(meta, frame, pair, where)}
    size_differs = any(key in frame and meta.get(key) not in (None, frame[key]) for key in ("w", "h"))
    borrowed = [key for key in ("fl_x", "fl_y", "cx", "cy") if key not in frame]
    if size_differs and borrowed:
        raise DataError(
            f"{where} has a size of its own, w = {frame['w']} and h = {frame['h']}, but not {', '.join(borrowed)}: "
            "those at the top of the file belong to pictures of another size. Give all six in the frame."
        )
    model = _model(meta, frame, where)
    own_lens = any(key in frame for key in (*DISTORTION, *FLAGS, "camera_model"))
    distortion = _distortion(frame if own_lens else meta, model, where)
    width, height = int(numbers.pop("w")), int(numbers.pop("h"))
    return Lens(MODELS[model], width, height, **numbers, distortion=distortion)


def _pair(
    meta: Mapping[str, Any], frame: Mapping[str, Any], keys: tuple[str, str], where: str
) -> Iterator[tuple[str, float]]:
    own = [key for key in keys if key in frame]
    missing = [key for key in keys if key not in frame]
    if own and missing and own[0] in meta:
        raise DataError(f"{where} has {own[0]} of its own, but not {missing[0]}. Give both in the frame, or none.")
    for key in keys:
        value = frame.get(key, meta.get(key))
        yield key, _number(value, key, where, "a number of pixels")


def _number(value: Any, key: str, where: str, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: {key!r} is {value!r}, expected {expected}.")
    if key in ("w", "h") and not (0 < value < 2**31):  # also NaN, of which there is no whole number
        raise DataError(
            f"{where} has {key} = {value}, expected a positive finite number of pixels. Correct the intrinsics of the "
            "data set."
        )
    return float(value)


def _model(meta: Mapping[str, Any], frame: Mapping[str, Any], where: str) -> str:
    """The name of the camera model, which instant-ngp writes as flags."""
    source = frame if any(key in frame for key in (*FLAGS, "camera_model")) else meta
    model = source.get("camera_model")
    if isinstance(model, str):
        model = model.strip().upper()
    if model is not None and model not in MODELS:
        hint = f" {UNDISTORT}" if isinstance(model, str) else ""
        raise DataError(f"{where}: 'camera_model' is {model!r}, expected one of {', '.join(MODELS)}.{hint}")
    if source.get("latlong") or source.get("equirectangular"):
        return _agreed(model, "EQUIRECTANGULAR", where)
    if source.get("ftheta_p0"):
        raise DataError(f"{where} has an f-theta lens ('ftheta_p0' …), which cannot be undistorted here. {UNDISTORT}")
    if source.get("is_fisheye"):
        return _agreed(model, "OPENCV_FISHEYE", where)
    return str(model or "OPENCV")


def _agreed(model: str | None, flagged: str, where: str) -> str:
    if model is None or MODELS[model] is MODELS[flagged]:
        return model or flagged
    raise DataError(
        f"{where}: 'camera_model' is {model!r}, but a flag beside it says {flagged.lower()}. Take out the wrong one."
    )


def _distortion(source: Mapping[str, Any], model: str, where: str) -> tuple[float, ...]:
    if "distortion_params" in source:
        values = source["distortion_params"]
        length = 12 if MODELS[model] is CameraType.FISHEYE624 else 6
        if not isinstance(values, list | tuple) or len(values) != length:
            raise DataError(f"{where}: 'distortion_params' is {str(values)[:80]}, expected a list of {length} numbers.")
        return tuple(_number(value, "distortion_params", where, "numbers") for value in values)
    values = {key: _number(source.get(key, 0.0), key, where, "a number") for key in (*COEFFICIENTS, "k5", "k6")}
    if model == "FULL_OPENCV":
        return (*(0.0 if key == "k4" else values[key] for key in COEFFICIENTS), *(values[key] for key in DENOMINATORS))
    unused = [key for key in ("k5", "k6") if values[key] != 0]
    if MODELS[model] is CameraType.FISHEYE:
        unused += [key for key in ("p1", "p2") if values[key] != 0]
    if unused:
        raise DataError(
            f"{where} has {' and '.join(unused)}, which a camera of model {model} has not. "
            f"{'FULL_OPENCV has k5 and k6. ' if 'k5' in unused or 'k6' in unused else ''}Correct the intrinsics, or "
            f"set them to 0 if they are small. {UNDISTORT}"
        )
    return tuple(values[key] for key in COEFFICIENTS)


def lens_of_colmap(model: str, width: int, height: int, parameters: Sequence[float], where: str) -> Lens:
    """The lens of a camera of a COLMAP model.

    Raises:
        DataError: its camera model cannot be used.
    """
    names = COLMAP_PARAMETERS.get(model)
    if names is None or len(parameters) != len(names):
        raise DataError(
            f"{where} has a camera of COLMAP's model {model} with {len(parameters)} parameters, expected one of "
            f"{', '.join(COLMAP_PARAMETERS)}. {UNDISTORT}"
        )
    values = dict(zip(names, map(float, parameters), strict=True))
    focal = values.pop("fl", 0.0)
    fl_x, fl_y = values.pop("fl_x", focal), values.pop("fl_y", focal)
    cx, cy = values.pop("cx"), values.pop("cy")
    distortion = _distortion(values, model, where)
    return Lens(MODELS[model], int(width), int(height), fl_x, fl_y, cx, cy, distortion)


def cameras_of(lenses: Sequence[Lens], camera_to_worlds: torch.Tensor, metadata: dict[str, Any]) -> Cameras:
    """nerfstudio's cameras, of which each may have another lens.

    Args:
        lenses: one a camera.
        camera_to_worlds: (C, 3, 4) in nerfstudio's axes.
        metadata: see nerfstudio's `Cameras`; `ns-export cameras` needs some, and writes into it.
    """
    length = max((len(lens.distortion) for lens in lenses), default=6)
    padded = [(*lens.distortion, *[0.0] * (length - len(lens.distortion))) for lens in lenses]

    def column(name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.tensor([[getattr(lens, name)] for lens in lenses], dtype=dtype).reshape(-1, 1)

    return Cameras(
        camera_to_worlds,
        column("fl_x"),
        column("fl_y"),
        column("cx"),
        column("cy"),
        column("width", torch.int64),
        column("height", torch.int64),
        distortion_params=torch.tensor(padded, dtype=torch.float32).reshape(-1, length),
        camera_type=torch.tensor([[lens.kind.value] for lens in lenses], dtype=torch.int64).reshape(-1, 1),
        metadata=metadata,
    )
