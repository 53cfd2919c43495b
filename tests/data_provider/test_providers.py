"""Each kind of data set trains through its provider, with the same images on the same sides of the split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from splatkit_ns.data_provider import (
    BlenderDataProvider,
    ColmapDataProvider,
    DataProvider,
    NerfstudioDataProvider,
    RunData,
    SplatDataProvider,
)
from splatkit_ns.errors import SplatkitError
from splatkit_ns.modules import EvaluationSource, SplatBaseModule, SplatEvaluator, SplatRenderPayload
from splatkit_ns.plugin.data.cameras import pinhole_view
from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig
from tests.tiny_scene import write_tiny_blender, write_tiny_colmap, write_tiny_scene


class KeepsData(SplatBaseModule[SplatRenderPayload]):
    """Keeps the data provider that modules see."""

    def on_setup(self, data_provider: RunData, scene_scale: float) -> None:
        self.data = data_provider
        self.scene_scale = scene_scale


def seen_by_modules(provider: SplatDataProvider, output_dir: Path) -> KeepsData:
    config = SplatTrainerConfig(max_steps=2, output_dir=output_dir, device="cpu", num_random=200, lpips=False)
    evaluator = SplatEvaluator(output_dir / "eval", [2], save_images=False)
    result = SplatTrainer(config, provider, modules=[KeepsData(), evaluator]).run()
    assert result.metrics["eval/psnr"] > 0
    keeps = result.modules[-2]
    assert isinstance(keeps, KeepsData)
    return keeps


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


FRAMES = [f"frame_{i:05d}.png" for i in range(8)]


def test_nerfstudio(tiny_scene: Path, tmp_path: Path) -> None:
    data = seen_by_modules(NerfstudioDataProvider(str(tiny_scene), eval_interval=4), tmp_path).data
    assert isinstance(data, EvaluationSource)
    assert names(data.eval_image_paths) == [FRAMES[0], FRAMES[4]]
    assert names(data.train_image_paths) == [FRAMES[i] for i in (1, 2, 3, 5, 6, 7)]
    assert (data.num_train_images, data.num_eval_images) == (6, 2)
    assert data.train_image(0).dtype == torch.uint8
    assert len(data.datamanager.train_dataparser_outputs.metadata["points3D_xyz"]) == 48


def test_nerfstudio_with_masks_and_without_auto_scale(tmp_path: Path) -> None:
    scene = write_tiny_scene(tmp_path / "scene", masks=True)
    seen = seen_by_modules(NerfstudioDataProvider(scene, auto_scale_poses=False), tmp_path / "runs")
    assert 3.0 < seen.scene_scale < 4.0, "cameras are 3 units from the middle, and 3DGS takes 1.1 times the largest"
    assert "outside the images' masks" in seen.data.evaluation_protocol()["masks"]


def test_colmap(tmp_path: Path) -> None:
    scene = write_tiny_colmap(tmp_path / "scene")
    data = seen_by_modules(ColmapDataProvider(scene), tmp_path / "runs").data
    assert names(data.eval_image_paths) == [FRAMES[0]]
    assert data.num_train_images == 7
    assert data.evaluation_protocol()["split"]["dataparser"] == "ColmapDataParser"


def test_blender_is_evaluated_on_its_test_split(tmp_path: Path) -> None:
    scene = write_tiny_blender(tmp_path / "scene")
    data = seen_by_modules(BlenderDataProvider(scene), tmp_path / "runs").data
    assert [path.parent.name for path in data.eval_image_paths] == ["test", "test"]
    assert [Path(p).parent.name for p in data.datamanager.eval_dataset.image_filenames] == ["val", "val"]
    assert data.num_train_images == 6
    assert data.evaluation_protocol()["background"] == {"training": "auto", "evaluation": [1.0, 1.0, 1.0]}


def test_any_dataparser(tiny_scene: Path, tmp_path: Path) -> None:
    parser = NerfstudioDataParserConfig(data=tiny_scene, eval_mode="all", load_3D_points=True)
    data = seen_by_modules(DataProvider(parser), tmp_path).data
    assert (data.num_train_images, data.num_eval_images) == (8, 8)


def test_the_wrong_kind_of_folder(tiny_scene: Path, tmp_path: Path) -> None:
    with pytest.raises(SplatkitError, match=r"no COLMAP model in .*sparse/0"):
        seen_by_modules(ColmapDataProvider(tiny_scene), tmp_path)


def test_views_and_photographs_are_those_of_training(tiny_scene: Path, tmp_path: Path) -> None:
    provider = NerfstudioDataProvider(tiny_scene, eval_interval=4)
    before = torch.get_rng_state()
    views, photographs = provider.views(), provider.photographs()
    assert torch.equal(torch.get_rng_state(), before)
    data = seen_by_modules(provider, tmp_path).data
    assert provider.image_names() == [photograph.name for photograph in photographs] == names(data.train_image_paths)
    assert provider.image_names("eval") == names(data.eval_image_paths)
    assert len(views) == len(photographs) == data.num_train_images
    for index, (view, photograph) in enumerate(zip(views, photographs, strict=True)):
        trained, _ = data.datamanager.train_view(index)
        expected = pinhole_view(trained)
        for found in (view, photograph.view):
            assert torch.equal(found.cam_to_worlds, expected.cam_to_worlds)
            assert torch.equal(found.Ks, expected.Ks)
            assert (found.width, found.height) == (expected.width, expected.height)
        assert torch.equal(photograph.image, data.train_image(index) / 255)
        assert photograph.mask is None


def test_views_of_distorted_images_are_those_without_distortion(tmp_path: Path) -> None:
    scene = write_tiny_scene(tmp_path / "scene", masks=True)
    content = json.loads((scene / "transforms.json").read_text())
    (scene / "transforms.json").write_text(json.dumps({**content, "k1": 0.2, "camera_model": "OPENCV"}))
    provider = NerfstudioDataProvider(scene)
    photographs = provider.photographs()
    for view, photograph in zip(provider.views(), photographs, strict=True):
        assert torch.equal(view.Ks, photograph.view.Ks)
        assert photograph.image.shape == (view.height, view.width, 3)
        assert photograph.mask is not None
        assert photograph.mask.shape == (view.height, view.width)
    assert float(photographs[0].view.Ks[0, 0, 0]) != pytest.approx(content["fl_x"])


def test_photographs_with_alpha(tmp_path: Path) -> None:
    scene = write_tiny_blender(tmp_path / "scene")
    white, black = (BlenderDataProvider(scene, alpha_color=color).photographs()[0].image for color in ("white", None))
    assert white[0, 0].tolist() == [1.0, 1.0, 1.0]
    assert black[0, 0].tolist() == [0.0, 0.0, 0.0]


def test_a_split_that_does_not_exist(tiny_scene: Path) -> None:
    with pytest.raises(SplatkitError, match="split is 'test', expected train or eval"):
        NerfstudioDataProvider(tiny_scene).views("test")  # type: ignore[arg-type]
