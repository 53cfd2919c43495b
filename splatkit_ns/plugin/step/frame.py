"""The training image of a step: a photograph, its camera, and the background it is laid on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.lie_groups import exp_map_SE3, exp_map_SO3xR3
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.parts.frame_edit import Crop, FrameEdit
from splatkit_ns.plugin.data.backgrounds import Backgrounds
from splatkit_ns.plugin.data.cameras import lens_view
from splatkit_ns.plugin.data.photographs import images
from splatkit_ns.rasterize.tile_list_space import ListSpace

IMAGES = ("target", "mask", "pixel_weights", "target_depths", "target_normals", "target_alphas")
"""The fields of a frame that are images."""


MOTIONS = {"SO3xR3": exp_map_SO3xR3, "SE3": exp_map_SE3}
"""The functions that make a rotation and a translation, (C, 3, 4), of the six numbers of each camera, by mode."""


@dataclass(frozen=True, eq=False)
class TrainingFrame:
    """The camera that a step renders, and the images that it compares the render with."""

    camera: Cameras
    """The datamanager's camera object, by which `get_outputs` recognises the frame."""
    view: View
    """The camera at the resolution of this step, with the pose of the data."""
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
    target_alphas: Tensor | None = None
    """The alpha that the render should have, (1, H, W, 1); None if it is not known."""
    pixel_weights: Tensor | None = None
    """The weights of the pixels in the loss, (1, H, W); None for 1."""
    image_index: int | None = None
    """The number of the photograph among the training images; None if it is not known."""
    index_on_device: Tensor | None = None
    """`image_index` as a tensor, (1,) int64, for image models."""
    image_name: str = ""
    """The file name of the photograph."""
    list_space: ListSpace | None = None
    """The space for tile lists on CUDA; None means that it has the size which they need."""

    def edited(self, edit: FrameEdit, owner: str) -> TrainingFrame:
        """The frame with a part's changes, on the frame's device.

        Args:
            edit: the changes.
            owner: the hook that returned them, for messages.

        Raises:
            ModuleError: the changes do not fit the image.
        """
        edit.check(owner, self.view.height, self.view.width)
        changes: dict[str, Any] = {}
        if edit.target_frames is not None:
            changes["target"] = edit.target_frames.to(self.background)
        if edit.masks is not None:
            changes["mask"] = edit.masks.to(self.background.device)
        if edit.pixel_weights is not None:
            ours, theirs = self.pixel_weights, edit.pixel_weights.to(self.background)
            changes["pixel_weights"] = theirs if ours is None else ours * theirs
        frame = dataclasses.replace(self, **changes)
        return frame if edit.crop is None else frame.cropped(edit.crop)

    def cropped(self, crop: Crop) -> TrainingFrame:
        """A part of the frame: the camera sees, and the photograph shows, only these pixels."""
        left, top, width, height = crop
        rows, columns = slice(top, top + height), slice(left, left + width)
        parts = {name: None if (value := getattr(self, name)) is None else value[:, rows, columns] for name in IMAGES}
        return dataclasses.replace(self, view=self.view.crop(left, top, width, height), **parts)


