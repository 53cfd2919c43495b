"""Help of options in whole paragraphs: tyro, which makes the command line, keeps the line breaks of the source."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, Any, get_type_hints

from tyro.conf import arg

HELP = frozenset(("-h", "--help"))


def join_help_lines(options: Any, arguments: Sequence[str]) -> None:
    """Let the help of all settings in an object flow, if the arguments of a command ask for help.

    nerfstudio's own classes, and classes whose source or types cannot be found, stay as they are.

    Args:
        options: a dataclass or an instance of one, whose values may be others, also in dicts.
        arguments: those of the command.
    """
    if HELP.isdisjoint(arguments):
        return
    for cls in {base for kind in _kinds(options, ()) for base in kind.__mro__}:
        if dataclasses.is_dataclass(cls) and not cls.__module__.startswith("nerfstudio."):
            _join_lines_of(cls)


def _kinds(options: Any, owners: tuple[int, ...]) -> Iterator[type]:
    values: list[Any] = []
    if isinstance(options, dict):
        values = list(options.values())
    elif dataclasses.is_dataclass(options):
        yield options if isinstance(options, type) else type(options)
        values = [] if isinstance(options, type) else [*vars(options).values()]
    if id(options) not in owners:
        for value in values:
            yield from _kinds(value, (*owners, id(options)))


@cache
def _join_lines_of(cls: type) -> None:
    try:
        texts = _field_texts(cls)
        hints = get_type_hints(cls, include_extras=True) if texts else {}
    except Exception:  # a class of a notebook, or a type that is imported for type checkers alone
        return
    for name, text in texts.items():
        if name in cls.__annotations__:
            cls.__annotations__[name] = Annotated[hints[name], arg(help=text)]


def _field_texts(cls: type) -> dict[str, str]:
    """The texts of more than one line below fields in a class's source, by field, each as one line."""
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(found, ast.ClassDef)
    texts: dict[str, str] = {}
    for before, after in zip(found.body, found.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(after, ast.Expr):
            text = after.value.value if isinstance(after.value, ast.Constant) else None
            if isinstance(text, str) and "\n" in text and "\n\n" not in text:
                texts[before.target.id] = " ".join(text.split())
    return texts
