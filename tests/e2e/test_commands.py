"""nerfstudio's own commands on a tiny run; in this process, as their import alone takes seconds."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.scripts import train
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.scripts.exporter import ExportGaussianSplat
from nerfstudio.scripts.render import RenderInterpolated
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image

from splatkit_ns.formats.gaussians import SH_C0
from splatkit_ns.plugin.data.cameras import pinhole_view
from splatkit_ns.plugin.model import SplatkitModel
from splatkit_ns.renderer import RenderOptions
from splatkit_ns.splat import SplatModel
from tests.faults.children import Child
from tests.plugin.helpers import run_config
from tests.tiny_scene import write_tiny_blender, write_tiny_colmap


def evaluate(config: Path, output: Path) -> dict[str, Any]:
    ComputePSNR(load_config=config, output_path=output).main()
    return json.loads(output.read_text())


def test_ns_eval_reports_metrics_of_the_held_out_images(trained: Path, tmp_path: Path) -> None:
    renders = tmp_path / "renders"
    ComputePSNR(load_config=trained, output_path=tmp_path / "eval.json", render_output_path=renders).main()
    report = json.loads((tmp_path / "eval.json").read_text())
    assert report["method_name"] == "splatkit-3dgs-adc"
    assert report["checkpoint"].endswith("step-000000029.ckpt")
    results = report["results"]
    assert {"psnr", "psnr_std", "ssim", "ssim_std", "cc_psnr", "cc_psnr_std"} <= set(results)
    assert 5 < results["psnr"] < 60
    assert 0 < results["ssim"] < 1
    assert len(list(renders.glob("*img*"))) == 2


def test_a_run_is_opened_where_it_lies_though_the_place_of_its_config_has_checkpoints_too(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = shutil.copytree(trained.parent, tmp_path / "moved")
    monkeypatch.setattr(sys, "argv", ["/bin/ns-eval", "--load-config", str(moved / "config.yml")])
    config, _, checkpoint, _ = eval_setup(moved / "config.yml")
    assert checkpoint.parent == moved / "nerfstudio_models"
    assert config.get_base_dir() == moved
    sys.argv[0] = "/bin/my-program"
    assert config.get_base_dir() == trained.parent, "whose option of that name may mean anything"


@torch.no_grad()
def test_the_exported_ply_renders_the_same_image_as_the_checkpoint(trained: Path, tmp_path: Path) -> None:
    ExportGaussianSplat(load_config=trained, output_dir=tmp_path).main()
    exported = SplatModel.load_ply(tmp_path / "splat.ply").to_training_state()
    _, pipeline, _, _ = eval_setup(trained)
    model = pipeline.model
    assert isinstance(model, SplatkitModel)
    camera, _ = pipeline.datamanager.fixed_indices_eval_dataloader[0]
    outputs = model.get_outputs_for_camera(camera)
    view = pinhole_view(camera)
    options = RenderOptions(sh_degree=2, backgrounds=outputs["background"][0, 0][None])
    payload = model.renderer.render(exported, view, options)
    difference = (payload.renders[0].clamp(0, 1) - outputs["rgb"]).abs()
    assert float(difference.max()) < 1e-4
    assert float(outputs["rgb"].std()) > 0.05, "there is something to see"


def test_ns_export_in_plain_colours(trained: Path, tmp_path: Path) -> None:
    ExportGaussianSplat(load_config=trained, output_dir=tmp_path, ply_color_mode="rgb").main()
    assert b"property uchar red" in (tmp_path / "splat.ply").read_bytes()[:2000]
    ExportGaussianSplat(load_config=trained, output_dir=tmp_path, output_filename="sh.ply").main()
    found, exact = (SplatModel.load_ply(tmp_path / name) for name in ("splat.ply", "sh.ply"))
    assert found.sh_degree == 0
    difference = (found.sh0 * SH_C0).clamp(-0.5, 0.5) - (exact.sh0 * SH_C0).clamp(-0.5, 0.5)
    assert difference.abs().max() < 1.001 / 255


def ns_export_with_little_space(trained: Path, folder: Path) -> None:
    """No file may grow beyond 8,000 bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
    ExportGaussianSplat(load_config=trained, output_dir=folder).main()


def test_ns_export_leaves_no_cut_file_on_a_full_disk(trained: Path, tmp_path: Path) -> None:
    child = Child(ns_export_with_little_space, tmp_path / "log", trained=trained, folder=tmp_path / "export")
    assert child.wait() == 1
    path = tmp_path / "export" / "splat.ply"
    assert f"Error: [Errno 27] File too large. What was written of {path} is deleted." in child.text()
    assert "Traceback" not in child.text()
    assert not path.exists()


@pytest.mark.usefixtures("some_ffmpeg")
def test_ns_render_interpolates_between_held_out_views(trained: Path, tmp_path: Path) -> None:
    RenderInterpolated(
        load_config=trained,
        output_path=tmp_path / "path.mp4",
        interpolation_steps=3,
        output_format="images",
        image_format="png",
        rendered_output_names=["rgb", "depth"],
    ).main()
    pictures = sorted((tmp_path / "path").glob("*.png"))
    assert len(pictures) >= 3
    pixels = [np.asarray(Image.open(path)) for path in pictures]
    assert pixels[0].shape == (24, 64, 3), "colour and depth side by side"
    assert float(pixels[0][:, :32].std()) > 5
    assert not np.array_equal(pixels[0], pixels[-1])


