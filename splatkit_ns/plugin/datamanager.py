"""nerfstudio's full-image datamanager, changed in three ways: one message for broken data, support for machines without
a GPU, and no slicing of cameras at every step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image

from splatkit_ns.errors import SplatkitError
from splatkit_ns.loss_fn.base import TargetName
from splatkit_ns.parts.old_configs import FillsInDefaults
from splatkit_ns.plugin.data.bare_colmap import dataparser_of
from splatkit_ns.plugin.data.cameras import camera_extent
from splatkit_ns.plugin.data.checks import DataError, check_folder, explained
from splatkit_ns.plugin.data.contents import RESTORE, check_outputs
from splatkit_ns.plugin.data.images import composite
from splatkit_ns.plugin.data.seed_points import quick_seed_points
from splatkit_ns.plugin.data.targets import add_targets, target_files
from splatkit_ns.plugin.data.undistorting import pinhole_cameras, undistorted
from splatkit_ns.plugin.reporting.console import report_once
from splatkit_ns.plugin.run.excepthook import install_excepthook


class SplatkitDataset(InputDataset):
    """The images of a split, without lens distortion; an error names the broken image."""

    background: torch.Tensor | None = None
    """The colour behind renders outside training, (3,); None means that of the data set, or black."""

    def use_pinhole_cameras(self) -> None:
        """Replace the cameras of the files by those of the images that `get_data` returns.

        Raises:
            DataError: a lens cannot be undistorted.
        """
        self._stored_cameras = self.cameras
        self.cameras = pinhole_cameras(self.cameras, self.image_filenames)

    def __getitem__(self, image_idx: int) -> dict[str, Any]:
        """The image as it is compared with renders, for nerfstudio's own loaders: on the background, (H, W, 3)."""
        data = self.get_data(image_idx)
        background = self.alpha_color if self.background is None else self.background
        return {**data, "image": composite(data["image"], torch.zeros(3) if background is None else background)}

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
        """The image, (H, W, 3 or 4) uint8; nerfstudio's own method mistakes palette indices and CMYK for RGB.

        Raises:
            DataError: it cannot be decoded, or has more than 8 bits a channel.
        """
        path = self.image_filenames[image_idx]
        try:
            with Image.open(path) as file:
                if file.mode.startswith(("I", "F")):
                    raise DataError(f"The image {path} has more than 8 bits a channel: convert it to 8 bits.")
                mode = "RGBA" if "A" in file.getbands() or "transparency" in file.info else "RGB"
                image: Image.Image = file if file.mode == mode else file.convert(mode)
                if self.scale_factor != 1.0:
                    size = (int(image.width * self.scale_factor), int(image.height * self.scale_factor))
                    if min(size) < 1:
                        raise DataError(
                            f"The image {path} of {image.width}×{image.height} pixels would have none left: "
                            f"--pipeline.datamanager.camera-res-scale-factor is {self.scale_factor}. Raise it."
                        )
                    image = image.resize(size, resample=Image.Resampling.BILINEAR)
                return np.array(image, dtype=np.uint8)
        except DataError:
            raise
        except Exception as error:  # Pillow raises many kinds for damaged files
            raise DataError(f"The image {path} cannot be decoded: {error}. {RESTORE}") from error

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        """The image, and its mask if it has one.

        Raises:
            DataError: the image or its mask cannot be used.
        """
        try:
            data = super().get_data(image_idx, image_type)
            stored = self._stored_cameras[image_idx].reshape(())
            return undistorted(stored, data, self.image_filenames[image_idx])
        except SplatkitError:
            raise
        except Exception as error:
            masks = self._dataparser_outputs.mask_filenames
            mask = f" with its mask {masks[image_idx]}" if masks else ""
            reason = " ".join(str(error).split()).rstrip(".")
            raise DataError(
                f"The image {self.image_filenames[image_idx]}{mask} cannot be used: {reason}. {RESTORE}"
            ) from error

    def get_metadata(self, data: dict[str, Any]) -> dict[str, Any]:
        """The image's name, for messages."""
        return {"image_name": self.image_filenames[data["image_idx"]].name}


@dataclass
class SplatkitDatamanagerConfig(FillsInDefaults, FullImageDatamanagerConfig):
    """Settings of the datamanager."""

    _target: type = field(default_factory=lambda: SplatkitDatamanager)

    render_background = None  # no field, so that it is neither a flag nor in config.yml
    """The background (3,) of the model that a command renders, which nerfstudio does not tell its data."""


