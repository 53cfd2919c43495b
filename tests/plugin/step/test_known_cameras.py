"""Cameras of photographs are looked up in main memory, because a look at the device waits for all of its work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras

from splatkit_ns.plugin.data.backgrounds import Backgrounds
from splatkit_ns.plugin.data.cameras import lens_view
from splatkit_ns.plugin.step.frame import TrainingFrames


@pytest.mark.parametrize("distortion", [None, [0.1, -0.02, 0.0, 0.0, 0.001, 0.002]])
def test_views_of_known_cameras_are_read_without_a_look_at_their_device(distortion: Any) -> None:
    poses = torch.eye(4)[:3].repeat(3, 1, 1)
    poses[:, 0, 3] = torch.arange(3)
    lens = None if distortion is None else torch.tensor([distortion])
    cameras = Cameras(poses, 40.0, 41.0, 16.0, 12.0, 32, 24, distortion_params=lens)
    frames = TrainingFrames(
        Backgrounds("black"), CameraOptimizerConfig(mode="off").setup(num_cameras=3, device="cpu"), 3
    )
    frames.use_cameras(cameras)
    camera = cameras[1:2].to("meta")  # which has no values to look at
    camera.metadata = {"cam_idx": 1}
    view, expected = frames.view(camera), lens_view(cameras[1:2])
    assert view.device.type == "meta"
    assert (view.width, view.height, view.lens) == (expected.width, expected.height, expected.lens)
    assert frames.view(camera) is view
    with pytest.raises((RuntimeError, NotImplementedError)):
        lens_view(camera)
    assert torch.equal(frames.view(at(cameras, 2)).cam_to_worlds, lens_view(cameras[2:3]).cam_to_worlds)


def at(cameras: Cameras, index: int) -> Cameras:
    camera = cameras[index : index + 1]
    camera.metadata = {"cam_idx": index}
    return camera