@pytest.mark.parametrize("mcmc", [False, True], ids=["3dgs", "3dgs-mcmc"])
def test_the_colmap_layout_trains_and_evaluates(tmp_path: Path, mcmc: bool) -> None:
    data = write_tiny_colmap(tmp_path / "data")
    parser = ColmapDataParserConfig(colmap_path=Path("sparse/0"), load_3D_points=True)
    config = run_config(data, tmp_path / "out", steps=8, dataparser=parser, mcmc=mcmc)
    train.main(config)
    results = evaluate(config.get_base_dir() / "config.yml", tmp_path / "eval.json")["results"]
    assert results["psnr"] > 5
    _, pipeline, _, _ = eval_setup(config.get_base_dir() / "config.yml")
    assert pipeline.model.num_points == 48, "the points of the model are its seeds"


def test_the_blender_layout_trains_from_random_points(tmp_path: Path) -> None:
    config = run_config(
        write_tiny_blender(tmp_path / "data"), tmp_path / "out", steps=8, dataparser=BlenderDataParserConfig()
    )
    config.pipeline.model.num_random = 300
    train.main(config)
    results = evaluate(config.get_base_dir() / "config.yml", tmp_path / "eval.json")["results"]
    assert results["psnr"] > 5


def test_a_run_goes_on_from_its_checkpoint_to_the_same_maximum(tiny_scene: Path, trained: Path, tmp_path: Path) -> None:
    config = run_config(tiny_scene, tmp_path, steps=34)
    config.load_dir = trained.parent / "nerfstudio_models"
    train.main(config)
    names = [path.name for path in config.get_checkpoint_dir().glob("*.ckpt")]
    assert names == ["step-000000033.ckpt"]
    loaded = torch.load(config.get_checkpoint_dir() / names[0], weights_only=True)
    state = next(iter(loaded["optimizers"]["means"]["state"].values()))
    assert int(state["step"]) == 34


def test_the_command_line_lists_the_options_with_their_help() -> None:
    """The one real process: entry point, plugin, tyro."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "nerfstudio.scripts.train", "splatkit-3dgs", "--help"],
        capture_output=True, text=True, check=False, env=plain_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for flag in (
        "--pipeline.model.sh-degree", "--pipeline.model.renderer.absgrad", "--pipeline.model.loss-fn.ssim-lambda",
        "--pipeline.model.densification.max-gaussians", "--max-num-iterations",
    ):  # fmt: skip
        assert flag in done.stdout, flag
    text = " ".join(done.stdout.replace("│", " ").split())
    assert "Weight of 1 - SSIM; L1 gets the rest." in text
    assert "Number of Gaussians to grow to" in text
    assert "pipeline.model.densification options" in text


@pytest.mark.parametrize(
    ("damage", "fragment"),
    [
        (Path.unlink, "There is no checkpoint that can be read in {folder} (files named step-"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "checkpoint {folder}/step-000000029.ckpt is "),
    ],
)
def test_a_checkpoint_that_is_gone_or_cut_is_told_in_one_message(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], Any], fragment: str
) -> None:
    config = yaml.load(trained.read_text(), Loader=yaml.Loader)
    config.output_dir = tmp_path
    shutil.copytree(trained.parent, config.get_base_dir())
    path = config.get_base_dir() / "config.yml"
    path.write_text(yaml.dump(config))
    damage(config.get_checkpoint_dir() / "step-000000029.ckpt")
    others: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: others.append(error))
    with pytest.raises((IndexError, RuntimeError, OSError)) as caught:
        ComputePSNR(load_config=path, output_path=tmp_path / "eval.json").main()
    with CONSOLE.capture() as capture:
        sys.excepthook(caught.type, caught.value, caught.tb)
    assert capture.get().startswith("Error: " + fragment.format(folder=config.get_checkpoint_dir()))
    assert capture.get().count("\n") == 1
    assert not others


def plain_environment() -> dict[str, str]:
    """Wide and without colours."""
    import os

    return {**os.environ, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "CUDA_VISIBLE_DEVICES": ""}


def ns_train(arguments: list[str], cwd: Path) -> None:
    """What the command does in its process."""
    import os

    os.chdir(cwd)
    sys.argv[:] = ["ns-train", *arguments]
    train.entrypoint()


def test_a_mistake_ends_the_command_with_one_message_and_status_1(tmp_path: Path) -> None:
    """In a process of its own; the messages themselves are tested in tests/plugin/data/checks/test_bad_input.py."""
    (tmp_path / "data").mkdir()
    words = "splatkit-3dgs --vis tensorboard --machine.device-type cpu --output-dir out --data data"
    child = Child(ns_train, tmp_path / "log", arguments=words.split(), cwd=tmp_path)
    assert child.wait() == 1
    assert "Traceback" not in child.text()
    (message,) = [line for line in child.log.read_text().splitlines() if line.startswith("Error:")]
    assert message.startswith(
        "Error: The data folder data is empty. Photographs or a video are turned into a data set by: splatkit"
    )
    assert not list(tmp_path.rglob("*.ckpt"))
