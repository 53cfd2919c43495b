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


def test_times_are_of_present_settings_and_compared_within_a_job_if_possible(tables: types.ModuleType) -> None:
    def timed(method: str, seed: int, psnr: float, wall: float, **more: object) -> dict[str, object]:
        figures = {"wall_s": wall, "ms_per_step": 2.0, "gaussians": 5000, "peak_mib": 7.0, "gpu": "H200"}
        return run(method, seed, psnr, **figures, **more)

    last = tables.LAST[0]
    runs = [
        timed("splatfacto", 1, 30.0, 100.0, job=1),
        timed("splatfacto", 1, 31.0, 120.0, job=2),
        timed("splatkit-3dgs", 1, 99.0, 1.0, job=1, before="another rate"),
        timed("splatkit-3dgs", 1, 32.0, 7.0, job=1),
        timed("splatkit-3dgs", 1, 32.0, 8.0, job=2),
        timed("splatkit-3dgs", 3, 33.0, 10.0, job=2),
        run("splatkit-3dgs", 2, 34.0, job=2),
        timed("splatkit-3dgs-fast", 1, 99.0, 1.0, job=1, before="another rate"),
        timed("splatkit-3dgs-fast", 1, 33.0, 5.0, job=3, before=last),
        run("splatkit-3dgs-big", 1, 30.0, job=2),
    ]
    assert tables.full_size_rows(runs) == [
        ("fox", "splatfacto", 10, 2.0, ["30.50 (2)", "0.5000", "120.0", "", "H200", "5,000", "7"]),
        ("fox", "splatkit-3dgs-fast", 10, 2.0, ["33.00*", "0.5000", "5.0", "(0.050)", "H200", "5,000", "7"]),
        ("fox", "splatkit-3dgs", 10, 2.0, ["33.00 (3)", "0.5000", "9.0", "0.075", "H200", "5,000", "7"]),
    ]


def test_fastgs_is_compared_by_means_and_by_times_of_runs_alone(tables: types.ModuleType) -> None:
    def row(
        name: str, wall: float, gaussians: int, note: str = "alone on its GPU", **more: object
    ) -> dict[str, object]:
        figures = {"wall_s": wall, "gaussians": gaussians, "note": note, "peak_mib": 5}
        return {"scene": "fox", "run": name, "job": 2, **figures} | more

    runs = [
        row("splatkit-3dgs", 20, 150, psnr=31.0, ssim=0.8, seed=42),
        row("splatkit-3dgs", 30, 150, psnr=31.0, ssim=0.8, seed=42),
        row("splatkit-3dgs", 40, 170, psnr=33.0, ssim=0.9, seed=7),
        row("splatkit-3dgs", 77, 160, psnr=32.0, ssim=0.85, seed=7, job=1, peak_mib=9),
        row("splatkit-3dgs", 88, 160, note="side by side", psnr=32.1, ssim=0.85, seed=3, job=3, peak_mib=9),
        row("splatkit-3dgs", 99, 999, psnr=99.0, ssim=0.9, before="another rate"),
        row("splatkit-3dgs-small", 99, 999, psnr=99.0, ssim=0.9, before="another rate", job=1),
        row("splatkit-3dgs-small", 50, 40, psnr=29.0, ssim=0.7, before="another number", job=2),
        row("splatkit-3dgs-big", 80, 170, psnr=33.0, ssim=0.9, before=tables.LAST[-1]),
        row("splatkit-3dgs-big", 0, 180, note="side by side", psnr=34.0, ssim=0.9, job=3),
        row("splatkit-3dgs::pipeline.model.densification.max_gaussians=80", 25, 80, psnr=30.0, ssim=0.8),
        row("fastgs-big-indoor", 200, 160, note="side by side", psnr=32.0, ssim=0.9),
        row("fastgs-indoor", 100, 60, psnr=30.0, ssim=0.7, before="another day"),
        row("fastgs-indoor", 150, 80, note="side by side", psnr=30.5, ssim=0.8),
    ]
    made = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables.fastgs_table(runs).splitlines()]
    assert [cells[1:] for cells in made[2:]] == [
        ["FastGS", "30.50", "0.8000", "80", "1.00", "100.0", "1.00", "5"],
        ["`splatkit-3dgs` (4)", "32.02", "0.8500", "160", "2.00", "30.0", "0.30", "5"],
        ["… at FastGS's number", "30.00", "0.8000", "80", "1.00", "25.0", "0.25", "5"],
        ["`splatkit-3dgs-small`*", "29.00", "0.7000", "40", "0.50", "50.0", "0.50", "5"],
        ["FastGS-Big", "32.00", "0.9000", "160", "2.00", "", "", "5"],
        ["`splatkit-3dgs-big`", "34.00", "0.9000", "180", "2.25", "80.0", "0.80", "5"],
    ]


def test_every_file_of_results_is_named_on_a_page() -> None:
    pages = "".join(page.read_text() for page in ROOT.glob("docs/*.md"))
    results = [path.name for path in ROOT.glob("benchmarks/results/*.json")]
    assert len(results) > 30
    assert [name for name in results if name not in pages] == []
