"""The pairs of pictures that are compared."""

from __future__ import annotations

import numpy as np
import pytest

from splatkit_ns.errors import SplatkitError
from splatkit_ns.poses.pairs import (
    GPS_NEIGHBOURS,
    OVERLAP,
    choose_matching,
    exhaustive_pairs,
    gps_pairs,
    ground_positions,
    sequential_pairs,
)
from splatkit_ns.poses.pictures import Picture


def pictures(number: int, placed: int = 0) -> list[Picture]:
    return [
        Picture(f"{index}.jpg", f"{index}.jpg", 10, 10, gps=(47.0, 8.0) if index < placed else None)
        for index in range(number)
    ]


def test_exhaustive() -> None:
    assert exhaustive_pairs(3) == [(0, 1), (0, 2), (1, 2)]


def test_sequences_have_near_neighbours_far_ones_and_landmarks() -> None:
    pairs = set(sequential_pairs(400))
    assert all((index, index + step) in pairs for step in range(1, OVERLAP + 1) for index in range(400 - step))
    assert {(5, 21), (5, 37), (5, 261)} <= pairs
    assert (0, 390) in pairs, "the way comes back to where it began"
    assert (3, 391) not in pairs
    assert len(pairs) < 8000
    assert all(a < b < 400 for a, b in pairs)
    assert set(sequential_pairs(20)) == set(exhaustive_pairs(20)), "short ones are compared wholly"


def test_gps_pairs_are_the_nearest_on_the_ground() -> None:
    """A row along a meridian across 60° of latitude, where a degree of longitude is half as long."""
    north = [(60 + 0.0001 * index, 10.0) for index in range(100)]
    pairs = set(gps_pairs(north))
    assert (0, 1) in pairs
    assert (0, GPS_NEIGHBOURS) in pairs
    assert (0, GPS_NEIGHBOURS + 25) not in pairs
    with_one_unknown = set(gps_pairs([*north, None]))
    assert {(index, 100) for index in range(100)} <= with_one_unknown


def test_ground_positions_are_in_metres() -> None:
    metres = ground_positions(np.array([[60.0, 10.0], [60.0, 10.001], [60.001, 10.0], [0.0, 180.0], [0.0, -180.0]]))
    assert np.linalg.norm(metres[1] - metres[0]) == pytest.approx(55.6, abs=0.1)
    assert np.linalg.norm(metres[2] - metres[0]) == pytest.approx(111.2, abs=0.1)
    assert np.linalg.norm(metres[4] - metres[3]) == pytest.approx(0.0, abs=1e-6)


def test_the_way_is_chosen_by_number_and_gps() -> None:
    assert choose_matching("auto", pictures(50), is_video=True) == "sequential"
    assert choose_matching("auto", pictures(200, 200), is_video=False) == "exhaustive"
    assert choose_matching("auto", pictures(201, 201), is_video=False) == "gps"
    assert choose_matching("auto", pictures(201, 200), is_video=False) == "exhaustive"
    assert choose_matching("gps", pictures(10, 1), is_video=False) == "gps"
    with pytest.raises(SplatkitError, match="none of the pictures has a place"):
        choose_matching("gps", pictures(10), is_video=False)
