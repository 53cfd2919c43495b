"""Rasterization: Triton kernels or gsplat on CUDA, our own kernels on the CPU, one signature.

Importing this package imports neither gsplat nor numba, and compiles nothing.
"""

from .arguments import Backend, DepthMode, GsplatRenderMode, RasterizeMode
from .cuda import BackendUnavailableError, check_cuda_backend, gsplat_need, require_gsplat
from .dispatch import rasterization
from .dispatch_2dgs import Rasterization2DGS, rasterization_2dgs
from .versions import gsplat_version, radii_have_axes, radii_in_pixels

__all__ = [
    "Backend",
    "BackendUnavailableError",
    "DepthMode",
    "GsplatRenderMode",
    "Rasterization2DGS",
    "RasterizeMode",
    "check_cuda_backend",
    "gsplat_need",
    "gsplat_version",
    "radii_have_axes",
    "radii_in_pixels",
    "rasterization",
    "rasterization_2dgs",
    "require_gsplat",
]
