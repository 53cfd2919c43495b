"""Terminals and logs that lack characters of what is printed, as with ASCII or Latin-1."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from nerfstudio.utils.rich_utils import CONSOLE

from splatkit_ns import formats
from splatkit_ns.cli import main
from splatkit_ns.methods import find_method
from splatkit_ns.plugin.run.ending.excepthook import install_excepthook
from tests.formats.helpers import make_gaussians


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], io.BytesIO]:
    """A function that lets standard output have an encoding, and returns what its bytes go into."""

    def made(encoding: str) -> io.BytesIO:
        content = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding, write_through=True))
        monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
        return content

    return made


def test_commands_of_ours(printed: Callable[[str], io.BytesIO], tmp_path: Path) -> None:
    path = tmp_path / "F\u00fcchs.ply"
    formats.write(path, make_gaussians(5))
    content = printed("ascii")
    assert main(["info", str(path)]) == 0
    assert b"F?chs.ply" in content.getvalue()


def test_what_a_run_prints_before_it_begins(printed: Callable[[str], io.BytesIO], tmp_path: Path) -> None:
    content = printed("ascii")
    config: Any = deepcopy(find_method("splatkit-3dgs").config)
    config.experiment_name, config.output_dir = "F\u00fcchs", tmp_path
    config.set_timestamp()
    config.print_to_terminal()
    assert b"F?chs" in content.getvalue()


@pytest.mark.parametrize(("encoding", "shown"), [("latin-1", b"F\xfcchs ?"), ("utf-8", b"F\xfcchs \xe2\x9c\x85")])
def test_commands_of_nerfstudio(printed: Callable[[str], io.BytesIO], encoding: str, shown: bytes) -> None:
    """They print pictures; a name in Latin-1 on a disk is no text in UTF-8, and is printed as it is."""
    content = printed(encoding)
    install_excepthook()
    name = b"F\xfcchs".decode(encoding, "surrogateescape")
    CONSOLE.print(f"{name} :white_check_mark:")
    assert shown in content.getvalue()


def test_output_that_is_not_to_be_buffered() -> None:
    """With ``python -u`` or PYTHONUNBUFFERED, as containers have it, a line is out as soon as it is printed."""
    script = "import os; from splatkit_ns.lasting_output import make_output_last; make_output_last()"
    command = [sys.executable, "-u", "-c", f"{script}; print('printed'); os._exit(0)"]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == b"printed\n"
