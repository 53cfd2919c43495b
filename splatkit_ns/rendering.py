"""Images of trained Gaussians in one call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike, fspath
from typing import Any, overload

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

from splatkit_ns.camera_paths import orbit
from splatkit_ns.cameras import View, as_vectors
from splatkit_ns.errors import SplatkitError
from splatkit_ns.formats import SplatRenderMode
from splatkit_ns.loss_fn.geometry import pixel_rays
from splatkit_ns.parts.checks import check_instance
from splatkit_ns.rasterize.surfaces import normals_of_depth
from splatkit_ns.renderer import RenderOptions, Splat2DGSRenderer, Splat3DGSRenderer, SplatRenderer
from splatkit_ns.splat import SplatModel, SplatTrainingState

Model = SplatModel | SplatTrainingState | str | PathLike[str]
"""Gaussians, or the file that holds them, of any format that `formats.read` knows."""

SHARE_IN_SIGHT = 0.95
"""The share of the Gaussians, weighted by opacity, within a scene's reach, for a turntable."""
MARGIN = 1.2
"""The radius that a turntable fits into the image, relative to that reach, with room for the outermost Gaussians."""


@overload
def render(
    model: Model,
    view: View,
    *,
    renderer: SplatRenderer[Any] | None = None,
    background: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
    sh_degree: int | None = None,
    depth: bool = False,
) -> Tensor: ...


@overload
def render(
    model: Model,
    view: Sequence[View],
    *,
    renderer: SplatRenderer[Any] | None = None,
    background: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
    sh_degree: int | None = None,
    depth: bool = False,
) -> list[Tensor]: ...


@torch.no_grad()
def render(
    model: Model,
    view: View | Sequence[View],
    *,
    renderer: SplatRenderer[Any] | None = None,
    background: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
    sh_degree: int | None = None,
    depth: bool = False,
) -> Tensor | list[Tensor]:
    """Render Gaussians as a camera sees them.

    The GPU renders if there is one, except for a training state, which is rendered on its own device.

    Args:
        model: the Gaussians, or the path of their file (PLY, SPZ, SOG, …). A file is read at every call: to render more
            than once, give what `SplatModel.load` returns.
        view: the camera; or a list of views, such as `orbit` and `path` return.
        renderer: None means the one that the model was trained for: with a model or file, `SplatModel.render_mode`
            decides, that is 3D Gaussians, antialiased ones or discs. A training state tells only whether it has discs.
        background: the colour behind the Gaussians, (3,) in [0, 1].
        sh_degree: the degree up to which spherical harmonics are evaluated; None means the highest one.
        depth: render depth instead of colours.

    Returns:
        The image, (H, W, 3) in [0, 1], on the CPU; of a list of views, one for each camera. With `depth`, the distance
        along the viewing axis, averaged with the blend weights, (H, W) in world units, 0 where no Gaussian is.

    Raises:
        FormatError: the file cannot be read.
        SplatkitError: `view` has several cameras, or another argument is invalid.
    """
    if isinstance(view, View) and len(view) != 1:
        raise SplatkitError(f"render: the view has {len(view)} cameras, expected one. list(view) takes them apart.")
    if renderer is not None:
        check_instance(renderer, SplatRenderer, "renderer")
    state, chosen = _gaussians(model, renderer)
    colour = as_vectors(background, "background", state.device).float()[:1]
    options = RenderOptions(sh_degree=sh_degree, backgrounds=colour, render_mode="RGB+ED" if depth else "RGB")
    if isinstance(view, View):
        return _frame(chosen, state, view.to(state.device), options)
    for several in view:
        check_instance(several, View, "view")
    cameras = [camera.to(state.device) for several in view for camera in several]
    console = Console(stderr=True)
    hidden = len(cameras) == 1 or not (console.is_terminal or console.is_jupyter)
    shown = track(cameras, "Rendering", console=console, transient=True, disable=hidden)
    return [_frame(chosen, state, camera, options) for camera in shown]


@torch.no_grad()
def turntable(
    model: Model,
    num: int = 120,
    elevation: float = 20.0,
    *,
    up: Sequence[float] | Tensor = (0.0, 0.0, 1.0),
    fov: float = 50.0,
    width: int = 800,
    height: int = 600,
) -> list[View]:
    """An `orbit` around the middle of the Gaussians, at a distance from which they fit into the image.

    The middle is the median of their centres; the far background, which photographs of a room or a garden have, is left
    out of account. For such scenes `orbit` with a centre and a radius of your own shows more.

    Args:
        model: the Gaussians, or the path of their file.
        num: the number of cameras.
        elevation: see `orbit`, as for the others.
        up: the axis.
        fov: the vertical field of view in degrees.
        width: of the images in pixels.
        height: of the images in pixels.

    Raises:
        FormatError: the file cannot be read.
        SplatkitError: a value is out of range.
    """
    state, _ = _gaussians(model, None, device="cpu")
    centre, radius = turntable_circle(state, fov, width, height)
    return orbit(centre, radius, num, elevation, up=up, fov=fov, width=width, height=height)


