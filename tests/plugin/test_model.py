"""`SplatkitModel` on the tiny scene: what it renders, in training and outside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.utils.rich_utils import CONSOLE

from splatkit_ns.errors import SplatkitError
from splatkit_ns.modules import SplatBaseModule
from splatkit_ns.plugin.data.backgrounds import VIEWER_BACKGROUND
from splatkit_ns.plugin.data.cameras import pinhole_view
from splatkit_ns.plugin.reporting import console
from splatkit_ns.renderer import Splat3DGSRenderer
from splatkit_ns.splat.schema import KEYS
from tests.plugin.helpers import make_pipeline
from tests.tiny_scene import corner_mask, tiny_gaussians, write_tiny_scene


def train_step(pipeline: Any, step: int = 0) -> dict[str, Any]:
    """One step without the optimizers; returns the outputs."""
    outputs, losses, _ = pipeline.get_train_loss_dict(step)
    sum(losses.values()).backward()
    return outputs


def evaluate(pipeline: Any, index: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    camera, batch = pipeline.datamanager.fixed_indices_eval_dataloader[index]
    return pipeline.eval().model.get_outputs_for_camera(camera), batch


def test_single_rays_are_refused(tiny_scene: Path) -> None:
    """As ``ns-export pointcloud`` wants them."""
    model = make_pipeline(tiny_scene).eval().model
    rays = RayBundle(torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, 1))
    with pytest.raises(SplatkitError, match="splatkit mesh --load-config"):
        model(rays)


def test_gaussians_start_at_the_seed_points(tiny_scene: Path) -> None:
    model = make_pipeline(tiny_scene, init_opacity=0.3).model
    assert model.num_points == len(tiny_gaussians())
    assert torch.equal(model.means, model.seed_points[0].float())
    torch.testing.assert_close(model.colors, model.seed_points[1].float() / 255, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.sigmoid(model.opacities), torch.full_like(model.opacities, 0.3))


def test_without_seed_points_they_start_anywhere(tiny_scene: Path) -> None:
    model = make_pipeline(tiny_scene, random_init=True, num_random=200, random_scale=2.0).model
    assert model.num_points == 200
    half = float((model.scene_box.aabb[1] - model.scene_box.aabb[0]).max())
    assert float(model.means.abs().max()) <= half
    assert float(model.means.abs().max()) > 0.8 * half


def test_training_outputs_have_no_depth_unless_asked_for(tiny_scene: Path) -> None:
    outputs = train_step(make_pipeline(tiny_scene))
    assert outputs["depth"] is None
    assert outputs["rgb"].shape == (24, 32, 3)
    assert outputs["accumulation"].shape == (24, 32, 1)
    asked = train_step(make_pipeline(tiny_scene, output_depth_during_training=True))
    assert asked["depth"].shape == (24, 32, 1)
    assert asked["depth"].requires_grad


class _Watched:
    """Stands for a tensor in a batch, and notes how it is copied."""

    def __init__(self, tensor: torch.Tensor, copies: list[dict[str, Any]]) -> None:
        self._tensor, self._copies, self.shape = tensor, copies, tensor.shape

    def to(self, *_: Any, **how: Any) -> torch.Tensor:
        self._copies.append(how)
        return self._tensor


def test_the_host_does_not_wait_for_copies_of_training_images(masked_scene: Path) -> None:
    pipeline = make_pipeline(masked_scene)
    camera, batch = pipeline.datamanager.next_train(0)
    batch["target_depths"], batch["target_normals"] = torch.ones(24, 32, 1), torch.ones(24, 32, 3)
    copies: list[dict[str, Any]] = []
    watched = {name: _Watched(value, copies) if torch.is_tensor(value) else value for name, value in batch.items()}
    pipeline.model.parts.take_frame(camera, watched)
    assert copies == [{"non_blocking": True}] * 4, "image, mask, depth and normals"


def test_evaluation_outputs_have_depth_and_no_gradient(tiny_scene: Path) -> None:
    outputs, _ = evaluate(make_pipeline(tiny_scene, init_scale=0.2))
    assert set(outputs) == {"rgb", "accumulation", "background", "depth"}
    assert outputs["background"].shape == outputs["rgb"].shape == (24, 32, 3)
    assert not outputs["rgb"].requires_grad
    assert float(outputs["rgb"].min()) >= 0
    assert float(outputs["rgb"].max()) <= 1
    nothing = outputs["accumulation"] == 0
    assert bool(nothing.any())
    assert bool((outputs["depth"][nothing] == outputs["depth"].max()).all()), "empty pixels are far, not near"


@pytest.mark.parametrize(("colour", "value"), [("black", 0.0), ("white", 1.0)])
def test_fixed_backgrounds_are_behind_everything(tiny_scene: Path, colour: str, value: float) -> None:
    pipeline = make_pipeline(tiny_scene, background_color=colour, init_scale=0.2)
    training = train_step(pipeline)
    outputs, _ = evaluate(pipeline)
    for rendered in (training, outputs):
        empty = rendered["accumulation"][..., 0] == 0
        assert bool(empty.any())
        assert bool((rendered["rgb"][empty] == value).all())


def test_random_backgrounds_change_every_step_and_are_the_viewers_outside_training(tiny_scene: Path) -> None:
    pipeline = make_pipeline(tiny_scene, background_color="random", init_scale=0.2)
    first, second = train_step(pipeline)["background"].clone(), train_step(pipeline, 1)["background"]
    assert not torch.equal(first, second)
    outputs, _ = evaluate(pipeline)
    empty = outputs["accumulation"][..., 0] == 0
    assert bool(empty.any())
    torch.testing.assert_close(outputs["rgb"][empty], torch.tensor(VIEWER_BACKGROUND).expand(int(empty.sum()), 3))


def test_the_sh_degree_grows_with_the_steps(tiny_scene: Path) -> None:
    degrees: list[int] = []
    pipeline = make_pipeline(tiny_scene, sh_degree_interval=2, sh_degree=2)
    renderer = pipeline.model.renderer
    render = renderer.render

    def spy(state: Any, view: Any, options: Any) -> Any:
        degrees.append(options.sh_degree)
        return render(state, view, options)

    renderer.render = spy  # type: ignore[method-assign]
    for step in range(7):
        train_step(pipeline, step)
    assert degrees == [0, 0, 1, 1, 2, 2, 2]
    pipeline.model.update_to_step(3)
    evaluate(pipeline)
    assert degrees[-1] == 1, "evaluation of a checkpoint uses what its training had reached"


def test_training_images_can_be_smaller_and_others_stay_whole(tiny_scene: Path) -> None:
    pipeline = make_pipeline(tiny_scene)
    pipeline.model.context.data_provider.use_downscale(2)
    assert train_step(pipeline)["rgb"].shape == (12, 16, 3)
    assert evaluate(pipeline)[0]["rgb"].shape == (24, 32, 3)
    pipeline.model.context.data_provider.use_downscale(1)
    assert train_step(pipeline.train(), 1)["rgb"].shape == (24, 32, 3)


def test_a_training_camera_is_read_from_its_device_once(tiny_scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make_pipeline(tiny_scene)
    read: list[Any] = []

    def watched(*camera: Any) -> Any:
        read.append(camera)
        return pinhole_view(*camera)

    monkeypatch.setattr("splatkit_ns.plugin.step.frame.lens_view", watched)
    camera, _ = pipeline.datamanager.train_view(2)
    for downscale in (4, 2, 1):
        pipeline.model.parts.frames.downscale = downscale
        view, expected = pipeline.model.parts.frames.view(camera), pinhole_view(camera).smaller(downscale)
        assert (view.width, view.height) == (expected.width, expected.height) == (32 // downscale, 24 // downscale)
        assert torch.equal(view.Ks, expected.Ks)
        assert torch.equal(view.cam_to_worlds, expected.cam_to_worlds)
    assert len(read) == 1


def test_a_crop_box_cuts_and_an_empty_one_shows_the_background(tiny_scene: Path) -> None:
    pipeline = make_pipeline(tiny_scene, background_color="white")
    whole, _ = evaluate(pipeline)
    camera, _ = pipeline.datamanager.fixed_indices_eval_dataloader[0]
    box = OrientedBox.from_params((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.3, 0.3, 0.3))
    cropped = pipeline.model.get_outputs_for_camera(camera, box)
    assert 0 < float(cropped["accumulation"].sum()) < float(whole["accumulation"].sum())
    away = OrientedBox.from_params((50.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    empty = pipeline.model.get_outputs_for_camera(camera, away)
    assert empty["rgb"].shape == whole["rgb"].shape
    assert bool((empty["rgb"] == 1.0).all())
    assert float(empty["accumulation"].max()) == 0
    again = pipeline.model.get_outputs_for_camera(camera, None)
    assert torch.equal(again["rgb"], whole["rgb"])


def test_rendering_does_not_depend_on_training_mode_afterwards(tiny_scene: Path) -> None:
    pipeline = make_pipeline(tiny_scene)
    first, _ = evaluate(pipeline)
    train_step(pipeline.train())
    second, _ = evaluate(pipeline)
    assert torch.equal(first["rgb"], second["rgb"])


def test_the_camera_optimizer_gets_gradients(tiny_scene: Path) -> None:
    from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig

    pipeline = make_pipeline(tiny_scene, camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"))
    (adjustments,) = pipeline.get_param_groups()["camera_opt"]
    outputs, losses, metrics = pipeline.get_train_loss_dict(0)
    del outputs
    assert "camera_opt_regularizer" in losses
    assert "camera_opt_translation_max" in metrics
    sum(losses.values()).backward()
    drawn = pipeline.model.context.image_name
    index = [path.name for path in pipeline.datamanager.train_dataset.image_filenames].index(drawn)
    assert float(adjustments.grad[index].abs().max()) > 0
    assert "camera_opt" not in make_pipeline(tiny_scene).get_param_groups()


@pytest.fixture(scope="module")
def masked_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_scene(tmp_path_factory.mktemp("masked"), masks=True)


def test_masked_pixels_reach_neither_loss_nor_metrics(masked_scene: Path) -> None:
    pipeline = make_pipeline(masked_scene)
    train_step(pipeline)
    context = pipeline.model.context
    assert context.masks is not None
    assert torch.equal(context.masks[0], torch.from_numpy(corner_mask(32, 24)))
    outputs, batch = evaluate(pipeline)
    before = pipeline.model.get_image_metrics_and_images(outputs, batch)[0]
    batch["image"] = batch["image"].clone()
    batch["image"][:6, :8] = 255
    assert pipeline.model.get_image_metrics_and_images(outputs, batch)[0] == before
    batch["image"][12:] = 255
    assert pipeline.model.get_image_metrics_and_images(outputs, batch)[0] != before


@pytest.fixture(scope="module")
def transparent_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_scene(tmp_path_factory.mktemp("transparent"), rgba=True)


def test_transparent_images_are_laid_onto_the_steps_own_background(transparent_scene: Path) -> None:
    pipeline = make_pipeline(transparent_scene, background_color="random")
    outputs = train_step(pipeline)
    target = pipeline.model.context.target_frames
    assert target is not None
    assert target.shape == (1, 24, 32, 3)
    torch.testing.assert_close(target[0, 0, 0], outputs["background"])
    rendered, batch = evaluate(pipeline)
    metrics, pictures = pipeline.model.get_image_metrics_and_images(rendered, batch)
    assert pictures["img"].shape == (24, 64, 3)
    torch.testing.assert_close(pictures["img"][0, 0], torch.tensor(VIEWER_BACKGROUND))
    assert set(metrics) == {"psnr", "ssim", "cc_psnr", "cc_ssim"}


def test_the_automatic_background_follows_the_data(tiny_scene: Path, transparent_scene: Path) -> None:
    opaque = make_pipeline(tiny_scene)
    assert float(train_step(opaque)["background"].abs().max()) == 0
    transparent = make_pipeline(transparent_scene)
    first, second = (train_step(transparent, step)["background"].clone() for step in (0, 1))
    assert not torch.equal(first, second)
    assert float(evaluate(transparent)[0]["background"].abs().max()) == 0


def test_exporter_and_viewer_find_what_they_read(tiny_scene: Path) -> None:
    model = make_pipeline(tiny_scene).model
    num = model.num_points
    shapes = {
        "means": (num, 3), "scales": (num, 3), "quats": (num, 4), "opacities": (num, 1), "colors": (num, 3),
        "shs_0": (num, 3), "shs_rest": (num, 15, 3), "features_dc": (num, 3), "features_rest": (num, 15, 3),
    }  # fmt: skip
    for name, shape in shapes.items():
        assert tuple(getattr(model, name).shape) == shape, name
    assert model.config.sh_degree == 3
    assert set(model.get_gaussian_param_groups()) == set(KEYS)


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_a_note_tells_that_the_file_of_ns_export_lacks_the_mark(
    tiny_scene: Path, monkeypatch: pytest.MonkeyPatch, mode: Literal["classic", "antialiased"]
) -> None:
    monkeypatch.setattr(console, "_reported", set())
    model = make_pipeline(tiny_scene, renderer=Splat3DGSRenderer(rasterize_mode=mode)).model
    with CONSOLE.capture() as capture:
        assert model.shs_0.shape == (model.num_points, 3)
    assert ("These Gaussians are antialiased" in capture.get()) == (mode == "antialiased")


def test_loading_weights_of_another_number_keeps_the_parameter_objects(tiny_scene: Path) -> None:
    donor = make_pipeline(tiny_scene, random_init=True, num_random=77).model
    model = make_pipeline(tiny_scene).model
    objects = dict(model.gauss_params.items())
    model.load_state_dict(donor.state_dict())
    for name in KEYS:
        assert model.gauss_params[name] is objects[name]
        assert torch.equal(model.gauss_params[name], donor.gauss_params[name])
    assert model.training_state.num_gaussians == 77


def test_weights_of_another_method_or_degree_are_refused(tiny_scene: Path) -> None:
    model = make_pipeline(tiny_scene).model
    with pytest.raises(SplatkitError, match=r"holds no splatkit model: means, scales.*found field.w1.*another method"):
        model.load_state_dict({"field.w1": torch.zeros(3)})
    with pytest.raises(SplatkitError, match=r"checkpoint of splatfacto.*ns-export gaussian-splat.*init-ply FILE"):
        model.load_state_dict({f"gauss_params.{name}": torch.zeros(3, 3) for name in ("means", "features_dc")})
    lower = make_pipeline(tiny_scene, sh_degree=1).model
    with pytest.raises(SplatkitError, match=r"shN has shape \(48, 3, 3\), expected \(N, 15, 3\).*--pipeline.model.sh-"):
        model.load_state_dict(lower.state_dict())


def test_no_training_hook_fires_outside_training(tiny_scene: Path) -> None:
    calls: list[str] = []

    class Recorder(SplatBaseModule):
        def pre_step(self) -> None:
            calls.append("pre_step")

        def pre_compute_loss(self) -> None:
            calls.append("pre_compute_loss")

        def post_compute_loss(self) -> None:
            calls.append("post_compute_loss")

    pipeline = make_pipeline(tiny_scene)
    pipeline.model.use_modules([Recorder()])
    pipeline.eval()
    pipeline.get_eval_loss_dict(0)
    pipeline.get_eval_image_metrics_and_images(0)
    pipeline.get_average_eval_image_metrics(0)
    assert calls == []
    train_step(pipeline.train())
    assert calls == ["pre_step", "pre_compute_loss", "post_compute_loss"]
