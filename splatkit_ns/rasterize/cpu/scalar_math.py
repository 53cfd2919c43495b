"""Scalar helpers for the numba kernels: cut-offs and a base-2 exponential.

Why our own exponential: without Intel's SVML, LLVM turns `math.exp` in a loop into one library call a pixel. A short
polynomial vectorises, and its relative error (2e-7 in float32) is far below what an 8-bit image can show.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic, overload

ALPHA_MIN = 1.0 / 255.0
"""A Gaussian that would change a pixel by less than one 8-bit level is skipped there (3DGS paper, appendix C)."""
ALPHA_MAX = 0.999
"""Alpha is clamped here so that the transmittance never becomes zero and can be divided out again."""
TRANSMITTANCE_MIN = 1e-4
"""A pixel is finished when the next Gaussian would leave no more than this of the light."""
LOG2_ALPHA_MIN = math.log2(ALPHA_MIN)
LOG2_E = math.log2(math.e)


@intrinsic
def _float32_from_bits(typingctx: Any, bits: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.float32))

    return types.float32(types.int32), codegen


@intrinsic
def _bits_from_float32(typingctx: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.int32))

    return types.int32(types.float32), codegen


_F = np.float32
# Least-squares fit of 2^f on [0, 1) with Chebyshev nodes, relative error 3e-9 before rounding.
_C0, _C1, _C2, _C3 = _F(1.0), _F(0.6931470530090789), _F(0.24022927731821925), _F(0.05548497246198867)
_C4, _C5, _C6 = _F(0.00967687495341194), _F(0.0012448232396411732), _F(0.00021699840606360284)
_SHIFT_F, _SHIFT_I = _F(32.0), np.int32(32)
_EXPONENT_BIT = np.int32(23)


def exp2(x: float) -> float:
    """2**x for -30 <= x <= 30; below -30 it is 2**-30. In float32 a polynomial that vectorises, in float64 exact."""
    return 2.0 ** max(x, -30.0)


@overload(exp2)
def _exp2_overload(x: Any) -> Any:  # pyright: ignore[reportUnusedFunction]  (numba registers it)
    if x == types.float32:

        def exp2_float32(x: Any) -> Any:
            clipped = max(x, _F(-30.0))
            whole = np.int32(clipped + _SHIFT_F) - _SHIFT_I  # the shift makes truncation a floor
            f = clipped - _F(whole)
            p = _C6
            p = p * f + _C5
            p = p * f + _C4
            p = p * f + _C3
            p = p * f + _C2
            p = p * f + _C1
            p = p * f + _C0
            # numba passes the typing context itself
            bits = _bits_from_float32(p)  # pyright: ignore[reportCallIssue]
            return _float32_from_bits(np.int32(bits + (whole << _EXPONENT_BIT)))  # pyright: ignore[reportCallIssue]

        return exp2_float32

    def exp2_float64(x: Any) -> Any:
        return math.pow(2.0, max(x, -30.0))

    return exp2_float64
