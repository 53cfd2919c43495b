"""A folder of COLMAP's trains without options, and so do the data sets that ns-process-data writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.utils.colmap_parsing_utils import read_model, write_model
from nerfstudio.scripts import train
from PIL import Image

from splatkit_ns.plugin.data.scenes.bare_colmap import dataparser_of
from splatkit_ns.plugin.datamanager import SplatkitDatamanager
from tests.plugin.helpers import make_pipeline, run_config
from tests.tiny_scene import write_tiny_colmap, write_tiny_scene


@pytest.mark.parametrize("model", ["sparse/0", "sparse", "colmap/sparse/0", "."])
def test_the_model_is_found(tmp_path: Path, model: str) -> None:
    data = write_tiny_colmap(tmp_path, model=model)
    found = dataparser_of(NerfstudioDataParserConfig(data=data, load_3D_points=True, eval_mode="interval"))
    assert isinstance(found, ColmapDataParserConfig)
    assert (found.data, found.colmap_path, found.downscale_factor) == (data, Path(model), 1)
    assert found.eval_mode == "interval"


def words(text: str) -> str:
    """A text without the breaks of its lines."""
    return " ".join(text.split())


@pytest.mark.parametrize("as_text", [True, False])
def test_the_largest_model_is_read_and_photographs_without_a_pose_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_text: bool
) -> None:
    data, smaller = write_tiny_colmap(tmp_path / "data"), write_tiny_colmap(tmp_path / "smaller", num_views=6)
    (data / "sparse" / "0").rename(data / "sparse" / "1")
    (smaller / "sparse" / "0").rename(data / "sparse" / "0")
    if not as_text:
        for model in (data / "sparse").iterdir():
            write_model(*read_model(str(model), ext=".txt"), str(model), ext=".bin")
            for path in model.glob("*.txt"):
                path.unlink()
    found = dataparser_of(NerfstudioDataParserConfig(data=data))
    assert isinstance(found, ColmapDataParserConfig)
    assert found.colmap_path == Path("sparse/1")
    assert "in sparse/1, the largest" in words(capsys.readouterr().out)

    (data / "images" / "._frame_00000.png").touch()  # as macOS does on disks of other systems
    config = ColmapDataParserConfig(data=data, colmap_path=Path("sparse/0"), downscale_factor=1)
    datamanager: Any = run_config(data, tmp_path / "out").pipeline.datamanager
    datamanager.dataparser = config
    SplatkitDatamanager(datamanager, device="cpu")
    told = words(capsys.readouterr().out)
    assert f"{data}/sparse/1 has a model of 8 images, and {data}/sparse/0, which is read, one of 6." in told
    assert f"2 of 8 photographs in {data}/images have no pose in {data}/sparse/0, and are not used: frame_00006" in told


def test_a_run_of_a_bare_folder(tmp_path: Path) -> None:
    """config.yml says how the data were read, so that other commands do not have to find out."""
    config: Any = run_config(write_tiny_colmap(tmp_path / "data"), tmp_path / "out", steps=4)
    config.pipeline.datamanager.dataparser.eval_interval = 3
    config.save_config()
    train.main(config)
    saved = yaml.load((config.get_base_dir() / "config.yml").read_text(), Loader=yaml.Loader)
    parser = saved.pipeline.datamanager.dataparser
    assert isinstance(parser, ColmapDataParserConfig)
    assert (parser.colmap_path, parser.eval_mode, parser.eval_interval) == (Path("sparse/0"), "interval", 3)
    assert (config.get_base_dir() / "held_out" / "step_000004.jpg").is_file()
    assert list((config.get_base_dir() / "nerfstudio_models").glob("*.ckpt"))


def test_a_pipeline_of_a_bare_folder_starts_at_its_points(tmp_path: Path) -> None:
    assert make_pipeline(write_tiny_colmap(tmp_path)).model.num_points == 48


def test_smaller_copies_are_used_as_nerfstudio_data_uses_them(tmp_path: Path) -> None:
    data = write_tiny_colmap(tmp_path, num_views=1)
    Image.new("RGB", (4000, 3000)).save(data / "images" / "frame_00000.png")
    for copies, factor in (("images_4", 1), ("images_2", 4)):
        (data / copies).mkdir()
        found = dataparser_of(NerfstudioDataParserConfig(data=data))
        assert isinstance(found, ColmapDataParserConfig)
        assert found.downscale_factor == factor
    given = dataparser_of(NerfstudioDataParserConfig(data=data, downscale_factor=2))
    assert isinstance(given, ColmapDataParserConfig)
    assert given.downscale_factor == 2


@pytest.mark.parametrize(("size", "mode"), [((8, 6), "floor"), ((8, 7), "round"), ((9, 7), "ceil"), ((5, 5), "floor")])
def test_smaller_copies_are_rounded_as_they_are(tmp_path: Path, size: tuple[int, int], mode: str) -> None:
    """Those of Mip-NeRF 360 are not rounded down, as nerfstudio expects."""
    data = write_tiny_colmap(tmp_path, num_views=4, width=33, height=26)
    (data / "images_4").mkdir()
    for path in (data / "images").iterdir():
        Image.open(path).resize(size).save(data / "images_4" / path.name)
    given: Any = run_config(data).pipeline.datamanager
    given.dataparser.downscale_factor = 4
    found = dataparser_of(NerfstudioDataParserConfig(data=data, downscale_factor=4))
    assert isinstance(found, ColmapDataParserConfig)
    assert found.downscale_rounding_mode == mode
    if size != (5, 5):
        cameras = SplatkitDatamanager(given, device="cpu").train_dataset.cameras
        assert (int(cameras.width[0]), int(cameras.height[0])) == size


def test_other_folders_stay_as_they_are(tmp_path: Path) -> None:
    both = write_tiny_scene(write_tiny_colmap(tmp_path / "both"))
    no_images = write_tiny_colmap(tmp_path / "no_images")
    (no_images / "images").rename(no_images / "photos")
    for parser in (
        NerfstudioDataParserConfig(data=both),
        NerfstudioDataParserConfig(data=no_images),
        NerfstudioDataParserConfig(data=write_tiny_colmap(tmp_path / "mask"), mask_color=(1.0, 0.0, 0.0)),
        ColmapDataParserConfig(data=both),
    ):
        assert dataparser_of(parser) is parser
