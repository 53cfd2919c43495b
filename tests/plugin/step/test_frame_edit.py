"""Changes of a part to the training image are checked, and fit the image in their kind and place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from splatkit_ns.errors import ModuleError
from splatkit_ns.modules import Crop, FrameEdit
from splatkit_ns.plugin.data.cameras import lens_view
from splatkit_ns.plugin.step.frame import TrainingFrame

HEIGHT, WIDTH = 4, 6


def frame(device: str = "cpu") -> TrainingFrame:
    camera = Cameras(torch.eye(4)[None, :3], 5.0, 5.0, 3.0, 2.0, WIDTH, HEIGHT)
    return TrainingFrame(camera, lens_view(camera), torch.zeros(3, device=device))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"target_frames": torch.zeros(HEIGHT, WIDTH, 3)},
            r"float32 of shape \(4, 6, 3\), expected floats of .*1, 4, 6, 3",
        ),
        ({"target_frames": torch.zeros(1, HEIGHT, WIDTH, 3).byte()}, "target_frames of its FrameEdit is torch.uint8"),
        (
            {"masks": torch.ones(1, HEIGHT, WIDTH)},
            r"masks .* is torch\.float32 of shape .*, expected booleans of shape",
        ),
        ({"masks": [True]}, "masks of its FrameEdit is list, expected a tensor"),
        (
            {"pixel_weights": torch.ones(1, HEIGHT, WIDTH, 1)},
            r"pixel_weights .* of shape \(1, 4, 6, 1\), expected floats",
        ),
        ({"crop": Crop(0, 0, WIDTH + 1, 2)}, r"the crop of its FrameEdit is \(0, 0, 7, 2\) .*6×4 pixels"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModuleError, match=rf"^Mine\.pre_step: .*{message}"):
        frame().edited(FrameEdit(**changes), "Mine.pre_step")


def test_values_come_to_the_frames_device_as_float32() -> None:
    edit = FrameEdit(
        target_frames=torch.zeros(1, HEIGHT, WIDTH, 3).double(),
        masks=torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool),
        pixel_weights=torch.ones(1, HEIGHT, WIDTH).double(),
    )
    edited = frame("meta").edited(edit, "Mine.pre_step")
    assert [str(value.device) for value in (edited.target, edited.mask, edited.pixel_weights)] == ["meta"] * 3
    assert [value.dtype for value in (edited.target, edited.mask, edited.pixel_weights)] == [
        torch.float32, torch.bool, torch.float32,
    ]  # fmt: skip
