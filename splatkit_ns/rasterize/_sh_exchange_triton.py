"""The gradients of spherical harmonics' coefficients from those of the colours that several cameras saw, on CUDA.

Processes that train one run exchange gradients of colours: see `splatkit_ns.rasterize.color_gradients`.
"""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from splatkit_ns.rasterize._sh_basis_triton import (
    BLOCK,
    C0,
    WARPS,
    all_bases,
    block_of_gaussians,
    block_pointers,
    coefficient_offsets,
    direction,
    store_coefficients,
)


@triton.jit(do_not_specialize=["num", "cameras", "bands"])
def _coefficients(
    means_ptr, kept_ptr, v_first_ptr, v_rest_ptr, num, cameras, bands, share, STORED: tl.constexpr, B: tl.constexpr
):
    """Add up the gradients of coefficients camera by camera, from `ColorGradients.found`."""
    start, g, known, is_channel = block_of_gaussians(num, B)
    first, rest, others = coefficient_offsets(STORED, False, B)
    first_ptr, rest_ptr = block_pointers(v_first_ptr, v_rest_ptr, start, STORED, False)
    v_first = tl.zeros((B, 4), tl.float32)
    v_rest = tl.zeros((B, 16, 4), tl.float32)
    for camera in range(cameras):
        of_camera = kept_ptr + 3 * (tl.cast(camera, tl.int64) * (num + 1))
        v = share * tl.load(of_camera + 3 * start + first, mask=known[:, None] & is_channel, other=0.0)
        v_first += C0 * v
        if STORED > 1:
            x, y, z, _inverse = direction(means_ptr, of_camera + 3 * num, g, 0, known)
            v_rest += all_bases(x, y, z, bands, STORED, B)[:, :, None] * v[:, None, :]
    store_coefficients(
        first_ptr, rest_ptr, first, rest, others, v_first, v_rest, known, is_channel, STORED > 1, STORED
    )  # fmt: skip


def coefficient_gradients(means: Tensor, kept: Tensor, v_first: Tensor, v_rest: Tensor | None, bands: int) -> None:
    """Compute the gradients of coefficients of spherical harmonics, the means over cameras.

    Args:
        means: (N, 3) centres in world units, with which the colours were rendered.
        kept: (C, N + 1, 3), `ColorGradients.found` of each camera.
        v_first: (N, 1, 3), contiguous; becomes the gradients of the coefficients of degree 0.
        v_rest: (N, K - 1, 3), contiguous; becomes those of degrees 1 and up. None if they were not used.
        bands: number of coefficients that were used, at most K.
    """
    num, stored = len(means), 1 if v_rest is None else 1 + v_rest.shape[1]
    with torch.cuda.device_of(means):
        _coefficients[(triton.cdiv(num, BLOCK),)](
            means, kept, v_first, v_first if v_rest is None else v_rest, num, len(kept), bands, 1.0 / len(kept), stored,
            BLOCK, num_warps=WARPS,
        )  # fmt: skip


def first_launches(device: str) -> None:
    """Compute gradients with the kinds of arguments that training has, for Triton to compile the kernel: without and
    with coefficients up to degree 3."""
    means, kept = torch.ones(1, 3, device=device), torch.ones(1, 2, 3, device=device)
    for v_rest in (None, torch.empty(1, 15, 3, device=device)):
        coefficient_gradients(means, kept, torch.empty(1, 1, 3, device=device), v_rest, 1)
