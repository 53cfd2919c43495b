"""Ctrl-C while a subcommand runs, and an output that takes no more."""

from __future__ import annotations

import atexit
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from splatkit_ns import formats
from splatkit_ns.cli import COMMANDS, main
from tests.formats.helpers import make_gaussians


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


def test_an_output_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A command that writes files writes them all the same; one whose result is printed has lost it."""
    monkeypatch.chdir(tmp_path)
    formats.write(Path("a.ply"), make_gaussians(5))
    for command, status, told in (
        (["convert", "a.ply", "b.ply"], 0, "Standard output takes no more (No space left on device)"),
        (["info", "a.ply"], 1, "Error: The result cannot be printed: [Errno 28] No space left on device."),
    ):
        full = open("/dev/full", "w")  # noqa: SIM115  # closing it would fail
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "__stdout__", full)
        assert main(command) == status
        assert told in capfd.readouterr().err
        with contextlib.suppress(OSError):
            full.close()
    assert len(formats.read(Path("b.ply"))) == 5


@pytest.mark.parametrize(
    ("output", "told"), [("| head -1", ""), ("| true", ""), (">&-", ""), ("> /dev/full", "Error: The help")]
)
@pytest.mark.parametrize("arguments", ["--help", "info --help"])
def test_help_that_nothing_takes_whole(arguments: str, output: str, told: str) -> None:
    command = f"{sys.executable} -m splatkit_ns.cli {arguments} {output}"
    errors = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False).stderr
    assert errors.startswith(told)
    assert errors.count("\n") == bool(told)
