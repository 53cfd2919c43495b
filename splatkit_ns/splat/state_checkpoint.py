"""The part of a checkpoint that holds a training state: writing and reading.

The layout is nerfstudio's: `step`, `pipeline` with the parameters as `_model.gauss_params.<name>`, `optimizers`,
`schedulers`, `scalers`. The entry `splatkit` holds all other state.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from splatkit_ns.splat.checkpoint import SCHEMA_VERSION, CheckpointError
from splatkit_ns.splat.rng import rng_state
from splatkit_ns.splat.rows import Params
from splatkit_ns.splat.schema import check_shapes

PARAM_PREFIX = "_model.gauss_params."
_PACKAGES = ("splatkit-ns", "nerfstudio", "gsplat", "torch", "numpy")


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that the meaning of a checkpoint depends on, if they are installed."""
    versions: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def splatkit_entry(modules: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Make the entry `splatkit` of a checkpoint: schema version, random generators, modules' states, package versions.

    Args:
        modules: name -> state of the other parts of training, such as densification.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "rng": rng_state(),
        "modules": dict(modules or {}),
        "versions": package_versions(),
    }


def state_to_checkpoint(params: Params, optimizers: Mapping[str, Optimizer], step: int | None = None) -> dict[str, Any]:
    """Make a checkpoint of parameters and optimizers alone, without schedulers, modules and samplers.

    The tensors are those in training, not copies.
    """
    return {
        "step": 0 if step is None else int(step),
        "pipeline": {PARAM_PREFIX + name: param.detach() for name, param in params.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        "schedulers": {},
        "scalers": {},
        "splatkit": splatkit_entry(),
    }


def params_from_checkpoint(checkpoint: Mapping[str, Any], path: str | PathLike[str]) -> dict[str, Tensor]:
    """Return the raw parameters of a checkpoint, by name.

    Raises:
        CheckpointError: parameters are missing, are no float tensors, or do not fit together; `path` is named.
    """
    pipeline: Any = checkpoint["pipeline"]
    if not isinstance(pipeline, Mapping):
        raise CheckpointError(f"checkpoint {path}: 'pipeline' must be a dict, found {type(pipeline).__name__}.")
    found: dict[str, Tensor] = {}
    for key, value in pipeline.items():
        # a pipeline that was wrapped for several GPUs has "module." in its keys
        name = str(key).replace("module.", "")
        if not name.startswith(PARAM_PREFIX):
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise CheckpointError(f"checkpoint {path}: {key!r} must be a floating-point tensor.")
        found[name.removeprefix(PARAM_PREFIX)] = value
    try:
        check_shapes(found)
    except ValueError as error:
        raise CheckpointError(f"checkpoint {path} holds no Gaussians that splatkit can train: {error}") from error
    return found


def learning_rates_from_checkpoint(checkpoint: Mapping[str, Any], names: list[str]) -> dict[str, float]:
    """Return the learning rates of the checkpoint's optimizers; names that are not there are left out."""
    rates: dict[str, float] = {}
    for name in names:
        try:
            rates[name] = float(checkpoint["optimizers"][name]["param_groups"][0]["lr"])
        except (KeyError, IndexError, TypeError, ValueError):
            continue
    return rates


def load_optimizers(
    params: Params, optimizers: Mapping[str, Optimizer], checkpoint: Mapping[str, Any], path: str | PathLike[str]
) -> None:
    """Load optimizer states from a checkpoint; an optimizer that is not in it stays as it is.

    Raises:
        CheckpointError: a state does not fit its optimizer or its parameter; `path` is named.
    """
    states: Any = checkpoint["optimizers"]
    if not isinstance(states, Mapping):
        raise CheckpointError(f"checkpoint {path}: 'optimizers' must be a dict, found {type(states).__name__}.")
    for name, optimizer in optimizers.items():
        if name not in states:
            continue
        kernels = {key: optimizer.param_groups[0].get(key) for key in ("fused", "foreach")}
        try:
            optimizer.load_state_dict(states[name])
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"checkpoint {path}: the optimizer of {name!r} does not load: {error}.") from error
        optimizer.param_groups[0].update(kernels)  # as this device supports them, not the device that wrote the file
        _check_state(optimizer.state.get(params[name], {}), name, params[name], path)


def _check_state(state: Mapping[str, Any], name: str, param: torch.nn.Parameter, path: str | PathLike[str]) -> None:
    for key, entry in state.items():
        if key != "step" and isinstance(entry, Tensor) and entry.shape != param.shape:
            raise CheckpointError(
                f"checkpoint {path}: the optimizer state {key!r} of {name!r} has shape {tuple(entry.shape)}, but the "
                f"parameter has {tuple(param.shape)}."
            )
