"""nerfstudio's `Cameras` converted for renderers: OpenCV camera-to-world, K, and the size as Python numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from splatkit_ns.cameras import LensModel, View
from splatkit_ns.errors import SplatkitError
from splatkit_ns.rasterize.lens_models import farthest_places

OPENCV_ORDER = [0, 1, 4, 5, 2, 6, 7, 8, 3]
"""The places of the coefficients of `View`'s opencv lens among nerfstudio's k1, k2, k3, k4, p1, p2 and the three terms
that divide."""
EYES = {CameraType.VR180_L: -0.032, CameraType.VR180_R: 0.032}
"""The eyes of a VR180 camera, which nerfstudio places so far from its middle, in world units."""


def opencv_cam_to_worlds(camera_to_worlds: Tensor) -> Tensor:
    """Turn nerfstudio's camera-to-world matrices (OpenGL axes: y up, z backward) into OpenCV's (y down, z forward).

    Args:
        camera_to_worlds: (C, 3, 4).

    Returns:
        (C, 4, 4); differentiable.
    """
    axes = camera_to_worlds.new_ones(4)  # filled on the device: copying a list there would wait for it
    axes[1:3].fill_(-1)
    bottom = camera_to_worlds.new_zeros(len(camera_to_worlds), 1, 4)
    bottom[..., 3].fill_(1)
    return torch.cat([camera_to_worlds * axes, bottom], dim=1)


def pinhole_view(camera: Cameras) -> View:
    """The view of a single camera, (1,), without its lens; reads its size back from its device."""
    width, height = int(camera.width.item()), int(camera.height.item())
    Ks = camera.get_intrinsics_matrices().to(camera.camera_to_worlds)  # nerfstudio makes them on the CPU
    return View(opencv_cam_to_worlds(camera.camera_to_worlds.float()), Ks, width, height)


def lens_view(camera: Cameras) -> View:
    """The view of a single camera, (1,), of any type whose rays start at one point; reads back from its device.

    Raises:
        SplatkitError: it is of another type.
    """
    kind = CameraType(int(camera.camera_type.item()))
    view = pinhole_view(camera)
    if kind in (CameraType.PERSPECTIVE, CameraType.FISHEYE):
        return _with_lens(view, kind, camera.distortion_params)
    if kind is CameraType.EQUIRECTANGULAR:
        return dataclasses.replace(view, lens="equirectangular")
    if kind in EYES:
        return _vr180_eye(view, EYES[kind])
    raise SplatkitError(
        f"Cameras of the type {kind.name.lower()} cannot be drawn: Gaussians are seen from one point. Of the types of "
        "camera paths, perspective, fisheye, equirectangular and vr180 can be."
    )


def lens_views(cameras: Cameras) -> Iterator[View]:
    """The views of cameras (C,), one after the other; see `lens_view`."""
    return (lens_view(cameras[index : index + 1]) for index in range(len(cameras)))


def have_distortion(cameras: Cameras) -> Tensor:
    """Whether each of cameras (C,) has coefficients of distortion other than 0, (C,) bool; () for a single one, ()."""
    distortion = cameras.distortion_params
    if distortion is None:
        return torch.zeros_like(cameras.camera_type[..., 0], dtype=torch.bool)
    return (distortion != 0).any(-1)


def lens_models(cameras: Cameras) -> set[LensModel]:
    """The lens models of perspective and fisheye cameras (C,), as `lens_view` finds them."""
    kinds, is_bent = cameras.camera_type.flatten(), have_distortion(cameras)
    found: set[LensModel] = set()
    if bool((kinds == CameraType.FISHEYE.value).any()):
        found.add("opencv_fisheye")
    is_perspective = kinds == CameraType.PERSPECTIVE.value
    if bool((is_perspective & is_bent).any()):
        found.add("opencv")
    if bool((is_perspective & ~is_bent).any()):
        found.add("pinhole")
    return found


def _with_lens(view: View, kind: CameraType, distortion: Tensor | None) -> View:
    """The view with the lens of a perspective or fisheye camera, whose coefficients (1, D) nerfstudio has ordered."""
    is_bent = distortion is not None and bool((distortion != 0).any())
    if kind is CameraType.FISHEYE:
        coefficients = distortion[:, :4].to(view.Ks) if distortion is not None and is_bent else None
        return dataclasses.replace(view, lens="opencv_fisheye", distortion=coefficients)
    if distortion is None or not is_bent:
        return view
    padded = torch.nn.functional.pad(distortion, (0, 9 - distortion.shape[1])).to(view.Ks)
    return dataclasses.replace(view, lens="opencv", distortion=padded[:, OPENCV_ORDER])


def _vr180_eye(view: View, side: float) -> View:
    """One eye's image of half the sphere, as nerfstudio has it; `side` is the eye's place along x, in world units."""
    Ks = view.Ks.clone()
    Ks[:, 0, 0] *= 2  # the width is half a turn, and not a whole one
    offset = torch.zeros_like(view.cam_to_worlds)
    offset[:, :3, 3] = view.cam_to_worlds[:, :3, 0] * side
    return dataclasses.replace(view, cam_to_worlds=view.cam_to_worlds + offset, Ks=Ks, lens="equirectangular")


def seen_pixels(camera: Cameras) -> Tensor | None:
    """The pixels of a single camera, (1,), that its lens can see, (H, W, 1) bool; None if these are all.

    The polynomial of a lens may turn back within the image, at angles for which it was not measured.
    """
    view = lens_view(camera)
    if view.lens not in ("opencv", "opencv_fisheye"):
        return None
    farthest = float(farthest_places(view.lens, view.distortion, view.Ks)[0])
    K = view.Ks[0]
    x = (torch.arange(view.width) + 0.5 - K[0, 2]) / K[0, 0]
    y = (torch.arange(view.height) + 0.5 - K[1, 2]) / K[1, 1]
    if float(torch.hypot(x.abs().max(), y.abs().max())) <= farthest:
        return None
    return (torch.hypot(x[None], y[:, None]) <= farthest)[..., None]


def camera_extent(cameras: Cameras) -> float:
    """1.1 times the largest distance of a camera from the cameras' centre, in world units (as in INRIA's 3DGS).

    0 for a single camera; then callers use 1.
    """
    centres = cameras.camera_to_worlds[..., :3, 3].reshape(-1, 3)
    return 1.1 * float((centres - centres.mean(0)).norm(dim=-1).max())


def pixel_counts(cameras: Cameras) -> list[int]:
    """The number of pixels of each camera's images."""
    return (cameras.width.long() * cameras.height.long()).flatten().tolist()
