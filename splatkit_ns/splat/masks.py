"""The Gaussians that a user's mask means, also if rows were changed after the mask was made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from splatkit_ns.splat.rows import RowChange


def masked_rows(
    mask: Tensor, operation: str, num_rows: int, changes: Sequence[RowChange] = (), is_current: bool = False
) -> Tensor:
    """The present rows that a mask selects.

    A mask may have been made before some of the `changes`. Its length tells when, and the rows that it selected then
    are followed to where they are now; those that are gone, and rows that are new since, are not selected.

    Args:
        mask: bool (L,), (L, 1), or (C, L) for "in any of C cameras". L is the present number of rows, or that before
            one of the changes.
        operation: the operation that gets the mask, for messages.
        num_rows: the present number of rows.
        changes: the row changes so far, oldest first.
        is_current: whether the mask was made after all changes. Its length must then be `num_rows`.

    Returns:
        (M,) int64 indices, on the mask's device.

    Raises:
        ValueError: the mask is no bool tensor; no number of rows was L; or several were, and the mask would select
            different rows.
    """
    history = [] if is_current else list(changes)
    lengths = [*(change.num_before for change in history), num_rows]
    flat = _flattened(mask, operation, lengths)
    readings = [_followed(flat, history[moment:]) for moment, length in enumerate(lengths) if length == len(flat)]
    if any(not torch.equal(reading, readings[-1]) for reading in readings[:-1]):
        counts = [int(reading.sum()) for reading in readings]
        raise ValueError(
            f"{operation}: a mask of length {len(flat)} is ambiguous here. The number of Gaussians was "
            f"{_listed(lengths)} in turn, and depending on when the mask was made, it selects different Gaussians "
            f"({_listed(counts)} of those now there). Make it after the operation before this one, and pass "
            "is_current=True."
        )
    return readings[-1].nonzero(as_tuple=True)[0]


def _followed(mask: Tensor, changes: Sequence[RowChange]) -> Tensor:
    for change in changes:
        mask = change.apply(mask, fill=False)
    return mask


def _flattened(mask: Tensor, operation: str, lengths: Sequence[int]) -> Tensor:
    """The mask as bool (L,), with L one of the lengths, of which the last is the present one."""
    num = lengths[-1]
    expected = f"bool of shape ({num},), ({num}, 1) or (C, {num})"
    if not isinstance(mask, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance] - users' masks may be anything
        kind = type(mask)
        found = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        raise ValueError(
            f"{operation}: the mask must be a torch tensor, {expected}, found an object of type {found}. "
            "torch.as_tensor(mask) makes a tensor of a NumPy array or a list."
        )
    if mask.dtype != torch.bool:
        raise ValueError(
            f"{operation}: the mask must be {expected}, found {mask.dtype} of shape {tuple(mask.shape)}. Compare "
            "numbers with a threshold; of indices, mask[indices] = True makes one in torch.zeros(N, dtype=torch.bool)."
        )
    if mask.dim() == 1 and len(mask) in lengths:
        return mask
    if mask.dim() == 2 and _is_column(mask, lengths):
        return mask[:, 0]
    if mask.dim() == 2 and mask.shape[1] in lengths:
        return mask.any(dim=0)
    advice = "make each mask after the operation before it."
    if len(lengths) > 1:
        advice = f"the number was {_listed(lengths)} in turn, and a mask has the length of the time when it was made."
    raise ValueError(
        f"{operation}: the mask must be {expected}, found {mask.dtype} of shape {tuple(mask.shape)}. "
        f"split, duplicate and remove change the number of Gaussians: {advice}"
    )


def _is_column(mask: Tensor, lengths: Sequence[int]) -> bool:
    """Whether a mask is (L, 1). That of a single Gaussian is (C, 1), with one row a camera."""
    return mask.shape[1] == 1 and mask.shape[0] in lengths and lengths[-1] != 1


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
