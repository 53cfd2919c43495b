"""Masks that are ignored, that mark what is empty, that are inverted or grown; and alpha channels as the truth."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
import pytest
import torch
from nerfstudio.scripts.exporter import ExportGaussianSplat
from PIL import Image
from scipy import ndimage

from splatkit_ns.cli import main
from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.loss_fn import Splat2DGSLossFn, Splat3DGSLossFn
from splatkit_ns.plugin.data.cameras import pinhole_view
from splatkit_ns.plugin.data.photographs import remapping
from splatkit_ns.plugin.data.photographs.masks import check_some_pixel_counts, grown, solid_pixels, without_masked
from splatkit_ns.plugin.data.photographs.remapping import Undistorter
from splatkit_ns.plugin.options.check import check_options
from splatkit_ns.renderer import RenderOptions, Splat3DGSRenderer
from splatkit_ns.splat import SplatModel
from tests.plugin.data.broken_data import changed_copy, in_json
from tests.plugin.helpers import forget_writers, make_trainer, run_config
from tests.tiny_scene import focal_length, tiny_views, write_tiny_blender, write_tiny_scene

distances: Any = ndimage.distance_transform_edt
WIDTH, HEIGHT, NUM_VIEWS, STEPS = 40, 30, 12, 300
VIEWS = tiny_views(NUM_VIEWS, WIDTH, HEIGHT)


def sky(cam_to_world: Any) -> Any:
    """Surroundings far away, (H, W, 3), whose colour depends on the direction."""
    v, u = np.meshgrid(np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5, indexing="ij")
    focal = focal_length(WIDTH)
    rays = np.stack([(u - WIDTH / 2) / focal, -(v - HEIGHT / 2) / focal, -np.ones_like(u)], -1)
    rays = rays @ cam_to_world[:3, :3].T
    return 0.5 + 0.4 * np.sin(4 * rays / np.linalg.norm(rays, axis=-1, keepdims=True))


@pytest.fixture(scope="module")
def in_the_open(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny scene before surroundings, with seed points in them, and masks of the scene itself."""
    folder = write_tiny_scene(
        tmp_path_factory.mktemp("open"), num_views=NUM_VIEWS, width=WIDTH, height=HEIGHT, masks=True
    )
    for path, view in zip(sorted((folder / "images").iterdir()), VIEWS, strict=True):
        colors = view.rgb + (1 - view.alpha[..., None]) * sky(view.cam_to_world)
        Image.fromarray(np.rint(255 * colors.clip(0, 1)).astype(np.uint8)).save(path)
        Image.fromarray((view.alpha > 0.5).astype(np.uint8) * 255).save(folder / "masks" / path.name)
    points = plyfile.PlyData.read(folder / "sparse_pc.ply")["vertex"].data
    far = np.full(200, 128).astype(points.dtype)
    directions = np.random.default_rng(0).normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for name, column in zip("xyz", (directions * np.linspace(1.5, 6, 200)[:, None]).T, strict=True):
        far[name] = column
    plyfile.PlyData([plyfile.PlyElement.describe(np.concatenate([points, far]), "vertex")]).write(
        folder / "sparse_pc.ply"
    )
    return folder


@pytest.fixture(scope="module")
def cut_out(tmp_path_factory: pytest.TempPathFactory, in_the_open: Path) -> Path:
    """The same, with transparent surroundings instead of masks."""

    def change(folder: Path) -> None:
        for path, view in zip(sorted((folder / "images").iterdir()), VIEWS, strict=True):
            straight = view.rgb / np.maximum(view.alpha[..., None], 1e-6)
            pixels = np.concatenate([straight, view.alpha[..., None]], -1)
            Image.fromarray(np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)).save(path)
        in_json(lambda meta: [frame.pop("mask_path") for frame in meta["frames"]])(folder)

    return changed_copy(in_the_open, tmp_path_factory.mktemp("cut"), change)


def trained(data: Path, output: Path, mode: Any) -> Any:
    config: Any = run_config(data, output, steps=STEPS)
    config.pipeline.datamanager.mask_mode = mode
    if mode == "sky":
        config.pipeline.model.renderer = Splat3DGSRenderer(sky_degree=3)
    config.save_config()
    trainer = make_trainer(config)
    trainer.train()
    forget_writers()
    return trainer


