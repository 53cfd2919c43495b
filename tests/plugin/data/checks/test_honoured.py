"""What changes a result and is not honoured, or is hardly right, is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from splatkit_ns.plugin.data.checks.contents import check_cameras
from splatkit_ns.plugin.data.checks.honoured import HONOURED, NOT_HONOURED, note_keys, note_options
from splatkit_ns.plugin.data.checks.plausible import note_unseen_points
from splatkit_ns.plugin.reporting import console
from splatkit_ns.plugin.reporting.console import collected_notes
from tests.plugin.data.broken_data import changed_copy, in_json
from tests.plugin.helpers import make_pipeline, run_config

PATH = Path("transforms.json")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture(autouse=True)
def _nothing_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_reported", set())


def keys_noted(capsys: pytest.CaptureFixture[str], meta: dict[str, Any], frame: dict[str, Any], parser: Any) -> str:
    meta = {"frames": [{"file_path": "a", "transform_matrix": [], **frame}], **meta}
    note_keys(parser(), PATH, meta, meta["frames"])
    return said(capsys)


def test_honoured_and_harmless_keys_are_not_noted(capsys: pytest.CaptureFixture[str]) -> None:
    meta = {"fl_x": 1, "k4": 1, "is_fisheye": True, "aabb_scale": 4, "camera_angle_x": 1, "applied_scale": 2}
    frame = {"mask_path": "m", "depth_file_path": "d", "normal_file_path": "n", "colmap_im_id": 3, "fl_x": 2}
    assert keys_noted(capsys, meta, frame, NerfstudioDataParserConfig) == ""
    neutral = {"rolling_shutter": [0, 0, 0, 0], "n_extra_learnable_dims": 0, "exposure": None}
    assert keys_noted(capsys, neutral, {"depth_path": ""}, NerfstudioDataParserConfig) == ""


def test_keys_that_are_not_honoured_are_named_with_what_happens_instead(capsys: pytest.CaptureFixture[str]) -> None:
    meta = {"rolling_shutter": [0, 0, 0, 0.1], "fisheye_crop_radius": 300}
    text = keys_noted(capsys, meta, {"time": 0.5}, NerfstudioDataParserConfig)
    assert "transforms.json has keys that are not honoured" in text
    for part in ("'rolling_shutter': each picture", "'fisheye_crop_radius': only cameras of", "'time' of 1 frame(s)"):
        assert part in text


def test_a_key_counts_for_the_format_that_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'ply_file_path'" in keys_noted(capsys, {"ply_file_path": "p"}, {}, InstantNGPDataParserConfig)
    assert "'mask_path' of 1 frame(s)" in keys_noted(capsys, {}, {"mask_path": "m"}, BlenderDataParserConfig)
    crop = {"fisheye_crop_radius": 300.0, "camera_model": "FISHEYE624"}
    assert keys_noted(capsys, crop, {}, NerfstudioDataParserConfig) == ""


def test_a_slip_of_the_pen_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    text = keys_noted(capsys, {"ply_filepath": "p"}, {"mask": "m"}, NerfstudioDataParserConfig)
    assert "not known here and change nothing: 'mask' of 1 frame(s), 'ply_filepath'" in text


def test_an_image_that_is_listed_twice_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    meta = {"frames": [{"file_path": name, "transform_matrix": []} for name in ("a", "b", "b")]}
    note_keys(NerfstudioDataParserConfig(), PATH, meta, meta["frames"])
    assert "transforms.json lists 1 image(s) more than once, the first is b" in said(capsys)


def test_a_centre_outside_the_picture_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    """As when intrinsics are those of the full size and pictures were made smaller by hand."""
    for cx, noted in ((16.0, False), (0.0, False), (64.0, True)):
        poses = torch.eye(4)[:3].expand(2, 3, 4)
        cameras = Cameras(poses, 30.0, 30.0, torch.tensor([[16.0], [cx]]), 12.0, width=32, height=24)
        check_cameras(DataparserOutputs([Path("a.png"), Path("b.png")], cameras))
        text = said(capsys)
        assert ("1 camera(s) have their centre (cx, cy) outside the picture" in text) == noted
        assert ("b.png: (64, 12) in 32×24 pixels" in text) == noted


@pytest.mark.parametrize(("fl_x", "noted"), [(4.4, False), (4.2, True), (17e3, False), (19e3, True)])
def test_focal_lengths_of_another_unit_are_noted(capsys: pytest.CaptureFixture[str], fl_x: float, noted: bool) -> None:
    """As when they are in millimetres: 150 degrees and a tenth of a degree are the limits."""
    poses = torch.eye(4)[:3].expand(2, 3, 4)
    focals = torch.tensor([[30.0], [fl_x]])
    check_cameras(DataparserOutputs([Path("a.png"), Path("b.png")], Cameras(poses, focals, focals, 16.0, 16.0, 32, 32)))
    assert ("1 camera(s) see" in (text := said(capsys))) == noted
    assert ("b.png, by the focal lengths" in text) == noted


@pytest.mark.parametrize(("distance", "noted"), [(90.0, False), (110.0, True)])
def test_a_camera_far_from_all_others_is_noted(
    capsys: pytest.CaptureFixture[str], distance: float, noted: bool
) -> None:
    """All others shrink to a point when the farthest is scaled to 1."""
    poses = torch.eye(4)[:3].repeat(6, 1, 1)
    poses[:, 0, 3] = torch.tensor([0.0, 1, -1, 1, -1, distance])
    names = [Path(f"{name}.png") for name in "abcdef"]
    check_cameras(DataparserOutputs(names, Cameras(poses, 30.0, 30.0, 16.0, 12.0, 32, 24)))
    assert ("1 camera(s) are far from all others. That of f.png is 110 times" in said(capsys)) == noted


def seen_by_two(shift: float, z: float, camera_type: CameraType = CameraType.PERSPECTIVE) -> DataparserOutputs:
    """Two cameras that look along -z, and 40 points of which one is always before them."""
    points = torch.tensor([[shift, 0.0, z]]).repeat(40, 1)
    points[0] = torch.tensor([0.0, 0.0, -1.0])
    poses = torch.eye(4)[:3].repeat(2, 1, 1)
    cameras = Cameras(poses, 30.0, 30.0, 16.0, 12.0, 32, 24, camera_type=camera_type)
    return DataparserOutputs([Path("a.png"), Path("b.png")], cameras, metadata={"points3D_xyz": points})


@pytest.mark.parametrize(
    ("outputs", "noted"),
    [
        (seen_by_two(0.0, -2.0), False),
        (seen_by_two(500.0, -2.0), True),
        (seen_by_two(0.0, 2.0), True),
        (seen_by_two(3.0, -2.0, CameraType.FISHEYE), False),
        (DataparserOutputs([Path("a.png")], Cameras(torch.eye(4)[None, :3], 30.0, 30.0, 16.0, 12.0, 32, 24)), False),
    ],
    ids=["seen", "another frame", "behind", "fisheye", "no points"],
)
def test_seed_points_that_no_camera_sees_are_noted(
    capsys: pytest.CaptureFixture[str], outputs: DataparserOutputs, noted: bool
) -> None:
    note_unseen_points(outputs)
    assert ("Only 2.5% of the 40 seed points are in view of a camera" in said(capsys)) == noted


@pytest.mark.parametrize(("scale", "noted"), [(1.0, False), (1e-4, True)])
def test_a_scene_that_is_too_small_to_be_drawn_is_noted(tiny_scene: Path, scale: float, noted: bool) -> None:
    """All of it is nearer to the cameras than the near plane."""
    config = run_config(tiny_scene)
    parser: Any = config.pipeline.datamanager.dataparser
    parser.scale_factor = scale
    with collected_notes() as notes:
        config.pipeline.setup(device="cpu")
    wanted = "Of the seed points in view, 100% are nearer to all cameras than 0.01"
    assert any(wanted in note for note in notes) == noted


def test_a_scene_whose_cameras_look_away_is_noted(tiny_scene: Path, tmp_path: Path) -> None:
    """As with poses in OpenCV's axes."""

    def turned(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame["transform_matrix"] = [[x, -y, -z, t] for x, y, z, t in frame["transform_matrix"]]

    with collected_notes() as notes:
        make_pipeline(tiny_scene)
        assert not any("seed points are in view" in note for note in notes)
        make_pipeline(changed_copy(tiny_scene, tmp_path, in_json(turned)))
    assert any("None of the 48 seed points are in view of a camera" in note for note in notes)


def test_masks_that_no_frame_names_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "masks").mkdir()
    for frame, is_told in (({"mask_path": "masks/a"}, False), ({}, True)):
        note_keys(NerfstudioDataParserConfig(), tmp_path / "transforms.json", {"frames": [frame]}, [frame])
        assert ("each frame of transforms.json has to name its own" in said(capsys)) == is_told


