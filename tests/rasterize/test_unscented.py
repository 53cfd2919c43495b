"""Lenses with the backend gsplat: what its unscented transform is given, and on a GPU what it draws."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from raster_scenes import as_values
from test_lens_projection import lens_scene
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.densification import SplatMCMCDensification
from splatkit_ns.errors import SplatkitError
from splatkit_ns.rasterize import BackendUnavailableError, cuda_rasterization, rasterization, unscented
from splatkit_ns.rasterize.cuda_rasterization import rasterize_on_cuda
from splatkit_ns.renderer import Splat3DGSRenderer
from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig
from tests.made_lens_scene import write_lens_scene

NEEDS_GSPLAT = pytest.mark.skipif(not unscented.has_unscented_transform(), reason="needs gsplat 1.5.3 or newer")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a gsplat 1.5.3 that draws nothing has been asked for."""
    calls: list[Any] = []

    def draws_nothing(*tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
        calls.append(SimpleNamespace(tensors=tensors, **options))
        cameras, number = len(tensors[5]), len(calls)
        height, width = tensors[8], tensors[7]
        assert tensors[4].shape[-1] == 3, "gsplat 1.5.3 asserts that"
        return torch.full((cameras, height, width, 3), number), torch.full((cameras, height, width, 1), 0.5), {}

    import gsplat

    monkeypatch.setattr(gsplat, "rasterization", draws_nothing)
    monkeypatch.setattr(unscented, "gsplat_version", lambda: (1, 5, 3))
    monkeypatch.setattr(cuda_rasterization, "require_gsplat", lambda reason: None)
    return calls


def values(name: str, **options: Any) -> Any:
    scene = lens_scene(name, n=20, dtype=torch.float32)
    scene["distortion"] = scene["distortion"].float()
    return as_values(scene, backend="gsplat", **options)


@pytest.mark.parametrize("name", ["opencv", "full opencv", "fisheye", "equidistant"])
def test_gsplat_gets_the_coefficients_by_its_own_names(name: str, asked: list[Any]) -> None:
    gaussians, cameras, settings = values(name, render_mode="RGB+ED", backgrounds=torch.full((2, 3), 0.2))
    images, _, info = rasterize_on_cuda(gaussians, cameras, settings)
    call, depth_call = asked
    assert call.backgrounds.equal(settings.backgrounds)
    assert not depth_call.backgrounds.any()
    assert call.with_ut
    assert call.with_eval3d
    if cameras.lens == "opencv_fisheye":
        assert call.camera_model == "fisheye"
        assert call.radial_coeffs[:, : cameras.distortion.shape[1]].equal(cameras.distortion)
        assert call.radial_coeffs.shape == (2, 4)
    else:
        k = torch.nn.functional.pad(cameras.distortion, (0, 8 - cameras.distortion.shape[1]))
        assert call.camera_model == "pinhole"
        assert call.tangential_coeffs.equal(k[:, 2:4])
        assert call.radial_coeffs.equal(torch.stack([k[:, i] for i in (0, 1, 4, 5, 6, 7)], dim=1))
    points = gaussians.means @ cameras.viewmats[:, :3, :3].transpose(1, 2) + cameras.viewmats[:, None, :3, 3]
    depths = points.norm(dim=-1) if cameras.lens == "opencv_fisheye" else points[..., 2]
    torch.testing.assert_close(info["depths"], depths)
    torch.testing.assert_close(depth_call.tensors[4][..., 0], depths)
    assert images.shape[-1] == 4
    assert float(images[..., :3].mean()) == 1.0
    assert float(images[..., -1].mean()) == 4.0, "expected depth is divided by alpha"


def test_what_it_does_not_have_is_one_message(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SplatkitError, match=r"fourth radial term \(k4\)"):
        rasterize_on_cuda(*values("fourth radial term"))
    with pytest.raises(SplatkitError, match=r"no absolute gradients \(absgrad\)"):
        rasterize_on_cuda(*values("opencv", absgrad=True))
    gaussians, cameras, settings = values("opencv")
    cameras.viewmats.requires_grad_()
    with pytest.raises(SplatkitError, match="no gradients of camera poses"):
        rasterize_on_cuda(gaussians, cameras, settings)
    monkeypatch.setattr(unscented, "gsplat_version", lambda: (1, 4, 0))
    with pytest.raises(BackendUnavailableError, match=r"gsplat 1\.5\.3 or newer, found 1\.4\.0\. Choose the backend"):
        rasterize_on_cuda(*values("opencv"))
    assert not asked


@pytest.mark.parametrize("version", [(1, 4, 0), (1, 5, 3)])
def test_which_views_gsplat_draws_itself(version: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unscented, "gsplat_version", lambda: version)
    is_new = version == (1, 5, 3)
    view: Any = SimpleNamespace(device=torch.device("cuda"), lens="opencv", width=80, height=60)
    renderer = Splat3DGSRenderer(backend="gsplat")
    assert renderer.draws_itself(view) is is_new
    on_cpu = View.look_at((0, 0, 0), (1, 0, 0), width=80, height=60)
    for fov, expected in ((90.0, is_new), (180.0, False)):
        fisheye = on_cpu.fisheye(fov)
        assert renderer.draws_itself(fisheye), "the CPU has our own kernels"
        seen: Any = SimpleNamespace(**{**vars(fisheye), "device": view.device})
        assert renderer.draws_itself(seen) is expected
        assert renderer.draws_itself(seen, is_training=True) is is_new


def blobs(lens: str, distortion: list[float]) -> dict[str, Any]:
    """Gaussians of several pixels before a camera, on which a blur of half a pixel has little effect."""
    rng = torch.Generator().manual_seed(0)
    number = 150
    depth = 2 + 4 * torch.rand(number, 1, generator=rng)
    sides = (torch.rand(number, 2, generator=rng) - 0.5) * torch.tensor([1.1, 0.8])
    K = torch.tensor([[120.0, 0, 80], [0, 120.0, 60], [0, 0, 1]])
    return {
        "means": torch.cat([sides * depth, depth], dim=1),
        "quats": torch.randn(number, 4, generator=rng),
        "scales": depth * (0.03 + 0.03 * torch.rand(number, 3, generator=rng)),
        "opacities": 0.3 + 0.6 * torch.rand(number, generator=rng),
        "colors": torch.rand(number, 3, generator=rng),
        "viewmats": torch.eye(4)[None], "Ks": K[None], "width": 160, "height": 120,
        "lens": lens, "distortion": torch.tensor([distortion]),
    }  # fmt: skip


@pytest.mark.gpu
@NEEDS_GSPLAT
@pytest.mark.usefixtures("compiled_gsplat")
@pytest.mark.parametrize(
    ("lens", "distortion"),
    [("opencv", [-0.25, 0.04, 0.01, -0.02, 0.0, 0.1]), ("opencv_fisheye", [-0.1, 0.03, 0.0, 0.0])],
)
def test_it_draws_nearly_what_our_kernels_draw(lens: str, distortion: list[float]) -> None:
    names = ("means", "scales", "opacities", "colors")

    def drawn(**changes: Any) -> tuple[Tensor, dict[str, Tensor]]:
        scene = {**blobs(lens, distortion), **changes}
        scene = {name: value.cuda() if torch.is_tensor(value) else value for name, value in scene.items()}
        for name in names:
            scene[name].requires_grad_()
        images, alphas, _ = rasterization(**scene, render_mode="RGB+ED")
        weights = torch.linspace(0, 1, images[..., :3].numel(), device="cuda").reshape(images[..., :3].shape).cos()
        gradients = torch.autograd.grad((weights * images[..., :3]).sum() + alphas.sum(), [scene[n] for n in names])
        return images.detach(), dict(zip(names, gradients, strict=True))

    ours, our_gradients = drawn()
    theirs, their_gradients = drawn(backend="gsplat")
    straight, _ = drawn(distortion=torch.zeros(1, 4))
    error = float((ours - theirs)[..., :3].abs().mean())
    assert error < 0.01
    assert error < 0.2 * float((ours - straight)[..., :3].abs().mean()), "the lens is another one"
    seen = (ours[..., :3].amax(-1) > 0.2) & (theirs[..., :3].amax(-1) > 0.2)
    assert float(((ours - theirs)[..., 3] / ours[..., 3])[seen].abs().median()) < 0.02
    for name, gradient in our_gradients.items():
        cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), their_gradients[name].flatten(), dim=0)
        assert float(cosine) > 0.9, (name, float(cosine))


@pytest.mark.gpu
@NEEDS_GSPLAT
@pytest.mark.usefixtures("compiled_gsplat")
def test_a_training_with_it(tmp_path: Path) -> None:
    data = NerfstudioDataProvider(write_lens_scene(tmp_path / "data", ["opencv", "fisheye"]), undistort=False)
    config = SplatTrainerConfig(
        max_steps=500, output_dir=tmp_path / "run", device="cuda", lpips=False,
        settings={"steps_per_eval_image": 0, "steps_per_eval_all_images": 0},
    )  # fmt: skip
    parts: Any = {"renderer": Splat3DGSRenderer(backend="gsplat"), "densification": SplatMCMCDensification()}
    result = SplatTrainer(config, data, **parts).run()
    assert np.mean([image.metrics["psnr"] for image in result.images()]) > 20
