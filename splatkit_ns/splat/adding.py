"""New Gaussians at given positions, among those that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from splatkit_ns.splat.initialization import checked_colors, neighbour_distances, sh0_of

GREY = 0.5
DEFAULT_OPACITY = 0.1
_ARGUMENT_OF = {"means": "positions", "sh0": "colors"}


@torch.no_grad()
def rows_at(
    params: Mapping[str, nn.Parameter],
    positions: Tensor,
    colors: Tensor | None,
    scales: Tensor | None,
    quats: Tensor | None,
    opacities: Tensor | float | None,
    extra_rows: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Raw parameters of M new Gaussians; see `SplatTrainingState.add` for the arguments.

    Args:
        params: the parameters of the N Gaussians that are there.

    Returns:
        name -> (M, ...) for each name in `params`, float32, on their device.

    Raises:
        ValueError: a shape, a value or a name does not fit.
    """
    _check_positions(positions)
    num = len(positions)
    if colors is None:
        colors = torch.full((num, 3), GREY)
    rows = {
        "means": positions,
        "scales": _log_scales(params["means"], positions, scales),
        "quats": _quats(num, quats, is_turned=scales is None or scales.dim() == 1),
        "opacities": _opacity_logits(num, opacities),
        "sh0": sh0_of(checked_colors(colors, num)),
    }
    for name, value in extra_rows.items():
        if name in rows or name not in params:
            known = ", ".join(key for key in params if key not in rows)
            hint = f" Use {_ARGUMENT_OF[name]}." if name in _ARGUMENT_OF else ""
            raise ValueError(f"add: {name!r} is no further parameter of the Gaussians; there are: {known}.{hint}")
        rows[name] = value
    new_rows: dict[str, Tensor] = {}
    for name, param in params.items():
        shape = (num, *param.shape[1:])
        value = rows.get(name)
        new_rows[name] = param.new_zeros(shape) if value is None else value.to(param)
        _check(name, new_rows[name], shape)
    return new_rows


def _check_positions(positions: Any) -> None:
    if not isinstance(positions, Tensor):
        raise ValueError(
            f"add: positions must be a tensor of shape (M, 3), found an object of type {type(positions).__name__}."
        )
    if positions.dim() != 2 or positions.shape[1] != 3:
        raise ValueError(f"add: positions must have shape (M, 3), found {tuple(positions.shape)}.")
    _check("positions", positions, tuple(positions.shape))


def _check(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"add: {name} must have shape {shape}, one row a position, found {tuple(value.shape)}.")
    rows = torch.isfinite(value).flatten(1).all(1) if len(value) and value.dim() > 1 else torch.isfinite(value)
    bad = (~rows).nonzero()
    if len(bad):
        raise ValueError(
            f"add: {name} must be finite; {len(bad)} of {len(value)} rows are not, the first is row {int(bad[0])}: "
            f"{value[bad[0, 0]].tolist()}."
        )


def _log_scales(means: Tensor, positions: Tensor, scales: Tensor | None) -> Tensor:
    num = len(positions)
    if scales is None:
        there = means.detach()
        scales = neighbour_distances(positions.to(there), there[torch.isfinite(there).all(1)])
    if tuple(scales.shape) not in ((num,), (num, 3)):
        raise ValueError(f"add: scales must have shape ({num},) or ({num}, 3), found {tuple(scales.shape)}.")
    if not bool((scales > 0).all()):
        raise ValueError(
            f"add: scales are standard deviations in world units and must be > 0, found {float(scales.min()):g}; "
            'training_state.params["scales"] holds their logarithms.'
        )
    return torch.log(scales[:, None].expand(num, 3) if scales.dim() == 1 else scales)


def _quats(num: int, quats: Tensor | None, is_turned: bool) -> Tensor:
    if quats is not None:
        return quats
    if is_turned:
        return F.normalize(torch.randn(num, 4), dim=-1)  # on the CPU, so that every device draws the same
    return torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(num, 1)


def _opacity_logits(num: int, opacities: Tensor | float | None) -> Tensor:
    if not isinstance(opacities, Tensor):
        opacities = torch.full((num,), DEFAULT_OPACITY if opacities is None else float(opacities))
    if not bool(((opacities > 0) & (opacities < 1)).all()):
        low, high = float(opacities.min()), float(opacities.max())
        raise ValueError(
            f"add: opacities must lie between 0 and 1 (both excluded), found values from {low:g} to {high:g}; "
            'training_state.params["opacities"] holds their logits.'
        )
    return torch.logit(opacities)
