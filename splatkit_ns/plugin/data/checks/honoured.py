"""Notes of the entries and options of a data set that would change a result, but are not honoured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from splatkit_ns.plugin.data.photographs.lenses import DISTORTION, FLAGS, INTRINSICS
from splatkit_ns.plugin.data.scenes.transforms import FOCALS
from splatkit_ns.plugin.reporting.console import report_once

LENS = frozenset((*INTRINSICS, *DISTORTION, *FLAGS, "camera_model"))
FRAME = frozenset(("file_path", "transform_matrix", "mask_path"))
HONOURED: dict[type, tuple[frozenset[str], frozenset[str]]] = {
    NerfstudioDataParserConfig: (
        LENS
        | {
            "frames",
            "fisheye_crop_radius",
            "orientation_override",
            "applied_transform",
            "applied_scale",
            "ply_file_path",
            "train_filenames",
            "val_filenames",
            "test_filenames",
        },
        LENS | FRAME | {"depth_file_path", "normal_file_path"},
    ),
    InstantNGPDataParserConfig: (LENS | set(FOCALS) | {"frames", "aabb_scale"}, LENS | set(FOCALS) | FRAME),
    BlenderDataParserConfig: (
        LENS | set(FOCALS) | {"frames"},
        LENS | set(FOCALS) | {"file_path", "transform_matrix"},
    ),
}
"""The config of a dataparser -> the keys that it honours at the top of its file, and in a frame."""

CHANGES_NOTHING = frozenset(
    (
        *FOCALS,  # beside focal lengths in pixels, which count
        "aabb_scale",
        "scale",
        "offset",
        "up",
        "from_na",
        "render_aabb",
        "n_frames",
        "sharpness",
        "sharpen",
        "colmap_im_id",
        "camera_id",
        "image_id",
        "rotation",
        "wants_importance_sampling",
        "comment",
        "made_by",  # of the demo scene
        "version",
    )
)
"""Keys that place a scene in another program's volume, or tell of how the file was made."""

NOT_HONOURED: dict[str, str] = {
    "rolling_shutter": "each picture is taken as if all of its rows were exposed at one moment",
    "transform_matrix_start": "a camera stands still while it takes a picture; 'transform_matrix' counts",
    "transform_matrix_end": "a camera stands still while it takes a picture; 'transform_matrix' counts",
    "exposure": "--pipeline.model.image-model learns the exposure of each picture",
    "n_extra_learnable_dims": "--pipeline.model.image-model learns what differs among pictures",
    "light_dir": "Gaussians have no lighting",
    "depth_path": "depth images are read of nerfstudio-data with 'depth_file_path'",
    "enable_depth_loading": "depth images are read of nerfstudio-data with 'depth_file_path'",
    "integer_depth_scale": "depth images are read of nerfstudio-data, with --depth-unit-scale-factor",
    "enable_ray_loading": "rays follow from intrinsics alone",
    "rays_path": "rays follow from intrinsics alone",
    "white_transparent": "transparency is read of an alpha channel alone",
    "black_transparent": "transparency is read of an alpha channel alone",
    "mask_color": "masks are read of 'mask_path' alone",
    "is_hdr": "pictures are taken as of 8 or 16 bits",
    "fisheye_crop_radius": "only cameras of model FISHEYE624 are cropped; mask the rest with 'mask_path'",
    "mask_path": "this dataparser has no masks; write the data set as nerfstudio-data",
    "depth_file_path": "this dataparser has no depth; write the data set as nerfstudio-data",
    "normal_file_path": "this dataparser has no normals; write the data set as nerfstudio-data",
    "ply_file_path": "this dataparser has no such key; blender-data has --ply-path",
    "applied_transform": "this dataparser takes poses as they are",
    "applied_scale": "this dataparser takes poses as they are",
    "orientation_override": "this dataparser takes poses as they are",
    "time": "everything is taken to stand still, so what moves is blurred",
    "times": "everything is taken to stand still, so what moves is blurred",
    "timestamp": "everything is taken to stand still, so what moves is blurred",
}
"""Keys that would change the result, with what happens instead."""

OPTIONS: dict[str, tuple[str, str]] = {
    "mask_color": ("dataparser", "masked pixels count nowhere, whatever their colour"),
    "max_2D_matches_per_3D_point": ("dataparser", "matches are not used"),
    "eval_num_images_to_sample_from": ("pipeline.datamanager", "each evaluation takes one image, or all"),
    "eval_num_times_to_repeat_images": ("pipeline.datamanager", "each evaluation takes one image, or all"),
    "eval_image_indices": ("pipeline.datamanager", "each evaluation takes one image, or all"),
}
"""Options of nerfstudio's that have no effect here: where they are, and what happens instead."""

