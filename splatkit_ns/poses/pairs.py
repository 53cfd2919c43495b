"""The pairs of pictures whose features are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.spatial import KDTree

from splatkit_ns.errors import SplatkitError
from splatkit_ns.poses.options import Matching
from splatkit_ns.poses.pictures import Picture

ALL_PAIRS = 200
"""Up to this many photographs, all pairs are compared unless something else is asked for."""
OVERLAP = 10
"""A picture of a sequence is compared with so many that follow it, and with those a power of two farther."""
LANDMARKS = 40
"""The pictures of a sequence, spread evenly, that are all compared with each other, to find loops of the way."""
GPS_NEIGHBOURS = 30
EARTH_RADIUS = 6_371_000.0
"""The mean radius in metres."""

Pair = tuple[int, int]
"""Indices of two pictures, the smaller one first."""


def choose_matching(matching: Matching, pictures: Sequence[Picture], is_video: bool) -> Matching:
    """The way that ``auto`` stands for; any other one stays.

    Raises:
        SplatkitError: pairs shall be found by GPS, and no picture has a place.
    """
    placed = sum(picture.gps is not None for picture in pictures)
    if matching == "gps" and not placed:
        raise SplatkitError("--matching gps: none of the pictures has a place (GPS) in EXIF. Use another --matching.")
    if matching != "auto":
        return matching
    if is_video:
        return "sequential"
    return "gps" if len(pictures) > ALL_PAIRS and placed == len(pictures) else "exhaustive"


def pairs_of(matching: Matching, pictures: Sequence[Picture]) -> list[Pair]:
    """The pairs to compare.

    Args:
        matching: not ``auto``; see `choose_matching`.
        pictures: in the order of a sequence, if they are one.
    """
    if matching == "sequential":
        return sequential_pairs(len(pictures))
    if matching == "gps":
        return gps_pairs([picture.gps for picture in pictures])
    return exhaustive_pairs(len(pictures))


def exhaustive_pairs(number: int) -> list[Pair]:
    """All pairs."""
    return list(combinations(range(number), 2))


def sequential_pairs(number: int) -> list[Pair]:
    """The pairs of a sequence: near neighbours, farther ones at growing distances, and landmarks all along it."""
    distances = {*range(1, OVERLAP + 1), *(2**power for power in range(number.bit_length()))}
    near = {(index, index + step) for step in distances for index in range(number - step)}
    step = math.ceil(number / LANDMARKS)
    return sorted(near.union(combinations(range(0, number, step), 2)) if number else near)


def gps_pairs(places: Sequence[tuple[float, float] | None]) -> list[Pair]:
    """Each picture and its nearest neighbours on the ground; pictures without a place are paired with all.

    Args:
        places: latitude and longitude in degrees.
    """
    pairs: set[Pair] = set()
    placed = [index for index, place in enumerate(places) if place is not None]
    for index, place in enumerate(places):
        if place is None:
            pairs.update((min(index, other), max(index, other)) for other in range(len(places)) if other != index)
    if len(placed) > 1:
        metres = ground_positions(np.array([places[index] for index in placed], float))
        found = KDTree(metres).query(metres, k=min(GPS_NEIGHBOURS + 1, len(placed)))[1]
        for row, neighbours in enumerate(np.asarray(found).tolist()):
            pairs.update(
                (min(placed[row], placed[other]), max(placed[row], placed[other]))
                for other in neighbours
                if other != row
            )
    return sorted(pairs)


def ground_positions(places: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> np.ndarray:
    """Positions on a sphere of the Earth's size, (N, 3) in metres, of latitudes and longitudes, (N, 2) in degrees."""
    latitude, longitude = np.radians(places).T
    flat = np.cos(latitude)
    return EARTH_RADIUS * np.stack([flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)], axis=-1)