def test_each_key_has_one_fate() -> None:
    for top, frame in HONOURED.values():
        everywhere = set.intersection(*(set(a | b) for a, b in HONOURED.values()))
        assert not everywhere & set(NOT_HONOURED)
        assert {"file_path", "transform_matrix"} <= frame
        assert "frames" in top


def test_options_without_effect_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config: Any = run_config(tmp_path).pipeline.datamanager
    note_options(config)
    assert said(capsys) == ""
    config.dataparser.mask_color, config.eval_image_indices = (1.0, 0.0, 0.0), None
    note_options(config)
    text = said(capsys)
    assert "--mask-color of the dataparser has no effect: masked pixels count nowhere" in text
    assert "--pipeline.datamanager.eval-image-indices has no effect" in text


@pytest.mark.parametrize(
    ("name", "value", "mode"), [("eval_interval", 3, "fraction"), ("train_split_fraction", 0.5, "interval")]
)
def test_a_number_of_another_way_to_hold_images_out_is_named(
    name: str, value: float, mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config: Any = run_config(tmp_path).pipeline.datamanager
    parser = config.dataparser = NerfstudioDataParserConfig(eval_mode="interval" if mode == "fraction" else "fraction")
    setattr(parser, name, value)
    note_options(config)
    assert said(capsys) == ""
    parser.eval_mode = mode
    note_options(config)
    assert f"--{name.replace('_', '-')} of the dataparser has no effect: it needs --eval-mode" in said(capsys)
