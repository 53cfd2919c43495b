"""What training on a GPU needs: the one place that says so, for messages and checks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuNeeds:
    """The compiled code that training on a GPU runs."""

    gsplat: bool
    """Whether every training needs gsplat's compiled CUDA code."""
    gsplat_for: str
    """What needs gsplat's compiled CUDA code, as it follows "needed for"."""
    triton: bool
    """Whether training fails with neither Triton nor gsplat's compiled code; if not, it is slower without Triton."""


def gpu_needs() -> GpuNeeds:
    """What training on a GPU needs with this version of the package."""
    return GpuNeeds(
        gsplat=False, gsplat_for="--pipeline.model.renderer.backend gsplat and packed renders only", triton=True
    )