@torch.no_grad()
def turntable_circle(state: SplatTrainingState, fov: float, width: int, height: int) -> tuple[Tensor, float]:
    """The centre (3,) and the radius of a `turntable`."""
    means, weights = state.means.cpu().double(), state.opacities.cpu().double()
    centre = torch.stack([_quantile(means[:, axis], weights, 0.5) for axis in range(3)])
    reach = float(_quantile((means - centre).norm(dim=1), weights, SHARE_IN_SIGHT))
    half_angle = math.atan(math.tan(math.radians(min(fov, 179.0)) / 2) * min(1.0, width / max(height, 1)))
    return centre, MARGIN * max(reach, 1e-6) / math.sin(max(half_angle, 1e-3))


def _gaussians(
    model: Model, renderer: SplatRenderer[Any] | None, device: str | None = None
) -> tuple[SplatTrainingState, SplatRenderer[Any]]:
    """The Gaussians on the device that renders them, and the renderer."""
    if isinstance(model, SplatTrainingState):
        return model, renderer or renderer_of("2dgs" if model.is_flat else "default")
    if isinstance(model, (str, PathLike)):
        model = SplatModel.load(fspath(model))
    check_instance(model, SplatModel, "model")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return model.for_rendering(device), renderer or renderer_of(model.render_mode)


def renderer_of(render_mode: SplatRenderMode) -> SplatRenderer[Any]:
    """A renderer that draws Gaussians the way they were trained."""
    if render_mode == "2dgs":
        return Splat2DGSRenderer()
    return Splat3DGSRenderer(rasterize_mode="antialiased" if render_mode == "mip" else "classic")


@torch.no_grad()
def view_images(
    renderer: SplatRenderer[Any], state: SplatTrainingState, view: View, options: RenderOptions, kinds: Sequence[str]
) -> dict[str, Tensor]:
    """Render several kinds of images of one camera.

    Args:
        renderer: draws the Gaussians.
        state: the Gaussians.
        view: the camera, on the same device.
        options: background and SH degree; `render_mode` is set here.
        kinds: of rgb, alpha, depth and normals.

    Returns:
        On the CPU, by kind: rgb (H, W, 3) and alpha (H, W) in [0, 1]; depth (H, W) in world units, along the viewing
        axis, or from the camera in panoramas and fisheye images; and unit normals (H, W, 3) in world axes that face the
        camera, of the discs if the renderer knows them, else of the depth image. Depth and normals are 0 if nothing is
        there.

    Raises:
        SplatkitError: the renderer makes no depth image, and one is needed.
    """
    with_depth = not {"depth", "normals"}.isdisjoint(kinds)
    payload = renderer.render(state, view, replace(options, render_mode="RGB+ED" if with_depth else "RGB"))
    there = payload.alphas[0] > 0
    found: dict[str, Tensor] = {}
    for kind in kinds:
        if kind == "rgb":
            found[kind] = payload.renders[0].clamp(0, 1)
        elif kind == "alpha":
            found[kind] = payload.alphas[0, ..., 0]
        elif kind == "normals" and "normals" in payload:
            found[kind] = torch.where(there, F.normalize(payload["normals"][0], dim=-1), 0)
        elif payload.depths is None:
            raise SplatkitError(f"The renderer {renderer.module_name} makes no depth image, which {kind} is made of.")
        elif kind == "depth":
            found[kind] = torch.where(there, payload.depths[0], 0)[..., 0]
        else:
            rays = None if view.lens == "pinhole" else pixel_rays(view)
            normals = normals_of_depth(payload.depths, view.Ks, view.world_to_cams, rays)
            found[kind] = torch.where(there, normals[0], 0)
    return {kind: image.cpu() for kind, image in found.items()}


def _frame(renderer: SplatRenderer[Any], state: SplatTrainingState, view: View, options: RenderOptions) -> Tensor:
    payload = renderer.render(state, view, options)
    if options.render_mode == "RGB":
        return payload.renders[0].clamp(0, 1).cpu()
    if payload.depths is None:
        raise SplatkitError(f"render: depth=True, but the renderer {renderer.module_name} makes no depth image.")
    return torch.where(payload.alphas > 0, payload.depths, 0)[0, ..., 0].cpu()


def _quantile(values: Tensor, weights: Tensor, share: float) -> Tensor:
    """The value (scalar) below which this share of the weights lies; values and weights are (N,)."""
    order = values.argsort()
    below = weights[order].cumsum(0)
    index = torch.searchsorted(below, share * below[-1:]).clamp(max=len(values) - 1)
    return values[order][index[0]]