def mean_alphas(render: Any, of: Any) -> tuple[float, float]:
    """The alpha of held-out views well outside the scene and well inside."""
    found: list[tuple[float, float]] = []
    for number, view in enumerate(VIEWS):
        if number % 4 == 0:
            inside = view.alpha > 0.5
            deep = grown(inside, 2), grown(~inside, 2)
            alpha = render(of(number)).numpy()
            found.append((float(alpha[deep[1]].mean()), float(alpha[deep[0]].mean())))
    outside, inside = np.mean(found, axis=0)
    return float(outside), float(inside)


@pytest.mark.parametrize("mode", ["ignore", "segment", "alpha", "sky"])
def test_what_is_masked_out_is_empty(in_the_open: Path, cut_out: Path, tmp_path: Path, mode: str) -> None:
    """In renders of held-out views, and in the files that ``splatkit export`` and ``ns-export`` write."""
    trainer = trained(cut_out if mode == "alpha" else in_the_open, tmp_path, mode)
    model, data = trainer.pipeline.model.eval(), trainer.pipeline.datamanager
    cameras = {int(path.stem[-5:]): index for index, path in enumerate(data.eval_dataset.image_filenames)}
    outside, inside = mean_alphas(
        lambda camera: model.get_outputs_for_camera(camera)["accumulation"][..., 0],
        lambda number: data.eval_dataset.cameras[cameras[number] : cameras[number] + 1],
    )
    assert inside > 0.85
    assert (outside > 0.3) if mode == "ignore" else (outside < (0.1 if mode == "sky" else 0.03))
    if mode == "sky":  # whose pixels count as others do, with the colours of the photographs
        errors = [image.metrics["psnr"] for image in model.context.data_provider.evaluate()]
        assert np.mean(errors) > 20, errors
    file = tmp_path / "splat.ply"
    run = trainer.config.get_base_dir() / "config.yml"
    assert (
        main(["export", "--load-config", str(run), "--output", str(file), "--frame", "nerfstudio", "--sky", "0"]) == 0
    )
    ExportGaussianSplat(load_config=run, output_dir=tmp_path / "nerfstudio").main()
    for path in (file, tmp_path / "nerfstudio" / "splat.ply"):
        exported = SplatModel.load(path).to_training_state()

        def alpha_of(camera: Any, exported: Any = exported) -> torch.Tensor:
            with torch.no_grad():
                return Splat3DGSRenderer().render(exported, pinhole_view(camera), RenderOptions()).alphas[0, ..., 0]

        assert mean_alphas(
            alpha_of, lambda number: data.eval_dataset.cameras[cameras[number] : cameras[number] + 1]
        ) == pytest.approx((outside, inside), abs=1e-3)


@pytest.mark.parametrize("pixels", [-3, -1, 0, 1, 2, 5])
def test_what_is_masked_out_grows_by_pixels(pixels: int) -> None:
    valid = np.random.default_rng(0).random((40, 50)) > (0.02 if pixels > 0 else 0.98)
    far = distances(valid if pixels > 0 else ~valid) > abs(pixels)
    expected = far if pixels > 0 else ~far
    assert 0 < expected.mean() < 1
    assert np.array_equal(grown(valid, pixels), expected)
    for uniform in (np.zeros((3, 4), bool), np.ones((3, 4), bool)):
        assert np.array_equal(grown(uniform, pixels), uniform), "nothing grows out of a border"


def test_masks_of_a_run_are_inverted_and_grown(scenes: dict[str, Path], tmp_path: Path) -> None:
    def masks(data: Path, **options: Any) -> Any:
        config: Any = run_config(data).pipeline
        for name, value in options.items():
            setattr(config.datamanager, name, value)
        batches = config.setup(device="cpu", test_mode="val").datamanager.cached_train
        return [batch["mask"][..., 0].numpy() for batch in batches]

    def invert(data: Path) -> None:
        for path in (data / "masks").iterdir():
            Image.fromarray(255 - np.asarray(Image.open(path))).save(path)

    plain = masks(scenes["nerfstudio"])
    inverted = masks(changed_copy(scenes["nerfstudio"], tmp_path, invert), mask_inverted=True)
    assert np.array_equal(plain, inverted)
    assert 0 < np.mean(plain) < 1
    larger = masks(scenes["nerfstudio"], mask_grow=2)
    assert np.array_equal(larger, [distances(mask) > 2 for mask in plain])


