"""``splatkit mesh`` as people call it, in this process."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import open3d as o3d
import pytest
import torch
import trimesh
import yaml
from nerfstudio.configs.method_configs import all_methods

from splatkit_ns.cli import main
from splatkit_ns.mesh.options import SUFFIXES
from splatkit_ns.mesh.surface import Mesh
from splatkit_ns.splat import write_checkpoint
from tests.made_scene import Array, signed_distance
from tests.mesh_quality import mesh_quality


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """The exit status, and what was printed, on one line."""
    status = main(["mesh", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, " ".join((captured.out + captured.err).split())


def read(path: Path) -> Mesh:
    """A PLY file, by open3d."""
    mesh = o3d.io.read_triangle_mesh(str(path))
    assert mesh.has_vertex_colors()
    assert mesh.has_vertex_normals()
    return Mesh(
        np.asarray(mesh.vertices, np.float32),
        np.asarray(mesh.triangles, np.int64),
        np.asarray(mesh.vertex_colors, np.float32),
    )


def test_from_a_trained_run_to_a_mesh(
    made_run: Path, seen: Array, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The world's frame is that of COLMAP, before ns-process-data and the dataparser moved it."""
    output = tmp_path / "new [draft]" / "mesh.ply"
    status, text = run(capsys, "--load-config", made_run, "--output", output, "--frame", "world")
    assert status == 0, text
    assert re.search(r"step-000000119.ckpt, [\d,]+ Gaussians", text)
    found = re.search(r"Voxels of ([\d.]+), truncation at ([\d.]+), depth up to ([\d.]+); about \d+ blocks", text)
    assert found is not None, text
    voxel, truncation, limit = map(float, found.groups())
    assert 0.02 < voxel < 0.05, "in the world's units: 1.5 pixels on a scene of 2.6 units"
    assert truncation == pytest.approx(4 * voxel, rel=0.01)
    assert 5 < limit < 7
    assert "splatkit-2dgs give better surfaces" in text
    assert f"{output}: " in text
    mesh = read(output)
    assert [path.name for path in output.parent.iterdir()] == ["mesh.ply"]
    quality = mesh_quality(mesh, seen)
    assert quality.distance < 0.05, "with what is inside solids, where nobody sees it"
    assert quality.gap < 0.025
    assert quality.completeness > 0.7
    assert quality.median_angle < 15
    assert mesh.colors.std() > 0.05


