"""Gaussians in another frame: centres, rotations, sizes and spherical harmonics moved together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.formats._quantise import unit_quats
from splatkit_ns.formats.gaussians import DoubleArray, FloatArray, FormatError, Gaussians
from splatkit_ns.formats.sh_rotation import rotate_sh

UpAxis = Literal["z", "y", "-y"]
"""The upward axis of a file: z as in nerfstudio's frame, y as in glTF and Blender's imports, -y as in viewers of PLY
files, whose axes are right, down and forward."""

FLIP_SH = np.array([-1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1], np.float32)
"""Signs of the SH coefficients above degree 0 after half a turn about x."""
_TOLERANCE = 1e-4
_STEP = 2.0**-24
"""The relative rounding error of float32."""
_SHARE = 0.02
"""An offset is needed if centres are rounded by more than this share of the median Gaussian's size."""


@dataclass(frozen=True)
class Similarity:
    """A move of a scene: x' = scale (rotation x) + translation."""

    rotation: DoubleArray
    """(3, 3), orthogonal and no mirror image."""
    translation: DoubleArray
    """(3,), in units of the new frame."""
    scale: float = 1.0
    """New units per old unit, above 0."""

    def __post_init__(self) -> None:
        rotation = np.asarray(self.rotation, np.float64)
        translation = np.asarray(self.translation, np.float64)
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation", translation)
        if rotation.shape != (3, 3) or translation.shape != (3,):
            raise FormatError(
                f"a frame needs a rotation (3, 3) and a translation (3,), found {rotation.shape} and "
                f"{translation.shape}."
            )
        orthogonal = np.allclose(rotation @ rotation.T, np.eye(3), atol=_TOLERANCE)
        if not orthogonal or np.linalg.det(rotation) < 0:
            raise FormatError(
                f"a frame needs a rotation, found {rotation.tolist()}: Gaussians cannot be sheared, scaled differently "
                "along different axes, or mirrored."
            )
        if not (self.scale > 0 and np.isfinite(self.scale) and np.isfinite(translation).all()):
            raise FormatError(
                f"a frame needs a positive scale and a finite translation, found {self.scale} and "
                f"{translation.tolist()}."
            )

    @classmethod
    def identity(cls) -> Similarity:
        """A scene that is not moved."""
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def from_matrix(cls, matrix: DoubleArray) -> Similarity:
        """Make a move from a matrix (3, 4) or (4, 4) whose left part is a rotation times a scale.

        Raises:
            FormatError: the matrix shears, mirrors, or is not finite.
        """
        matrix = np.asarray(matrix, np.float64)
        if matrix.shape not in ((3, 4), (4, 4)) or not np.isfinite(matrix).all():
            raise FormatError(f"a frame needs a finite matrix (3, 4) or (4, 4), found shape {matrix.shape}.")
        scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
        if not scale > 0:
            raise FormatError("a frame needs a matrix with a positive determinant: Gaussians cannot be mirrored.")
        return cls(matrix[:3, :3] / scale, matrix[:3, 3], scale)

    @classmethod
    def from_dataparser(cls, transform: DoubleArray, scale: float) -> Similarity:
        """The move of a data set by nerfstudio's dataparser, from its ``transform`` (3, 4) and ``scale``.

        x_nerfstudio = scale (rotation x_dataset + shift); the inverse takes Gaussians to the data set's frame.
        """
        matrix = np.asarray(transform, np.float64)
        return cls.from_matrix(matrix[:3, :4]).then(cls(np.eye(3), np.zeros(3), scale))

    def then(self, after: Similarity) -> Similarity:
        """This move, and after it another one."""
        return Similarity(
            after.rotation @ self.rotation,
            after.scale * (after.rotation @ self.translation) + after.translation,
            self.scale * after.scale,
        )

    def inverse(self) -> Similarity:
        """The move back."""
        return Similarity(self.rotation.T, -(self.rotation.T @ self.translation) / self.scale, 1 / self.scale)

    def matrix(self) -> DoubleArray:
        """The move as a matrix (4, 4)."""
        whole = np.eye(4)
        whole[:3, :3], whole[:3, 3] = self.scale * self.rotation, self.translation
        return whole

    def apply(self, points: DoubleArray) -> DoubleArray:
        """Points (N, 3) moved; what is not finite stays so, without NumPy's warning."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self.scale * (points @ self.rotation.T) + self.translation


def up_axis(up: UpAxis) -> Similarity:
    """The turn of nerfstudio's frame, whose z axis is up, that makes the given axis the upward one; x stays.

    Raises:
        FormatError: there is no such axis.
    """
    turns = {
        "z": np.eye(3),
        "y": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
        "-y": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    }
    if up not in turns:
        raise FormatError(f"the upward axis must be one of {', '.join(get_args(UpAxis))}, found {up!r}.")
    return Similarity(turns[up], np.zeros(3))


def transform(gaussians: Gaussians, move: Similarity) -> Gaussians:
    """The Gaussians of a scene that is moved: a camera that is moved along sees the same picture.

    A frame with large coordinates, such as a geographic one, leaves float32 few digits for centres: move by rotation
    and scale alone, and keep the translation beside the file.
    """
    with np.errstate(over="ignore"):  # as in `apply`
        means = move.apply(gaussians.means.astype(np.float64)).astype(np.float32)
    turned = not np.array_equal(move.rotation, np.eye(3))
    return replace(
        gaussians,
        means=means,
        scales=gaussians.scales + np.float32(np.log(move.scale)),
        quats=_turn_quats(gaussians.quats, move.rotation) if turned else gaussians.quats,
        shN=rotate_sh(gaussians.shN, move.rotation) if turned else gaussians.shN,
    )


def split_offset(gaussians: Gaussians, move: Similarity) -> tuple[Similarity, DoubleArray | None]:
    """Take an offset out of a move if the moved centres would be rounded visibly.

    Args:
        gaussians: finite, before the move.
        move: into the frame of a file.

    Returns:
        The move without the offset, and the offset (3,) in whole units; None if none is needed.
    """
    middle = move.apply(np.median(gaussians.means.astype(np.float64), axis=0))
    size = move.scale * float(np.exp(np.median(gaussians.scales)))
    if float(np.abs(middle).max()) * _STEP <= _SHARE * size:
        return move, None
    offset = np.rint(middle)
    return replace(move, translation=move.translation - offset), offset


def flip_yz(gaussians: Gaussians) -> Gaussians:
    """The Gaussians after half a turn about x: from axes right, down, forward (PLY) to right, up, back, or back again.

    Only signs change, so that doing it twice gives the same bits. A Gaussian's own axes are turned, too, which leaves
    its shape as it is.
    """
    signs = np.array([1, -1, -1], np.float32)
    return replace(
        gaussians,
        means=gaussians.means * signs,
        quats=gaussians.quats * np.array([1, 1, -1, -1], np.float32),
        shN=gaussians.shN * FLIP_SH[: gaussians.shN.shape[1], None],
    )


def _turn_quats(quats: FloatArray, rotation: DoubleArray) -> FloatArray:
    """Unit quaternions (N, 4), wxyz, of the rotations quats, then `rotation`."""
    a = quat_of(rotation)
    b = unit_quats(quats).astype(np.float64)
    w = a[0] * b[:, :1] - b[:, 1:] @ a[1:, None]
    xyz = a[0] * b[:, 1:] + b[:, :1] * a[1:] + np.cross(a[1:], b[:, 1:])
    return np.concatenate([w, xyz], axis=1).astype(np.float32)


def quat_of(rotation: DoubleArray) -> DoubleArray:
    """The unit quaternion (4,), wxyz, of a rotation matrix (3, 3).

    It is the eigenvector of Bar-Itzhack's symmetric matrix for the largest eigenvalue, which is well-conditioned for
    every rotation (https://doi.org/10.2514/2.4654).
    """
    m = rotation
    k = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    vectors: NDArray[Any] = np.linalg.eigh(k)[1]
    return vectors[:, -1]
