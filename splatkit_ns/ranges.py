"""The ranges of settings, declared at the settings' own fields, and the one check of them.

A field of a dataclass declares its range in its type::

    growth: Annotated[float, NonNegative] = 0.05

Several ranges are checked in their order, and the first that does not fit is reported. Without any, a field of type
``int`` still has to be a whole number, and one of type ``Literal`` one of its words; None fits if the type admits it.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from inspect import get_annotations
from numbers import Integral, Real
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeGuard, Union, get_args, get_origin, get_type_hints

from splatkit_ns.errors import OptionsError


class Range:
    """The values that a setting may have.

    Args:
        expected: their description, as it follows "expected" in messages.
        fits: whether a value is one of them.
    """

    def __init__(self, expected: str, fits: Callable[[Any], bool]) -> None:
        self.expected = expected
        self.fits = fits

    def complaint(self, value: Any) -> str | None:
        """The fault of a value, such as "is -1, expected a number above 0"; None if there is none."""
        return None if self.fits(value) else f"is {_shown(value)}, expected {self.expected}"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether this is a real number, NumPy's included; a bool is none."""
    return not isinstance(value, bool) and isinstance(value, Real)


def _is_whole(value: Any) -> TypeGuard[int]:
    return not isinstance(value, bool) and isinstance(value, Integral)


def _is_finite(value: Any) -> bool:
    return is_number(value) and (isinstance(value, Integral) or math.isfinite(value))


def above(low: float) -> Range:
    """Finite numbers above this."""
    return Range(f"a number above {low:g}", lambda value: _is_finite(value) and value > low)


def at_least(low: float) -> Range:
    """Finite numbers of at least this."""
    return Range(f"a number of at least {low:g}", lambda value: _is_finite(value) and value >= low)


def at_most(high: float) -> Range:
    """Numbers up to this; a second range beside `above` or `at_least`."""
    return Range(f"at most {high}", lambda value: is_number(value) and value <= high)


def from_to(low: float, high: float, *, lower_open: bool = False, upper_open: bool = False) -> Range:
    """Numbers between two others.

    Args:
        low: the lower end.
        high: the upper end.
        lower_open: whether the lower end itself is excluded.
        upper_open: whether the upper end itself is excluded.
    """
    expected = {
        (False, False): f"a number between {low:g} and {high:g}",
        (True, False): f"a number above {low:g}, up to {high:g}",
        (False, True): f"a number of at least {low:g} and below {high:g}",
        (True, True): f"a number between {low:g} and {high:g}, both excluded",
    }[lower_open, upper_open]

    def fits(value: Any) -> bool:
        return (
            is_number(value)
            and (low < value if lower_open else low <= value)
            and (value < high if upper_open else value <= high)
        )

    return Range(expected, fits)


def one_of(*choices: Any) -> Range:
    """These values alone."""
    if len(choices) > 1 and all(is_number(choice) for choice in choices):
        expected = f"{', '.join(map(str, choices[:-1]))} or {choices[-1]}"
    else:
        expected = f"one of: {', '.join(map(str, choices))}"
    return Range(expected, lambda value: _is_among(value, choices))


def _is_among(value: Any, choices: Sequence[Any]) -> bool:
    return any(
        isinstance(value, type(choice)) and isinstance(value, bool) == isinstance(choice, bool) and value == choice
        for choice in choices
    )


class WholeNumbers(Range):
    """Lists of whole numbers of at least `low`, such as steps; an empty list and None fit, too."""

    def __init__(self, low: int) -> None:
        super().__init__(f"whole numbers of at least {low}", lambda value: self.complaint(value) is None)
        self.low = low

    def complaint(self, value: Any) -> str | None:
        """See `Range.complaint`; the first number that does not fit is reported."""
        if value is None:
            return None
        if isinstance(value, str) or not isinstance(value, Collection):
            return f"is {_shown(value)}, expected a list of {self.expected}"
        for number in value:
            if not (_is_whole(number) and number >= self.low):
                return f"holds {_shown(number)}, expected {self.expected}"
        return None


Positive = above(0)
"""Finite numbers above 0."""
NonNegative = at_least(0)
"""Finite numbers of at least 0."""
Fraction = from_to(0, 1)
"""Numbers from 0 to 1, both included."""
Share = from_to(0, 1, lower_open=True)
"""Numbers above 0, up to 1."""
BelowOne = from_to(0, 1, upper_open=True)
"""Numbers from 0 to below 1."""
InnerFraction = from_to(0, 1, lower_open=True, upper_open=True)
"""Numbers between 0 and 1, both excluded."""
Steps = WholeNumbers(1)
"""Lists of steps, counted from 1."""


