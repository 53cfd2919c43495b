"""What is said about pictures without poses."""

from __future__ import annotations

from splatkit_ns.poses.database import MatchedPair
from splatkit_ns.poses.diagnosis import explain, few_features, few_matches, only_turns

GOOD = {f"{number}.jpg": 2000 for number in range(10)}


def pairs(*geometries: int, matches: int = 100) -> list[MatchedPair]:
    return [MatchedPair(number, number + 1, matches, geometry) for number, geometry in enumerate(geometries)]


def test_few_features_count_from_half_of_the_pictures_on() -> None:
    assert few_features(GOOD, 1600) is None
    assert few_features({**GOOD, **dict.fromkeys(list(GOOD)[:4], 0)}, 1600) is None
    text = few_features({**GOOD, **dict.fromkeys(list(GOOD)[:6], 30)}, 1600)
    assert text is not None
    assert text.startswith("6 of 10 pictures have fewer than 150 features (half have at most 30)")
    assert "--feature-size above 1600" in text


def test_turning_shows_in_the_geometry_of_pairs_with_matches() -> None:
    assert only_turns([]) is None
    assert only_turns(pairs(3, 3, 2, 6)) is None
    assert "9 of 10 matched pairs" in str(only_turns(pairs(5, 6, 6, 4, 6, 6, 6, 6, 6, 3)))
    assert only_turns([*pairs(6, matches=3), *pairs(3, 3)]) is None, "pairs without matches say nothing"
    assert only_turns(pairs(1, 0, 7)) is None


def test_advice_names_all_pairs_unless_they_were_compared() -> None:
    text = few_matches([*pairs(3, 3), *pairs(1, matches=0)], 10, "sequential")
    assert text.startswith("Only 2 of 3 compared pairs show the same things, and 7 of 10 pictures match no other")
    assert "--matching exhaustive" in text
    assert "--matching" not in few_matches(pairs(3), 10, "exhaustive")


def test_the_likeliest_reason_comes_first() -> None:
    poor = dict.fromkeys(GOOD, 10)
    assert "features" in explain(poor, pairs(6), "exhaustive", 1600)
    assert "parallax" in explain(GOOD, pairs(6), "exhaustive", 1600)
    assert "match no other" in explain(GOOD, pairs(3), "exhaustive", 1600)
