"""Adam optimizers for Gaussians, one per parameter."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

LEARNING_RATES: Mapping[str, float] = MappingProxyType(
    {
        "means": 1.6e-4,
        "scales": 5e-3,
        "quats": 1e-3,
        "opacities": 5e-2,
        "sh0": 2.5e-3,
        "shN": 2.5e-3 / 20,
    }
)
"""Learning rates of 3DGS. That of `means` is for a scene of scale 1: multiply it by the scene's scale."""

EXTRA_LEARNING_RATE = 1e-3
"""The learning rate of extra rows of a `SplatModel` that is trained further, unless another one is given."""

ADAM_EPS = 1e-15
"""Adam's epsilon in 3DGS: gradients of single Gaussians are so small that the usual 1e-8 would damp them."""


def complete_learning_rates(learning_rates: Mapping[str, float] | None, names: list[str]) -> dict[str, float]:
    """Return the learning rate of each name as a Python float: the given one, else that of 3DGS.

    Raises:
        ValueError: a rate is given for a parameter that does not exist, or a parameter has no rate.
    """
    given = dict(learning_rates or {})
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ValueError(f"learning_rates names {unknown}, which are no parameters; there are {names}.")
    known = {**LEARNING_RATES, **given}
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"learning_rates must also have {missing}: there is no default for them.")
    # numpy scalars would end up in checkpoints, which torch.load(weights_only=True) then refuses
    return {name: float(known[name]) for name in names}


def make_optimizers(
    params: Mapping[str, nn.Parameter] | nn.ParameterDict,
    learning_rates: Mapping[str, float] | None = None,
    eps: float = ADAM_EPS,
) -> dict[str, Optimizer]:
    """Make one Adam per parameter, fused if the device has a fused Adam.

    Args:
        params: name -> parameter.
        learning_rates: name -> rate; names left out get the value of `LEARNING_RATES`.
        eps: Adam's epsilon.

    Raises:
        ValueError: see `complete_learning_rates`.
    """
    rates = complete_learning_rates(learning_rates, list(params.keys()))
    return {name: fused_adam([param], lr=rates[name], eps=eps) for name, param in params.items()}


def fused_adam(params: Any, **settings: Any) -> Optimizer:
    """Make an Adam of PyTorch's, in one kernel for the whole step if PyTorch has one for the device.

    Args:
        params: a list of parameters, or of groups of them.
        settings: other arguments of `torch.optim.Adam`.
    """
    try:
        return torch.optim.Adam(params, **settings, fused=True)
    except RuntimeError:  # torch before 2.4 on the CPU, and devices without a fused kernel
        return torch.optim.Adam(params, **settings)