OF_MODES = {"eval_interval": "interval", "train_split_fraction": "fraction"}
"""Options of dataparsers, with the ``--eval-mode`` that each belongs to."""


def note_keys(parser: Any, path: Path, meta: Mapping[str, Any], frames: Sequence[Mapping[str, Any]]) -> None:
    """Print a note of the keys of a file of frames that are not honoured, and of those that are not known; and one of
    images that are listed twice, and of masks that no frame names.

    Args:
        parser: the config of the dataparser that reads it.
        path: the file.
        meta: its content.
        frames: its frames.
    """
    found = _ignored_keys(parser, meta, frames)
    told = [f"{shown}: {NOT_HONOURED[key]}" for key, shown in found.items() if key in NOT_HONOURED]
    if told:
        report_once(f"{path} has keys that are not honoured. {'; '.join(told)}.")
    _note_repeated_images(path, frames)
    masks = _unused_masks(parser, path)
    if masks is not None and not any(frame.get("mask_path") for frame in frames):
        report_once(f"The masks in {masks} are not used: each frame of {path.name} has to name its own as 'mask_path'.")
    unknown = [shown for key, shown in found.items() if key not in NOT_HONOURED and key not in CHANGES_NOTHING]
    if unknown:
        report_once(f"{path} has keys that are not known here and change nothing: {', '.join(sorted(unknown))}.")


def _ignored_keys(parser: Any, meta: Mapping[str, Any], frames: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The keys that ask for something and that a dataparser does not honour; each as it is shown in a note."""
    top, frame_keys = next(keys for kind, keys in HONOURED.items() if isinstance(parser, kind))
    if "fisheye_crop_radius" in meta and not _has_fisheye624(meta):
        top = top - {"fisheye_crop_radius"}
    counts = Counter(
        key for frame in frames for key, value in frame.items() if key not in frame_keys and not _is_neutral(value)
    )
    found = {key: f"'{key}'" for key, value in meta.items() if key not in top and not _is_neutral(value)}
    return found | {key: f"'{key}' of {count} frame(s)" for key, count in counts.items()}


def _note_repeated_images(path: Path, frames: Sequence[Mapping[str, Any]]) -> None:
    paths = Counter(str(frame.get("file_path")) for frame in frames)
    twice = [name for name, count in paths.items() if count > 1]
    if twice:
        report_once(
            f"{path} lists {len(twice)} image(s) more than once, the first is {twice[0]}: it weighs more than others, "
            "and may be trained on as well as held out."
        )


def _unused_masks(parser: Any, path: Path) -> Path | None:
    """A folder of masks beside a file of frames, or instant-ngp's masks beside its images."""
    if isinstance(parser, BlenderDataParserConfig):
        return None
    folders = (path.parent / "masks", path.parent / "mask")
    found = [folder for folder in folders if folder.is_dir()]
    found += [mask.parent for mask in (path.parent / "images").glob("dynamic_mask_*")]
    return found[0] if found else None


def _has_fisheye624(meta: Mapping[str, Any]) -> bool:
    return "FISHEYE624" in [meta.get("camera_model"), *(frame.get("camera_model") for frame in meta["frames"])]


def _is_neutral(value: Any) -> bool:
    """Whether a value asks for nothing: null, false, 0, or empty or all of these."""
    if isinstance(value, list | tuple):
        return all(_is_neutral(part) for part in value)
    return not value


def note_options(config: Any) -> None:
    """Print a note of the options of a datamanager's config, and its dataparser's, that have no effect here."""
    mode = getattr(config.dataparser, "eval_mode", None)
    options = OPTIONS | {
        name: ("dataparser", f"it needs --eval-mode {wanted}, which is {mode}")
        for name, wanted in OF_MODES.items()
        if mode not in (wanted, None)
    }
    for settings in (config, config.dataparser):
        for setting in fields(settings):
            if setting.name not in options or getattr(settings, setting.name) == setting.default:
                continue
            place, reason = options[setting.name]
            name = setting.name.replace("_", "-")
            shown = f"--{place}.{name}" if place != "dataparser" else f"--{name} of the dataparser"
            report_once(f"{shown} has no effect: {reason}.")
    if isinstance(config.dataparser, ColmapDataParserConfig) and config.dataparser.masks_path is None:
        masks = Path(config.dataparser.data) / "masks"
        if masks.is_dir():
            report_once(f"The masks in {masks} are not used: --masks-path masks of the dataparser uses them.")
