"""Further rows of Gaussians in PLY files, such as those that parts of a run train.

The rows NAME with the shape (d0, d1) are the float properties ``extra_NAME_0`` to ``extra_NAME_k``, flattened, and the
header has ``comment extra NAME d0 d1``. Characters that a header cannot hold are written as in URLs: ``%20`` for a
space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np

from splatkit_ns.formats.gaussians import KEYS, FloatArray
from splatkit_ns.formats.ply_header import PlyElement, PlyError

Shapes = dict[str, tuple[int, ...]]

_WORD = "extra"
_MOST_DIMENSIONS = 16
_MOST_DIGITS = 9


def extra_shapes(extra: Mapping[str, FloatArray]) -> Shapes:
    """Name -> shape of a row, of all rows that have values to write."""
    return {name: rows.shape[1:] for name, rows in extra.items() if math.prod(rows.shape[1:]) > 0}


def extra_names(shapes: Shapes) -> list[str]:
    """Names of the properties, in the order in which they are written."""
    return [f"{_prefix(name)}{i}" for name, shape in shapes.items() for i in range(math.prod(shape))]


def extra_comments(shapes: Shapes) -> list[str]:
    """Texts of the comments that tell the shapes."""
    return [" ".join([_WORD, quote(name, safe=""), *map(str, shape)]) for name, shape in shapes.items()]


def fill_extra(columns: FloatArray, extra: Mapping[str, FloatArray], shapes: Shapes, start: int) -> None:
    """Put the rows from `start` on into columns (M, k) in the order of `extra_names`."""
    column = 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        rows = extra[name][start : start + len(columns)]
        columns[:, column : column + size] = rows.reshape(len(columns), size)
        column += size


def split_extra(columns: FloatArray, shapes: Shapes) -> dict[str, FloatArray]:
    """The rows (N, *shape) by name, of columns (N, k) in the order of `extra_names`."""
    extra: dict[str, FloatArray] = {}
    column = 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        extra[name] = np.ascontiguousarray(columns[:, column : column + size]).reshape(len(columns), *shape)
        column += size
    return extra


def declared_extra(comments: list[str], vertex: PlyElement, path: Path) -> Shapes:
    """Name -> shape of a row, of all rows that a header declares.

    Properties without a comment are no such rows, and a comment without properties is any text that begins with the
    word. The shapes are bounded by the number of properties, for which the file has been found to be large enough.

    Raises:
        PlyError: a comment and the properties that it names do not fit together, or two comments contradict each other.
    """
    numbers = _properties_by_prefix(vertex)
    shapes: Shapes = {}
    for comment in comments:
        words = comment.split()
        name = unquote(words[1]) if len(words) > 1 and words[0] == _WORD else ""
        if not name or _prefix(name) not in numbers:
            continue
        shape = _parse_shape(words[2:])
        if shape is None or name in KEYS:
            raise PlyError(f"{path}: expected 'comment extra NAME' and the shape of a row, found {comment[:80]!r}.")
        if name in shapes:  # known to fit the properties; so each property is looked at once
            if shapes[name] != shape:
                raise PlyError(f"{path}: two comments declare {name!r} with the shapes {shapes[name]} and {shape}.")
            continue
        found, count = numbers[_prefix(name)], math.prod(shape)
        # the count first: no list is made of a number from a file
        if count != len(found) or found != {str(i) for i in range(count)}:
            raise PlyError(
                f"{path}: {comment[:80]!r} declares rows of {count} values, expected the properties {_prefix(name)}0 "
                f"to {_prefix(name)}{count - 1}, found {len(found)} that begin so."
            )
        shapes[name] = shape
    return shapes


def _prefix(name: str) -> str:
    return f"{_WORD}_{quote(name, safe='')}_"


def _properties_by_prefix(vertex: PlyElement) -> dict[str, set[str]]:
    """Name up to the last "_" -> what follows it."""
    found: dict[str, set[str]] = {}
    for name in vertex.properties:
        stem, underscore, number = name.rpartition("_")
        if stem.startswith(_WORD + underscore) and underscore:
            found.setdefault(stem + underscore, set()).add(number)
    return found


def _parse_shape(words: list[str]) -> tuple[int, ...] | None:
    if len(words) > _MOST_DIMENSIONS:
        return None
    if not all(word.isascii() and word.isdigit() and len(word) <= _MOST_DIGITS and int(word) > 0 for word in words):
        return None
    return tuple(map(int, words))
