"""Whether a checkpoint's weights are those of a model like this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from splatkit_ns.errors import SplatkitError
from splatkit_ns.splat.schema import KEYS, check_shapes, sh_degree_of


def check(weights: Mapping[str, Any], params: Mapping[str, Tensor] | nn.ParameterDict) -> None:
    """Check weights that are to be loaded into these parameters, of any number of Gaussians.

    Args:
        weights: of a checkpoint, by ``gauss_params.NAME``.
        params: the model's, by name.

    Raises:
        SplatkitError: they do not fit; says what was found and what helps.
    """
    missing = [name for name in KEYS if f"gauss_params.{name}" not in weights]
    if missing:
        raise SplatkitError(
            f"This checkpoint holds no splatkit model: {', '.join(missing)} missing, found "
            f"{', '.join(sorted(weights)[:8])}. Was it written by another method?"
        )
    stored = {name: weights[f"gauss_params.{name}"] for name in KEYS}
    for name, value in stored.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise SplatkitError(f"{name} must be a floating-point tensor, found {value!r:.60}")
        found, expected = tuple(value.shape), tuple(params[name].shape)
        if found[1:] != expected[1:] or not found:
            raise SplatkitError(
                f"This checkpoint's {name} has shape {found}, expected (N, {', '.join(map(str, expected[1:]))}). "
                f"sh_degree is {sh_degree_of(params['shN'].shape[1])} here: use the checkpoint's own config.yml, "
                "or set --pipeline.model.sh-degree to the checkpoint's."
            )
    try:
        check_shapes(stored)
    except ValueError as error:
        raise SplatkitError(f"This checkpoint holds no whole model: {error}") from error
