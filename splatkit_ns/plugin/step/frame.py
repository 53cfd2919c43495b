"""The training image of a step: a photograph, its camera, and the background it is laid on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.plugin.data import images
from splatkit_ns.plugin.data.backgrounds import Backgrounds
from splatkit_ns.plugin.data.cameras import opencv_cam_to_worlds, pinhole_view
from splatkit_ns.rasterize.tile_list_space import ListSpace


@dataclass(frozen=True, eq=False)
class TrainingFrame:
    """What a step renders, and what it compares the render with."""

    camera: Cameras
    """The camera as the datamanager gave it, by which `get_outputs` knows the frame."""
    view: View
    """The camera at the resolution of this step; its pose is corrected if the camera optimizer is on."""
    background: Tensor
    """The colour behind the Gaussians, (3,)."""
    target: Tensor | None = None
    """The photograph on the background, (1, H, W, 3) in [0, 1]; None if only the camera is known."""
    mask: Tensor | None = None
    """(1, H, W) bool, True = use this pixel; None for all pixels."""
    target_depths: Tensor | None = None
    """(1, H, W, 1) in world units, NaN if unknown."""
    target_normals: Tensor | None = None
    """(1, H, W, 3), NaN if unknown."""
    image_name: str = ""
    """The file name of the photograph."""
    list_space: ListSpace | None = None
    """The space for tile lists on CUDA; None means as much as they need."""


class TrainingFrames:
    """Makes frames of what a datamanager gives.

    Args:
        backgrounds: the colours behind the Gaussians.
        camera_optimizer: corrects the poses, unless its mode is off.
    """

    def __init__(self, backgrounds: Backgrounds, camera_optimizer: CameraOptimizer) -> None:
        self._backgrounds = backgrounds
        self._camera_optimizer = camera_optimizer
        self._views: dict[int, View] = {}
        self.downscale = 1
        """The number by which the sides of training images are divided."""

    def make(self, camera: Cameras, batch: Mapping[str, Any] | None, background: Tensor | None = None) -> TrainingFrame:
        """The frame of a training image.

        Args:
            camera: the camera, (1,).
            batch: the image and what comes with it; None if it is not known yet.
            background: (3,); None draws the background of a step.
        """
        device = torch.device(camera.device)
        if background is None:
            has_alpha = batch is not None and batch["image"].shape[-1] == 4
            background = self._backgrounds.of_step(has_alpha, device)
        frame = TrainingFrame(camera, self.view(camera), background)
        return frame if batch is None else self.with_image(frame, batch)

    def with_image(self, frame: TrainingFrame, batch: Mapping[str, Any]) -> TrainingFrame:
        """The frame with the photograph of a batch."""
        background, downscale = frame.background, self.downscale
        image = images.ground_truth(_to(batch["image"], background), downscale)
        found: dict[str, Any] = {"target": images.composite(image, background)[None]}
        if "mask" in batch:
            found["mask"] = images.valid_pixels(_to(batch["mask"], background), downscale)[None]
        if "target_depths" in batch:
            found["target_depths"] = images.mean_depths(_to(batch["target_depths"], background), downscale)[None]
        if "target_normals" in batch:
            found["target_normals"] = images.mean_normals(_to(batch["target_normals"], background), downscale)[None]
        name = str(batch.get("image_name", batch.get("image_idx", "")))
        return dataclasses.replace(frame, image_name=name, **found)

    def view(self, camera: Cameras) -> View:
        """The view of a training camera, which is read from its device only once, whatever the resolution."""
        index = (camera.metadata or {}).get("cam_idx")
        view = None if index is None else self._views.get(index)
        if view is None:
            view = pinhole_view(camera)
            if index is not None:
                self._views[index] = view
        view = view.smaller(self.downscale)
        if self._camera_optimizer.config.mode != "off":
            corrected = self._camera_optimizer.apply_to_camera(camera)
            view = dataclasses.replace(view, cam_to_worlds=opencv_cam_to_worlds(corrected))
        return view


def _to(pixels: Tensor, like: Tensor) -> Tensor:
    """Pixels on the device of another tensor; the host does not wait for copies from pinned memory."""
    return pixels.to(like.device, non_blocking=True)


def copy_frame(source: TrainingFrame, to: TrainingFrame) -> None:
    """Copy the values of a frame to the places of another of the same shapes, such as those that a CUDA graph reads."""
    to.view.cam_to_worlds.copy_(source.view.cam_to_worlds)
    to.view.Ks.copy_(source.view.Ks)
    to.background.copy_(source.background)
    for name in ("target", "mask", "target_depths", "target_normals"):
        value, place = getattr(source, name), getattr(to, name)
        if value is not None and place is not None:
            place.copy_(value)


def empty_frame_like(frame: TrainingFrame) -> TrainingFrame:
    """A frame of the same shapes, with memory of its own and values that are not set."""
    view = dataclasses.replace(
        frame.view, cam_to_worlds=torch.empty_like(frame.view.cam_to_worlds), Ks=torch.empty_like(frame.view.Ks)
    )
    places = {
        name: None if (value := getattr(frame, name)) is None else torch.empty_like(value)
        for name in ("target", "mask", "target_depths", "target_normals")
    }
    return dataclasses.replace(frame, view=view, background=torch.empty_like(frame.background), **places)
