"""Checks of a dataparser's output: cameras, seed points and image files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from splatkit_ns.plugin.data.checks.data_folder import no_image_left
from splatkit_ns.plugin.data.checks.plausible import note_centres_outside, note_far_cameras, note_fields_of_view
from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.photographs.masks import MaskUse
from splatkit_ns.plugin.data.photographs.pictures import SWAPS_SIDES, StoredPicture, read_header
from splatkit_ns.plugin.data.scenes.bare_colmap import factor_of_copies
from splatkit_ns.plugin.data.scenes.transforms import near_name
from splatkit_ns.plugin.reporting.console import report_once

PROJECTIONS = (CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.FISHEYE624)
"""The camera types that can be trained on: nerfstudio undistorts their images to those of a pinhole camera."""
ROTATION_TOLERANCE = 0.02
"""The largest deviation of R^T R from the identity that is accepted: files round their numbers."""


def read_headers(paths: Sequence[Path]) -> dict[Path, StoredPicture]:
    """The headers of those image files that can be read, in the order of the paths."""

    def read(path: Path) -> StoredPicture | None:
        try:
            return read_header(path)
        except DataError:  # `check_image` tells of it
            return None

    with ThreadPoolExecutor() as threads:  # most of the time goes by in waiting for a disk or a network
        found = threads.map(read, paths)
        shown = track(
            zip(paths, found, strict=True),
            "Checking images",
            len(paths),
            console=CONSOLE,
            transient=True,
            disable=not CONSOLE.is_terminal,
        )
        return {path: header for path, header in shown if header is not None}


def held_out_or_all(held_out: DataparserOutputs, training: DataparserOutputs) -> DataparserOutputs:
    """The images for evaluation: with a note, the training images if the split leaves no others.

    nerfstudio's default split leaves none of fewer than ten photographs.
    """
    if len(held_out.image_filenames) > 0 or len(training.image_filenames) == 0:
        return held_out
    report_once(
        f"No image is held out: the dataparser's split leaves none of {len(training.image_filenames)}. All are trained "
        "on, and evaluations compare with these, so that their figures do not tell how good new views are. To hold out "
        "every 8th image, end the ns-train command with: nerfstudio-data --eval-mode interval"
    )
    return training


def check_outputs(
    outputs: DataparserOutputs,
    headers: Mapping[Path, StoredPicture] | None = None,
    turned: bool = False,
    reads_masks: bool = False,
) -> None:
    """Check the output of a dataparser.

    Args:
        outputs: of one split.
        headers: those of the image files that can be read; None if images are not to be checked.
        turned: whether images are turned as their EXIF tags say.
        reads_masks: whether masks are needed, too.

    Raises:
        DataError: no image, a pose or seed point that is not finite, an image that is missing, unreadable or of another
            size than its camera.
    """
    if len(outputs.image_filenames) == 0:
        raise no_image_left()
    check_cameras(outputs)
    times = outputs.cameras.times
    if times is not None and len(times) > 1 and bool((times != times[0]).any()):
        report_once(
            "The pictures' times are not honoured: everything is taken to stand still, so what moves is blurred."
        )
    points = outputs.metadata.get("points3D_xyz")
    if points is not None:
        check_points(points)
    if headers is not None:
        widths, heights = outputs.cameras.width.flatten().tolist(), outputs.cameras.height.flatten().tolist()
        for name, width, height in zip(outputs.image_filenames, widths, heights, strict=True):
            path = Path(name)
            if path not in headers and not path.is_file():
                raise _missing_image(path, outputs.image_filenames)
            check_image(path, headers.get(path), width, height, turned)
    if reads_masks:
        _check_masks(outputs)


def check_mask_use(use: MaskUse, outputs: DataparserOutputs) -> None:
    """Check that a data set has the masks that are wanted.

    Raises:
        DataError: it has none.
    """
    if use.needs_masks and outputs.mask_filenames is None:
        by_file = "mask-inverted True" if use.inverted else f"mask-grow {use.grow}"
        option = f"mask-mode {use.mode}" if use.mode in ("segment", "sky") else by_file
        raise DataError(
            f"The data set has no masks, which --pipeline.datamanager.{option} needs. A frame of transforms.json names "
            "its mask as 'mask_path'; the colmap dataparser has --masks-path. For transparent pictures: alpha."
        )


def check_cameras(outputs: DataparserOutputs) -> None:
    """Check poses, intrinsics and kinds of the cameras of a dataparser's output.

    Raises:
        DataError: names the first image of a camera that cannot be used.
    """
    _check_poses(outputs)
    _check_intrinsics(outputs)
    note_centres_outside(outputs)
    note_fields_of_view(outputs)
    note_far_cameras(outputs)
    _check_lenses(outputs)


def _check_poses(outputs: DataparserOutputs) -> None:
    poses, names = outputs.cameras.camera_to_worlds, outputs.image_filenames
    bad = (~torch.isfinite(poses).flatten(1).all(1)).nonzero()[:, 0].tolist()
    if bad:
        raise DataError(
            f"{len(bad)} pose(s) of {len(poses)} hold NaN or infinity, the first is that of "
            f"{names[bad[0]]}. Remove these frames, or compute their poses again."
        )
    rotations = poses[:, :3, :3].double()
    error = (rotations.transpose(1, 2) @ rotations - torch.eye(3, dtype=torch.float64)).abs().flatten(1).amax(1)
    if bool((error > ROTATION_TOLERANCE).any()):
        worst = int(error.argmax())
        raise DataError(
            f"The pose of {names[worst]} is no rigid motion: the columns of its rotation are not of length 1 and at "
            "right angles. Compute it again, or remove the frame."
        )
    mirrored = (torch.linalg.det(rotations) < 0).nonzero()[:, 0].tolist()
    if mirrored:
        raise DataError(
            f"{len(mirrored)} pose(s) of {len(poses)} are mirror images, the first is that of {names[mirrored[0]]}: "
            "its rotation has the determinant -1, as when one axis changes its sign on the way from another program. "
            "Convert the poses again: x is right, y is up, and the camera looks along -z."
        )


def _check_intrinsics(outputs: DataparserOutputs) -> None:
    cameras, names = outputs.cameras, outputs.image_filenames
    for name, values, positive in (
        ("fl_x", cameras.fx, True),
        ("fl_y", cameras.fy, True),
        ("cx", cameras.cx, False),
        ("cy", cameras.cy, False),
        ("w", cameras.width, True),
        ("h", cameras.height, True),
    ):
        bad = (~torch.isfinite(values) | (positive & (values <= 0))).flatten().nonzero()[:, 0].tolist()
        if bad:
            raise DataError(
                f"The camera of {names[bad[0]]} has {name} = {float(values.flatten()[bad[0]])}, expected a "
                f"{'positive ' if positive else ''}finite number of pixels. Correct the intrinsics of the data set."
            )


def _check_lenses(outputs: DataparserOutputs) -> None:
    cameras, names = outputs.cameras, outputs.image_filenames
    distortion = cameras.distortion_params
    bad = [] if distortion is None else (~torch.isfinite(distortion)).flatten(1).any(1).nonzero()[:, 0].tolist()
    if distortion is not None and bad:
        raise DataError(
            f"The camera of {names[bad[0]]} has the distortion parameters {distortion[bad[0]].tolist()}, expected "
            "finite numbers. Correct the intrinsics of the data set."
        )
    for index, kind in enumerate(cameras.camera_type.flatten().tolist()):
        if CameraType(kind) not in PROJECTIONS:
            raise DataError(
                f"The camera of {names[index]} is of type {CameraType(kind).name.lower()}, expected perspective or "
                "fisheye: Gaussians are drawn for pinhole cameras. Cut pinhole images out of panoramas first, with: "
                "ns-process-data images --camera-type equirectangular"
            )


def check_points(points: Tensor) -> None:
    """Check that all seed points (M, 3) are finite.

    Raises:
        DataError: says how many are not, and which is the first.
    """
    bad = (~torch.isfinite(points).all(-1)).nonzero()[:, 0].tolist()
    if bad:
        raise DataError(
            f"{len(bad)} of {len(points)} seed points hold NaN or infinity, the first is row {bad[0]}: "
            f"{points[bad[0]].tolist()}. Remove them from the point cloud, or start from random points: "
            "--load-3D-points False of the dataparser."
        )


def _missing_image(path: Path, names: Sequence[Path]) -> DataError:
    """The error of an image that does not exist.

    Args:
        path: its file, the first that is missing.
        names: those of all images.
    """
    hint = near_name(path)
    if _factor_of_copy(path):
        hint = (
            "--downscale-factor 1 of the dataparser uses the images in full size; to make them smaller while they "
            "are loaded, add --pipeline.datamanager.camera-res-scale-factor 0.5."
        )
    count = sum(not Path(name).is_file() for name in names)
    more = f" {count} of {len(names)} images of its split are missing." if count > 1 else ""
    return DataError(f"The image {path} does not exist, which the data set names. {hint}{more}")


def _check_masks(outputs: DataparserOutputs) -> None:
    """Check that each image has its mask, if any has.

    Raises:
        DataError: says how many have none, and which is the first.
    """
    masks = [Path(mask) for mask in outputs.mask_filenames or ()]
    missing = [number for number, mask in enumerate(masks) if not mask.is_file()]
    if missing:
        first = missing[0]
        raise DataError(
            f"{len(missing)} of {len(masks)} images of a split have no mask. No such file: {masks[first]}, of "
            f"{outputs.image_filenames[first]}. Add what is missing, or take the masks out of the data set. A mask "
            "that is white all over leaves its image whole."
        )


def check_image(path: Path, header: StoredPicture | None, width: int, height: int, turned: bool = False) -> None:
    """Check that an image can be identified and has the size of its camera; does not decode it.

    Args:
        path: its file.
        header: that of the file, if it can be read.
        width: of its camera.
        height: of its camera.
        turned: whether it is turned as its EXIF tag says.

    Raises:
        DataError: it is not.
    """
    stored = read_header(path) if header is None else header
    size = stored.upright_size if turned else (stored.width, stored.height)
    if size == (width, height):
        return
    advice = "Correct w and h (and the intrinsics) in the data set, or restore the image."
    if _factor_of_copy(path) and abs(size[0] - width) <= 1 and abs(size[1] - height) <= 1:
        advice = (
            "The smaller images were rounded in another way: --downscale-rounding-mode round (or ceil) of the "
            "colmap dataparser, or --downscale-factor 1 of any for the images in full size."
        )
    elif (factor := _factor_of_copy(path)) and all(
        abs(full / factor - found) <= 1 for full, found in zip((width, height), size, strict=True)
    ):
        advice = (
            f"The cameras are those of the images in full size: --images-path images --downscale-factor {factor} of "
            "the colmap dataparser uses these smaller ones."
        )
    elif stored.orientation in SWAPS_SIDES:
        advice = (
            f"Its EXIF tag Orientation is {stored.orientation}, and pictures are used as they are "
            f"{'turned by it' if turned else 'stored'} (--pipeline.datamanager.exif-orientation): the cameras of one "
            "data set must all be of pictures as they are stored, or all of turned ones."
        )
    raise DataError(f"The image {path} is {size[0]}×{size[1]} pixels, its camera says {width}×{height}. {advice}")


def _factor_of_copy(path: Path) -> int:
    """The factor of the smaller copies among which an image lies, as in images_2; 0 if it lies elsewhere."""
    return next(filter(None, (factor_of_copies(parent.name) for parent in path.parents)), 0)
