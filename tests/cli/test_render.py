"""``splatkit render`` as people call it, in this process."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from nerfstudio.cameras.camera_paths import get_path_from_json
from nerfstudio.scripts.render import get_crop_from_json
from PIL import Image
from rich.console import Console
from torch import Tensor

from splatkit_ns import SplatModel, View, formats, orbit, turntable
from splatkit_ns import render as draw
from splatkit_ns.cameras import fov_intrinsics
from splatkit_ns.cli import _data_cameras, _rendering
from splatkit_ns.cli._camera_path_files import read_camera_path
from splatkit_ns.cli._data_cameras import data_cameras
from splatkit_ns.cli._pictures import Frames
from splatkit_ns.cli._rendering import _frames
from splatkit_ns.cli.render import RenderOptions
from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.data.cameras import pinhole_view
from splatkit_ns.plugin.loading import load_run
from splatkit_ns.tours import Survey
from tests.cli.helpers import refused, run
from tests.tiny_scene import tiny_gaussians

SIZE = ("--width", "48", "--height", "36")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.ply"
    tiny_gaussians().to_splat_model().save(path)
    return path


def pixels(path: Path) -> np.ndarray[Any, Any]:
    """(H, W, 3) in [0, 1]."""
    return np.asarray(Image.open(path).convert("RGB"), np.float64) / 255


def video(path: Path) -> list[np.ndarray[Any, Any]]:
    with av.open(str(path)) as found:
        return [frame.to_ndarray(format="rgb24") / 255.0 for frame in found.decode(video=0)]


def test_a_turn_around_a_file_is_a_turntable(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "turn.mp4"
    status, text = run(
        capsys, "render", "--input", scene, "--output", output, "--frames", "4", *SIZE, "--fps", "8", "--images", "rgb",
        "alpha",
    )  # fmt: skip
    assert status == 0, text
    assert "turn.mp4: " in text
    assert "4 frame(s), 0.5 s" in text
    assert "A file does not say where its scene was photographed" in text
    frames = video(output)
    expected = draw(scene, turntable(scene, 4, width=48, height=36))
    assert len(frames) == 4
    assert frames[0].shape == (36, 96, 3), "rgb and alpha side by side"
    for frame, image in zip(frames, expected, strict=True):
        assert np.abs(frame[:, :48] - image.numpy()).mean() < 0.03, "H.264 loses little"
    assert frames[0][18, 48 + 24].min() > 0.8, "the middle is opaque"
    assert frames[0][0, 48].max() < 0.1
    assert [path.name for path in output.parent.iterdir()] == ["turn.mp4"]


@pytest.mark.parametrize(("side", "size"), [("--width", (60, 44)), ("--height", (80, 60))])
def test_one_side_keeps_the_proportions(
    side: str, size: tuple[int, int], scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text = run(capsys, "render", "--input", scene, "--output", tmp_path / "a.png", "--frames", "1", side, "60")
    assert status == 0, text
    assert Image.open(tmp_path / "a.png").size == size


def test_kinds_in_a_folder_with_their_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wall across x at 1, seen from x at 4: 3 away, facing +x."""
    grid = torch.cartesian_prod(torch.tensor([1.0]), torch.linspace(-4, 4, 60), torch.linspace(-4, 4, 60))
    wall = SplatModel(
        means=grid,
        scales=torch.tensor([0.001, 0.1, 0.1]).log().expand(3600, 3),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(3600, 4),
        opacities=torch.full((3600,), 5.0),
        sh0=torch.zeros(3600, 1, 3),
        shN=torch.zeros(3600, 0, 3),
    )
    wall.save(tmp_path / "wall.spz")
    status, text = run(
        capsys, "render", "--input", tmp_path / "wall.spz", "--output", tmp_path / "out", "--images", "rgb", "depth",
        "alpha", "normals", "--raw", "--frames", "2", "--centre", "0", "0", "0", "--radius", "4", "--elevation", "0",
        *SIZE,
    )  # fmt: skip
    assert status == 0, text
    kinds = {path.name: sorted(file.name for file in path.iterdir()) for path in (tmp_path / "out").iterdir()}
    both = ["frame_00000.npy", "frame_00000.png", "frame_00001.npy", "frame_00001.png"]
    assert kinds == {"rgb": both[1::2], "depth": both, "alpha": both, "normals": both}
    depth, alpha, normals = (
        np.load(tmp_path / "out" / kind / both[0])[18, 24] for kind in ("depth", "alpha", "normals")
    )
    assert depth == pytest.approx(3, abs=0.02)
    assert alpha > 0.95
    assert np.allclose(normals, [1, 0, 0], atol=0.05)
    assert np.allclose(pixels(tmp_path / "out" / "normals" / both[1])[18, 24], [1, 0.5, 0.5], atol=0.05)
    other = np.load(tmp_path / "out" / "normals" / both[2])[18, 24]
    assert np.allclose(other, [-1, 0, 0], atol=0.05), "seen from behind, it faces the camera again"
    status, text = run(
        capsys, "render", "--input", tmp_path / "wall.spz", "--output", tmp_path / "near.png", "--frames", "1", *SIZE,
        "--centre", "0", "0", "0", "--radius", "4", "--elevation", "0", "--images", "depth", "--depth-range", "3", "30",
    )  # fmt: skip
    assert "Depth is drawn from 3 (blue) to 30 (red)" in text
    nearest = pixels(tmp_path / "near.png")[18, 24]
    assert nearest[2] > nearest[0]


