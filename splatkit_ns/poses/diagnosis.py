"""Find out why poses were not found, or not of all pictures, and say what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from splatkit_ns.poses.database import CALIBRATED, WITHOUT_PARALLAX, MatchedPair
from splatkit_ns.poses.options import Matching

FEW_FEATURES = 150
"""A picture with fewer features than this can hardly be placed."""
ENOUGH_MATCHES = 15
"""The fewest matches with which COLMAP uses a pair."""
TURNING_SHARE = 0.8
"""If so many of the matched pairs show no parallax, the camera has hardly moved."""


def few_features(counts: Mapping[str, int], feature_size: int) -> str | None:
    """A sentence about pictures with few features, if at least half are so; else None.

    Args:
        counts: names of pictures -> numbers of features.
        feature_size: pixels of the longest side at which they were looked for.
    """
    few = [name for name, count in counts.items() if count < FEW_FEATURES]
    if 2 * len(few) < len(counts):
        return None
    return (
        f"{len(few)} of {len(counts)} pictures have fewer than {FEW_FEATURES} features (half have at most "
        f"{int(np.median(list(counts.values())))}): they are blurred, dark, small, or show plain surfaces. Take sharp "
        "photographs in good light, and let things with texture be in view; of larger pictures more can be made with "
        f"--feature-size above {feature_size}."
    )


def only_turns(pairs: Sequence[MatchedPair]) -> str | None:
    """A sentence about a camera that did not move, if most pairs show no parallax; else None."""
    matched = [pair for pair in pairs if pair.matches >= ENOUGH_MATCHES]
    flat = sum(pair.geometry in WITHOUT_PARALLAX for pair in matched)
    with_parallax = sum(pair.geometry in CALIBRATED for pair in matched)
    if not flat or flat < TURNING_SHARE * (flat + with_parallax):
        return None
    return (
        f"{flat} of {flat + with_parallax} matched pairs show no parallax: the camera only turned, or the pictures "
        "show nothing but one flat surface. Depth shows when the camera moves: walk sideways or around the scene, a "
        "step between photographs, instead of turning on the spot."
    )


def few_matches(pairs: Sequence[MatchedPair], num_pictures: int, matching: Matching) -> str:
    """A sentence about pictures that match too little."""
    matched = [pair for pair in pairs if pair.matches >= ENOUGH_MATCHES]
    alone = num_pictures - len({number for pair in matched for number in (pair.first, pair.second)})
    other = "" if matching == "exhaustive" else " Or compare all pairs: --matching exhaustive."
    return (
        f"Only {len(matched)} of {len(pairs)} compared pairs show the same things, and {alone} of {num_pictures} "
        "pictures match no other. Add photographs in between: each should show more than half of what its neighbours "
        f"show, from a place not far away; people, leaves, water and mirrors match badly.{other}"
    )


def explain(counts: Mapping[str, int], pairs: Sequence[MatchedPair], matching: Matching, feature_size: int) -> str:
    """The likeliest reason why no or few poses were found, and what to do.

    Args:
        counts: names of pictures -> numbers of features.
        pairs: the pairs that were compared.
        matching: how they were chosen.
        feature_size: pixels of the longest side at which features were looked for.
    """
    return few_features(counts, feature_size) or only_turns(pairs) or few_matches(pairs, len(counts), matching)
