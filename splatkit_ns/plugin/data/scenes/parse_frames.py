"""The formats of nerfstudio, instant-ngp and Blender by nerfstudio's dataparsers, put right around them.

Each hands nerfstudio's own class a stand-in of the data set's file, near the origin and without lenses, and then puts
the true lenses into its output. So any frame may have a lens of its own, and poses and seed points are moved to the
origin in double precision.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import Blender
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGP
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from nerfstudio.data.utils.dataparsers_utils import get_train_eval_split_filename
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from splatkit_ns.plugin.data.errors import DataError
from splatkit_ns.plugin.data.photographs.lenses import Lens
from splatkit_ns.plugin.data.scenes.parse_colmap import colmap_points
from splatkit_ns.plugin.data.scenes.parse_outputs import DEFAULT_LIMIT, finished, listed_split, telling_name
from splatkit_ns.plugin.data.scenes.scene_frames import OLD_APPLIED_TRANSFORM, OLD_COLMAP
from splatkit_ns.plugin.data.scenes.seed_points import seed_points
from splatkit_ns.plugin.data.scenes.transforms import Scene, existing_name, image_size, mask_path, transforms_file
from splatkit_ns.plugin.reporting.console import report_once


class OwnNerfstudio(Nerfstudio):
    """nerfstudio's own format."""

    max_seed_points: int = DEFAULT_LIMIT
    _scene: Scene | None = None

    def _generate_dataparser_outputs(self, split: str = "train") -> DataparserOutputs:
        scene = self._scene = self._scene or Scene(transforms_file(Path(self.config.data)))
        meta = scene.meta
        lists = {key: meta[key] for key in meta if key.endswith("_filenames")}
        if not lists and self.config.eval_mode == "filename":
            indices = get_train_eval_split_filename([telling_name(name) for name in scene.names])
            training, held_out = ([scene.names[index] for index in split] for split in indices)
            lists = {"train_filenames": training, "val_filenames": held_out, "test_filenames": held_out}
        listed = listed_split(split, scene.path, lambda name: f"{name}_filenames", lists.__contains__)
        if listed != split:
            lists[f"{split}_filenames"] = lists[f"{listed}_filenames"]
        top: dict[str, Any] = {
            key: [existing_name(scene.folder, name) for name in names] for key, names in lists.items()
        }
        top["ply_file_path"] = points = self._point_file(scene)
        has_points = self.config.load_3D_points and points is not None
        if self.config.load_3D_points and points is None:  # nerfstudio's warning speaks of another method
            report_once(
                f"{scene.path} names no seed points ('ply_file_path'): the Gaussians start at random positions."
            )
        applied = meta.get("applied_transform")
        if applied is None and (Path(self.config.data) / OLD_COLMAP).exists():
            applied = OLD_APPLIED_TRANSFORM
        top["applied_transform"] = None if applied is None else applied[:3]
        with scene.written(self._frames(scene), **top) as path, _reading(self, path, load_3D_points=has_points):
            outputs = super()._generate_dataparser_outputs(split)
        return self._with_lenses(scene, outputs, applied)

    def _with_lenses(self, scene: Scene, outputs: DataparserOutputs, applied: Any) -> DataparserOutputs:
        numbers: dict[Path, int] = {}
        for number, name in enumerate(scene.names):
            path = self._get_fname(Path(name), scene.folder)
            other = numbers.setdefault(path, number)
            if scene.names[other] != name:
                raise DataError(
                    f"{scene.names[other]} and {name} have one smaller copy, {path}. Keep the copies in folders as the "
                    "images are, or use the images in full size: --downscale-factor 1 of the dataparser."
                )
        lenses = [scene.lens(numbers[Path(path)]) for path in outputs.image_filenames]
        offset, whole = scene.offset, np.eye(4)
        if offset is not None and applied is not None:  # nerfstudio applies it after the transform of poses
            whole[:3] = applied[:3]
            offset = np.asarray(np.linalg.solve(whole[:3, :3], offset), np.float64)
        metadata: dict[str, Any] = {}
        if "fisheye_crop_radius" in scene.meta and any(lens.kind is CameraType.FISHEYE624 for lens in lenses):
            metadata["fisheye_crop_radius"] = float(scene.meta["fisheye_crop_radius"])
        outputs = finished(outputs, lenses, offset, **metadata)
        outputs.cameras.rescale_output_resolution(1.0 / (self.downscale_factor or 1))
        return outputs

    def _frames(self, scene: Scene) -> list[dict[str, Any]]:
        frames: list[dict[str, Any]] = []
        for frame, name in zip(scene.frames, scene.names, strict=True):
            found = {"file_path": name}
            if frame.get("mask_path"):  # null stands for none
                given = Path(existing_name(scene.folder, frame["mask_path"]))
                found["mask_path"] = str(given.with_name(mask_path(scene.folder / given, Path(name)).name))
            if frame.get("depth_file_path"):
                found["depth_file_path"] = existing_name(scene.folder, frame["depth_file_path"])
            frames.append(found)
        return frames

    def _point_file(self, scene: Scene) -> str | None:
        name = scene.meta.get("ply_file_path")
        if name is not None:
            return str((scene.folder / existing_name(scene.folder, name)).absolute())
        old = Path(self.config.data) / OLD_COLMAP
        return str(old.absolute()) if old.exists() else None

    def _get_fname(self, filepath: Path, data_dir: Path, downsample_folder_prefix: str = "images_") -> Path:
        """The path of a file of a frame: of its smaller copy, or in full size if a mask or depth has none."""
        folder = data_dir if self._scene is None else self._scene.folder
        plain = super()._get_fname(filepath, folder, downsample_folder_prefix)
        if self.downscale_factor == 1:
            return plain
        relative = (
            filepath.relative_to(folder) if filepath.is_absolute() and filepath.is_relative_to(folder) else filepath
        )
        inside = plain.parent.joinpath(*relative.parts[1:])  # images/cam0/1.png: nerfstudio drops cam0
        if inside != plain and inside.is_file():
            return inside
        if downsample_folder_prefix != "images_" and not plain.is_file():
            return folder / filepath
        return plain

    def _load_3D_points(self, ply_file_path: Path, transform_matrix: Tensor, scale_factor: float) -> Any:
        assert self._scene is not None
        path, scale = Path(ply_file_path), scale_factor / float(self._scene.meta.get("applied_scale", 1.0))
        if not path.is_dir():
            return seed_points(path, self._scene.offset, transform_matrix, scale, self.max_seed_points)
        old = torch.tensor([*OLD_APPLIED_TRANSFORM, [0.0, 0, 0, 1]], dtype=transform_matrix.dtype)
        return colmap_points(path, None, transform_matrix @ old, scale, self.max_seed_points)


