"""Gradients of colours, from which the gradients of spherical harmonics are computed later.

The gradient of a coefficient is that of the colour times a basis function of the direction. So the gradients of all 48
numbers of a Gaussian, seen from one camera, are known from three numbers and the camera's centre. Processes that train
one run exchange these, a sixteenth.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class ColorGradients:
    """Keeps the gradients of the colours of one render on CUDA; its coefficients get none."""

    found: Tensor | None = None
    """(N + 1, 3): the gradients of the colours, 0 for unseen Gaussians, and the centre of the camera. For an exchange
    of those of B photographs (B, N + 1, 3)."""
    bands: int = 0
    """The number of coefficients that were used."""
    is_taken: bool = False
    """Whether a render has begun whose gradients are kept; those of further ones are computed as usual."""

    @contextmanager
    def keeping(self) -> Generator[None]:
        """Keep the gradients of the first render of this thread in the block."""
        self.forget()
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def forget(self) -> None:
        """Keep those of the next render in place of those that have been kept."""
        self.found, self.is_taken = None, False


_current: ContextVar[ColorGradients | None] = ContextVar("color_gradients", default=None)


def current_color_gradients() -> ColorGradients | None:
    """The object that keeps gradients at present, if there is one."""
    return _current.get()


def taken_for(first: Tensor, rest: Tensor | None, viewmats: Tensor) -> ColorGradients | None:
    """Return what keeps the gradients of a render that begins, if they can be kept.

    Args:
        first: coefficients of degree 0, (N, 1, 3).
        rest: the other ones.
        viewmats: (C, 4, 4).
    """
    kept = _current.get()
    are_trained = all(each.is_leaf and each.requires_grad for each in (first, rest) if each is not None)
    are_apart = first.dim() == 3 and first.shape[1] == 1
    if kept is None or kept.is_taken or not (are_trained and are_apart and len(viewmats) == 1):
        return None
    if viewmats.requires_grad or not torch.is_grad_enabled():
        return None
    kept.is_taken = True
    return kept
