"""`rasterization_2dgs`: one function with gsplat's signature; the tensors' device selects the backend."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arguments import Backend, DepthMode, Gaussians, GsplatRenderMode, RasterCameras, RasterSettings
from .checks import check_settings_2dgs, check_shapes
from .surfaces import normals_of_depth, to_world
from .tile_list_space import ListSpace


class Rasterization2DGS(NamedTuple):
    """The results of `rasterization_2dgs` in gsplat's order; the last three images need a depth channel."""

    renders: Tensor
    """(C, H, W, X): colours, then depth in world units."""
    alphas: Tensor
    """(C, H, W, 1)."""
    normals: Tensor
    """(C, H, W, 3): sums of weight * normal in world space, each normal turned towards the camera; not unit."""
    normals_from_depth: Tensor | None
    """(C, H, W, 3): unit normals in world space of the depth image, facing the camera; 0 on the image's border."""
    distortion: Tensor | None
    """(C, H, W, 1): sum over pairs of Gaussians of weight * weight * difference of depths, in world units."""
    median_depth: Tensor | None
    """(C, H, W, 1): depth of the last Gaussian that more than half of the light reaches; 0 if there is none."""
    info: dict[str, Any]


def rasterization_2dgs(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    sh_rest: Tensor | None = None,
    packed: bool = False,
    tile_size: int = 16,
    backgrounds: Tensor | None = None,
    render_mode: GsplatRenderMode = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    distloss: bool = False,
    depth_mode: DepthMode = "expected",
    list_space: ListSpace | None = None,
    backend: Backend = "splatkit",
) -> Rasterization2DGS:
    """Render N 2D Gaussians, flat discs in space, from C pinhole cameras (Huang et al. 2024, arXiv 2403.17888).

    CUDA tensors (float32) go to kernels of ours in Triton, CPU tensors to others with the same conventions and the same
    gradients: for means, quats, scales (the first two), opacities, colors, viewmats and backgrounds. gsplat's compiled
    2DGS kernels (1.4.0 and 1.5.3) are needed for the backend "gsplat", for absgrad with more than four channels, and
    if Triton does not work.

    A pixel's weight comes from where its ray meets the disc, or from a Gaussian of variance 1/2 pixels² around the
    disc's projection, whichever is larger. **Depths are those of the discs' centres**, in the depth channel and in the
    median, as in gsplat, not those of the points where the ray meets the discs: on slanted surfaces they change in
    steps.

    Args:
        means: (N, 3), world units.
        quats: (N, 4), wxyz, of any length: the disc lies in the first two axes, the third is its normal.
        scales: (N, 3), standard deviations in world units (activated); the third has no effect.
        opacities: (N,), in [0, 1] (activated).
        colors: (N, D) or (C, N, D) values, D >= 1; with `sh_degree` (N, K, 3) spherical-harmonics coefficients, of
            which the first (sh_degree + 1)² are used: colour = max(SH + 0.5, 0).
        viewmats: (C, 4, 4), world to camera, OpenCV axes (x right, y down, z forward).
        Ks: (C, 3, 3), pinhole intrinsics in pixels.
        width: of the images, in pixels.
        height: of the images, in pixels.
        near_plane: Gaussians whose centre is nearer are left out, in world units along the optical axis.
        far_plane: Gaussians whose centre is farther are left out.
        radius_clip: Gaussians with no radius above this, in pixels, are left out.
        eps2d: has no effect, as in gsplat.
        sh_degree: 0 to 3, or None when colors are values.
        sh_rest: (N, K - 1, 3), the coefficients of degrees 1 and up, if colors (N, 1, 3) has only those of degree 0. On
            CUDA they are not copied to one tensor, as coefficients that are concatenated before would be.
        packed: must be False; gsplat 1.5.3 cannot pack 2DGS with spherical harmonics.
        tile_size: in pixels, of gsplat's kernels. Our own choose their size; the image does not depend on it.
        backgrounds: (C, D), composited behind; depth channels have none.
        render_mode: contents of the X channels: colour, depth accumulated ("D") or expected ("ED", divided by alpha).
        sparse_grad: must be False; gsplat's needs packed.
        absgrad: leave `info["means2d"].absgrad` (C, N, 2), sums over pixels of absolute gradients, after backward. As
            in gsplat only the screen-space Gaussian counts here. gsplat's kernels need a single camera.
        distloss: whether the distortion will be used; it requires a depth channel, as in gsplat.
        depth_mode: the depth that `normals_from_depth` are computed from: that of the depth channel, or "median".
        list_space: the space for our tile lists on CUDA; None means as much as they need.
        backend: "gsplat" projects and composites with gsplat's compiled code; CUDA only.

    Returns:
        A named tuple in gsplat's order: renders (C, H, W, X), alphas (C, H, W, 1), normals (C, H, W, 3),
        normals_from_depth (C, H, W, 3), distortion (C, H, W, 1), median_depth (C, H, W, 1) and gsplat's info dict. The
        three before the last are None with render_mode "RGB", for which gsplat uses the last colour as a depth.
        `info["gradient_2dgs"]` (C, N, 2) is a leaf whose `.grad` after backward is the gradient for densification: that
        of the centre on the screen, in pixels, through the rays' intersections. `info["means2d"]` (C, N, 2)
        has the gradient through the screen-space Gaussian. `radii_in_pixels(info)` gives radii of 3.33
        standard deviations; gsplat 1.4's are of 3.

    Raises:
        ValueError: shapes, dtypes, devices or modes do not fit; on the CPU also values that are not finite.
        BackendUnavailableError: gsplat's CUDA code is needed, but cannot be used here.
    """
    gaussians = Gaussians(means, quats, scales, opacities, colors, sh_rest)
    cameras = RasterCameras(viewmats, Ks, width, height)
    settings = RasterSettings(
        near_plane=near_plane, far_plane=far_plane, radius_clip=radius_clip, eps2d=eps2d, sh_degree=sh_degree,
        packed=packed, tile_size=tile_size, backgrounds=backgrounds, render_mode=render_mode, absgrad=absgrad,
        list_space=list_space, backend=backend,
    )  # fmt: skip
    check_shapes(gaussians, cameras, settings)
    check_settings_2dgs(settings, sparse_grad, distloss, depth_mode)
    device = means.device.type
    if device == "cpu":
        from .cpu.rasterization_2dgs import rasterize_2dgs_on_cpu as rasterize
    elif device == "cuda":
        from .cuda_rasterization_2dgs import rasterize_2dgs_on_cuda as rasterize
    else:
        raise ValueError(f"means: expected a tensor on cuda or cpu, found one on {means.device}")
    renders, alphas, normals, distortion, median, info = rasterize(gaussians, cameras, settings)
    depth = renders[..., -1:]
    if render_mode.endswith("ED"):
        depth = depth / alphas.clamp(min=1e-10)
        renders = torch.cat([renders[..., :-1], depth], dim=-1)
    normals = to_world(normals, viewmats)
    if render_mode == "RGB":
        return Rasterization2DGS(renders, alphas, normals, None, None, None, info)
    info["render_distort"] = distortion
    from_depth = normals_of_depth(median if depth_mode == "median" else depth, Ks, viewmats)
    return Rasterization2DGS(renders, alphas, normals, from_depth, distortion, median, info)
