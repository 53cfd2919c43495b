"""Random scenes for the rasterization tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from splatkit_ns.rasterize.arguments import Gaussians, RasterCameras, RasterSettings


def look_from(position: Tensor, roll: float = 0.0) -> Tensor:
    """World-to-camera (4, 4), OpenCV axes, looking from `position` at the origin."""
    forward = torch.nn.functional.normalize(-position, dim=0)
    up = torch.tensor([torch.sin(torch.tensor(roll)), -torch.cos(torch.tensor(roll)), 0.05], dtype=position.dtype)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=0)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    view = torch.eye(4, dtype=position.dtype)
    view[:3, :3] = rotation
    view[:3, 3] = -rotation @ position
    return view


def random_scene(
    n: int = 150, cameras: int = 1, width: int = 40, height: int = 28, channels: int = 3, sh_bands: int | None = None,
    seed: int = 0, dtype: torch.dtype = torch.float32, size: float = 0.12,
) -> dict[str, Any]:  # fmt: skip
    """Gaussians around the origin seen from about 4 units away; some opaque, some faint, some off screen."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng, dtype=torch.float64)

    positions = torch.nn.functional.normalize(normal(cameras, 3), dim=-1) * 4.0
    K = torch.tensor([[0.9 * width, 0, 0.52 * width], [0, 0.95 * width, 0.47 * height], [0, 0, 1.0]])
    scene = {
        "means": normal(n, 3) * 0.9,
        "quats": normal(n, 4),
        "scales": torch.exp(0.6 * normal(n, 3)) * size,
        "opacities": uniform(n),
        "colors": uniform(n, channels) if sh_bands is None else 0.4 * normal(n, sh_bands, 3),
        "viewmats": torch.stack([look_from(p, roll=0.4 * i) for i, p in enumerate(positions)]),
        "Ks": K.expand(cameras, 3, 3).clone(),
    }
    # a float32 copy first, so that the float64 reference sees the very same numbers
    scene = {name: tensor.to(torch.float32).to(dtype) for name, tensor in scene.items()}
    return {**scene, "width": width, "height": height}


def as_values(scene: dict[str, Any], **settings: Any) -> tuple[Gaussians, RasterCameras, RasterSettings]:
    """A scene, or the part of it that projection needs, as what is handed on below the public functions."""
    nothing = scene["means"].new_zeros(len(scene["means"]), 3)
    opacities, colors = scene.get("opacities", nothing[:, 0]), scene.get("colors", nothing)
    gaussians = Gaussians(scene["means"], scene["quats"], scene["scales"], opacities, colors)
    lens, distortion = scene.get("lens", "pinhole"), scene.get("distortion")
    cameras = RasterCameras(scene["viewmats"], scene["Ks"], scene["width"], scene["height"], lens, distortion)
    return gaussians, cameras, RasterSettings(**settings)
