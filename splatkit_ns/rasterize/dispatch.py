"""`rasterization`: one function with gsplat's signature; the tensors' device selects the backend."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from splatkit_ns.cameras import LensModel

from .arguments import Backend, Gaussians, GsplatRenderMode, RasterCameras, RasterizeMode, RasterSettings
from .checks import check_shapes
from .tile_list_space import ListSpace


def rasterization(
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
    absgrad: bool = False,
    rasterize_mode: RasterizeMode = "classic",
    list_space: ListSpace | None = None,
    backend: Backend = "splatkit",
    lens: LensModel = "pinhole",
    distortion: Tensor | None = None,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Render N 3D Gaussians from C cameras (Kerbl et al. 2023, 3D Gaussian Splatting).

    CUDA tensors (float32) go to kernels of ours in Triton, which need no compiler of CUDA code; CPU tensors to others
    with the same conventions and the same gradients: for means, quats, scales, opacities, colors, viewmats and
    backgrounds, and on CUDA for Ks. gsplat's compiled code (1.4.0 and 1.5.3) is needed for the backend "gsplat", for
    `packed`, and if Triton does not work.

    Args:
        means: (N, 3), world units.
        quats: (N, 4), wxyz, of any length.
        scales: (N, 3), standard deviations in world units (activated).
        opacities: (N,), in [0, 1] (activated).
        colors: (N, D) or (C, N, D) values, D >= 1; with `sh_degree` (N, K, 3) spherical-harmonics coefficients, of
            which the first (sh_degree + 1)² are used: colour = max(SH + 0.5, 0).
        viewmats: (C, 4, 4), world to camera, OpenCV axes (x right, y down, z forward).
        Ks: (C, 3, 3), intrinsics in pixels.
        width: of the images, in pixels.
        height: of the images, in pixels.
        near_plane: Gaussians whose centre is nearer are left out, in world units along the optical axis; with
            opencv_fisheye all depths are distances from the camera instead.
        far_plane: Gaussians whose centre is farther are left out.
        radius_clip: Gaussians with no radius above this, in pixels, are left out.
        eps2d: variance in pixels² that is added to each projected Gaussian.
        sh_degree: 0 to 3, or None when colors are values.
        sh_rest: (N, K - 1, 3), the coefficients of degrees 1 and up, if colors (N, 1, 3) has only those of degree 0. On
            CUDA they are not copied to one tensor, as coefficients that are concatenated before would be.
        packed: gsplat's memory-saving layout of intermediates, with a row for each camera and Gaussian that it sees;
            CUDA only.
        tile_size: in pixels, of gsplat's kernels. Our own choose their size; the image does not depend on it.
        backgrounds: (C, D), composited behind; depth channels have none.
        render_mode: contents of the X channels: colour, depth accumulated ("D") or expected ("ED", divided by alpha).
        absgrad: leave `info["means2d"].absgrad` (C, N, 2), sums over pixels of absolute gradients, after backward.
        rasterize_mode: "antialiased" lowers opacities to make up for eps2d (Mip-Splatting).
        list_space: the space for our tile lists on CUDA; None means as much as they need. Lists on the CPU and those of
            gsplat take what they need and do not use it.
        backend: "gsplat" projects with gsplat's compiled code; CUDA only. For lenses this is its unscented transform
            (1.5.3 and newer), without gradients for viewmats and without absgrad: see
            `splatkit_ns.rasterize.unscented`.
        lens: pinhole, opencv or opencv_fisheye, for which the Jacobian of the lens takes the place of that of the
            perspective projection: see `splatkit_ns.rasterize.lens_models`.
        distortion: (C, D), the coefficients of the lens as in `splatkit_ns.cameras.View`; None means zeros.

    Returns:
        renders (C, H, W, X), alphas (C, H, W, 1), and gsplat's info dict. `info["means2d"]` (C, N, 2) takes part in
        the graph: call its `.retain_grad()` before backward. `info["radii"]` has the shape that the installed gsplat
        gives; `radii_in_pixels(info)` is the same everywhere. With `packed` they, and absgrad, have (nnz) rows
        instead of (C, N), and `info["gaussian_ids"]` (nnz,) holds the index of each row's Gaussian.

    Raises:
        ValueError: shapes, dtypes, devices or modes do not fit; on the CPU also values that are not finite.
        BackendUnavailableError: gsplat's CUDA code is needed, but cannot be used here.
    """
    gaussians = Gaussians(means, quats, scales, opacities, colors, sh_rest)
    cameras = RasterCameras(viewmats, Ks, width, height, lens, distortion)
    settings = RasterSettings(
        near_plane=near_plane, far_plane=far_plane, radius_clip=radius_clip, eps2d=eps2d, sh_degree=sh_degree,
        packed=packed, tile_size=tile_size, backgrounds=backgrounds, render_mode=render_mode, absgrad=absgrad,
        rasterize_mode=rasterize_mode, list_space=list_space, backend=backend,
    )  # fmt: skip
    check_shapes(gaussians, cameras, settings)
    device = means.device.type
    if device == "cpu":
        from .cpu.rasterization import rasterize_on_cpu as rasterize
    elif device == "cuda":
        from .cuda_rasterization import rasterize_on_cuda as rasterize
    else:
        raise ValueError(f"means: expected a tensor on cuda or cpu, found one on {means.device}")
    return rasterize(gaussians, cameras, settings)
