"""Names and shapes of the parameters of Gaussians."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from splatkit_ns.formats.gaussians import KEYS, NUM_COEFFICIENTS_TO_DEGREE

__all__ = ["KEYS", "NUM_COEFFICIENTS_TO_DEGREE", "check_shapes", "sh_degree_of"]


def sh_degree_of(num_coefficients: int) -> int:
    """Return the SH degree of `num_coefficients` coefficients per channel above degree 0.

    Raises:
        ValueError: no degree from 0 to 3 has that many.
    """
    if num_coefficients not in NUM_COEFFICIENTS_TO_DEGREE:
        expected = ", ".join(str(count) for count in NUM_COEFFICIENTS_TO_DEGREE)
        raise ValueError(
            f"shN must have {expected} coefficients (SH degree 0, 1, 2, 3), found {num_coefficients} per channel."
        )
    return NUM_COEFFICIENTS_TO_DEGREE[num_coefficients]


def check_shapes(tensors: Mapping[str, Tensor] | Mapping[str, nn.Parameter] | nn.ParameterDict) -> None:
    """Check that all six parameters are there and agree in shape.

    Raises:
        ValueError: parameters are missing or have other shapes; the message names each, with the expected shape.
    """
    missing = [key for key in KEYS if key not in tensors]
    if missing:
        raise ValueError(f"parameters {missing} are missing; found {sorted(tensors.keys())}.")
    num = tensors["means"].shape[0] if tensors["means"].dim() else 0
    coefficients = tensors["shN"].shape[1] if tensors["shN"].dim() == 3 else 0
    shapes = ((num, 3), (num, 3), (num, 4), (num,), (num, 1, 3), (num, coefficients, 3))
    wrong = [
        f"{key} must have shape {shape}, found {tuple(tensors[key].shape)}"
        for key, shape in zip(KEYS, shapes, strict=True)
        if tuple(tensors[key].shape) != shape
    ]
    if wrong:
        raise ValueError("parameters do not fit together: " + "; ".join(wrong) + ".")
    sh_degree_of(coefficients)
