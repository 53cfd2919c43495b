"""Poses that training corrects: resumed with the same bits, opened with the run, and measured fairly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from splatkit_ns.plugin.data.cameras import opencv_cam_to_worlds
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.plugin.step.frame import camera_motions, corrected_poses
from splatkit_ns.splat import CheckpointError, read_checkpoint
from tests.plugin.step.part_runs import STEPS, config_of, opened_is_the_same, resumed_is_the_same, train


@pytest.mark.parametrize("mode", ["SO3xR3", "SE3"])
def test_the_correction_is_nerfstudios(mode: Any, tiny_scene: Path, tmp_path: Path) -> None:
    trainer = train(config_of(tiny_scene, tmp_path, camera_optimizer=CameraOptimizerConfig(mode=mode)))
    model = trainer.pipeline.model
    with torch.no_grad():
        model.camera_optimizer.pose_adjustment.normal_(0, 0.1)
        camera, batch = trainer.pipeline.datamanager.train_view(2)
        found = model.parts.frames.corrected(model.parts.frames.make(camera, batch)).cam_to_worlds
        wanted = opencv_cam_to_worlds(model.camera_optimizer.apply_to_camera(camera))
    torch.testing.assert_close(found, wanted)


class Devices(TorchDispatchMode):
    """Notes the devices of all tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.found |= {value.device.type for value in tree_leaves(result) if isinstance(value, torch.Tensor)}
        return result


@pytest.mark.parametrize("mode", ["SO3xR3", "SE3"])
def test_nothing_is_copied_from_the_host(mode: str) -> None:
    """Or steps could not be CUDA graphs; a device that computes nothing stands in for a GPU."""
    adjustment = torch.zeros((2, 6), device="meta", requires_grad=True)
    poses = torch.zeros((2, 4, 4), device="meta")
    with Devices() as devices:
        corrected_poses(poses, camera_motions(mode, adjustment)).sum().backward()
    assert adjustment.grad is not None
    assert devices.found == {"meta"}


def test_a_run_that_corrects_poses_is_resumed_opened_and_evaluated(tiny_scene: Path, tmp_path: Path) -> None:
    whole = resumed_is_the_same(tiny_scene, tmp_path, camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"))
    model = whole.pipeline.model
    assert float(model.camera_optimizer.pose_adjustment.detach().abs().max()) > 0
    opened = opened_is_the_same(whole)
    assert torch.equal(opened.camera_optimizer.pose_adjustment, model.camera_optimizer.pose_adjustment)
    of_run = [image.metrics for image in model.context.data_provider.evaluate()]
    assert all({"aligned_psnr", "aligned_ssim", "aligned_cc_psnr"} <= metrics.keys() for metrics in of_run)
    assert all(metrics["aligned_psnr"] != metrics["psnr"] for metrics in of_run)
    during_training = next(iter(model.context.data_provider.measure_held_out())).metrics
    assert not [name for name in during_training if name.startswith("aligned_")]


def test_cameras_of_other_runs_are_not_aligned(tiny_scene: Path, tmp_path: Path) -> None:
    data = train(config_of(tiny_scene, tmp_path)).pipeline.model.context.data_provider
    assert not [name for name in next(iter(data.evaluate())).metrics if name.startswith("aligned_")]


def test_a_run_that_goes_on_without_the_corrections_of_its_checkpoint_says_so(
    tiny_scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    correcting = config_of(tiny_scene, tmp_path / "whole", camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"))
    path = checkpoint_files.path_of(train(correcting).checkpoint_dir, STEPS - 1)
    train(config_of(tiny_scene, tmp_path / "off"), load=path)
    assert f"{path} has corrections of the camera poses, to which its Gaussians fit, and this run" in messages.text
    messages.clear()
    train(
        config_of(tiny_scene, tmp_path / "on", camera_optimizer=correcting.pipeline.model.camera_optimizer), load=path
    )
    assert "corrections of the camera poses" not in messages.text
    train(config_of(tiny_scene, tmp_path / "other", camera_optimizer=CameraOptimizerConfig(mode="SE3")), load=path)
    assert "has corrections of the camera poses of the mode SO3xR3, and this run has SE3, in which" in messages.text


def test_corrections_of_another_number_of_photographs_are_refused(tiny_scene: Path, tmp_path: Path) -> None:
    poses = CameraOptimizerConfig(mode="SO3xR3")
    data = Path(shutil.copytree(tiny_scene, tmp_path / "data"))
    path = checkpoint_files.path_of(
        train(config_of(data, tmp_path / "whole", camera_optimizer=poses)).checkpoint_dir, STEPS - 1
    )
    meta = json.loads((data / "transforms.json").read_text())
    num = len(read_checkpoint(path)["pipeline"]["_model.camera_optimizer.pose_adjustment"])
    (data / "transforms.json").write_text(json.dumps({**meta, "frames": meta["frames"][:-3]}))
    with pytest.raises(CheckpointError, match=f"camera poses of {num} photographs, and this run trains on {num - 3}"):
        train(config_of(data, tmp_path / "fewer", camera_optimizer=poses), load=path)
