"""Ctrl-C while a subcommand runs."""

from __future__ import annotations

import atexit
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from splatkit_ns.cli import COMMANDS, main


def test_ctrl_c_ends_the_program_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's own way takes seconds after nerfstudio has been loaded, in which nothing seems to happen."""
    ended: list[str] = []

    def interrupted(options: Any) -> NoReturn:
        sys.stdout.write("begun\n")
        raise KeyboardInterrupt

    def exit_now(status: int) -> NoReturn:
        ended.append(f"ended with {status}")
        raise SystemExit(status)

    arguments = ["info", str(tmp_path / "model.ply")]
    monkeypatch.setitem(COMMANDS, "info", (COMMANDS["info"][0], interrupted))
    monkeypatch.setattr("os._exit", exit_now)
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: ended.append("cleaned up"))
    assert main(arguments) == 130, "others who call it go on"
    assert ended == []
    monkeypatch.setattr(sys, "argv", ["splatkit", *arguments])
    with pytest.raises(SystemExit, match="130"):
        main()
    assert ended == ["cleaned up", "ended with 130"]
    assert capsys.readouterr().out == "begun\n" * 2
