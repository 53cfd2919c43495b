"""Running the command in the tests' own process."""

from __future__ import annotations

from pathlib import Path

import pytest

from splatkit_ns.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """The exit status, and what was printed, on one line."""
    status = main([*map(str, arguments)])
    captured = capsys.readouterr()
    return status, " ".join((captured.out + captured.err).split())


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The message of a command that ends with status 1 and one message."""
    status, text = run(capsys, *arguments)
    assert status == 1, text
    assert text.count("Error:") == 1, text
    return text
