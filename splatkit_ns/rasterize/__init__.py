"""Rasterization: gsplat on CUDA, our own kernels on the CPU, one signature.

Importing this package imports neither gsplat nor numba, and compiles nothing.
"""

from .cuda import BackendUnavailableError, check_cuda_backend
from .dispatch import RasterizeMode, RenderMode, rasterization
from .versions import gsplat_version, radii_have_axes, radii_in_pixels

__all__ = [
    "BackendUnavailableError",
    "RasterizeMode",
    "RenderMode",
    "check_cuda_backend",
    "gsplat_version",
    "radii_have_axes",
    "radii_in_pixels",
    "rasterization",
]
