"""Gaussians as plain arrays, which every reader returns and every writer takes."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.errors import SplatkitError

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]

KEYS = ("means", "scales", "quats", "opacities", "sh0", "shN")
"""The parameters: world units, log standard deviations, wxyz quaternions, logits, SH of degree 0, SH above."""
NUM_COEFFICIENTS_TO_DEGREE = {0: 0, 3: 1, 8: 2, 15: 3}
"""Number of SH coefficients above degree 0 -> SH degree."""
SH_C0 = 0.28209479177387814
"""The SH basis function of degree 0, 1 / (2 sqrt(pi))."""
LOG_THICKNESS = math.log(1e-6)
"""The third scale of every disc, as a log of world units: thin enough for a viewer that draws 3D Gaussians to show a
disc, and far from where float32 covariances vanish."""
OPAQUE_LOGIT = math.log(1e7)
"""The logit of an opacity of 1 - 1e-7, for Gaussians that are wholly opaque; the exact logit of 1 is infinite."""
SIZE_OF_ZERO = 1e-13
"""The value for a standard deviation of zero, which other writers produce, and whose logarithm is infinite."""

SplatRenderMode = Literal["default", "mip", "2dgs"]
"""The way in which Gaussians were trained, in the words of PLY files: as 3D Gaussians, with Mip-Splatting's 2D filter
(antialiased), or as the discs of 2D Gaussian Splatting. A viewer has to draw them the same way."""
RENDER_MODES: tuple[SplatRenderMode, ...] = get_args(SplatRenderMode)


def render_mode_named(name: object) -> SplatRenderMode | None:
    """The mode of this name; None if there is none."""
    return next((mode for mode in RENDER_MODES if mode == name), None)


class FormatError(SplatkitError, ValueError):
    """A file of Gaussians cannot be read or written; the message names it, what was found and the remedy."""


class NonFiniteError(FormatError):
    """A file has Gaussians with NaN or infinite values; the error has all Gaussians, for callers that drop those."""

    def __init__(self, message: str, gaussians: Gaussians) -> None:
        super().__init__(message)
        self.gaussians = gaussians
        """All Gaussians of the file, those that are not finite among them."""


def check_extra(shapes: Mapping[str, Sequence[int]], num: int) -> None:
    """Check the names and the lengths of further rows of `num` Gaussians.

    Args:
        shapes: name -> shape.
        num: the number of Gaussians.

    Raises:
        FormatError: a name is that of one of the six parameters, or there is not one row for each Gaussian.
    """
    for name, shape in shapes.items():
        if not name or name in KEYS:
            raise FormatError(f"extra rows need a name other than {', '.join(KEYS)}, found {name!r}.")
        if tuple(shape[:1]) != (num,):
            raise FormatError(
                f"the extra rows {name!r} must have shape ({num}, ...), one row for each Gaussian, found "
                f"{tuple(shape)}."
            )


@dataclass(frozen=True, eq=False)
class Gaussians:
    """N Gaussians in the raw space of training, float32.

    Raises:
        FormatError: extra rows are not one for each Gaussian, or have the name of another parameter.
    """

    means: FloatArray
    """(N, 3) centres in world units."""
    scales: FloatArray
    """(N, 3) natural logs of the standard deviations; that of 0, minus infinity, becomes the log of `SIZE_OF_ZERO`."""
    quats: FloatArray
    """(N, 4) wxyz, not necessarily normalised."""
    opacities: FloatArray
    """(N,) logits; infinite ones, the logits of 1 and 0, become `OPAQUE_LOGIT` and its negative."""
    sh0: FloatArray
    """(N, 1, 3) SH coefficients of degree 0."""
    shN: FloatArray
    """(N, K - 1, 3) SH coefficients of degrees 1 and up, K = 1, 4, 9 or 16."""
    render_mode: SplatRenderMode = "default"
    """The way in which they were trained, if the file stores it."""
    extra: Mapping[str, FloatArray] = field(default_factory=dict[str, FloatArray])
    """Name -> further rows (N, ...), such as those of `RowTrainable`. Only PLY files hold them."""

    def __post_init__(self) -> None:
        if np.isinf(self.opacities).any():
            finite = np.nan_to_num(self.opacities, nan=np.nan, posinf=OPAQUE_LOGIT, neginf=-OPAQUE_LOGIT)
            object.__setattr__(self, "opacities", finite)
        if np.isneginf(self.scales).any():
            log_of_zero = np.float32(math.log(SIZE_OF_ZERO))
            object.__setattr__(self, "scales", np.where(np.isneginf(self.scales), log_of_zero, self.scales))
        checked = {name: np.asarray(rows, np.float32) for name, rows in self.extra.items()}
        check_extra({name: rows.shape for name, rows in checked.items()}, len(self.means))
        object.__setattr__(self, "extra", checked)

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Highest SH degree with coefficients, 0 to 3."""
        return NUM_COEFFICIENTS_TO_DEGREE[self.shN.shape[1]]

    def arrays(self) -> dict[str, FloatArray]:
        """The six arrays by name."""
        return {key: getattr(self, key) for key in KEYS}

    def all_arrays(self) -> dict[str, FloatArray]:
        """The six arrays and the extra rows by name."""
        return {**self.arrays(), **self.extra}

    def take(self, rows: NDArray[Any]) -> Gaussians:
        """The Gaussians of these indices, or those for which this mask is True, in their order."""
        arrays = {key: value[rows] for key, value in self.arrays().items()}
        extra = {name: value[rows] for name, value in self.extra.items()}
        return Gaussians(**arrays, render_mode=self.render_mode, extra=extra)


