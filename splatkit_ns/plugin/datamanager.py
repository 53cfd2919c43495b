"""nerfstudio's full-image datamanager, changed in four ways: one message for broken data, pictures and lenses as people
have them, support for machines without a GPU, and no slicing of cameras at every step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig

from splatkit_ns.loss_fn.base import TargetName
from splatkit_ns.parts.old_configs import FillsInDefaults
from splatkit_ns.plugin.data.cameras import camera_extent
from splatkit_ns.plugin.data.checks import check_folder, explained
from splatkit_ns.plugin.data.contents import check_outputs
from splatkit_ns.plugin.data.dataparsers import own_reading
from splatkit_ns.plugin.data.dataset import SplatkitDataset
from splatkit_ns.plugin.data.honoured import note_options
from splatkit_ns.plugin.data.parse_outputs import DEFAULT_LIMIT
from splatkit_ns.plugin.data.pictures import ExifOrientation, turns_pictures
from splatkit_ns.plugin.data.targets import add_targets, target_files
from splatkit_ns.plugin.reporting.console import report_once
from splatkit_ns.plugin.run.excepthook import install_excepthook


@dataclass
class SplatkitDatamanagerConfig(FillsInDefaults, FullImageDatamanagerConfig):
    """Settings of the datamanager."""

    _target: type = field(default_factory=lambda: SplatkitDatamanager)
    max_seed_points: int = DEFAULT_LIMIT
    """Seed points to start from at most; so many are drawn from a larger point cloud."""
    exif_orientation: ExifOrientation = "auto"
    """Whether pictures are turned as their EXIF tags say. Auto turns them if the cameras have the size of turned
    pictures."""

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
        check_folder(parser)
        note_options(config)
        with explained(parser), own_reading(parser, config.max_seed_points):
            super().__init__(config, device=device, test_mode=test_mode, **kwargs)
        if on_cpu:
            config.cache_images = "gpu"  # means "on the device"; "cpu" would pin memory, which needs CUDA
        if test_mode != "inference":
            self._check_images(config.exif_orientation)
        else:
            check_outputs(self.train_dataparser_outputs, "train", check_images=False)
        self.train_dataset.background = self.eval_dataset.background = config.render_background
        self.train_dataset.metadata["camera_extent"] = camera_extent(self.train_dataset.cameras)
        if self.train_dataset.alpha_color is not None:
            self.train_dataset.metadata["background_color"] = self.train_dataset.alpha_color
        self._train_views: list[Cameras] = []
        self._target_files: dict[TargetName, list[Path]] = {}

    def _check_images(self, mode: ExifOrientation) -> None:
        outputs = self.train_dataparser_outputs, self.eval_dataset.dataparser_outputs
        paths = [path for found in outputs for path in found.image_filenames]
        sizes = [
            size for found in outputs for size in torch.cat([found.cameras.width, found.cameras.height], 1).tolist()
        ]
        turned = turns_pictures(paths, [(width, height) for width, height in sizes], mode)
        self.train_dataset.turns_pictures = self.eval_dataset.turns_pictures = turned
        for split, found in zip(("train", "eval"), outputs, strict=True):
            check_outputs(found, split, check_images=True, turned=turned)

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
