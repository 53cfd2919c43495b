"""COLMAP's format by nerfstudio's dataparser, with what it misreads put right around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser
from numpy.typing import NDArray
from torch import Tensor

from splatkit_ns.plugin.data.scenes.beside_model import names_in, note_larger_model, note_other_kind, note_without_pose
from splatkit_ns.plugin.data.scenes.colmap_model import ColmapModel
from splatkit_ns.plugin.data.scenes.colmap_points import read_colmap_points
from splatkit_ns.plugin.data.scenes.parse_outputs import DEFAULT_LIMIT, finished, listed_split, telling_name
from splatkit_ns.plugin.data.scenes.seed_points import entries_of, seed_points
from splatkit_ns.plugin.data.scenes.transforms import existing_name, mask_path
from splatkit_ns.plugin.reporting.console import report_once


def colmap_points(
    folder: Path, offset: NDArray[np.float64] | None, transform: Tensor, scale: float, limit: int
) -> dict[str, Tensor]:
    """The seed points of a COLMAP model, as `seed_points` has them; empty if it has none."""
    cloud = read_colmap_points(folder)
    if cloud is None:
        report_once(f"The COLMAP model in {folder} has no points: the Gaussians start at random positions.")
        return {}
    return entries_of(cloud, folder, offset, transform, scale, limit)


class OwnColmap(ColmapDataParser):
    """COLMAP's format."""

    max_seed_points: int = DEFAULT_LIMIT
    _model: ColmapModel | None = None

    def _get_all_images_and_cameras(self, recon_dir: Path) -> Any:
        if self._model is None:
            self._model = ColmapModel(recon_dir)
            note_larger_model(recon_dir)
            note_other_kind(recon_dir, self._model.images)
            folder = self.config.data / self.config.images_path
            names = names_in(folder, [existing_name(folder, image.name) for image in self._model.images])
            self._model.images = [
                replace(image, name=name) for image, name in zip(self._model.images, names, strict=True)
            ]
            note_without_pose(folder, [image.name for image in self._model.images], recon_dir)
        with self._model.without_lenses() as folder:
            return super()._get_all_images_and_cameras(folder)

    def _get_image_indices(self, image_filenames: Any, split: str) -> Any:
        data = Path(self.config.data)
        listed = listed_split(split, data, lambda name: f"{name}_list.txt", lambda name: (data / name).is_file())
        if self.config.eval_mode == "filename" and not (data / f"{listed}_list.txt").is_file():
            folder = data / self.config.images_path
            image_filenames = [telling_name(Path(name).relative_to(folder)) for name in image_filenames]
        self._indices = [int(index) for index in super()._get_image_indices(image_filenames, listed)]
        return np.array(self._indices, dtype=np.int64)

    def _load_3D_points(self, colmap_path: Path, transform_matrix: Tensor, scale_factor: float) -> Any:
        assert self._model is not None
        cloud = colmap_path / "points3D.ply"  # 3DGS and its kin write it, some of them nothing else
        if cloud.is_file() and not any((colmap_path / f"points3D{suffix}").is_file() for suffix in (".bin", ".txt")):
            return seed_points(cloud, self._model.offset, transform_matrix, scale_factor, self.max_seed_points)
        return colmap_points(colmap_path, self._model.offset, transform_matrix, scale_factor, self.max_seed_points)

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        outputs = super()._generate_dataparser_outputs(split, **kwargs)
        assert self._model is not None
        images = [self._model.images[index] for index in self._indices]
        lenses = [self._model.lenses[image.camera_id] for image in images]
        outputs = finished(outputs, lenses, self._model.offset)
        outputs.cameras.rescale_output_resolution(
            1.0 / (self._downscale_factor or 1), self.config.downscale_rounding_mode
        )
        names = [image.name for image in images]
        if outputs.mask_filenames is not None and self.config.masks_path is not None:
            outputs.mask_filenames = self._beside(outputs.mask_filenames, self.config.masks_path, names)
        depths = outputs.metadata.get("depth_filenames")
        if depths is not None and self.config.depths_path is not None:
            outputs.metadata["depth_filenames"] = self._beside(depths, self.config.depths_path, names)
        return outputs

    def _beside(self, paths: Sequence[Path], folder: Path, names: Sequence[str]) -> list[Path]:
        """The masks or depths of images under the names that they have, in full size where there is no smaller copy."""
        found: list[Path] = []
        for path, name in zip(paths, names, strict=True):
            candidates = [Path(path), (Path(self.config.data) / folder / name).with_suffix(".png")]
            paths_of_image = [mask_path(candidate, Path(name)) for candidate in candidates]
            found.append(next((candidate for candidate in paths_of_image if candidate.is_file()), Path(path)))
        return found
