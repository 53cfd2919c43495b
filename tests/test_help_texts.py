"""Help of options flows: it has no line breaks of the source."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
import tyro

from splatkit_ns import ranges
from splatkit_ns.help_texts import join_help_lines
from splatkit_ns.ranges import Positive


@dataclass
class Inner:
    """Settings within others."""

    size: Annotated[int, Positive] = 3
    """The size of a thing, told in a sentence that is long enough to be broken in the source, where it goes on in the
    next line."""


@dataclass
class Outer:
    """Settings."""

    inner: Inner = field(default_factory=Inner)
    others: dict[str, Any] = field(default_factory=dict)


def test_help_has_no_line_breaks_of_the_source(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    join_help_lines(Outer(), ["--size", "4"])
    assert Inner.__annotations__["size"] == "Annotated[int, Positive]", "nothing is done if nobody asks for help"
    outer = Outer(others={"a": Outer()})
    outer.others["a"].others["b"] = outer
    for _ in range(2):
        join_help_lines(outer, ["--help"])
    with pytest.raises(SystemExit):
        tyro.cli(Inner, args=["--help"])
    assert "in the source, where it goes on in the next line. (default: 3)" in capsys.readouterr().out
    assert tyro.cli(Inner, args=["--size", "4"]) == Inner(4)
    assert ranges.problems(Inner(0)) == ["size is 0, expected a number above 0"]


def test_the_command_line_of_splatkit(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    from splatkit_ns.cli import main

    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    told = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "that show the sky of a run that has learnt one (--pipeline.model.renderer.sky-degree); 0 leaves" in told
