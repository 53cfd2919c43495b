"""The tables that compare methods say what the measurements say."""

from __future__ import annotations

import importlib.util
import re
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks/tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_have_the_tables_that_the_results_make(tables: types.ModuleType) -> None:
    runs = tables.read_runs(tables.RESULTS)
    made = {page: tables.with_tables(page.read_text(), runs) for page in tables.PAGES}
    assert all(page.read_text() == text for page, text in made.items()), "run python benchmarks/tables.py"
    placed = re.findall(r"<!-- table: (\w+) -->", "".join(made.values()))
    assert sorted(placed) == sorted(tables.TABLES)


def run(method: str, seed: int, psnr: float, **more: object) -> dict[str, object]:
    name = f"{method}:10"
    return {"scene": "fox", "run": name, "method": method, "steps": 10, "seed": seed, "psnr": psnr, "ssim": 0.5} | more


def test_runs_with_other_settings_do_not_count_and_equal_ones_once(tables: types.ModuleType) -> None:
    runs = [
        run("splatkit-3dgs", 1, 30.0),
        run("splatkit-3dgs", 1, 30.0),
        run("splatkit-3dgs", 2, 32.0),
        run("splatkit-3dgs", 3, 99.0, settings="others"),
        run("splatkit-3dgs", 4, 99.0, run="splatkit-3dgs:10:pipeline.model.sh_degree=1"),
    ]
    assert tables.quality(runs, "fox", "splatkit-3dgs") == (31.0, 0.5, " (2)")
    assert tables.quality(runs, "lego", "splatkit-3dgs") is None
    runs[0]["before"] = runs[1]["before"] = "another rate"
    assert tables.quality(runs, "fox", "splatkit-3dgs") == (32.0, 0.5, ""), "newer ones count alone"
    runs[2]["before"] = "another rate"
    assert tables.quality(runs, "fox", "splatkit-3dgs") == (31.0, 0.5, " (2)*")


def test_times_are_compared_within_a_job(tables: types.ModuleType) -> None:
    runs = [
        run("splatfacto", 1, 30.0, job=1, wall_s=100.0),
        run("splatkit-3dgs", 1, 30.0, job=2, wall_s=1.0),
        run("splatkit-3dgs-fast", 1, 30.0, job=1, wall_s=9.0),
        run("splatkit-3dgs-big", 1, 30.0, job=1),
    ]
    found = [(row["method"], ratio) for row, ratio in tables.timed(runs, "fox")]
    assert found == [("splatfacto", "1.00"), ("splatkit-3dgs-fast", "0.090")]


def test_every_file_of_results_is_named_on_a_page() -> None:
    pages = "".join(page.read_text() for page in ROOT.glob("docs/*.md"))
    results = [path.name for path in ROOT.glob("benchmarks/results/*.json")]
    assert len(results) > 30
    assert [name for name in results if name not in pages] == []
