"""Checks of what `rasterization` is given; each error says what was expected and what was found."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

GsplatRenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
"""All that gsplat has; of those our renderers offer the ones with colours, `splatkit_ns.renderer.RenderMode`."""
RasterizeMode = Literal["classic", "antialiased"]
DepthMode = Literal["expected", "median"]
RENDER_MODES = get_args(GsplatRenderMode)
DEPTH_MODES = get_args(DepthMode)
RASTERIZE_MODES = get_args(RasterizeMode)


def _expect(name: str, tensor: Tensor, shapes: list[tuple[int | str, ...]]) -> None:
    for shape in shapes:
        if tensor.dim() == len(shape) and all(
            isinstance(want, str) or want == have for want, have in zip(shape, tensor.shape, strict=True)
        ):
            return
    wanted = " or ".join(str(shape).replace("'", "") for shape in shapes)
    raise ValueError(f"{name}: expected shape {wanted}, found {tuple(tensor.shape)}")


def check_shapes(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmats: Tensor, Ks: Tensor,
    width: int, height: int, sh_degree: int | None, backgrounds: Tensor | None, render_mode: str, rasterize_mode: str,
) -> None:  # fmt: skip
    """Raise ValueError if shapes, devices, dtypes or modes do not fit together. Reads no tensor's values."""
    if render_mode not in RENDER_MODES:
        raise ValueError(f"render_mode: expected one of {', '.join(RENDER_MODES)}, found {render_mode!r}")
    if rasterize_mode not in RASTERIZE_MODES:
        raise ValueError(f"rasterize_mode: expected one of {', '.join(RASTERIZE_MODES)}, found {rasterize_mode!r}")
    if width < 1 or height < 1:
        raise ValueError(f"width and height: expected at least 1 pixel each, found {width} and {height}")
    _expect("means", means, [("N", 3)])
    _expect("viewmats", viewmats, [("C", 4, 4)])
    n, cameras = means.shape[0], viewmats.shape[0]
    _expect("quats", quats, [(n, 4)])
    _expect("scales", scales, [(n, 3)])
    _expect("opacities", opacities, [(n,)])
    _expect("Ks", Ks, [(cameras, 3, 3)])
    if sh_degree is None:
        _expect("colors (with sh_degree=None)", colors, [(n, "D"), (cameras, n, "D")])
        if colors.shape[-1] < 1:
            raise ValueError(f"colors: expected at least one channel, found shape {tuple(colors.shape)}")
        channels = colors.shape[-1]
    else:
        if not 0 <= sh_degree <= 3:
            raise ValueError(f"sh_degree: expected 0, 1, 2, 3 or None, found {sh_degree}")
        _expect(f"colors (with sh_degree={sh_degree})", colors, [(n, "K", 3)])
        if colors.shape[1] < (sh_degree + 1) ** 2:
            raise ValueError(
                f"colors: expected at least {(sh_degree + 1) ** 2} coefficients for sh_degree={sh_degree}, "
                f"found {colors.shape[1]} in shape {tuple(colors.shape)}"
            )
        channels = 3
    tensors = {
        "means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors,
        "viewmats": viewmats, "Ks": Ks,
    }  # fmt: skip
    if backgrounds is not None:
        if render_mode.startswith("RGB"):
            _expect("backgrounds", backgrounds, [(cameras, channels)])
        tensors["backgrounds"] = backgrounds
    for name, tensor in tensors.items():
        if tensor.device != means.device:
            raise ValueError(f"{name}: expected device {means.device} as means, found {tensor.device}")
        if tensor.dtype != means.dtype or tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{name}: expected dtype torch.float32 or torch.float64, the same for all arguments, "
                f"found {tensor.dtype} where means has {means.dtype}"
            )


def check_settings_2dgs(render_mode: str, packed: bool, sparse_grad: bool, distloss: bool, depth_mode: str) -> None:
    """Raise ValueError if what only 2DGS has, or lacks, does not fit together."""
    if depth_mode not in DEPTH_MODES:
        raise ValueError(f"depth_mode: expected one of {', '.join(DEPTH_MODES)}, found {depth_mode!r}")
    if distloss and render_mode == "RGB":
        raise ValueError("distloss: expected a render_mode with depth (D, ED, RGB+D, RGB+ED), found 'RGB'")
    if packed or sparse_grad:
        name = "packed" if packed else "sparse_grad"
        raise ValueError(f"{name}: expected False for 2D Gaussians, found True")


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError naming the argument, the first bad row and its value if `tensor` (CPU) has a NaN or infinity."""
    tensor = tensor.detach()
    with np.errstate(all="ignore"):  # numpy's sum: one pass on this thread, a fraction of a millisecond
        if np.isfinite(tensor.numpy().sum()):
            return
    # a sum of finite values may overflow, so a bad sum proves nothing yet
    bad = ~torch.isfinite(tensor)
    if not bool(bad.any()):
        return
    index = bad.nonzero()[0].tolist()
    rows = int(bad.reshape(len(bad), -1).any(1).sum())
    raise ValueError(
        f"{name}: expected finite values, found {tensor[tuple(index)].item()} in row {index[0]} (index {index}); "
        f"{rows} of {len(bad)} rows are not finite"
    )
