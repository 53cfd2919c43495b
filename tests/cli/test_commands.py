"""The commands begin quickly."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from splatkit_ns import formats
from splatkit_ns.cli import main
from splatkit_ns.cli.commands import SWITCH, without_compiling
from tests.cli.helpers import run
from tests.formats.helpers import make_gaussians


def double(value: float) -> float:
    return 2 * value


def test_functions_are_not_compiled_while_a_command_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    with without_compiling():
        assert torch.compile(double) is double
    assert os.environ[SWITCH] == "0"
    monkeypatch.delenv(SWITCH)
    with without_compiling():
        pass
    assert SWITCH not in os.environ
    assert torch.compile(double) is not double


def test_commands_for_files_do_without_pytorch(tmp_path: Path) -> None:
    """It takes seconds to load, and 400 MB of memory."""
    for number, name in enumerate(("a.ply", "b.spz")):
        formats.write(tmp_path / name, make_gaussians(20, seed=number))
    code = (
        "import sys\n"
        "from splatkit_ns.cli import main\n"
        "for command in ('info a.ply b.spz', 'convert a.ply c.glb', 'merge a.ply b.spz --output c.ply'):\n"
        "    assert main(command.split()) == 0\n"
        "    assert 'torch' not in sys.modules, command"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_only_other_packages_are_silenced(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        assert main(["info", str(tmp_path / "nothing.ply")]) == 1
        for module in ("torch.jit._script", "nerfstudio.engine.trainer", "my_parts", "torchless"):
            warnings.warn_explicit(f"of {module}", FutureWarning, "file.py", 1, module=module)
        warnings.warn_explicit("no future", UserWarning, "file.py", 1, module="torch.nn")
    assert [str(each.message) for each in caught] == ["of my_parts", "of torchless", "no future"]


def test_a_tilde_that_the_shell_has_left_is_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No folder named ~ is made, which a careless `rm -r ~` would be meant for."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    formats.write(home / "a.ply", make_gaussians(5))
    formats.write(home / "b~.ply", make_gaussians(5))
    for arguments in (["convert", "~/a.ply", "~/c.ply"], ["merge", "~/a.ply", "../home/b~.ply", "--output=~/d.ply"]):
        status, text = run(capsys, *arguments)
        assert status == 0, text
    assert sorted(path.name for path in home.iterdir()) == ["a.ply", "b~.ply", "c.ply", "d.ply"]
    assert not [*elsewhere.iterdir()]
