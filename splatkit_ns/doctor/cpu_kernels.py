"""A check of the CPU kernels."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch

from splatkit_ns.doctor.findings import Finding
from splatkit_ns.errors import describe_error
from splatkit_ns.rasterize import rasterization


def check_cpu_kernels() -> tuple[list[Finding], Path | None]:
    """Draw a Gaussian with the CPU kernels; they are compiled first, if that has not been done.

    Returns:
        The findings, and the folder of compiled kernels if it is known.
    """
    start = time.perf_counter()
    try:
        _draw()
        from splatkit_ns.rasterize import cpu
    except Exception as error:  # numba and LLVM raise many kinds
        text = f"they do not run: {describe_error(error)}"
        return [Finding("cpu_kernels", "fault", text, "", "pip install --force-reinstall numba", {})], None
    seconds = time.perf_counter() - start
    folder = Path(cpu.CACHE_FOLDER)
    facts = {"seconds": seconds, "cache": str(folder), "cache_is_kept": cpu.CACHE_IS_KEPT}
    if cpu.CACHE_IS_KEPT:
        text = f"they work, the first image after {seconds:.2g} s"
        return [Finding("cpu_kernels", "ok", text, facts=facts)], folder
    return [
        Finding(
            "cpu_kernels", "note", "no folder for their compiled code can be written: each process compiles them, "
            "which takes about 15 s", "Name a folder that can be written:", "export NUMBA_CACHE_DIR=FOLDER", facts,
        )
    ], folder  # fmt: skip


def _draw() -> None:
    """Draw a ball half a unit large, half opaque, two units before a camera of 16 pixels.

    Raises:
        RuntimeError: the pixel beside the middle has another colour than the formula gives.
    """
    size, variance = 16, (16 * 0.5 / 2) ** 2 + 0.3
    colours = torch.tensor([[1.0, 0.5, 0.25]])
    renders, _, _ = rasterization(
        means=torch.tensor([[0.0, 0.0, 2.0]]),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        scales=torch.full((1, 3), 0.5),
        opacities=torch.tensor([0.5]),
        colors=colours,
        viewmats=torch.eye(4)[None],
        Ks=torch.tensor([[[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]]]),
        width=size,
        height=size,
    )
    expected = 0.5 * math.exp(-(0.5**2 + 0.5**2) / (2 * variance)) * colours[0]
    if not torch.allclose(renders[0, size // 2, size // 2], expected, atol=1e-4):
        raise RuntimeError("an image has wrong colours")
