"""Data sets for a `SplatTrainer`: each wraps one of nerfstudio's dataparsers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from splatkit_ns.cameras import View
from splatkit_ns.data_provider.photographs import OpenedData, Photograph, Split
from splatkit_ns.plugin.datamanager import SplatkitDatamanagerConfig

EvalMode = Literal["fraction", "filename", "interval", "all"]
"""interval: every n-th image is used for evaluation; fraction: the images outside the training share are; filename:
names that contain "train" or "eval" decide; all: every image is used for both."""


class SplatDataProvider(ABC):
    """The source of a run's images, cameras and seed points."""

    undistort: bool = True
    """Whether images are turned into those of pinhole cameras; False trains on them through their own lenses."""

    @abstractmethod
    def dataparser_config(self) -> DataParserConfig:
        """The nerfstudio dataparser that reads the data set."""

    def datamanager_config(self) -> SplatkitDatamanagerConfig:
        """The datamanager that serves whole images to training, cached as 8-bit values on the device."""
        return SplatkitDatamanagerConfig(
            dataparser=self.dataparser_config(), cache_images_type="uint8", undistort=self.undistort
        )

    def views(self, split: Split = "train") -> list[View]:
        """Read the cameras of the data set, as training has them: in its frame, and pinhole cameras if `undistort`.

        Args:
            split: the images for training, or those for evaluation.

        Raises:
            SplatkitError: the data set is broken.
        """
        return OpenedData(self.datamanager_config(), split).views()

    def image_names(self, split: Split = "train") -> list[str]:
        """Read the names of the image files, in the order of `views`.

        Raises:
            SplatkitError: the data set is broken.
        """
        return OpenedData(self.datamanager_config(), split).names()

    def photographs(self, split: Split = "train") -> list[Photograph]:
        """Read the images, with their names and cameras, in the order of `views`.

        Raises:
            SplatkitError: the data set is broken.
        """
        return OpenedData(self.datamanager_config(), split).photographs()


@dataclass
class DataProvider(SplatDataProvider):
    """A data set read by any nerfstudio dataparser."""

    dataparser: DataParserConfig
    """Settings of the dataparser, its ``data`` included; ``load_3D_points=True`` if it has that, for seed points."""

    def dataparser_config(self) -> DataParserConfig:
        return self.dataparser


@dataclass(kw_only=True)
class Placement:
    """Settings of the split of the images and of the scene's placement, which all formats of photographs share."""

    downscale_factor: int = 1
    """Sides of the images are divided by this; images in a folder ``images_2`` are used for 2, and so on."""
    eval_mode: EvalMode = "interval"
    """The rule that splits the images; lists of file names in transforms.json take precedence."""
    eval_interval: int = 8
    """Every n-th image is used for evaluation, if eval_mode is interval."""
    train_split_fraction: float = 0.9
    """Share of images for training, if eval_mode is fraction."""
    scale_factor: float = 1.0
    """Camera positions are multiplied by this."""
    orientation_method: Literal["pca", "up", "vertical", "none"] = "up"
    """The method by which the scene is turned upright."""
    center_method: Literal["poses", "focus", "none"] = "poses"
    """The method by which the origin is chosen."""
    auto_scale_poses: bool = True
    """Whether camera positions are scaled into a cube from -1 to 1."""
    undistort: bool = True
    """Whether images are turned into those of pinhole cameras; False trains on them through their own lenses."""

    def placement_settings(self) -> dict[str, Any]:
        """The same, as a dataparser's config names them; seed points are always loaded."""
        settings = {field.name: getattr(self, field.name) for field in fields(Placement) if field.name != "undistort"}
        return {**settings, "load_3D_points": True}


@dataclass
class NerfstudioDataProvider(Placement, SplatDataProvider):
    """A folder with a ``transforms.json``, as ``ns-process-data`` makes it."""

    data: str | Path
    """The folder, or the JSON file."""

    def dataparser_config(self) -> NerfstudioDataParserConfig:
        return NerfstudioDataParserConfig(
            data=Path(self.data),
            **self.placement_settings(),
        )


@dataclass
class ColmapDataProvider(Placement, SplatDataProvider):
    """A folder with images and a COLMAP model, such as a scene of Mip-NeRF 360."""

    data: str | Path
    """The folder."""
    colmap_path: str | Path = "sparse/0"
    """The COLMAP model, relative to data."""
    images_path: str | Path = "images"
    """The images, relative to data."""
    masks_path: str | Path | None = None
    """The masks, relative to data; None for no masks."""

    def dataparser_config(self) -> ColmapDataParserConfig:
        return ColmapDataParserConfig(
            data=Path(self.data),
            colmap_path=Path(self.colmap_path),
            images_path=Path(self.images_path),
            masks_path=None if self.masks_path is None else Path(self.masks_path),
            **self.placement_settings(),
        )


@dataclass
class BlenderDataProvider(SplatDataProvider):
    """A scene of the NeRF synthetic data set: ``transforms_train.json`` and its siblings, images with alpha.

    It has no seed points, so training starts from random ones. Training reports on its ``val`` split; `SplatEvaluator`
    and ``ns-eval`` measure its ``test`` split.
    """

    data: str | Path
    """The folder."""
    alpha_color: Literal["white", "black"] | None = "white"
    """Colour onto which the images are laid, and then that behind the Gaussians. None keeps alpha, so that the
    background can change with every step."""
    scale_factor: float = 1.0
    """Camera positions are multiplied by this."""
    ply_path: str | Path | None = None
    """Seed points, relative to data; None for random ones."""

    def dataparser_config(self) -> BlenderDataParserConfig:
        return BlenderDataParserConfig(
            data=Path(self.data),
            alpha_color=self.alpha_color,
            scale_factor=self.scale_factor,
            ply_path=None if self.ply_path is None else Path(self.ply_path),
        )
