"""The images of a data set as training has them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset

from splatkit_ns.plugin.data.cameras import seen_pixels
from splatkit_ns.plugin.data.checks.contents import check_cameras
from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.photographs.images import composite, ground_truth
from splatkit_ns.plugin.data.photographs.masks import MaskUse, grown, without_masked
from splatkit_ns.plugin.data.photographs.pictures import read_mask, read_picture
from splatkit_ns.plugin.data.photographs.remapping import Undistorter
from splatkit_ns.plugin.data.photographs.undistortion import check_lenses, pinhole_cameras


class SplatkitDataset(InputDataset):
    """The images of a split, without lens distortion if that is wanted; an error names the broken image.

    Args:
        dataparser_outputs: the split.
        scale_factor: sides of the images are multiplied by this.
        undistorts: whether images are turned into those of pinhole cameras.

    Raises:
        DataError: a camera or its lens cannot be used.
    """

    background: torch.Tensor | None = None
    """The colour behind renders outside training, (3,); None means that of the data set, or black."""

    def __init__(
        self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0, undistorts: bool = True
    ) -> None:
        if dataparser_outputs.cameras.ndim == 0:  # nerfstudio loses a dimension where there is one image
            dataparser_outputs.cameras = dataparser_outputs.cameras.reshape((1,))
        check_cameras(dataparser_outputs)
        super().__init__(dataparser_outputs, scale_factor)
        self.stored_cameras = self.cameras
        """The cameras of the files; `cameras` are those of the images as they are served."""
        self.undistorts = undistorts
        if undistorts:
            self.cameras = pinhole_cameras(self.stored_cameras, self.image_filenames)
        else:
            check_lenses(self.stored_cameras, self.image_filenames)
        self.undistorter = Undistorter(self.stored_cameras, self.image_filenames)
        """Turns images into those of pinhole cameras."""
        widths, heights = self.stored_cameras.width.flatten(), self.stored_cameras.height.flatten()
        self._stored_sizes = list(zip(widths.tolist(), heights.tolist(), strict=True))
        self.turns_pictures = False
        """Whether pictures are turned as their EXIF tags say."""
        self.mask_use = MaskUse()
        """The use that is made of masks and alpha channels."""

    def __getitem__(self, image_idx: int) -> dict[str, Any]:
        """The image as it is compared with renders, for nerfstudio's own loaders: on the background, (H, W, 3)."""
        data = self.get_data(image_idx)
        return {**data, "image": self.on_background(data["image"])}

    def on_background(self, image: torch.Tensor) -> torch.Tensor:
        """An image (H, W, 3 or 4) of the data set, uint8 or float, on the background: (H, W, 3), as it is if it was."""
        if image.shape[-1] == 3:
            return image
        background = self.alpha_color if self.background is None else self.background
        color = torch.zeros(3) if background is None else background
        return composite(ground_truth(image, 1), color.to(image.device))

    @property
    def alpha_color(self) -> torch.Tensor | None:
        """The colour (3,) that the data set puts behind transparent images; None if it leaves them transparent."""
        color = self._dataparser_outputs.alpha_color
        return None if color is None else torch.as_tensor(color, dtype=torch.float32)

    @property
    def dataparser_outputs(self) -> DataparserOutputs:
        """The dataparser's output for this split."""
        return self._dataparser_outputs

    def get_numpy_image(self, image_idx: int) -> np.ndarray[Any, Any]:
        """The image with its lens distortion, (H, W, 3 or 4) uint8; see `read_picture`.

        Raises:
            DataError: it cannot be decoded, or has more than 16 bits a channel.
        """
        path = self.image_filenames[image_idx]
        if self.scale_factor == 1.0:
            return read_picture(path, self.turns_pictures)
        size = self._stored_sizes[image_idx]
        if min(size) < 1:
            raise DataError(
                f"The image {path} would have no pixel left: --pipeline.datamanager.camera-res-scale-factor is "
                f"{self.scale_factor}. Raise it."
            )
        return read_picture(path, self.turns_pictures, size)

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        """The image as the camera of `cameras` sees it, its mask if it has one, and `MaskUse.mode` if that
        tells what is empty.

        Raises:
            DataError: the image or its mask cannot be used.
        """
        use = self.mask_use
        image, mask = self._stored_image(image_idx, image_type), self._stored_mask(image_idx)
        seen = None
        if self.undistorts:
            image, mask = self.undistorter(image_idx, image, mask)
        else:
            seen = seen_pixels(self.cameras[image_idx : image_idx + 1])
            mask = seen if mask is None else mask if seen is None else mask & seen
        data: dict[str, Any] = {"image_idx": image_idx}
        if use.mode in ("segment", "sky") and mask is not None:
            if use.mode == "segment":
                image = without_masked(image, mask)
            else:
                data["target_alphas"] = mask.to(torch.uint8) * 255
            mask = self.undistorter.seen(image_idx) if self.undistorts else seen
        data["image"] = image
        if use.mode != "ignore":
            data["mask_mode"] = use.mode
        if mask is not None:
            data["mask"] = mask
        data.update(self.get_metadata(data))
        return data

    def _stored_image(self, image_idx: int, image_type: Literal["uint8", "float32"]) -> torch.Tensor:
        """The image (H, W, 3 or 4) as it is stored, of the size of its camera."""
        if self.mask_use.mode == "alpha":
            image = self._image_with_alpha(image_idx, image_type)
        else:
            image = self.get_image_uint8(image_idx) if image_type == "uint8" else self.get_image_float32(image_idx)
        size, expected = (image.shape[1], image.shape[0]), self._stored_sizes[image_idx]
        if size != expected:
            raise DataError(
                f"The image {self.image_filenames[image_idx]} is {size[0]}×{size[1]} pixels after scaling, its camera "
                f"says {expected[0]}×{expected[1]}. Correct w and h in the data set, or restore the image."
            )
        return image

    def _stored_mask(self, image_idx: int) -> torch.Tensor | None:
        """The pixels of the stored image that its mask leaves, (H, W, 1) bool; None if it has no mask."""
        masks, use = self._dataparser_outputs.mask_filenames, self.mask_use
        if masks is None:
            return None
        path, size = self.image_filenames[image_idx], self._stored_sizes[image_idx]
        valid = read_mask(masks[image_idx], size, path, self.turns_pictures, use.inverted)
        return torch.from_numpy(grown(valid, use.grow)[..., None])

    def _image_with_alpha(self, image_idx: int, image_type: Literal["uint8", "float32"]) -> torch.Tensor:
        """The image (H, W, 4) as its file has it, not laid on a colour."""
        pixels = self.get_numpy_image(image_idx)
        if pixels.shape[2] != 4:
            raise DataError(
                f"The image {self.image_filenames[image_idx]} has no alpha channel, of which "
                "--pipeline.datamanager.mask-mode alpha takes what is empty. For masks in files: segment."
            )
        return torch.from_numpy(pixels if image_type == "uint8" else pixels.astype(np.float32) / np.float32(255))

    def get_metadata(self, data: dict[str, Any]) -> dict[str, Any]:
        """The image's name, for messages."""
        return {"image_name": self.image_filenames[data["image_idx"]].name}