def test_formats_come_back_as_they_were(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In nerfstudio's frame, the default, and fewer voxels, to be quick."""
    meshes: dict[str, trimesh.Trimesh] = {}
    for suffix in SUFFIXES:
        path = tmp_path / f"mesh{suffix}"
        status, text = run(capsys, "--load-config", made_run, "--output", path, "--voxel-size", "0.03")
        assert status == 0, text
        assert "Voxels of 0.03, " in text
        loaded = trimesh.load(path, process=False, force="mesh")
        assert isinstance(loaded, trimesh.Trimesh)
        meshes[suffix] = loaded
    first = meshes[".ply"]
    assert len(first.faces) > 1000
    for mesh in meshes.values():
        assert np.allclose(mesh.vertices, first.vertices, atol=1e-5)
        assert (mesh.faces == first.faces).all()
        assert np.abs(mesh.visual.vertex_colors[:, :3].astype(int) - first.visual.vertex_colors[:, :3]).max() <= 1


def test_a_mesh_stands_upright_where_y_is_up(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, up in (("a", "z"), ("b", "y"), ("c", "minus-y")):
        output = tmp_path / f"{name}.ply"
        status, text = run(
            capsys, "--load-config", made_run, "--output", output, "--voxel-size", "0.04", "--up", up
        )  # fmt: skip
        assert status == 0, text
    lying, standing = read(tmp_path / "a.ply"), read(tmp_path / "b.ply")
    assert (standing.triangles == lying.triangles).all()
    assert np.array_equal(standing.vertices, lying.vertices[:, [0, 2, 1]] * [1, 1, -1])
    hanging = read(tmp_path / "c.ply")
    assert np.array_equal(hanging.vertices, lying.vertices[:, [0, 2, 1]] * [1, -1, 1])
    normals = standing.vertex_normals()
    assert np.allclose(normals, lying.vertex_normals()[:, [0, 2, 1]] * [1, 1, -1], atol=1e-4), "outwards as before"


def test_the_frames_differ_by_what_the_dataparser_did(
    made_run: Path, made_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = yaml.safe_load((made_run.parent / "dataparser_transforms.json").read_text())
    transform, scale = np.array(parser["transform"]), parser["scale"]
    run(capsys, "--load-config", made_run, "--output", tmp_path / "a.ply", "--voxel-size", "0.04")
    run(
        capsys, "--load-config", made_run, "--output", tmp_path / "b.ply", "--frame", "world",
        "--voxel-size", str(0.04 / scale),
    )  # fmt: skip
    run(
        capsys, "--load-config", made_run, "--output", tmp_path / "c.ply", "--frame", "dataset",
        "--voxel-size", str(0.04 / scale),
    )  # fmt: skip
    here, there = read(tmp_path / "a.ply"), read(tmp_path / "b.ply")
    assert len(here.vertices) == len(there.vertices)
    moved = scale * (there.vertices @ transform[:, :3].T + transform[:, 3])
    assert np.abs(moved - here.vertices).max() < 1e-4
    assert np.abs(signed_distance(there.vertices.astype(np.float64))).mean() < 0.05
    assert np.abs(signed_distance(here.vertices.astype(np.float64))).mean() > 0.1, "so the frames are not the same"

    meta = json.loads((made_data / "transforms.json").read_text())
    applied = np.array(meta["applied_transform"])
    saved = there.vertices @ applied[:, :3].T + applied[:, 3]
    assert np.abs(saved - read(tmp_path / "c.ply").vertices).max() < 1e-4


def test_a_file_is_not_overwritten_unless_told(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mesh.ply"
    path.write_text("mine")
    status, text = run(capsys, "--load-config", made_run, "--output", path)
    assert status == 1
    assert "exists; name another file, or add --overwrite" in text
    assert path.read_text() == "mine"
    (tmp_path / "b.glb.offset.json").write_text("mine")
    status, text = run(capsys, "--load-config", made_run, "--output", tmp_path / "b.glb", "--voxel-size", "0.05")
    assert status == 1
    assert "b.glb.offset.json exists; name another file, or add --overwrite" in text
    assert (tmp_path / "b.glb.offset.json").read_text() == "mine"
    status, text = run(capsys, "--load-config", made_run, "--output", path / "new" / "mesh.ply")
    assert status == 1
    assert f"--output: {path} is a file, not a folder" in text
    assert "Checkpoint" not in text, "it is told before the run is opened"
    status, text = run(capsys, "--load-config", made_run, "--output", path, "--overwrite", "--voxel-size", "0.05")
    assert status == 0, text
    assert len(read(path).triangles) > 100


def test_options_are_checked_together(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(
        capsys, "--load-config", made_run, "--output", tmp_path / "mesh.stl", "--voxel-size", "-1",
        "--min-accumulation", "2", "--keep-components", "-3",
    )  # fmt: skip
    assert status == 1
    assert "4 option(s) cannot be used" in text
    assert "expected a name that ends in .ply, .obj or .glb" in text
    assert "--keep-components is -3" in text


def test_too_much_memory_is_refused_before_it_is_used(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mesh.ply"
    arguments = ("--load-config", made_run, "--output", output, "--max-memory", "0.005")
    status, text = run(capsys, *arguments, "--voxel-size", "0.002")
    assert status == 1
    assert "may be used (--max-memory;" in text
    assert not output.exists()
    suggested = text.split("What would fit: --voxel-size ")[1].split(". ")[0]
    status, text = run(capsys, *arguments, "--voxel-size", suggested)
    assert status == 0, text


def test_nothing_opaque_enough(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, "--load-config", made_run, "--output", tmp_path / "mesh.ply", "--min-accumulation", "1")
    assert status == 1
    assert "None of the 16 training cameras sees a surface" in text
    assert "lower --min-accumulation" in text


def copied(run_config: Path, folder: Path) -> Path:
    """A copy of a run's folder; its config.yml."""
    shutil.copytree(run_config.parent, folder)
    return folder / "config.yml"


def test_a_run_that_was_moved_with_its_data(
    made_run: Path, made_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = copied(made_run, tmp_path / "moved")
    text = config.read_text()
    config.write_text(text.replace(f"- {made_data.name}", "- gone").replace("made_run0", "gone"))
    status, message = run(capsys, "--load-config", config, "--voxel-size", "0.05")
    assert status == 1
    assert re.search(r"The data folder \S+gone does not exist \(--data", message), message
    assert "moved: --data FOLDER for splatkit's commands; for nerfstudio's, correct data in the run's config" in message
    status, message = run(capsys, "--load-config", config, "--voxel-size", "0.05", "--data", made_data)
    assert status == 0, message
    assert str(tmp_path / "moved" / "nerfstudio_models") in message
    assert len(read(tmp_path / "moved" / "mesh.ply").triangles) > 100


def test_the_config_of_another_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yml"
    path.write_text(yaml.dump(all_methods["splatfacto"]))
    status, text = run(capsys, "--load-config", path)
    assert status == 1
    assert f"{path} is a run of the method 'splatfacto'; expected one of a splatkit method" in text


def test_the_checkpoint_of_another_method(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = copied(made_run, tmp_path / "other")
    (checkpoint,) = (tmp_path / "other" / "nerfstudio_models").glob("*.ckpt")
    write_checkpoint(checkpoint, {"step": 5, "pipeline": {"_model.field.weight": torch.zeros(3)}, "optimizers": {}})
    status, text = run(capsys, "--load-config", config)
    assert status == 1
    assert text.count("Error:") == 1
    assert f"{checkpoint}: This checkpoint holds no splatkit model: means, " in text
    assert "Was it written by another method?" in text


def test_a_checkpoint_with_code_in_it_is_refused(
    made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = copied(made_run, tmp_path / "other")
    (checkpoint,) = (tmp_path / "other" / "nerfstudio_models").glob("*.ckpt")
    torch.save({"step": 5, "pipeline": {}, "optimizers": {}, "schedulers": np.float64(1)}, checkpoint)
    status, text = run(capsys, "--load-config", config)
    assert status == 1
    assert "was refused, and nothing in it was run" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist. ns-train prints the path"),
        ("a: [1", "cannot be read (ParserError"),
        ("a: 1", "holds dict, no run"),
        ("!!python/object:no_such_package.Thing {}", "it names 'no_such_package.Thing' (line 1)"),
        (
            "!!python/object:splatkit_ns.nowhere.Thing {}",
            "it names splatkit_ns.nowhere.Thing: splatkit_ns.nowhere cannot",
        ),
    ],
)
def test_what_is_no_config(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yml"
    if content is not None:
        path.write_text(content)
    status, text = run(capsys, "--load-config", path)
    assert status == 1
    assert message in text


def test_a_path_with_a_slip_leaves_no_folder_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, "--load-config", tmp_path / "slip" / "config.yml")
    assert status == 1
    assert "does not exist" in text
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_config(made_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, text = run(capsys, "--load-config", made_run.parent, "--output", tmp_path / "mesh.ply")
    assert status == 1
    assert f"Its config is {made_run}" in text


def test_a_step_that_was_not_saved(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(capsys, "--load-config", made_run, "--output", tmp_path / "mesh.ply", "--step", "7")
    assert status == 1
    assert "There is no checkpoint of step 7" in text


def test_help_is_there_at_once() -> None:
    """The one real process: it imports neither torch nor nerfstudio."""
    code = (
        "import sys; sys.argv = ['splatkit', 'mesh', '--help']\n"
        "from splatkit_ns.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'nerfstudio', 'open3d'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--load-config" in done.stdout
    assert "Make a triangle mesh from a trained run" in done.stdout


def test_pieces_of_the_mesh_can_be_kept(made_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--keep-components 1 leaves one connected piece."""
    sizes: dict[int, int] = {}
    for keep in (1, 0):
        path = tmp_path / f"{keep}.ply"
        status, text = run(
            capsys, "--load-config", made_run, "--output", path, "--voxel-size", "0.03",
            "--keep-components", str(keep), "--min-component-share", "0",
        )  # fmt: skip
        assert status == 0, text
        assert ("Dropped" in text) == (keep == 1)
        mesh = read(path)
        sizes[keep] = len(trimesh.graph.connected_components(mesh.triangles[:, [0, 1, 1, 2]].reshape(-1, 2)))
    assert sizes[1] == 1 < sizes[0]
