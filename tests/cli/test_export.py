"""``splatkit export`` as people call it, in this process."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from splatkit_ns import formats
from splatkit_ns.cameras import View
from splatkit_ns.formats import usable_format_names
from splatkit_ns.modules import RowTrainable
from splatkit_ns.plugin.loading import load_run
from splatkit_ns.renderer import RenderOptions, Splat3DGSRenderer
from splatkit_ns.splat import SplatModel, SplatTrainingState
from tests.cli.helpers import refused, run
from tests.made_scene import intrinsics, made_views

OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
TURNS = {
    None: np.eye(4),
    "y": np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]),
    "minus-y": np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),
}
HELD_OUT = (0, 4, 8, 12)


def export(capsys: pytest.CaptureFixture[str], config: Path, *arguments: str | Path) -> str:
    """The report of an export that goes well."""
    status, text = run(capsys, "export", "--load-config", config, *arguments)
    assert status == 0, text
    return text


def true_poses(frame: str, data: Path, config: Path) -> list[Any]:
    """Poses of the held-out cameras in a frame, (4, 4), OpenGL axes, from what made the data set."""
    if frame == "world":
        views = made_views(16, 96, 72)
        return [views[index].cam_to_world for index in HELD_OUT]
    frames = json.loads((data / "transforms.json").read_text())["frames"]
    poses = [np.array(frames[index]["transform_matrix"]) for index in HELD_OUT]
    if frame == "dataset":
        return poses
    cameras = load_run(config, device="cpu").pipeline.datamanager.eval_dataset.cameras
    return [np.vstack([pose.double().numpy(), [0, 0, 0, 1]]) for pose in cameras.camera_to_worlds]


def pictures(path: Path, poses: list[Any], near: float) -> Tensor:
    """What cameras see of a file's Gaussians."""
    model = SplatModel.load(path)
    cameras = torch.from_numpy(np.stack(poses) @ OPENCV).float()
    view = View(cameras, torch.from_numpy(intrinsics(96, 72)).float().expand(len(poses), 3, 3), 96, 72)
    options = RenderOptions(backgrounds=torch.zeros(len(poses), 3))
    return Splat3DGSRenderer(near_plane=near).render(model.to_training_state(), view, options).renders.detach()


