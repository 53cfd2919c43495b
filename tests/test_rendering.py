"""`render` and `turntable`: every kind of model, the right renderer, and one message for each mistake."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import splatkit_ns
from splatkit_ns import SplatModel, View, orbit, render, turntable
from splatkit_ns.errors import SplatkitError
from splatkit_ns.formats import SplatRenderMode
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.renderer import RenderOptions, Splat2DGSRenderer, Splat3DGSRenderer, SplatRenderer
from splatkit_ns.splat import SplatTrainingState
from tests.tiny_scene import tiny_gaussians

VIEW = View.look_at((2.5, 1.0, 1.0), (0.0, 0.0, 0.0), width=48, height=36)


@pytest.fixture(scope="module")
def model() -> SplatModel:
    return tiny_gaussians().to_splat_model()


@pytest.mark.parametrize("suffix", [".ply", ".spz"])
def test_model_state_and_file_give_one_image(model: SplatModel, tmp_path: Path, suffix: str) -> None:
    state = tiny_gaussians()
    expected = Splat3DGSRenderer().render(state, VIEW).renders[0].detach().clamp(0, 1)
    assert float(expected.max()) > 0.5
    assert torch.equal(render(state, VIEW), expected)
    on_cpu = render(model, VIEW)
    assert (on_cpu.device.type, on_cpu.requires_grad, on_cpu.shape) == ("cpu", False, (36, 48, 3))
    torch.testing.assert_close(on_cpu, expected, atol=1e-3, rtol=0)
    model.save(tmp_path / f"scene{suffix}")
    tolerance = 1e-3 if suffix == ".ply" else 0.05  # SPZ rounds
    torch.testing.assert_close(render(tmp_path / f"scene{suffix}", VIEW), on_cpu, atol=tolerance, rtol=0)
    assert torch.equal(render(str(tmp_path / f"scene{suffix}"), VIEW), render(tmp_path / f"scene{suffix}", VIEW))


@pytest.mark.parametrize(
    ("mode", "renderer"),
    [
        ("default", Splat3DGSRenderer()),
        ("mip", Splat3DGSRenderer(rasterize_mode="antialiased")),
        ("2dgs", Splat2DGSRenderer()),
    ],
)
def test_the_render_mode_decides(
    model: SplatModel, tmp_path: Path, mode: SplatRenderMode, renderer: SplatRenderer
) -> None:
    """Also through a file, which keeps the mode; the three images differ."""
    dataclasses.replace(model, render_mode=mode).save(tmp_path / "scene.ply")
    found = render(tmp_path / "scene.ply", VIEW)
    torch.testing.assert_close(found, render(model, VIEW, renderer=renderer), atol=1e-5, rtol=0)
    others = {"default", "mip", "2dgs"} - {mode}
    for other in others:
        assert not torch.allclose(found, render(dataclasses.replace(model, render_mode=other), VIEW), atol=1e-3)


def test_a_state_of_discs_is_drawn_as_discs() -> None:
    state = tiny_gaussians()
    state.make_flat()
    assert torch.equal(render(state, VIEW), render(state, VIEW, renderer=Splat2DGSRenderer()))
    assert not torch.allclose(render(state, VIEW), render(state, VIEW, renderer=Splat3DGSRenderer()), atol=1e-3)


def test_a_list_of_views_gives_a_list_of_frames(model: SplatModel, capsys: pytest.CaptureFixture[str]) -> None:
    views = orbit((0, 0, 0), 2.5, 3, width=24, height=18)
    frames = render(model, views)
    assert [frame.shape for frame in frames] == [(18, 24, 3)] * 3
    for frame, view in zip(frames, views, strict=True):
        assert torch.equal(frame, render(model, view))
    assert "".join(capsys.readouterr()) == "", "no progress bar where there is no terminal"


def test_background_and_sh_degree(model: SplatModel) -> None:
    away = View.look_at((2.5, 0, 0), (5.0, 0, 0), width=8, height=6)
    assert render(model, away, background=(0.25, 0.5, 1.0))[3, 4].tolist() == [0.25, 0.5, 1.0]
    assert float(render(model, away).max()) == 0.0
    generator = torch.Generator().manual_seed(0)
    shiny = dataclasses.replace(model, shN=torch.randn(len(model), 3, 3, generator=generator))
    plain = render(shiny, VIEW, sh_degree=0)
    assert torch.equal(plain, render(model, VIEW))
    assert not torch.allclose(plain, render(shiny, VIEW), atol=0.05)


def test_depth(model: SplatModel) -> None:
    """A single opaque blob at the origin is as far away as the camera."""
    one = SplatModel(
        means=torch.zeros(1, 3),
        scales=torch.full((1, 3), -3.0),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        opacities=torch.tensor([8.0]),
        sh0=torch.ones(1, 1, 3),
        shN=torch.zeros(1, 0, 3),
    )
    depth = render(one, View.look_at((0, -4.0, 0), (0, 0, 0), width=40, height=30), depth=True)
    assert depth.shape == (30, 40)
    assert float(depth[15, 20]) == pytest.approx(4.0, abs=1e-3)
    assert float(depth[0, 0]) == 0.0


class WithoutDepth(SplatRenderer):
    """Never makes a depth image."""

    def render(
        self, training_state: SplatTrainingState, view: View, options: RenderOptions = RenderOptions()
    ) -> SplatRenderPayload:
        return Splat3DGSRenderer().render(training_state, view, dataclasses.replace(options, render_mode="RGB"))


@pytest.mark.parametrize("size", [(64, 48), (30, 60)])
def test_a_turntable_sees_everything_from_all_sides(model: SplatModel, size: tuple[int, int]) -> None:
    """The centres of all Gaussians are inside every frame, and the scene is not a dot."""
    far = dataclasses.replace(model, means=model.means * 7 + torch.tensor([10.0, -20.0, 5.0]))
    points = torch.cat([far.means, torch.ones(len(far), 1)], dim=1)
    for view in turntable(far, 8, width=size[0], height=size[1]):
        image = (points @ view.world_to_cams[0, :3].T) @ view.Ks[0].T
        pixels = image[:, :2] / image[:, 2:] / torch.tensor(size)
        assert bool((image[:, 2] > 0).all())
        assert bool(((pixels > 0) & (pixels < 1)).all())
        assert float((pixels.amax(0) - pixels.amin(0)).max()) > 0.5


def test_a_turntable_ignores_a_few_far_gaussians(model: SplatModel) -> None:
    means = model.means.clone()
    means[0] += 1000.0
    near, far = turntable(model, 2), turntable(dataclasses.replace(model, means=means), 2)
    assert float((near[0].cam_to_worlds - far[0].cam_to_worlds).abs().max()) < 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "nowhere.ply"}, "nowhere.ply"),
        ({"model": "scene.jpeg"}, "no splat format has this suffix"),
        ({"model": 3}, "model is 3 of type int, expected an instance of SplatModel"),
        ({"view": View.look_at(torch.eye(3), (3, 0, 0))}, r"the view has 3 cameras, expected one. list\(view\)"),
        ({"view": [VIEW, 7]}, "view is 7 of type int, expected an instance of View"),
        ({"renderer": Splat3DGSRenderer}, "is the class Splat3DGSRenderer itself"),
        ({"background": "white"}, "background is 'white', expected three numbers"),
        ({"background": (1.0, 1.0)}, r"background has the shape \(2,\)"),
        ({"renderer": WithoutDepth(), "depth": True}, "WithoutDepth makes no depth image"),
        (
            {"view": dataclasses.replace(VIEW, lens="opencv"), "renderer": Splat2DGSRenderer()},
            "lenses of the model pinhole, found opencv",
        ),
    ],
)
def test_mistakes(model: SplatModel, settings: dict[str, Any], message: str) -> None:
    arguments = {"model": model, "view": VIEW, **settings}
    with pytest.raises(SplatkitError, match=message):
        render(arguments.pop("model"), arguments.pop("view"), **arguments)


def test_names_of_the_package() -> None:
    assert set(splatkit_ns.__all__) <= set(dir(splatkit_ns))
    for name in splatkit_ns.__all__:
        assert getattr(splatkit_ns, name).__module__.startswith("splatkit_ns."), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = splatkit_ns.nothing  # type: ignore[attr-defined]


@pytest.mark.gpu
def test_on_the_gpu_frames_come_back_to_the_cpu(model: SplatModel) -> None:
    frame = render(model, VIEW)
    assert frame.device.type == "cpu"
    on_cpu = render(tiny_gaussians(), VIEW)
    torch.testing.assert_close(frame, on_cpu, atol=2e-3, rtol=0)
    moved = Splat3DGSRenderer().render(model, VIEW.to("cuda"))
    assert moved.renders.device.type == "cuda"
