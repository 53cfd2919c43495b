"""Checks that a checkpoint's weights fit a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from splatkit_ns.errors import SplatkitError
from splatkit_ns.splat.schema import KEYS, check_shapes, sh_degree_of

PARTS = "part_params."
"""The prefix of the parameters that parts own, in a model's state."""
ROWS = "gauss_params."
"""The prefix of the parameters with one row a Gaussian, in a model's state."""

logger = logging.getLogger("splatkit_ns")


def check(weights: Mapping[str, Any], params: Mapping[str, Tensor] | nn.ParameterDict) -> dict[str, Tensor]:
    """Check weights that are to be loaded into these parameters, of any number of Gaussians.

    Args:
        weights: the weights of a checkpoint, by ``gauss_params.NAME``.
        params: the model's parameters, by name.

    Returns:
        The checkpoint's parameters with one row a Gaussian, by name, including those that the model lacks.

    Raises:
        SplatkitError: the weights do not fit; the message says what was found and what helps.
    """
    missing = [name for name in KEYS if f"{ROWS}{name}" not in weights]
    if missing and f"{ROWS}features_dc" in weights:
        raise SplatkitError(
            "This is a checkpoint of splatfacto. Write its Gaussians to a file with ns-export gaussian-splat, and "
            "begin a run with them: --pipeline.model.init-ply FILE."
        )
    if missing:
        raise SplatkitError(
            f"This checkpoint holds no splatkit model: {', '.join(missing)} missing, found "
            f"{', '.join(sorted(weights)[:8])}. Was it written by another method?"
        )
    stored = {key.removeprefix(ROWS): value for key, value in weights.items() if key.startswith(ROWS)}
    for name, value in stored.items():
        _check_rows(name, value, params)
    try:
        check_shapes(stored)
    except ValueError as error:
        raise SplatkitError(f"This checkpoint holds no whole model: {error}") from error
    return stored


def _check_rows(name: str, value: Any, params: Mapping[str, Tensor] | nn.ParameterDict) -> None:
    """Check that rows of a checkpoint have the shape of those of the model's parameter, if it has one of that name."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise SplatkitError(f"{name} must be a floating-point tensor, found {value!r:.60}")
    found, expected = tuple(value.shape), tuple(params[name].shape if name in params else value.shape)
    if found[1:] != expected[1:] and name not in KEYS:
        raise SplatkitError(
            f"This checkpoint's {name} has rows of shape {found[1:]}, but the part that trains it here has "
            f"{expected[1:]}: give the part the settings that it had."
        )
    if found[1:] != expected[1:] or not found:
        raise SplatkitError(
            f"This checkpoint's {name} has shape {found}, expected (N, {', '.join(map(str, expected[1:]))}). "
            f"sh_degree is {sh_degree_of(params['shN'].shape[1])} here: use the checkpoint's own config.yml, "
            "or set --pipeline.model.sh-degree to the checkpoint's."
        )


def unknown_parts(weights: Mapping[str, Any], known: Mapping[str, Any], prefix: str = PARTS) -> list[str]:
    """The names of the parameters of parts in a checkpoint that a model does not have, ``PART.NAME``.

    Args:
        weights: the weights of the checkpoint.
        known: the model's own parameters of parts, by name without prefix.
        prefix: the prefix of these parameters' keys in `weights`.
    """
    found = [key.removeprefix(prefix) for key in weights if key.startswith(prefix)]
    return sorted(set(found) - set(known))


def without_unknown_parts(
    weights: Mapping[str, Any], known: Mapping[str, Tensor], rows: Mapping[str, Tensor] | nn.ParameterDict
) -> dict[str, Any]:
    """The weights that a model can load; the model's own values replace those that the checkpoint lacks.

    Args:
        weights: the weights of a checkpoint.
        known: the parameters and buffers of the model's parts, without prefix.
        rows: the model's parameters with one row a Gaussian.

    Raises:
        SplatkitError: a parameter of a part has another shape.
    """
    unknown = unknown_parts(weights, known)
    if unknown:
        logger.warning(
            "The checkpoint has trained parameters of parts that are not used here: %s. Modules take part in training "
            "alone.",
            ", ".join(unknown),
        )
    fitting = {key: value for key, value in weights.items() if key.removeprefix(PARTS) not in unknown}
    for name, value in known.items():
        stored = fitting.setdefault(PARTS + name, value)
        if not isinstance(stored, Tensor) or stored.shape != value.shape:
            found = tuple(stored.shape) if isinstance(stored, Tensor) else f"{stored!r:.40}"
            raise SplatkitError(
                f"This checkpoint's {name} has shape {found}, expected {tuple(value.shape)}: the part was trained with "
                "other settings, or on another number of photographs."
            )
    return {**fitting, **{ROWS + name: value for name, value in rows.items() if ROWS + name not in fitting}}