def test_empty_space_has_no_depth(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(
        capsys, "render", "--input", scene, "--output", tmp_path / "out", "--frames", "1", *SIZE, "--images", "depth",
        "normals", "--raw", "--background", "1", "1", "1",
    )  # fmt: skip
    assert status == 0, text
    for kind in ("depth", "normals"):
        assert not np.load(tmp_path / "out" / kind / "frame_00000.npy")[0, 0].any()
        assert not pixels(tmp_path / "out" / kind / "frame_00000.png")[0, 0].any()


def viewers_path(**changes: Any) -> dict[str, Any]:
    """A camera path as nerfstudio's viewer saves it: three frames of the tiny scene."""
    poses = [view.cam_to_worlds[0].double().numpy() * [1, -1, -1, 1] for view in orbit((0, 0, 0), 2.5, 3)]
    for pose in poses:
        pose[3] = 0, 0, 0, 1
    frames = [
        {"camera_to_world": pose.ravel().tolist(), "fov": 40.0 + i, "aspect": 1.5} for i, pose in enumerate(poses)
    ]
    size = {"render_width": 48, "render_height": 32}
    return {"camera_type": "perspective", **size, "fps": 24, "seconds": 0.5, "camera_path": frames, **changes}


CROP = {
    "crop_center": [0.1, 0.2, -0.1], "crop_scale": [0.9, 0.7, 1.1], "crop_rot": [0.3, -0.4, 0.5],
    "crop_bg_color": {"r": 255, "g": 51, "b": 0},
}  # fmt: skip


def test_a_camera_path_is_read_as_nerfstudio_reads_it(tmp_path: Path) -> None:
    content = viewers_path(crop=CROP)
    (tmp_path / "path.json").write_text(json.dumps(content))
    found = read_camera_path(tmp_path / "path.json")
    assert found.fps == 6, "three frames in half a second"
    theirs = get_path_from_json(content)
    for index, view in enumerate(found.views):
        expected = pinhole_view(theirs[index : index + 1])
        assert torch.allclose(view.cam_to_worlds, expected.cam_to_worlds, atol=1e-6)
        assert torch.allclose(view.Ks, expected.Ks.float(), atol=1e-4)
        assert (view.width, view.height) == (expected.width, expected.height) == (48, 32)
    crop = get_crop_from_json(content)
    assert crop is not None
    assert found.crop is not None
    points = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    inside = found.crop.inside(points)
    assert 100 < int(inside.sum()) < 1900
    assert torch.equal(inside, crop.obb.within(points.double()).squeeze())
    assert found.crop.background == pytest.approx(crop.background_color.tolist())


def test_a_camera_path_with_a_crop(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "path.json").write_text(json.dumps(viewers_path(crop=CROP)))
    output = tmp_path / "frames"
    arguments = ("render", "--input", scene, "--camera-path", tmp_path / "path.json", "--output", output)
    status, text = run(capsys, *arguments)
    assert status == 0, text
    found = read_camera_path(tmp_path / "path.json")
    gaussians = formats.read(scene)
    assert found.crop is not None
    inside = found.crop.inside(torch.from_numpy(gaussians.means)).numpy()
    kept = SplatModel.from_gaussians(gaussians.take(inside))
    for index, view in enumerate(found.views):
        expected = draw(kept, view, background=(1, 0.2, 0)).numpy()
        assert np.abs(pixels(output / f"frame_{index:05d}.png") - expected).max() < 0.01
    assert "is not empty" in refused(capsys, *arguments)
    inside_a_file = tmp_path / "path.json" / "new" / "a.mp4"
    assert "path.json is a file, not a folder" in refused(capsys, "render", "--input", scene, "--output", inside_a_file)
    (output / "mine.txt").write_text("mine")
    status, text = run(capsys, *arguments, "--overwrite", "--downscale", "2", "--background", "0", "0", "0")
    assert status == 0, text
    assert "1 other file(s) were there before, and stay" in text
    assert pixels(output / "frame_00000.png").shape == (16, 24, 3)
    assert pixels(output / "frame_00000.png")[0, 0].max() == 0
    assert (output / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["equirectangular", "fisheye"])
def test_camera_paths_of_wide_lenses(
    kind: str, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "path.json", tmp_path / "out"
    path.write_text(json.dumps(viewers_path(camera_type=kind)))
    arguments = ("render", "--input", scene, "--camera-path", path, "--output", output)
    status, text = run(capsys, *arguments)
    assert status == 0, text
    pinhole = read_camera_path(path).views[1]
    pinhole = replace(pinhole, lens="pinhole", Ks=fov_intrinsics(41.0, 48, 32)[None])
    wide = pinhole.panorama() if kind == "equirectangular" else replace(pinhole, lens="opencv_fisheye")
    found = torch.from_numpy(pixels(output / "frame_00001.png"))
    assert float((found - draw(scene, wide)).abs().max()) < 0.01
    assert float((found - draw(scene, pinhole)).abs().max()) > 0.05
    if kind == "equirectangular":
        assert "not drawn in panoramas" in refused(capsys, *arguments, "--overwrite", "--images", "rgb", "normals")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (viewers_path(camera_type="omnidirectional"), "is for the camera type 'omnidirectional'"),
        (viewers_path(camera_path=[]), "it has no frames"),
        (viewers_path(render_width=10**9), "its images are of 1000000000×32 pixels"),
        (viewers_path(camera_path=[{"camera_to_world": [0.0] * 15, "fov": 40}]), "the pose of frame 0"),
        (viewers_path(camera_path=[{"camera_to_world": [math.nan] * 16, "fov": 40}]), "finite numbers"),
        (viewers_path(camera_path=[{"camera_to_world": [0.0] * 16, "fov": 40}]), "no rotation and position"),
        (viewers_path(camera_path=[{"camera_to_world": [*np.eye(4).flat], "fov": 180}]), "of frame 0 is 180"),
        (viewers_path(camera_path=[{"fov": 40}]), "'camera_to_world' is missing"),
        (viewers_path(camera_path=7), "it has no frames"),
        (viewers_path(crop={**CROP, "crop_center": [1, 2]}), "its crop is not given by three finite numbers"),
        (viewers_path(crop={**CROP, "crop_center": [99, 0, 0]}), "leaves no Gaussian"),
        (viewers_path(crop={**CROP, "crop_bg_color": {"r": math.nan, "g": 0, "b": 0}}), "its background is no colour"),
        (viewers_path(camera_type=["perspective"]), "is for the camera type ['perspective']"),
        (viewers_path(fps=1e-9, seconds=0), "its speed is 1e-09 frames a second"),
        (viewers_path(fps=-1, seconds=0), "its speed is -1.0 frames a second"),
        ([1, 2], "holds no camera path of nerfstudio's viewer"),
        ("{", "is no JSON file"),
        (None, "cannot be read: No such file"),
    ],
)
def test_bad_camera_paths(
    content: Any, message: str, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "path.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    text = refused(capsys, "render", "--input", scene, "--camera-path", path, "--output", tmp_path / "a.mp4")
    assert message in text
    assert not (tmp_path / "a.mp4").exists()


def test_a_run_from_the_cameras_of_its_data(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The images are those of the model, with the names of the photographs."""
    status, text = run(
        capsys, "render", "--load-config", made_run, "--cameras", "test", "--output", tmp_path / "out",
    )  # fmt: skip
    assert status == 0, text
    loaded = load_run(made_run)
    dataset: Any = loaded.pipeline.datamanager.eval_dataset
    names = [path.stem for path in dataset.image_filenames]
    assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == sorted(names)
    for index, name in enumerate(names):
        outputs = loaded.pipeline.model.get_outputs_for_camera(dataset.cameras[index : index + 1])
        assert np.abs(pixels(tmp_path / "out" / f"{name}.png") - outputs["rgb"].numpy()).max() < 0.01
    status, text = run(
        capsys, "render", "--load-config", made_run, "--cameras", "train", "--frames", "3", "--downscale", "4",
        "--output", tmp_path / "through.webm",
    )  # fmt: skip
    assert status == 0, text
    assert [frame.shape for frame in video(tmp_path / "through.webm")] == [(18, 24, 3)] * 3
    arguments = ("render", "--load-config", made_run, "--cameras", "test", "--output", tmp_path / "first.png")
    text = refused(capsys, *arguments)
    assert "name a video, an animation or a folder, or add --frames 1." in text
    status, text = run(capsys, *arguments, "--frames", "1")
    assert status == 0, text
    first = tmp_path / "out" / f"{names[0]}.png"
    assert np.array_equal(pixels(tmp_path / "first.png"), pixels(first)), "what the message says"


def test_a_path_needs_two_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    options = RenderOptions(Path("a.mp4"), load_config=Path("config.yml"), cameras="test", frames=9)
    monkeypatch.setattr(_data_cameras, "data_cameras", lambda *_: (orbit((0, 0, 0), 2, 1), [Path("a.png")]))
    with pytest.raises(SplatkitError, match="--cameras test has one camera, and a path needs at least two"):
        _frames(options, SimpleNamespace(pipeline=None), None, Console())  # type: ignore[arg-type]


def test_a_tour_of_a_run_is_as_its_cameras_stand(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The photographs are around the scene, which is in the middle of each frame; the proportions are theirs."""
    status, text = run(
        capsys, "render", "--load-config", made_run, "--output", tmp_path / "turn", "--frames", "4", "--images",
        "alpha", "--step", "40", "--fov", "30",
    )  # fmt: skip
    assert status == 0, text
    assert "step-000000040.ckpt" in text
    assert "degrees" not in text
    for path in (tmp_path / "turn").iterdir():
        alpha = pixels(path)[..., 0]
        assert alpha.shape == (72, 96)
        assert alpha[24:48, 32:64].mean() > 0.9, path


def test_what_is_near_fades(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a tour by itself, if it is nearer than anything in the photographs; of all cameras if it is asked for."""
    loaded = load_run(made_run)
    own = SplatModel.from_gaussians(loaded.pipeline.model.training_state.to_splat_model("default").to_gaussians())
    arguments = ("render", "--load-config", made_run, "--frames", "5")
    assert run(capsys, *arguments, "--output", tmp_path / "clear")[0] == 0
    photographs = data_cameras(loaded.pipeline, "train")[0]
    poses = torch.cat([view.cam_to_worlds for view in Survey(photographs).cameras(5)])
    theirs = torch.cat([view.cam_to_worlds for view in photographs])
    index = int(torch.cdist(poses[:, :3, 3], theirs[:, :3, 3]).min(dim=1).values.argmax())  # beside all photographs
    names = ("scales", "quats", "opacities", "sh0", "shN")
    speck = {name: getattr(own, name)[:1].clone() for name in names}
    speck["scales"][:], speck["opacities"][:], speck["sh0"][:] = -3.5, 5.0, 9.0
    speck = {name: torch.cat([getattr(own, name), value]) for name, value in speck.items()}
    mean = (poses[index, :3, 3] + 0.1 * poses[index, :3, 2])[None]
    replace(own, means=torch.cat([own.means, mean]), **speck).save(tmp_path / "speck.ply")
    arguments = (*arguments, "--input", tmp_path / "speck.ply", "--output")
    assert run(capsys, *arguments, tmp_path / "tour")[0] == 0
    assert run(capsys, *arguments, tmp_path / "as_it_is", "--near", "0")[0] == 0
    clear, tour, as_it_is = (
        pixels(tmp_path / name / f"frame_{index:05d}.png") for name in ("clear", "tour", "as_it_is")
    )
    assert np.abs(tour - clear).max() < 0.02
    assert np.abs(as_it_is - clear).mean() > 0.1
    assert "--near is -1" in refused(capsys, *arguments, tmp_path / "b.png", "--near", "-1")


def test_a_tour_shows_what_was_photographed(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photographs from one side, and photographs away from the middle: the camera stays with them, and says so."""
    from splatkit_ns.cli import _data_cameras, _rendering

    drawn: list[View] = []
    pictures = _rendering.Pictures

    def noted(scene: Any, frames: Frames, *rest: Any) -> Any:
        drawn[:] = frames.views
        return pictures(scene, replace(frames, views=frames.views[:1]), *rest)

    monkeypatch.setattr(_rendering, "Pictures", noted)
    side = orbit((0, 0, 0), 2.0, 7, turns=0.25, width=96, height=72)
    outwards = [replace(view, cam_to_worlds=view.cam_to_worlds @ torch.diag(torch.tensor([-1.0, 1, -1, 1])))
                for view in orbit((0, 0, 0), 2.0, 150, elevation=0)]  # fmt: skip

    def cameras(views: list[View], *arguments: str) -> tuple[str, Tensor]:
        monkeypatch.setattr(_data_cameras, "data_cameras", lambda *_: (views, []))
        status, text = run(
            capsys, "render", "--load-config", made_run, "--output", tmp_path / "a", "--overwrite", *arguments
        )
        assert status == 0, text
        return text, torch.cat([view.cam_to_worlds[:, :3, 3] for view in drawn])

    text, eyes = cameras(side)
    assert "The photographs cover 77 degrees around the scene: the camera goes to and fro there. --turns 1 goes" in text
    assert len(eyes) == 120
    assert float(eyes[:, :2].min()) > -0.6, "never behind the scene"
    text, eyes = cameras(side, "--frames", "1")
    assert "to and fro" not in text
    assert torch.allclose(eyes[0], side[3].cam_to_worlds[0, :3, 3], atol=0.1), "one frame is of the middle"
    text, eyes = cameras(side, "--turns", "1", "--frames", "8")
    assert "to and fro" not in text
    assert len(eyes) == 8
    assert float(eyes[:, 0].min()) < -1.5
    text, eyes = cameras(outwards)
    assert "The photographs do not look at one place: the camera goes where they were taken" in text
    assert len(eyes) == 150
    assert torch.allclose(eyes, torch.cat([view.cam_to_worlds[:, :3, 3] for view in outwards]), atol=0.2)


def test_mistakes(scene: Path, made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(
        capsys, "render", "--output", tmp_path / "a.avi", "--cameras", "test", "--camera-path", tmp_path / "p.json",
        "--fov", "180", "--radius", "0", "--frames", "0", "--background", "2", "0", "0", "--depth-range", "3", "2",
        "--images", "rgb", "rgb", "--load-step", "7",
    )  # fmt: skip
    assert "13 option(s) cannot be used" in text
    for part in (
        "a.avi has no suffix of a video or picture, expected .mp4", "neither --load-config nor --input is given",
        "--cameras test are those of a run", "--camera-path and --cameras are both given", "--fov is 180.0",
        "--radius, --fov: for a turn around the scene, and not with --camera-path", "--load-step is for a run",
        "--frames: not with --camera-path",
    ):  # fmt: skip
        assert part in text
    output = tmp_path / "a.png"
    text = refused(capsys, "render", "--input", scene, "--output", output, *SIZE)
    assert "is a picture, and there are 120 frames" in text
    assert not output.exists()
    output.write_bytes(b"mine")
    text = refused(capsys, "render", "--input", scene, "--output", output, "--frames", "1")
    assert "a.png exists; name another file, or add --overwrite" in text
    assert output.read_bytes() == b"mine"
    assert "--raw needs a folder" in refused(
        capsys, "render", "--input", scene, "--output", tmp_path / "b.mp4", "--raw", "--images", "depth"
    )
    assert "--depth-range is for depth: name it with --images" in refused(
        capsys, "render", "--input", scene, "--output", tmp_path / "b.mp4", "--depth-range", "1", "5"
    )
    (tmp_path / "file").touch()
    assert "is a file, expected a folder" in refused(capsys, "render", "--input", scene, "--output", tmp_path / "file")
    assert "no splat format has this suffix" in refused(
        capsys, "render", "--input", output, "--output", tmp_path / "b.mp4"
    )
    text = refused(capsys, "render", "--input", scene, "--output", tmp_path / "b.gif", "--fps", "1e-9", "--frames", "1")
    assert "--fps is 1e-09, expected a number between 0.01 and 1000" in text
    text = refused(capsys, "render", "--input", scene, "--output", tmp_path / "b.gif", "--frames", "1000000000")
    assert "--frames is 1000000000, expected a number between 1 and 100000" in text
    text = refused(
        capsys, "render", "--input", scene, "--output", tmp_path / "b.gif", "--width", "9999999", "--height", "100"
    )
    assert "The images would have 9999999×100 pixels, expected at most 268,435,456 in all" in text
    large = tiny_gaussians().to_splat_model()
    large.scales[:2] = 89
    large.save(tmp_path / "large.ply")
    text = refused(
        capsys, "render", "--input", tmp_path / "large.ply", "--output", tmp_path / "b.png", "--frames", "1", *SIZE
    )
    assert "2 of 48 Gaussians in" in text
    assert "large.ply are of infinite size. Leave them out with splatkit clean." in text
    (tmp_path / "p.json").write_text(json.dumps(viewers_path()))
    text = refused(
        capsys, "render", "--input", scene, "--camera-path", tmp_path / "p.json", "--output", tmp_path / "b.png"
    )
    assert "there are 3 frames: name a video, an animation or a folder." in text
    other = tmp_path / "moved.ply"
    other.write_bytes(scene.read_bytes())
    (tmp_path / "moved.ply.offset.json").write_text('{"offset": [1, 2, 3]}')
    text = refused(
        capsys, "render", "--load-config", made_run, "--input", other, "--output", tmp_path / "b.mp4", "--frames", "1"
    )
    assert "has an offset, so it is not in the run's frame" in text


def test_frames_that_are_no_picture_are_refused_before_anything_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rendering, "_open", lambda *_: pytest.fail("was opened"))
    (tmp_path / "p.json").write_text(json.dumps(viewers_path()))
    for source, num in (
        (("--input", tmp_path / "a.ply"), 120),
        (("--load-config", tmp_path / "config.yml"), 120),
        (("--load-config", tmp_path / "config.yml", "--cameras", "test", "--frames", "2"), 2),
        (("--input", tmp_path / "a.ply", "--camera-path", tmp_path / "p.json"), 3),
    ):
        text = refused(capsys, "render", *source, "--output", tmp_path / "a.png")
        assert f"a.png is a picture, and there are {num} frames: name a video, an animation or a folder" in text


def test_options_of_other_outputs_are_refused(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = ("render", "--input", scene, "--frames", "1", "--output")
    for output in ("a.png", "folder"):
        text = refused(capsys, *one, tmp_path / output, "--fps", "5")
        assert f"--fps is for a video or an animation, and --output is {tmp_path / output}" in text
    text = refused(capsys, *one, tmp_path / "a.gif", "--image-format", "jpg")
    assert f"--image-format is for a folder of images, and --output is {tmp_path / 'a.gif'}" in text
    status, text = run(capsys, *one, tmp_path / "a.gif", "--fps", "5", *SIZE)
    assert status == 0, text
    status, text = run(capsys, *one, tmp_path / "folder", "--image-format", "jpg", *SIZE)
    assert status == 0, text


def test_an_unfinished_video_is_no_video(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl+C in the middle leaves nothing behind."""
    from splatkit_ns.cli import _pictures

    drawn: list[View] = []

    def interrupted(renderer: Any, state: Any, view: View, *rest: Any) -> dict[str, torch.Tensor]:
        drawn.append(view)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return {"alpha": torch.ones(36, 48), "rgb": torch.ones(36, 48, 3)}

    monkeypatch.setattr(_pictures, "view_images", interrupted)
    status, _ = run(capsys, "render", "--input", scene, "--output", tmp_path / "a.mp4", *SIZE)
    assert (status, len(drawn)) == (130, 3)
    assert [*tmp_path.iterdir()] == []
