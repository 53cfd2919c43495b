"""Ranges said at the fields of dataclasses, and the one check of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import numpy as np
import pytest

from splatkit_ns.errors import OptionsError
from splatkit_ns.ranges import (
    BelowOne,
    Fraction,
    InnerFraction,
    NonNegative,
    Positive,
    Range,
    Share,
    Steps,
    at_most,
    check,
    from_to,
    one_of,
    problems,
)

if TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]

NUMBERS = (-math.inf, -1, -1e-9, 0, 1e-9, 0.5, 1, 1.5, 10**30, math.inf, math.nan)


@pytest.mark.parametrize(
    ("allowed", "expected", "fitting"),
    [
        (Positive, "a number above 0", {1e-9, 0.5, 1, 1.5, 10**30}),
        (NonNegative, "a number of at least 0", {0, 1e-9, 0.5, 1, 1.5, 10**30}),
        (Fraction, "a number between 0 and 1", {0, 1e-9, 0.5, 1}),
        (Share, "a number above 0, up to 1", {1e-9, 0.5, 1}),
        (BelowOne, "a number of at least 0 and below 1", {0, 1e-9, 0.5}),
        (InnerFraction, "a number between 0 and 1, both excluded", {1e-9, 0.5}),
        (from_to(0.5, 1.5), "a number between 0.5 and 1.5", {0.5, 1, 1.5}),
        (at_most(1), "at most 1", {-math.inf, -1, -1e-9, 0, 1e-9, 0.5, 1}),
        (one_of(0, 1, 10), "0, 1 or 10", {0, 1}),
    ],
)
def test_each_range(allowed: Range, expected: str, fitting: set[float]) -> None:
    for value in NUMBERS:
        complaint = allowed.complaint(value)
        assert complaint == (None if value in fitting else f"is {value}, expected {expected}"), value
    for value in (None, "1", True, [1]):
        assert allowed.complaint(value) == f"is {value!r}, expected {expected}"
    assert allowed.complaint(10**400) in (None, f"is {10**400}, expected {expected}"), "no OverflowError"


def test_numpys_numbers_are_numbers() -> None:
    assert Fraction.complaint(np.float32(0.5)) is None
    assert Fraction.complaint(np.float64(1.5)) == "is 1.5, expected a number between 0 and 1"
    assert Steps.complaint(np.arange(1, 3)) is None


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (None, None),
        ((), None),
        ([1, 30], None),
        ([7, 0, -1], "holds 0, expected whole numbers of at least 1"),
        ([1.0], "holds 1.0, expected whole numbers of at least 1"),
        ([True], "holds True, expected whole numbers of at least 1"),
        (7, "is 7, expected a list of whole numbers of at least 1"),
        ("7", "is '7', expected a list of whole numbers of at least 1"),
    ],
)
def test_steps(value: Any, complaint: str | None) -> None:
    assert Steps.complaint(value) == complaint


@dataclass
class Inner:
    growth: Annotated[float, NonNegative] = 0.05
    count: int = 3
    word: Literal["a", "b"] = "a"
    limit: Annotated[Optional[int], Positive] = None  # noqa: UP045 - as nerfstudio writes it
    other_limit: Annotated[int, Positive] | None = None
    size: Annotated[float, Positive, at_most(10)] = 1.0


@dataclass
class Outer:
    inner: Inner = field(default_factory=Inner)
    by_name: dict[str, Any] = field(default_factory=dict[str, Any])
    unknown: Missing = None
    rate: Annotated[float, Positive] = 1.0
    partner: Any = None


def test_all_problems_are_told_with_their_paths() -> None:
    value = Outer(Inner(-1.0, 2.5, "c", 0, 0, 11), {"x": {"y": Inner(growth=math.nan)}}, rate=0)  # type: ignore[arg-type]
    assert problems(value, "part") == [
        "part.inner.growth is -1.0, expected a number of at least 0",
        "part.inner.count is 2.5, expected a whole number",
        "part.inner.word is 'c', expected one of: a, b",
        "part.inner.limit is 0, expected a number above 0",
        "part.inner.other_limit is 0, expected a number above 0",
        "part.inner.size is 11, expected at most 10",
        "part.by_name.x.y.growth is nan, expected a number of at least 0",
        "part.rate is 0, expected a number above 0",
    ]
    assert problems(value, shown=str.upper)[0].startswith("INNER.GROWTH is -1.0")
    with pytest.raises(OptionsError, match=r"^8 option\(s\) cannot be used:\n  - inner\.growth is -1\.0"):
        check(value)


def test_none_fits_where_the_type_admits_it_alone() -> None:
    assert problems(Inner()) == []
    assert problems(Inner(growth=None)) == ["growth is None, expected a number of at least 0"]  # type: ignore[arg-type]


def test_objects_that_hold_each_other_are_walked_once() -> None:
    one, two = Outer(rate=-1.0), Outer(rate=-2.0)
    one.partner, two.partner = two, one
    assert len(problems(one)) == 2


def test_what_is_no_dataclass_has_no_settings() -> None:
    for value in (Inner, object(), 7, None, [Inner(growth=-1.0)]):
        assert problems(value) == []


def test_a_subclass_inherits_ranges_and_may_say_others() -> None:
    @dataclass
    class Same(Inner):
        own: Missing | None = None

    @dataclass
    class Other(Inner):
        growth: float = -1.0
        size: Annotated[float, at_most(0)] = 0.0

    assert problems(Same(growth=-1.0)) == ["growth is -1.0, expected a number of at least 0"]
    assert problems(Other()) == []
    assert problems(Other(size=0.5, limit=-1)) == [
        "limit is -1, expected a number above 0",
        "size is 0.5, expected at most 0",
    ]


def test_settings_that_an_old_file_lacks_are_left_out() -> None:
    value = Outer()
    del value.inner
    assert problems(value) == []
