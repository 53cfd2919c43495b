"""Checks of the arguments of `rasterization`; each error says what was expected and what was found."""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
from torch import Tensor

from splatkit_ns.cameras import LensModel

from .arguments import (
    Backend,
    DepthMode,
    Gaussians,
    GsplatRenderMode,
    RasterCameras,
    RasterizeMode,
    RasterSettings,
    tensors_by_name,
)
from .lens_models import NUM_COEFFICIENTS

LENSES: tuple[LensModel, ...] = ("pinhole", *NUM_COEFFICIENTS)
RENDER_MODES = get_args(GsplatRenderMode)
DEPTH_MODES = get_args(DepthMode)
RASTERIZE_MODES = get_args(RasterizeMode)
BACKENDS = get_args(Backend)


def _expect(name: str, tensor: Tensor, shapes: list[tuple[int | str, ...]]) -> None:
    for shape in shapes:
        if tensor.dim() == len(shape) and all(
            isinstance(want, str) or want == have for want, have in zip(shape, tensor.shape, strict=True)
        ):
            return
    wanted = " or ".join(str(shape).replace("'", "") for shape in shapes)
    raise ValueError(f"{name}: expected shape {wanted}, found {tuple(tensor.shape)}")


def check_shapes(gaussians: Gaussians, cameras: RasterCameras, settings: RasterSettings) -> None:
    """Raise ValueError if shapes, devices, dtypes or modes do not fit together. Reads no tensor's values."""
    _check_modes(settings)
    if cameras.width < 1 or cameras.height < 1:
        raise ValueError(
            f"width and height: expected at least 1 pixel each, found {cameras.width} and {cameras.height}"
        )
    means, viewmats = gaussians.means, cameras.viewmats
    if settings.backend == "gsplat" and means.device.type == "cpu":
        raise ValueError("backend: expected 'splatkit' on the CPU, found 'gsplat', which has kernels for CUDA alone")
    _expect("means", means, [("N", 3)])
    _expect("viewmats", viewmats, [("C", 4, 4)])
    n, num_cameras = means.shape[0], viewmats.shape[0]
    _expect("quats", gaussians.quats, [(n, 4)])
    _expect("scales", gaussians.scales, [(n, 3)])
    _expect("opacities", gaussians.opacities, [(n,)])
    _expect("Ks", cameras.Ks, [(num_cameras, 3, 3)])
    _check_lens(cameras, settings)
    channels = _check_colors(gaussians, num_cameras, settings.sh_degree)
    tensors = tensors_by_name(gaussians, cameras)
    if settings.backgrounds is not None:
        if settings.render_mode.startswith("RGB"):
            _expect("backgrounds", settings.backgrounds, [(num_cameras, channels)])
        tensors["backgrounds"] = settings.backgrounds
    for name, tensor in tensors.items():
        if tensor.device != means.device:
            raise ValueError(f"{name}: expected device {means.device} as means, found {tensor.device}")
        if tensor.dtype != means.dtype or tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{name}: expected dtype torch.float32 or torch.float64, the same for all arguments, "
                f"found {tensor.dtype}, but means has {means.dtype}"
            )


def _check_modes(settings: RasterSettings) -> None:
    render_mode, rasterize_mode = settings.render_mode, settings.rasterize_mode
    if render_mode not in RENDER_MODES:
        raise ValueError(f"render_mode: expected one of {', '.join(RENDER_MODES)}, found {render_mode!r}")
    if settings.backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, found {settings.backend!r}")
    if rasterize_mode not in RASTERIZE_MODES:
        raise ValueError(f"rasterize_mode: expected one of {', '.join(RASTERIZE_MODES)}, found {rasterize_mode!r}")


