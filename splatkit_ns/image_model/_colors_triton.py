"""Loads and stores of the pixels of interleaved images, for the Triton kernels of image models."""

# Triton's kernels are a language of their own inside Python, which the type checker cannot follow.
# pyright: basic, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_colors(ptr, i, live):
    """Load the three numbers of pixels i; 0 for pixels that are not live."""
    red = tl.load(ptr + 3 * i, mask=live, other=0.0)
    green = tl.load(ptr + 3 * i + 1, mask=live, other=0.0)
    return red, green, tl.load(ptr + 3 * i + 2, mask=live, other=0.0)


@triton.jit
def store_colors(ptr, i, live, red, green, blue):
    """Store the three numbers of pixels i that are live."""
    tl.store(ptr + 3 * i, red, mask=live)
    tl.store(ptr + 3 * i + 1, green, mask=live)
    tl.store(ptr + 3 * i + 2, blue, mask=live)