class TrainingFrames:
    """Makes frames from the images and cameras of a datamanager.

    Args:
        backgrounds: the colours behind the Gaussians.
        camera_optimizer: corrects the poses, unless its mode is off.
        num_images: the number of training photographs.
    """

    def __init__(self, backgrounds: Backgrounds, camera_optimizer: CameraOptimizer, num_images: int) -> None:
        self._backgrounds = backgrounds
        self._camera_optimizer = camera_optimizer
        self._views: dict[int, View] = {}
        self._cameras: Cameras | None = None
        self._numbers = torch.arange(num_images)
        self.downscale = 1
        """The number by which the sides of training images are divided."""

    def make(self, camera: Cameras, batch: Mapping[str, Any] | None, background: Tensor | None = None) -> TrainingFrame:
        """The frame of a training image.

        Args:
            camera: the camera, (1,).
            batch: the image, with its mask and other data; None if it is not known yet.
            background: (3,); None draws the background of a step.
        """
        device = torch.device(camera.device)
        if background is None:
            has_alpha = batch is not None and batch["image"].shape[-1] == 4
            background = self._backgrounds.of_step(has_alpha, device)
        index = (camera.metadata or {}).get("cam_idx")
        number: dict[str, Any] = {}
        if index is not None:
            self._numbers = self._numbers.to(device)
            number = {"image_index": int(index), "index_on_device": self._numbers[int(index) : int(index) + 1]}
        frame = TrainingFrame(camera, self.view(camera), background, **number)
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
        if "target_alphas" in batch:
            found["target_alphas"] = images.ground_truth(_to(batch["target_alphas"], background), downscale)[None]
        elif "mask_mode" in batch and image.shape[-1] == 4:
            found["target_alphas"] = image[None, ..., 3:]
            for target in {"target_depths", "target_normals"} & found.keys():  # what is empty has none
                found[target] = torch.where(image[None, ..., 3:] > 0, found[target], torch.nan)
        name = str(batch.get("image_name", batch.get("image_idx", "")))
        kept = [value for value in batch.values() if isinstance(value, Tensor) and value.dtype != torch.uint8]
        read_again = {value.untyped_storage().data_ptr() for value in kept}
        if read_again:  # by later steps: what parts get is their own, to write to
            for field, value in found.items():
                found[field] = value.clone() if value.untyped_storage().data_ptr() in read_again else value
        return dataclasses.replace(frame, image_name=name, **found)

    def use_cameras(self, cameras: Cameras) -> None:
        """Take the cameras of all photographs, in main memory: what they are is then not read from the device."""
        self._cameras = cameras.to("cpu")

    def view(self, camera: Cameras) -> View:
        """The view of a training camera, whose kind is looked up only once, whatever the resolution."""
        index = (camera.metadata or {}).get("cam_idx")
        view = None if index is None else self._views.get(index)
        if view is None:
            if index is None:
                return lens_view(camera).smaller(self.downscale)
            known = camera if self._cameras is None else self._cameras[index : index + 1]
            view = self._views[index] = lens_view(known).to(camera.device, non_blocking=True)
        return view.smaller(self.downscale)

    def corrected(self, frame: TrainingFrame) -> View:
        """The view of a frame with the pose that the camera optimizer has found, from which gradients flow to it.

        The number of the photograph is read on the device, as a CUDA graph needs it.
        """
        optimizer = self._camera_optimizer
        if optimizer.config.mode == "off" or frame.index_on_device is None:
            return frame.view
        adjustment = optimizer.pose_adjustment.index_select(0, frame.index_on_device)
        poses = corrected_poses(frame.view.cam_to_worlds, camera_motions(optimizer.config.mode, adjustment))
        return dataclasses.replace(frame.view, cam_to_worlds=poses)


def camera_motions(mode: str, adjustment: Tensor) -> Tensor:
    """The motions of cameras by a camera optimizer, (C, 3, 4), from its numbers, (C, 6); none comes from the host."""
    with adjustment.device:  # the default of `exp_map_SE3`'s own tensor: a CUDA graph cannot copy it from the host
        return MOTIONS[mode](adjustment)


def corrected_poses(cam_to_worlds: Tensor, motions: Tensor) -> Tensor:
    """Apply the corrections of a camera optimizer, as its `apply_to_camera` does: about the camera's own centre.

    Args:
        cam_to_worlds: (C, 4, 4).
        motions: rotations and translations along the world's axes, (C, 3, 4).
    """
    rotations = motions[:, :, :3] @ cam_to_worlds[:, :3, :3]
    centres = cam_to_worlds[:, :3, 3:] + motions[:, :, 3:]
    return torch.cat([torch.cat([rotations, centres], dim=2), cam_to_worlds[:, 3:]], dim=1)


def _to(pixels: Tensor, like: Tensor) -> Tensor:
    """Pixels on the device of another tensor; the host does not wait for copies from pinned memory."""
    return pixels.to(like.device, non_blocking=True)


def copy_frame(source: TrainingFrame, to: TrainingFrame) -> None:
    """Copy the values of a frame into the tensors of another of the same shapes, such as the one a CUDA graph reads."""
    pairs = [(getattr(source.view, name), getattr(to.view, name)) for name in ("cam_to_worlds", "Ks", "distortion")]
    pairs += [(getattr(source, name), getattr(to, name)) for name in ("background", "index_on_device", *IMAGES)]
    pairs = [(value, place) for value, place in pairs if value is not None and place is not None]
    for is_float in (True, False):  # those of one kind in one launch
        chosen = [pair for pair in pairs if (pair[1].dtype == torch.float32) == is_float]
        if chosen:
            places, values = [place for _, place in chosen], [value for value, _ in chosen]
            torch._foreach_copy_(places, values)  # type: ignore[reportPrivateUsage]


def empty_frame_like(frame: TrainingFrame) -> TrainingFrame:
    """A frame of the same shapes, with memory of its own and values that are not set."""
    view = dataclasses.replace(
        frame.view,
        cam_to_worlds=torch.empty_like(frame.view.cam_to_worlds),
        Ks=torch.empty_like(frame.view.Ks),
        distortion=None if frame.view.distortion is None else torch.empty_like(frame.view.distortion),
    )
    places = {name: None if (value := getattr(frame, name)) is None else torch.empty_like(value) for name in IMAGES}
    index = None if frame.index_on_device is None else torch.empty_like(frame.index_on_device)
    background = torch.empty_like(frame.background)
    return dataclasses.replace(frame, view=view, background=background, index_on_device=index, **places)