class OwnInstantNGP(InstantNGP):
    """instant-ngp's format."""

    _scene: Scene | None = None

    def _generate_dataparser_outputs(self, split: str = "train") -> DataparserOutputs:
        scene = self._scene = self._scene or Scene(transforms_file(Path(self.config.data)))
        paths = [(scene.folder / name).absolute() for name in scene.names]
        frames: list[dict[str, Any]] = [{"file_path": str(path)} for path in paths]
        masked = [frame for frame in scene.frames if frame.get("mask_path")]
        if 0 < len(masked) < len(frames):
            raise DataError(
                f"{scene.path} has 'mask_path' for {len(masked)} of {len(frames)} frames. Add the missing ones, or "
                "take out the others. White masks leave images whole."
            )
        for frame, given, path in zip(frames, scene.frames, paths, strict=True):
            if masked:
                frame["mask_path"] = str(mask_path((scene.folder / given["mask_path"]).absolute(), path))
        with scene.written(frames, applied_transform=None, applied_scale=None) as file, _reading(self, file):
            outputs = super()._generate_dataparser_outputs(split)
        numbers = {path: number for number, path in reversed(list(enumerate(paths)))}
        chosen = [numbers[Path(path)] for path in outputs.image_filenames]
        poses = torch.from_numpy(scene.poses_near_origin()[chosen, :3].astype(np.float32))
        poses[..., 3] *= self.config.scene_scale  # nerfstudio's poses of a single image have lost a column
        lenses = [scene.lens_by_angles(number) for number in chosen]
        return finished(outputs, lenses, scene.offset, poses)


class OwnBlender(Blender):
    """The format of NeRF's synthetic scenes."""

    max_seed_points: int = DEFAULT_LIMIT
    _offset: NDArray[np.float64] | None = None

    def _generate_dataparser_outputs(self, split: str = "train") -> DataparserOutputs:
        folder = Path(self.config.data)
        split = listed_split(
            split, folder, lambda name: f"transforms_{name}.json", lambda name: (folder / name).is_file()
        )
        scene = Scene(folder / f"transforms_{split}.json")
        if self._offset is None and split == "train":
            self._offset = scene.offset
        scene.offset = self._offset  # all splits are moved alike
        paths = [scene.folder / self._name(scene, name) for name in scene.names]
        size = image_size(paths[0])
        lenses = [_at_size(scene.lens_by_angles(i, size), size) for i in range(len(paths))]
        with scene.written([{"file_path": "picture"} for _ in paths], camera_angle_x=1.0) as file:
            path = file.rename(file.with_name(f"transforms_{split}.json"))
            Image.new("L", (2, 2)).save(path.with_name("picture.png"))
            given, self.data = self.data, path.parent
            try:
                outputs = super()._generate_dataparser_outputs(split)
            finally:
                self.data = given
        outputs.image_filenames = paths
        return finished(outputs, lenses, scene.offset)

    @staticmethod
    def _name(scene: Scene, name: str) -> str:
        return name if Path(name).suffix or (scene.folder / name).is_file() else f"{name}.png"

    def _load_3D_points(self, ply_file_path: Path) -> Any:
        return seed_points(
            ply_file_path, self._offset, torch.eye(4)[:3], self.config.scale_factor, self.max_seed_points
        )


@contextmanager
def _reading(parser: Any, path: Path, **settings: Any) -> Generator[None]:
    """Let a dataparser read another file in the block, with other settings."""
    given = parser.config
    parser.config = replace(given, data=path, **settings)
    try:
        yield
    finally:
        parser.config = given


def _at_size(lens: Lens, size: tuple[int, int]) -> Lens:
    """The lens of a picture that was made smaller or larger since its intrinsics were written."""
    x, y = size[0] / lens.width, size[1] / lens.height
    return replace(
        lens, width=size[0], height=size[1], fl_x=lens.fl_x * x, fl_y=lens.fl_y * y, cx=lens.cx * x, cy=lens.cy * y
    )