@pytest.mark.parametrize("up", [None, "y", "minus-y"])
@pytest.mark.parametrize("frame", ["nerfstudio", "dataset", "world"])
def test_a_camera_that_is_turned_along_sees_the_same(
    frame: str, up: str | None, made_run: Path, made_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The camera's pose in the frame is the data set's own, not derived from the move that the export makes."""
    path, scale = tmp_path / "scene.ply", 2.5
    turn = () if up is None else ("--up", up)
    export(capsys, made_run, "--output", path, "--frame", frame, *turn, "--scale", str(scale), "--measure", "0")
    poses = [TURNS[up] @ pose for pose in true_poses(frame, made_data, made_run)]
    for pose in poses:
        pose[:3, 3] *= scale
    model = load_run(made_run, device="cpu").pipeline
    cameras: Any = model.datamanager.eval_dataset.cameras
    own = torch.stack([model.model.get_outputs_for_camera(cameras[i : i + 1])["rgb"] for i in range(len(HELD_OUT))])
    unit = 1.0 if frame == "nerfstudio" else float(model.datamanager.train_dataparser_outputs.dataparser_scale)
    found = pictures(path, poses, near=0.01 * scale / unit).clamp(0, 1)
    assert own.std() > 0.1
    difference = (found - own).abs()
    assert float((difference > 1e-5).float().mean()) < 1e-3
    assert float(difference.max()) < 1 / 255, "a Gaussian that is too faint in one of the two is left out there"


def test_every_format_is_measured(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each file as it was written, in a frame in which cameras have to follow."""
    paths = [tmp_path / "out" / f"a.{name}" for name in usable_format_names()]
    text = export(capsys, made_run, "--output", *paths, "--frame", "world", "--up", "y", "--scale", "3")
    assert re.search(r"step-000000059.ckpt, 3,000 Gaussians", text)
    assert "PSNR is against the run's own renders of 4 held-out view(s)" in text
    assert re.search(r"a\.ply: 746 KB, 3,000 Gaussians, the size of the run's PLY file, the same pictures", text)
    assert re.search(r"a\.glb: .*?, 1 / 1.03 the size of the run's PLY file, the same pictures", text)
    decibels = {name: float(db) for name, db in re.findall(r"a\.([a-z.]+): [^:]*?, ([\d.]+) dB", text)}
    assert set(decibels) == {"compressed.ply", "spz", "spz.glb", "sog", "splat"}
    assert all(30 < db < 90 for db in decibels.values()), decibels
    for path in paths:
        assert f"{path}: " in text
        assert len(formats.read(path)) == 3000
    assert sorted(paths) == sorted(tmp_path.glob("out/*"))


def test_the_measure_sees_what_a_file_lost(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = export(capsys, made_run, "--output", tmp_path / "a.ply", "--sh-degree", "0", "--measure", "2")
    found = re.search(r"a\.ply: 204 KB, 3,000 Gaussians, 1 / 3.6\d the size .*?, ([\d.]+) dB", text)
    assert found is not None, text
    assert 20 < float(found[1]) < 70
    assert "2 held-out view(s)" in text
    text = export(capsys, made_run, "--output", tmp_path / "b.ply", "--measure", "0")
    assert "PSNR" not in text
    assert " dB" not in text


def test_the_file_is_that_of_the_run(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bit for bit, of the newest checkpoint or an older one."""
    models: list[SplatModel] = []
    for step in (59, 40):
        path = tmp_path / f"{step}.ply"
        step_option = () if step == 59 else ("--step", "40")
        text = export(capsys, made_run, "--output", path, "--measure", "0", *step_option)
        assert f"step-0000000{step}.ckpt" in text
        expected = load_run(made_run, step=step, device="cpu").pipeline.model.training_state.to_splat_model()
        models.append(SplatModel.load(path))
        assert all(torch.equal(value, expected.tensors()[key]) for key, value in models[-1].tensors().items())
    assert not torch.equal(models[0].means, models[1].means)


class Warm(Splat3DGSRenderer):
    """A renderer of a user."""


def test_a_renderer_that_viewers_do_not_have_is_told(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = with_config(
        made_run, tmp_path / "run", ("splatkit_ns.renderer._3dgs.Splat3DGSRenderer", f"{__name__}.Warm")
    )
    words = ("--measure", "0", "--trust", __name__)
    assert "as 3DGS does, without the run's Warm." in export(capsys, config, "--output", tmp_path / "a.ply", *words)
    assert "as 3DGS does" not in export(capsys, made_run, "--output", tmp_path / "b.ply", "--measure", "0")


class Tinted(Splat3DGSRenderer):
    """A renderer that draws with rows of its own."""

    def trainables(self, **kwargs: Any) -> Any:
        return {"tint": RowTrainable(shape=(3,), lr=0.01)}

    def render(self, training_state: Any, view: Any, options: RenderOptions = RenderOptions()) -> Any:
        params = dict(training_state.params)
        params["sh0"] = params["sh0"] + params["tint"][:, None]
        return super().render(SplatTrainingState(params, {}), view, options)


def test_a_file_without_the_rows_that_the_renderer_draws_with_is_not_measured(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = with_config(
        made_run, tmp_path / "run", ("splatkit_ns.renderer._3dgs.Splat3DGSRenderer", f"{__name__}.Tinted")
    )
    outputs = (tmp_path / "a.splat", tmp_path / "b.ply")
    text = export(capsys, config, "--output", *outputs, "--measure", "1", "--trust", __name__)
    (first,) = [line for line in text.split(str(outputs[0])) if "the size of the run's" in line]
    assert "not measured: the run's renderer draws with tint, which the file does not hold" in " ".join(first.split())
    assert "the same pictures" in text


def with_config(made_run: Path, folder: Path, *changes: tuple[str, str]) -> Path:
    """A copy of a run whose config.yml has been changed."""
    shutil.copytree(made_run.parent, folder)
    config = folder / "config.yml"
    text = config.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)
    return config


def test_formats_that_cannot_say_how_gaussians_were_trained(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = with_config(made_run, tmp_path / "run", ("rasterize_mode: classic", "rasterize_mode: antialiased"))
    text = export(capsys, config, "--output", tmp_path / "a.splat", tmp_path / "a.ply", tmp_path / "a.spz")
    note = "the file cannot say that the Gaussians are antialiased"
    assert text.count(note) == 1
    assert re.search(rf"a\.splat: [^:]*{note}", text)
    assert formats.read(tmp_path / "a.ply").render_mode == "mip"


def far_away(made_data: Path, made_run: Path, folder: Path, shift: list[float]) -> tuple[Path, Path]:
    """Copies of data and run, as if COLMAP's frame had been a geographic one."""
    data = folder / "data"
    shutil.copytree(made_data, data)
    path = data / "transforms.json"
    meta = json.loads(path.read_text())
    applied = np.eye(4)
    applied[:3] = meta["applied_transform"]
    move = np.eye(4)
    move[:3, 3] = -np.array(shift)
    meta["applied_transform"] = (applied @ move)[:3].tolist()
    path.write_text(json.dumps(meta))
    config = folder / "run" / "config.yml"
    shutil.copytree(made_run.parent, config.parent)
    return config, data


def test_a_frame_far_from_the_origin(
    made_run: Path, made_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """UTM's coordinates, in metres: the file has small ones, and the offset lies beside it."""
    shift = [500_000.0, 4_000_000.0, 123.0]
    config, data = far_away(made_data, made_run, tmp_path, shift)
    near, far = tmp_path / "near.ply", tmp_path / "far.ply"
    export(capsys, made_run, "--output", near, "--frame", "world", "--measure", "0")
    assert not (tmp_path / "near.ply.offset.json").exists()
    text = export(capsys, config, "--data", data, "--output", far, tmp_path / "far.spz", "--frame", "world")
    assert "far.ply.offset.json: the offset of its coordinates in the frame world" in text
    assert "far.ply: 746 KB, 3,000 Gaussians, the size of the run's PLY file, the same pictures" in text
    beside = json.loads((tmp_path / "far.ply.offset.json").read_text())
    assert beside == json.loads((tmp_path / "far.spz.offset.json").read_text())
    assert beside["frame"] == "world"
    offset = np.array(beside["offset"])
    assert (offset == np.rint(offset)).all()
    centres, expected = formats.read(far).means.astype(np.float64) + offset, formats.read(near).means + shift
    assert np.abs(formats.read(far).means).max() < 20
    # nerfstudio's own transform is float32, which places the whole scene within half a metre of 4,000 km
    differences = centres - expected
    assert np.abs(differences).max() < 0.5
    assert np.abs(differences - differences.mean(axis=0)).max() < 1e-4
    # converting keeps it, turned and scaled along
    status, text = run(capsys, "convert", far, tmp_path / "y_up.spz", "--up", "y", "--scale", "10")
    assert status == 0, text
    turned = json.loads((tmp_path / "y_up.spz.offset.json").read_text())
    assert turned["frame"] == "world"
    assert np.allclose(turned["offset"], 10 * offset[[0, 2, 1]] * [1, 1, -1])
    # an offset that no longer applies goes with the file that is replaced
    export(capsys, made_run, "--output", far, "--frame", "world", "--measure", "0", "--overwrite")
    assert not (tmp_path / "far.ply.offset.json").exists()


def test_an_offset_is_not_overwritten(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "a.ply.offset.json"
    mine.write_text("mine")
    text = refused(capsys, "export", "--load-config", made_run, "--output", tmp_path / "a.ply")
    assert f"{mine} exists" in text
    assert mine.read_text() == "mine"
    formats.write(tmp_path / "b.ply", formats.read(_any_file(made_run, tmp_path, capsys)))
    (tmp_path / "b.ply.offset.json").write_text('{"offset": [1, 2]}')
    text = refused(capsys, "convert", tmp_path / "b.ply", tmp_path / "c.spz")
    assert "expected an offset of three finite numbers" in text
    assert not (tmp_path / "c.spz").exists()


def _any_file(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    export(capsys, made_run, "--output", tmp_path / "any.ply", "--measure", "0")
    return tmp_path / "any.ply"


def test_a_mirrored_frame(made_run: Path, made_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, data = far_away(made_data, made_run, tmp_path, [0, 0, 0])
    meta = json.loads((data / "transforms.json").read_text())
    meta["applied_transform"] = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0]]
    (data / "transforms.json").write_text(json.dumps(meta))
    output = tmp_path / "a.ply"
    arguments = ("export", "--load-config", config, "--data", data, "--output", output, "--measure", "0", "--frame")
    text = refused(capsys, *arguments, "world")
    assert "--frame world: " in text
    assert "Gaussians cannot be mirrored" in text
    assert not output.exists()
    status, text = run(capsys, *arguments, "dataset")
    assert status == 0, text
    meta["applied_transform"] = "turned"
    (data / "transforms.json").write_text(json.dumps(meta))
    status, text = run(capsys, *arguments, "dataset")
    assert status == 1, text


def test_mistakes_end_before_the_run_is_opened(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.ply"
    mine.write_text("mine")
    missing = tmp_path / "none" / "config.yml"
    text = refused(
        capsys, "export", "--load-config", missing, "--output", mine, tmp_path / "a.obj", "--measure", "1",
    )  # fmt: skip
    assert "2 option(s) cannot be used" in text
    assert f"--output: {mine} exists; name another file, or add --overwrite" in text
    assert "a.obj: no splat format has this suffix" in text
    text = refused(capsys, "export", "--load-config", missing, "--output", tmp_path / "a.ply", "--scale", "-1")
    assert "--scale is -1.0" in text
    text = refused(capsys, "export", "--load-config", missing, "--output", tmp_path / "a.ply")
    assert "does not exist. ns-train prints the path" in text
    text = refused(capsys, "export", "--load-config", made_run, "--output", tmp_path / "a.ply", "--step", "7")
    assert "There is no checkpoint of step 7" in text
    assert mine.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.ply"]


def test_gaussians_that_are_not_finite_are_left_out(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from splatkit_ns.splat import read_checkpoint, write_checkpoint

    config = with_config(made_run, tmp_path / "run")
    (path,) = config.parent.glob("nerfstudio_models/*59.ckpt")
    checkpoint = read_checkpoint(path)
    checkpoint["pipeline"]["_model.gauss_params.means"][:2] = torch.nan
    write_checkpoint(path, checkpoint)
    text = export(capsys, config, "--output", tmp_path / "a.ply", tmp_path / "b.spz")
    assert text.count("2 Gaussian(s) are NaN or infinite, and left out") == 1
    assert "a.ply: " in text
    assert len(formats.read(tmp_path / "a.ply")) == 2998
    checkpoint["pipeline"]["_model.gauss_params.means"][:] = torch.nan
    write_checkpoint(path, checkpoint)
    text = refused(capsys, "export", "--load-config", config, "--output", tmp_path / "c.ply")
    assert "all 3,000 Gaussians are NaN or infinite" in text