class SplatkitDatamanager(FullImageDatamanager[SplatkitDataset]):
    """Whole images and their cameras, cached on the device.

    Raises:
        DataError: on construction, or when images are first loaded, if the data set is broken.
    """

    config: SplatkitDatamanagerConfig

    def __init__(
        self,
        config: SplatkitDatamanagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        **kwargs: Any,
    ) -> None:
        install_excepthook()
        on_cpu = torch.device(device).type == "cpu"
        parser = config.dataparser
        if config.data is not None:
            parser.data = config.data
        config.dataparser = parser = dataparser_of(parser)
        check_folder(parser)
        with explained(parser), quick_seed_points(parser):
            super().__init__(config, device=device, test_mode=test_mode, **kwargs)
        if on_cpu:
            config.cache_images = "gpu"  # means "on the device"; "cpu" would pin memory, which needs CUDA
        check_images = test_mode != "inference" and config.camera_res_scale_factor == 1.0
        check_outputs(self.train_dataparser_outputs, "train", check_images)
        if test_mode != "inference":
            check_outputs(self.eval_dataset.dataparser_outputs, "eval", check_images)
        for dataset in (self.train_dataset, self.eval_dataset):
            dataset.use_pinhole_cameras()
            dataset.background = config.render_background
        self.train_dataset.metadata["camera_extent"] = camera_extent(self.train_dataset.cameras)
        if self.train_dataset.alpha_color is not None:
            self.train_dataset.metadata["background_color"] = self.train_dataset.alpha_color
        self._train_views: list[Cameras] = []
        self._target_files: dict[TargetName, list[Path]] = {}

    def use_targets(self, wanted: Iterable[TargetName]) -> None:
        """Load depth or normals with the training images; call it before the images are loaded.

        Raises:
            DataError: the data set has none.
        """
        self._target_files = target_files(self, wanted)

    def _load_images(
        self, split: Literal["train", "eval"], cache_images_device: Literal["cpu", "gpu"]
    ) -> list[dict[str, torch.Tensor]]:
        batches = super()._load_images(split, cache_images_device)
        if split == "train":
            add_targets(self, batches, self._target_files)
        return batches

    def next_train(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """The next training image and its camera, drawn as nerfstudio draws it."""
        index = self.train_unseen_cameras.pop(0)
        if not self.train_unseen_cameras:
            self.train_unseen_cameras = self.sample_train_cameras()
        return self.train_view(index)

    def train_view(self, index: int) -> tuple[Cameras, dict[str, Any]]:
        """A training image and its camera."""
        batch = self.cached_train[index].copy()
        if not self._train_views:
            cameras = self.train_cameras.to(self.device)
            self._train_views = [cameras[i : i + 1] for i in range(len(self.train_dataset))]
            if self.test_mode == "val":
                _ = self.cached_eval  # a damaged image is found now, not hundreds of steps later
        camera = self._train_views[index]
        camera.metadata = {**(camera.metadata or {}), "cam_idx": index}
        return camera, batch

    def sampler_state(self) -> dict[str, Any]:
        """The state of the image sampler, as numbers that a checkpoint can hold."""
        state: dict[str, Any] = {
            "train_unseen_cameras": [int(i) for i in self.train_unseen_cameras],
            "eval_unseen_cameras": [int(i) for i in self.eval_unseen_cameras],
        }
        if hasattr(self, "random_generator"):
            version, numbers, gauss = self.random_generator.getstate()
            state["random_generator"] = [version, list(numbers), gauss]
        if hasattr(self, "train_unsampled_epoch_count"):  # of the strategy "fps", which also uses numpy's generator
            state["train_unsampled_epoch_count"] = [float(count) for count in self.train_unsampled_epoch_count]
        return state

    def load_sampler_state(self, state: dict[str, Any]) -> None:
        """Go on drawing from a state of `sampler_state`; a state for a different number of images is ignored.

        Raises:
            ValueError: the state is not one of `sampler_state`.
        """
        train, evaluation = list(state["train_unseen_cameras"]), list(state["eval_unseen_cameras"])
        if not train or not all(isinstance(i, int) and i >= 0 for i in [*train, *evaluation]):
            raise ValueError(f"the sampler's images must be a list of indices, found {train!r:.60}")
        counts = state.get("train_unsampled_epoch_count")
        other_count = counts is not None and len(counts) != len(self.train_dataset)
        if max(train) >= len(self.train_dataset) or other_count:
            report_once("The checkpoint was trained on more images than there are now: they are drawn anew.")
            return
        self.train_unseen_cameras = train
        if evaluation and max(evaluation) < len(self.eval_dataset):
            self.eval_unseen_cameras = evaluation
        if "random_generator" in state and hasattr(self, "random_generator"):
            version, numbers, gauss = state["random_generator"]
            self.random_generator.setstate((version, tuple(numbers), gauss))
        if counts is not None and hasattr(self, "train_unsampled_epoch_count"):
            self.train_unsampled_epoch_count = np.array(counts, dtype=np.float64)