assert tuple(field.name for field in fields(Gaussians))[:6] == KEYS


def drop_non_finite(gaussians: Gaussians, path: str | PathLike[str]) -> Gaussians:
    """The Gaussians without a NaN or infinity, with one warning if there are others: viewers fail on those.

    Args:
        gaussians: to be written.
        path: of the file, for the messages.

    Raises:
        FormatError: none is left.
    """
    num = len(gaussians)
    finite = finite_rows(gaussians.all_arrays())
    if finite is not None:
        logger.warning("%d of %d Gaussians are not finite and are left out of %s.", num - len(finite), num, path)
        gaussians = gaussians.take(finite)
    if len(gaussians) == 0:
        raise FormatError(f"there are no (finite) Gaussians to write to {path}.")
    return gaussians


def finite_rows(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.intp] | None:
    """Indices of the rows without NaN or infinity in any array; None if that is all of them."""
    with np.errstate(over="ignore", invalid="ignore"):
        # a finite sum has finite terms only: one quick pass in the usual case
        if all(np.isfinite(value.sum(dtype=np.float64)) for value in arrays.values()):
            return None
    num = len(next(iter(arrays.values())))
    finite = np.ones(num, dtype=bool)
    for value in arrays.values():
        finite &= np.isfinite(value).reshape(num, -1).all(axis=1)
    return None if finite.all() else np.flatnonzero(finite)


def check_finite(
    gaussians: Gaussians, path: str | PathLike[str], error: type[NonFiniteError] = NonFiniteError
) -> Gaussians:
    """Return the Gaussians that a reader found in a file, after checking them.

    Args:
        gaussians: of the file.
        path: of the file, for the message.
        error: the class to raise.

    Raises:
        NonFiniteError: one has NaN or infinite values.
    """
    finite = finite_rows(gaussians.all_arrays())
    if finite is not None:
        bad = np.setdiff1d(np.arange(len(gaussians)), finite)
        raise error(
            f"{path}: {len(bad)} of {len(gaussians)} Gaussians have NaN or infinite values; the first is number "
            f"{bad[0]}. Leave them out with splatkit clean (--min-cluster 0 --min-opacity 0 keeps all others), or "
            "export the file again with a tool that does.",
            gaussians,
        )
    return gaussians


def join(parts: Sequence[Gaussians]) -> Gaussians:
    """Gaussians of several places, one after another.

    The SH degree is the highest of the parts; coefficients that a part lacks are zero, so that its colours stay. Extra
    rows stay if all parts have them, in one shape.

    Args:
        parts: at least one; the result has the render mode of the first.
    """
    coefficients = max(part.shN.shape[1] for part in parts)
    arrays: dict[str, Any] = {key: np.concatenate([getattr(part, key) for part in parts]) for key in KEYS[:-1]}
    arrays["shN"] = np.concatenate(
        [np.pad(part.shN, ((0, 0), (0, coefficients - part.shN.shape[1]), (0, 0))) for part in parts]
    )
    shapes = [{(name, rows.shape[1:]) for name, rows in part.extra.items()} for part in parts]
    shared = {name for name, _ in set.intersection(*shapes)}
    extra = {name: np.concatenate([part.extra[name] for part in parts]) for name in parts[0].extra if name in shared}
    return Gaussians(**arrays, render_mode=parts[0].render_mode, extra=extra)


def join_parts(parts: Sequence[Gaussians], path: str | PathLike[str]) -> Gaussians:
    """The Gaussians that a reader found in several places of a file, after checking them; see `join`.

    Args:
        parts: at least one.
        path: of the file, for messages.

    Raises:
        NonFiniteError: one has NaN or infinite values.
    """
    return check_finite(join(parts), path)
