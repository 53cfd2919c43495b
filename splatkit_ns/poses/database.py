"""The content of COLMAP's database: features of pictures, and matches of pairs.

Never to be read while COLMAP writes: Python's copy of SQLite in the same process would undo the locks of COLMAP's.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MAX_IMAGES = 2147483647
"""COLMAP numbers a pair of images by the smaller id times this, plus the larger id."""
CALIBRATED = (2, 3, 9)
"""COLMAP's numbers of two-view geometries with parallax."""
WITHOUT_PARALLAX = (4, 5, 6)
"""The numbers for flat scenes, for cameras that only turn, and for either of them."""


@dataclass(frozen=True)
class MatchedPair:
    """A pair of images that has been compared."""

    first: int
    """The id of an image."""
    second: int
    matches: int
    """Features of both that fit one geometry."""
    geometry: int
    """COLMAP's number of the kind of geometry."""


@contextmanager
def _reading(database: Path) -> Generator[sqlite3.Connection]:
    with contextlib.closing(
        sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=10)
    ) as connection:
        yield connection


def count_features(database: Path) -> int:
    """The number of images whose features have been extracted; 0 if there is no database."""
    return _count(database, "keypoints")


def count_pairs(database: Path) -> int:
    """The number of pairs that have been compared; 0 if there is no database."""
    return _count(database, "two_view_geometries")


def _count(database: Path, table: str) -> int:
    if not database.exists():
        return 0
    try:
        with _reading(database) as connection:
            return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
    except sqlite3.OperationalError:  # killed before it had tables
        return 0


def image_ids(database: Path) -> dict[str, int]:
    """Names of images -> their ids.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    with _reading(database) as connection:
        return {str(name): int(number) for number, name in connection.execute("SELECT image_id, name FROM images")}


def feature_counts(database: Path) -> dict[str, int]:
    """Names of images -> the number of their features; images without any have 0.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    query = "SELECT images.name, COALESCE(keypoints.rows, 0) FROM images LEFT JOIN keypoints USING (image_id)"
    with _reading(database) as connection:
        return {str(name): int(rows) for name, rows in connection.execute(query)}


def matched_pairs(database: Path) -> list[MatchedPair]:
    """All pairs that have been compared.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    query = "SELECT pair_id, rows, config FROM two_view_geometries"
    with _reading(database) as connection:
        return [
            MatchedPair(pair_id // MAX_IMAGES, pair_id % MAX_IMAGES, int(rows), int(config))
            for pair_id, rows, config in connection.execute(query)
        ]
