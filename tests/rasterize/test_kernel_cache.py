"""Where compiled kernels are kept, and that no stale ones are used."""

from __future__ import annotations

import shutil
from pathlib import Path

import numba
import pytest

import splatkit_ns
from splatkit_ns.rasterize import cpu
from splatkit_ns.rasterize.cpu.projection import project
from tests.fork_server import run_code


def test_numba_s_own_setting_is_left_alone() -> None:
    assert "kernels-" not in str(numba.core.config.CACHE_DIR)
    assert "kernels-" in project._cache.cache_path


@pytest.mark.parametrize(
    ("file", "line", "changed"),
    [("cpu/scalar_math.py", "PREFETCH = 4", "PREFETCH = 5"), ("limits.py", "ALPHA_MAX = 0.999", "ALPHA_MAX = 0.99")],
)
def test_a_change_in_a_helper_changes_every_kernel_s_folder(file: str, line: str, changed: str, tmp_path: Path) -> None:
    """numba looks at a kernel's own file only; constants come from another."""
    package = Path(splatkit_ns.__file__).parent
    copy = tmp_path / "splatkit_ns"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    script = "from splatkit_ns.rasterize.cpu.projection import project; print(project._cache.cache_path)"

    def folder() -> str:
        run = run_code(script, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        return run.stdout.strip()

    before = folder()
    assert before.startswith(str(copy))
    constants = copy / "rasterize" / file
    assert line in constants.read_text()
    constants.write_text(constants.read_text().replace(line, changed))
    assert folder() != before


def test_without_a_writable_folder_a_private_one_is_made(monkeypatch) -> None:
    monkeypatch.setattr(cpu, "_writable", lambda folder: False)
    first, second = cpu._kernel_cache(), cpu._kernel_cache()
    assert Path(first).is_dir()
    assert first != second
    shutil.rmtree(first)
    shutil.rmtree(second)
