"""Scalar helpers for the numba kernels, above all a base-2 exponential.

The exponential is our own because without Intel's SVML, LLVM turns `math.exp` in a loop into one library call per
pixel. A short polynomial vectorises, and its relative error (2e-7 in float32) is far below what an 8-bit image can
show.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from splatkit_ns.rasterize.limits import ALPHA_MIN

LOG2_ALPHA_MIN = math.log2(ALPHA_MIN)
LOG2_E = math.log2(math.e)
FUSED = {"contract", "arcp"}
"""Fast-math flags that allow fused multiply-adds and division by multiplying with a reciprocal; nothing else."""
PREFETCH = 4
"""The number of Gaussians by which `prefetch` runs ahead."""


@intrinsic
def _floor(typingctx: Any, x: Any) -> Any:
    """Return floor(x) as a float32: numba's own is a 64-bit integer, whose conversions halve the speed of a loop."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.floor", [ir.FloatType()]), args)

    return types.float32(types.float32), codegen


@intrinsic
def _times_power_of_two(typingctx: Any, x: Any, exponent: Any) -> Any:
    """Return x * 2**exponent in float32, for whole exponents without overflow or underflow."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        int32 = ir.IntType(32)
        bits = builder.bitcast(args[0], int32)
        added = builder.shl(builder.fptosi(args[1], int32), int32(_MANTISSA_BITS))
        return builder.bitcast(builder.add(bits, added), ir.FloatType())

    return types.float32(types.float32, types.float32), codegen


@intrinsic
def _prefetch(typingctx: Any, rows: Any, index: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(rows)(context, builder, args[0])
        int32, int64, pointer = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()
        item = cgutils.get_item_pointer(context, builder, rows, array, [args[1], int64(0)], wraparound=False)
        kind = ir.FunctionType(ir.VoidType(), [pointer, int32, int32, int32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        read, keep, data = int32(0), int32(3), int32(1)
        builder.call(function, [builder.bitcast(item, pointer), read, keep, data])
        return context.get_dummy_value()

    return types.void(rows, types.int64), codegen


@numba.njit(cache=True, forceinline=True)
def prefetch(rows: Any, index: int) -> None:
    """Fetch a row of a 2D array into the cache: loops that read rows at random mostly wait for memory."""
    _prefetch(rows, np.int64(index))  # pyright: ignore[reportCallIssue]  (numba passes the typing context itself)


_F = np.float32
# Least-squares fit of 2^f on [0, 1) with Chebyshev nodes, relative error 3e-9 before rounding.
_C0, _C1, _C2, _C3 = _F(1.0), _F(0.6931470530090789), _F(0.24022927731821925), _F(0.05548497246198867)
_C4, _C5, _C6 = _F(0.00967687495341194), _F(0.0012448232396411732), _F(0.00021699840606360284)
_MANTISSA_BITS = 23


def exp2(x: float) -> float:
    """Return 2**x for -30 <= x <= 30, and 2**-30 below; float32 by a polynomial that vectorises, float64 exactly."""
    return 2.0 ** max(x, -30.0)


@overload(exp2)
def _exp2_overload(x: Any) -> Any:  # pyright: ignore[reportUnusedFunction]  (numba registers it)
    if x == types.float32:

        def exp2_float32(x: Any) -> Any:
            clipped = max(x, _F(-30.0))
            # numba passes the typing context itself
            whole = _floor(clipped)  # pyright: ignore[reportCallIssue]
            f = clipped - whole
            p = _C6
            p = p * f + _C5
            p = p * f + _C4
            p = p * f + _C3
            p = p * f + _C2
            p = p * f + _C1
            p = p * f + _C0
            return _times_power_of_two(p, whole)  # pyright: ignore[reportCallIssue]

        return exp2_float32

    def exp2_float64(x: Any) -> Any:
        return math.pow(2.0, max(x, -30.0))

    return exp2_float64