def test_pixels_that_a_lens_does_not_see_are_not_empty(
    scenes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not known, as opposed to those that masks leave out."""

    monkeypatch.setattr(remapping, "SLIVER", -4.0)  # so that it does not see its edge

    def bend(meta: dict[str, Any]) -> None:
        meta.update(camera_model="OPENCV_FISHEYE", k1=0.3, k2=0.1)

    data = changed_copy(scenes["nerfstudio"], tmp_path, in_json(bend))
    config: Any = run_config(data).pipeline
    ignoring = config.setup(device="cpu", test_mode="val").datamanager.cached_train[0]
    config.datamanager.mask_mode = "segment"
    manager = config.setup(device="cpu", test_mode="val").datamanager
    batch = manager.cached_train[0]
    dataset = manager.train_dataset
    seen = Undistorter(dataset.stored_cameras, dataset.image_filenames).seen(0)
    alpha = batch["image"][..., 3:] > 0
    assert seen is not None
    assert 0 < seen.float().mean() < 1
    assert torch.equal(batch["mask"], seen)
    assert torch.equal(alpha & seen, ignoring["mask"])
    assert torch.equal(batch["image"][..., :3], ignoring["image"] * ignoring["mask"])
    for given in (batch, ignoring):
        solid: Any = solid_pixels(given)
        assert np.array_equal(solid, ignoring["mask"][..., 0])
    config.datamanager.mask_mode = "sky"
    batch = config.setup(device="cpu", test_mode="val").datamanager.cached_train[0]
    assert torch.equal(batch["image"], ignoring["image"])
    assert torch.equal(batch["mask"], seen)
    assert torch.equal((batch["target_alphas"] == 255) & seen, ignoring["mask"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_masked_out_pixels_of_transparent_images(dtype: torch.dtype) -> None:
    top = 255 if dtype == torch.uint8 else 1
    image = torch.tensor([[[10, 20, 30, 128], [1, 2, 3, 255]]]).to(dtype)
    valid = torch.tensor([[[True], [False]]])
    assert without_masked(image, valid).tolist() == [[[10, 20, 30, 128], [0, 0, 0, 0]]]
    assert without_masked(image[..., :3], ~valid).tolist() == [[[0, 0, 0, 0], [1, 2, 3, top]]]


def test_alpha_is_the_truth_also_where_the_data_set_has_a_colour(tmp_path: Path) -> None:
    """blender-data lays its images on white by default."""
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

    data = write_tiny_blender(tmp_path)
    config: Any = run_config(data, dataparser=BlenderDataParserConfig()).pipeline
    assert config.setup(device="cpu", test_mode="val").datamanager.cached_train[0]["image"].shape[-1] == 3
    config.datamanager.mask_mode = "alpha"
    for kind in ("uint8", "float32"):
        config.datamanager.cache_images_type = kind
        pipeline = config.setup(device="cpu", test_mode="val").train()
        camera, batch = pipeline.datamanager.next_train(0)
        stored = np.asarray(Image.open(pipeline.datamanager.train_dataset.image_filenames[batch["image_idx"]]))
        frame = pipeline.model.parts.frames.make(camera, batch)
        np.testing.assert_allclose(frame.target_alphas[0, ..., 0], stored[..., 3] / 255, atol=1e-6)
        assert pipeline.model.backgrounds.of_evaluation(torch.device("cpu")).tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", [Splat3DGSLossFn, Splat2DGSLossFn])
def test_the_loss_compares_alpha_of_the_pixels_that_count(kind: Any) -> None:
    loss = kind(alpha_lambda=0.5)
    alphas = torch.rand(1, 6, 7, 1, generator=torch.Generator().manual_seed(0))
    targets, masks = (alphas.roll(1, 1) > 0.5).float(), torch.ones(1, 6, 7, dtype=torch.bool)
    masks[:, :3] = False
    payload = type("Payload", (dict,), {"alphas": alphas})(alphas=alphas)
    step = {"rend_out": payload, "target_alphas": targets}
    expected = 0.5 * (alphas - targets)[:, 3:].abs().mean()
    assert float(loss.geometry_terms(masks, step)["alpha"]) == pytest.approx(float(expected))
    assert loss.geometry_terms(masks, {**step, "target_alphas": None}) == {}
    assert dataclasses.replace(loss, alpha_lambda=0.0).geometry_terms(masks, step) == {}


def test_depth_of_what_is_empty_does_not_count(tmp_path: Path) -> None:
    data = write_tiny_scene(tmp_path, masks=True, depth=True)
    config: Any = run_config(data).pipeline
    config.model.loss_fn = Splat3DGSLossFn(depth_lambda=0.1)
    config.datamanager.mask_mode = "segment"
    pipeline = config.setup(device="cpu", test_mode="val").train()
    pipeline.datamanager.use_targets(["target_depths"])
    camera, batch = pipeline.datamanager.next_train(0)
    assert batch["target_depths"].isfinite().any()
    frame = pipeline.model.parts.frames.make(camera, batch)
    empty = frame.target_alphas == 0
    assert 0 < empty.float().mean() < 1
    assert frame.target_depths[empty].isnan().all()
    solid = frame.target_depths[~empty], batch["target_depths"][None][~empty]
    assert solid[1].isfinite().any()
    torch.testing.assert_close(*solid, equal_nan=True, rtol=0, atol=0)


def test_masks_that_are_missing_are_told(cut_out: Path, in_the_open: Path, tmp_path: Path) -> None:
    def told(data: Path, **options: Any) -> str:
        config: Any = run_config(data).pipeline
        for name, value in options.items():
            setattr(config.datamanager, name, value)
        with pytest.raises(SplatkitError) as caught:
            _ = config.setup(device="cpu", test_mode="val").datamanager.cached_train
        return str(caught.value)

    assert "has no masks, which --pipeline.datamanager.mask-mode segment needs" in told(cut_out, mask_mode="segment")
    assert "which --pipeline.datamanager.mask-grow 2 needs" in told(cut_out, mask_grow=2)
    assert "which --pipeline.datamanager.mask-inverted True needs" in told(cut_out, mask_inverted=True)
    assert "frame_00001.png has no alpha channel" in told(in_the_open, mask_mode="alpha")


def test_masks_of_the_sky_need_a_sky(in_the_open: Path) -> None:
    config: Any = run_config(in_the_open)
    config.pipeline.datamanager.mask_mode = "sky"
    with pytest.raises(OptionsError, match=r"mask-mode sky needs a sky: set --pipeline\.model\.renderer\.sky-degree"):
        check_options(config)
    config.pipeline.model.renderer = Splat3DGSRenderer(sky_degree=3)
    check_options(config)
    config.pipeline.model.loss_fn = Splat3DGSLossFn(alpha_lambda=0.0)
    with pytest.raises(OptionsError, match=r"mask-mode sky has no effect with .*alpha-lambda 0"):
        check_options(config)


@pytest.mark.parametrize("mode", ["ignore", "segment"])
def test_masks_that_leave_nothing_are_refused(mode: str) -> None:
    def batch(mask: bool) -> dict[str, Any]:
        valid = torch.full((4, 4, 1), mask)
        if mode == "ignore":
            return {"image": torch.zeros(4, 4, 3), "mask": valid}
        return {"image": without_masked(torch.zeros(4, 4, 3), valid), "mask_mode": mode}

    check_some_pixel_counts(batch(mask) for mask in (False, False, True))
    check_some_pixel_counts([{"image": torch.zeros(4, 4, 3)}])
    with pytest.raises(SplatkitError, match=r"leave no pixel of its 3 training images.*mask-inverted"):
        check_some_pixel_counts(batch(False) for _ in range(3))


def test_a_mask_that_nothing_honours_is_refused(in_the_open: Path) -> None:
    config: Any = run_config(in_the_open)
    config.pipeline.datamanager.mask_mode, config.pipeline.model.background_color = "segment", "black"
    check_options(config)
    config.pipeline.model.loss_fn = Splat3DGSLossFn(alpha_lambda=0.0)
    with pytest.raises(
        OptionsError, match=r"mask-mode segment has no effect with --pipeline\.model\.loss-fn\.alpha-lambda 0"
    ):
        check_options(config)
    config.pipeline.model.background_color = "auto"
    check_options(config)
