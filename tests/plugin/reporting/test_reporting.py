"""A user's mistake ends in its message alone, anything else in its traceback."""

from __future__ import annotations

import sys

import pytest
from nerfstudio.utils.rich_utils import CONSOLE

from splatkit_ns.errors import HookFailedError, SplatkitError
from splatkit_ns.plugin.reporting.console import report_once
from splatkit_ns.plugin.run.excepthook import install_excepthook


@pytest.fixture
def previous(monkeypatch: pytest.MonkeyPatch) -> list[type[BaseException]]:
    """What reached the hook that was there before ours."""
    seen: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, traceback: seen.append(kind))
    return seen


def test_a_mistake_is_printed_whole_and_without_traceback(previous: list[type[BaseException]]) -> None:
    install_excepthook()
    with CONSOLE.capture() as capture:
        sys.excepthook(SplatkitError, SplatkitError("folder [x] is empty " + "very " * 60 + "long"), None)
    text = capture.get()
    assert text.startswith("Error: folder [x] is empty very very")
    assert text.count("\n") == 1, "the line is not broken, so that paths can be copied"
    assert "Traceback" not in text
    assert previous == []


def test_other_errors_look_as_before(previous: list[type[BaseException]]) -> None:
    install_excepthook()
    sys.excepthook(KeyError, KeyError("x"), None)
    sys.excepthook(HookFailedError, HookFailedError("a fault in code deserves its traceback"), None)
    assert previous == [KeyError, HookFailedError]


def test_it_is_installed_once(previous: list[type[BaseException]]) -> None:
    install_excepthook()
    first = sys.excepthook
    install_excepthook()
    assert sys.excepthook is first


def test_notes_are_given_once() -> None:
    with CONSOLE.capture() as capture:
        report_once("a note for this test alone")
        report_once("a note for this test alone")
    assert capture.get().count("a note for this test alone") == 1
