"""Notes of cameras and seed points that can be used, but are hardly right."""

from __future__ import annotations

import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from splatkit_ns.plugin.reporting.console import report_once

WIDEST, NARROWEST = 150.0, 0.1
"""Degrees that a perspective camera sees across a picture; the widest lenses see 130, telescopes a degree."""
FARTHEST = 100.0
"""The distance of a camera from the middle of all, in medians of these distances, above which it is noted."""
FEWEST_SEEN = 0.05
"""The share of the seed points in view below which it is noted."""
MOST_CLIPPED = 0.5
"""The share of the seed points in view that have to be drawn; if fewer are, it is noted."""
LOOKED_AT = (200, 5000)
"""The most cameras and seed points that are looked at for that."""


def note_centres_outside(outputs: DataparserOutputs) -> None:
    """Print a note if the optical axis of a camera does not go through its picture."""
    cameras, names = outputs.cameras, outputs.image_filenames
    inside = (cameras.cx >= 0) & (cameras.cx <= cameras.width) & (cameras.cy >= 0) & (cameras.cy <= cameras.height)
    outside = (~inside).flatten().nonzero()[:, 0].tolist()
    if outside:
        cx, cy, width, height = (
            float(values.flatten()[outside[0]]) for values in (cameras.cx, cameras.cy, cameras.width, cameras.height)
        )
        report_once(
            f"{len(outside)} camera(s) have their centre (cx, cy) outside the picture, the first is that of "
            f"{names[outside[0]]}: ({cx:g}, {cy:g}) in {width:g}×{height:g} pixels. That is right for pictures that "
            "were cut out of larger ones; otherwise the intrinsics are those of another size."
        )


def note_fields_of_view(outputs: DataparserOutputs) -> None:
    """Print a note if a camera sees so wide or narrow a part that its focal lengths may be in another unit."""
    cameras, names = outputs.cameras, outputs.image_filenames
    sizes, focals = torch.cat([cameras.width, cameras.height], 1), torch.cat([cameras.fx, cameras.fy], 1)
    angles = torch.rad2deg(2 * torch.atan(sizes / (2 * focals)))
    is_pinhole = (cameras.camera_type == CameraType.PERSPECTIVE.value).flatten()
    strange = ((angles.amax(1) > WIDEST) | (angles.amin(1) < NARROWEST)) & is_pinhole
    found = strange.nonzero()[:, 0].tolist()
    if found:
        width, height = (f"{angle:.3g}" for angle in angles[found[0]].tolist())
        report_once(
            f"{len(found)} camera(s) see {width} by {height} degrees, the first is that of {names[found[0]]}, by the "
            "focal lengths of the data set, which are in pixels. Such lenses are rare: are they in millimetres, or of "
            "another size of the pictures?"
        )


def note_far_cameras(outputs: DataparserOutputs) -> None:
    """Print a note if a camera is so far from all others that its pose is probably wrong."""
    centres = outputs.cameras.camera_to_worlds[..., 3].reshape(-1, 3).double()
    if len(centres) == 0:
        return
    distances = (centres - centres.median(0).values).norm(dim=1)
    half = float(distances.median())
    far = (distances > FARTHEST * half).nonzero()[:, 0].tolist()
    if half > 0 and far:
        farthest = int(distances.argmax())
        report_once(
            f"{len(far)} camera(s) are far from all others. That of {outputs.image_filenames[farthest]} is "
            f"{float(distances[farthest]) / half:.3g} times as far from the middle as half of them are. Scaled so that "
            "all are between -1 and 1 (--auto-scale-poses of the dataparser), the others are as good as at one place: "
            "if these poses are wrong, take the photographs out of the data set."
        )


def note_unseen_points(outputs: DataparserOutputs) -> None:
    """Print a note if hardly a seed point is in view of a camera.

    Args:
        outputs: of the training images.
    """
    points: Tensor | None = outputs.metadata.get("points3D_xyz")
    if points is None or len(points) == 0:
        return
    share = seen_share(outputs, points)
    if share < FEWEST_SEEN:
        report_once(
            f"{'None' if share == 0 else f'Only {share:.1%}'} of the {len(points):,} seed points are in view of a "
            "camera, so training starts with next to nothing. Are they in another frame or unit than the poses? Or do "
            "the cameras look the other way: in transforms.json, a camera looks along its -z, and y is up, not down? "
            "To start from random points: --load-3D-points False of the dataparser."
        )


def note_clipped_points(outputs: DataparserOutputs, near: float) -> None:
    """Print a note if the renderer leaves out most of the scene, since it is too near to the cameras.

    Args:
        outputs: of the training images.
        near: Gaussians that are nearer than this are not drawn.
    """
    points: Tensor | None = outputs.metadata.get("points3D_xyz")
    if points is None or len(points) == 0 or near <= 0:
        return
    share, drawn = seen_share(outputs, points, enough=1), seen_share(outputs, points, nearest=near, enough=1)
    if drawn < MOST_CLIPPED * share:
        report_once(
            f"Of the seed points in view, {1 - drawn / share:.0%} are nearer to all cameras than {near:g}, and nothing "
            "so near is drawn. The unit of the poses is large for this scene: pass --auto-scale-poses True to the "
            "dataparser, or a smaller --pipeline.model.renderer.near-plane."
        )


def seen_share(
    outputs: DataparserOutputs, points: Tensor, *, nearest: float = 0.0, enough: float = FEWEST_SEEN
) -> float:
    """The share of points (M, 3), in the frame of the cameras, that are in the picture of one of the cameras.

    Cameras are looked at until it is `enough`, and at most `LOOKED_AT` cameras and points. Points do not count for
    cameras to which they are nearer than `nearest`. Lenses are passed over: of a fisheye, all that is before it is in
    its picture.
    """
    cameras, (most_cameras, most_points) = outputs.cameras, LOOKED_AT
    chosen = torch.linspace(0, len(cameras) - 1, min(len(cameras), most_cameras)).long()
    points = points[torch.linspace(0, len(points) - 1, min(len(points), most_points), dtype=torch.float64).long()]
    poses = cameras.camera_to_worlds[chosen].float()
    seen = torch.zeros(len(points), dtype=torch.bool)
    for index, pose in zip(chosen.tolist(), poses, strict=True):
        x, y, z = ((points.float() - pose[:, 3]) @ pose[:, :3]).unbind(-1)
        across = (x * cameras.fx[index] / -z + cameras.cx[index] - cameras.width[index] / 2).abs()
        down = (-y * cameras.fy[index] / -z + cameras.cy[index] - cameras.height[index] / 2).abs()
        inside = (across <= cameras.width[index] / 2) & (down <= cameras.height[index] / 2)
        is_pinhole = int(cameras.camera_type[index]) == CameraType.PERSPECTIVE.value
        seen |= (z < -nearest) & (inside | (not is_pinhole))
        if float(seen.float().mean()) >= enough:
            break
    return float(seen.float().mean())