def _check_lens(cameras: RasterCameras, settings: RasterSettings) -> None:
    lens, distortion = cameras.lens, cameras.distortion
    if lens not in LENSES:
        raise ValueError(f"lens: expected one of {', '.join(LENSES)}, found {lens!r}")
    if lens != "pinhole" and settings.packed:
        raise ValueError(f"packed: expected False for the lens {lens}, found True (gsplat packs pinhole images alone)")
    if distortion is None:
        return
    if lens == "pinhole":
        raise ValueError(f"distortion: expected None for lens='pinhole', found shape {tuple(distortion.shape)}")
    most = NUM_COEFFICIENTS[lens]
    _expect(f"distortion (with lens={lens!r})", distortion, [(len(cameras), "D")])
    if distortion.shape[1] > most:
        raise ValueError(
            f"distortion: expected at most {most} coefficients for lens={lens!r}, found shape {tuple(distortion.shape)}"
        )


def _check_colors(gaussians: Gaussians, num_cameras: int, sh_degree: int | None) -> int:
    """Check the shape of the colours; returns the number of channels of an image."""
    n, colors, rest = len(gaussians), gaussians.colors, gaussians.sh_rest
    if sh_degree is None:
        if rest is not None:
            raise ValueError("sh_rest: expected None with sh_degree=None, for which colors are values; found a tensor")
        _expect("colors (with sh_degree=None)", colors, [(n, "D"), (num_cameras, n, "D")])
        if colors.shape[-1] < 1:
            raise ValueError(f"colors: expected at least one channel, found shape {tuple(colors.shape)}")
        return colors.shape[-1]
    if not 0 <= sh_degree <= 3:
        raise ValueError(f"sh_degree: expected 0, 1, 2, 3 or None, found {sh_degree}")
    if rest is not None:
        _expect("colors (with sh_rest)", colors, [(n, 1, 3)])
        _expect("sh_rest", rest, [(n, "K - 1", 3)])
        if rest.shape[1] < (sh_degree + 1) ** 2 - 1:
            raise ValueError(
                f"sh_rest: expected at least {(sh_degree + 1) ** 2 - 1} coefficients for sh_degree={sh_degree}, "
                f"found {rest.shape[1]} in shape {tuple(rest.shape)}"
            )
        return 3
    _expect(f"colors (with sh_degree={sh_degree})", colors, [(n, "K", 3)])
    if colors.shape[1] < (sh_degree + 1) ** 2:
        raise ValueError(
            f"colors: expected at least {(sh_degree + 1) ** 2} coefficients for sh_degree={sh_degree}, "
            f"found {colors.shape[1]} in shape {tuple(colors.shape)}"
        )
    return 3


def check_settings_2dgs(settings: RasterSettings, sparse_grad: bool, distloss: bool, depth_mode: str) -> None:
    """Raise ValueError if options that only 2DGS has or lacks do not fit together."""
    if depth_mode not in DEPTH_MODES:
        raise ValueError(f"depth_mode: expected one of {', '.join(DEPTH_MODES)}, found {depth_mode!r}")
    if distloss and settings.render_mode == "RGB":
        raise ValueError("distloss: expected a render_mode with depth (D, ED, RGB+D, RGB+ED), found 'RGB'")
    if settings.packed or sparse_grad:
        name = "packed" if settings.packed else "sparse_grad"
        raise ValueError(f"{name}: expected False for 2D Gaussians, found True")


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError naming the argument, the first bad row and its value if `tensor` (CPU) has a NaN or infinity."""
    tensor = tensor.detach()
    with np.errstate(all="ignore"):  # numpy's sum: one pass on this thread, a fraction of a millisecond
        if np.isfinite(tensor.numpy().sum()):
            return
    # a sum of finite values may overflow, so a non-finite sum is no proof
    bad = ~torch.isfinite(tensor)
    if not bool(bad.any()):
        return
    index = bad.nonzero()[0].tolist()
    rows = int(bad.reshape(len(bad), -1).any(1).sum())
    raise ValueError(
        f"{name}: expected finite values, found {tensor[tuple(index)].item()} in row {index[0]} (index {index}); "
        f"{rows} of {len(bad)} rows are not finite"
    )