def _shown(value: Any) -> str:
    return str(value) if is_number(value) else repr(value)


RangesOfOthers = Callable[[type, type, str], Sequence[Range]]
"""The ranges of a field that cannot declare its own, from the object's class, the class that defines the field, and
its name."""


def _no_others(owner: type, definer: type, name: str) -> Sequence[Range]:
    return ()


def problems(
    value: Any, path: str = "", shown: Callable[[str], str] = str, others: RangesOfOthers = _no_others
) -> list[str]:
    """The faults of the settings in an object, one line each, such as "growth is -1.0, expected …".

    Args:
        value: a dataclass or dict, whose values may be others; anything else has no settings.
        path: the name of the object, to which the names of its settings are appended with a dot.
        shown: the function that gives the name of a path's setting in messages.
        others: ranges of fields that cannot declare their own.
    """
    found: list[str] = []
    _collect(value, path, lambda place, complaint: found.append(f"{shown(place)} {complaint}"), others, ())
    return found


def flag(name: str) -> str:
    """The command-line option of a field, such as ``--load-step`` for ``load_step``."""
    return f"--{name.replace('_', '-')}"


def check(value: Any, path: str = "", shown: Callable[[str], str] = str) -> None:
    """Check the settings in an object; see `problems`.

    Raises:
        OptionsError: names every setting that is out of its range.
    """
    found = problems(value, path, shown)
    if found:
        raise OptionsError(found)


def _collect(
    value: Any, path: str, report: Callable[[str, str], None], others: RangesOfOthers, owners: tuple[int, ...]
) -> None:
    """Walk through nested dataclasses and dicts; `owners` are the ids of those that this one is in."""
    if id(value) in owners:
        return
    owners = (*owners, id(value))
    prefix = f"{path}." if path else ""
    if isinstance(value, dict):
        for name, entry in value.items():
            _collect(entry, f"{prefix}{name}", report, others, owners)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for setting in _settings(type(value)):
            if not hasattr(value, setting.name):  # an object of an older release, from a file
                continue
            entry = getattr(value, setting.name)
            ranges = setting.ranges or others(type(value), setting.definer, setting.name)
            complaint = _complaint(setting, ranges, entry)
            if complaint is None:
                _collect(entry, prefix + setting.name, report, others, owners)
            else:
                report(prefix + setting.name, complaint)


def _complaint(setting: _Setting, ranges: Sequence[Range], value: Any) -> str | None:
    if value is None and setting.is_optional:
        return None
    if setting.is_whole and is_number(value) and not _is_whole(value):
        return f"is {_shown(value)}, expected a whole number"
    for each in ranges:
        complaint = each.complaint(value)
        if complaint is not None:
            return complaint
    return None


class _Setting(NamedTuple):
    """A field of a dataclass, as its type describes it."""

    name: str
    definer: type
    """The class that has the field's annotation."""
    ranges: tuple[Range, ...]
    is_whole: bool
    is_optional: bool


@lru_cache(maxsize=1024)
def _settings(cls: type) -> tuple[_Setting, ...]:
    settings: list[_Setting] = []
    for field in dataclasses.fields(cls):
        definer = next((base for base in cls.__mro__ if field.name in get_annotations(base)), cls)
        settings.append(_setting(field.name, definer, _resolved(definer, field.name, field.type)))
    return tuple(settings)


def _setting(name: str, definer: type, hint: Any) -> _Setting:
    """Take a type apart: ``Annotated`` and ``… | None`` in any order, around what is left."""
    ranges: tuple[Range, ...] = ()
    is_optional = False
    while True:
        if get_origin(hint) is Annotated:
            hint, *metadata = get_args(hint)
            ranges = (*(entry for entry in metadata if isinstance(entry, Range)), *ranges)
        elif get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint) and len(get_args(hint)) == 2:
            is_optional = True
            hint = next(kind for kind in get_args(hint) if kind is not NoneType)
        else:
            break
    if get_origin(hint) is Literal:
        ranges = (*ranges, one_of(*get_args(hint)))
    return _Setting(name, definer, ranges, hint is int, is_optional)


def _resolved(definer: type, name: str, annotation: Any) -> Any:
    """The type of a field; ``Any`` if it cannot be resolved, such as one that is imported for type checkers alone."""
    holder: Any = SimpleNamespace(__annotations__={name: annotation})
    names = vars(sys.modules[definer.__module__]) if definer.__module__ in sys.modules else {}
    try:
        return get_type_hints(holder, names, dict(vars(definer)), include_extras=True)[name]
    except Exception:  # a user's annotation may raise any exception: then the field has no range
        return Any
