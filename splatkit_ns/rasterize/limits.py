"""The limits of what is drawn, which the kernels of all devices share."""

from __future__ import annotations

ALPHA_MIN = 1.0 / 255.0
"""Least alpha: a Gaussian is skipped at pixels that it would change by less than one 8-bit level (3DGS, appendix C)."""
ALPHA_MAX = 0.999
"""Largest alpha: it is clamped so that the transmittance never becomes zero and can be divided out again."""
TRANSMITTANCE_MIN = 1e-4
"""Least transmittance: a pixel is finished when the next Gaussian would leave no more light than this."""
MAX_RADIUS = 1 << 24
"""The largest radius in pixels: radii are cut here to fit int32 even if a scale diverges."""
DISC_SIGMAS = 3.33
"""The number of standard deviations in a disc's radius, as in gsplat 1.5."""
DISC_VARIANCE_MIN = 1e-4
"""Least variance, in pixels², that a disc's radii are computed from, as in gsplat."""
DISC_COEFFICIENT_MAX = 1e15
"""Largest A to F of a disc, see `cpu.projection_2dgs`: one that exceeds it is seen edge-on and left out."""
