"""Make the tables of README.md and docs/ that compare methods, out of benchmarks/results/presets.json, against FastGS
against-fastgs-h200.json, and on smaller sets fast-and-big-h200.json.

    python benchmarks/tables.py            # rewrites them
    python benchmarks/tables.py --check    # says whether they are what the file says

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. The file's runs are those that train_gpu.py wrote,
job by job: one host, one day. Those with ``settings`` had other settings than the method has now, which these name, and
do not count as its quality. Those with ``before`` had them, too, but count where there are no newer ones, with a star.
The runs against FastGS are those that against_fastgs.py wrote; only those that were alone on their GPU have times.
Those on smaller sets are sweep_gpu.py's; runs that have a method's name had the settings that it has now.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/presets.json"
FASTGS_RESULTS = ROOT / "benchmarks/results/against-fastgs-h200.json"
SETS_RESULTS = ROOT / "benchmarks/results/fast-and-big-h200.json"
PAGES = (ROOT / "README.md", ROOT / "docs/benchmarks.md", ROOT / "docs/experiments.md")
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

SCENES = {
    "fox": "fox",
    "herzjesu_p25": "herzjesu",
    "banana": "banana",
    "sceaux": "sceaux",
    "lego": "lego",
    "bedroom419": "bedroom",
    "south_building": "south",
    "dtu_scan24": "dtu",
}
"""The scenes at full size in the order of the tables, with their names there."""
METHODS = ("splatfacto", "splatkit-3dgs-fast", "splatkit-3dgs", "splatkit-3dgs-big")
FASTGS_SCENES = {
    "bedroom105": "`bedroom105`, a room, 91 photographs, 368×640",
    "south": "`south`, around a building, 100, 600×450",
    "herzjesu": "`herzjesu`, a church door, 21, 792×524",
    "fox": "`fox`, 43, 436×794",
}
FASTGS_METHODS = {
    "FastGS": r"fastgs(-indoor)?",
    "`splatkit-3dgs`": "splatkit-3dgs",
    "… at FastGS's number": r"splatkit-3dgs::pipeline\.model\.densification\.max_gaussians=\d+",
    "`splatkit-3dgs-fast`": "splatkit-3dgs-fast",
    "`splatkit-3dgs-small`": "splatkit-3dgs-small",
    "FastGS-Big": r"fastgs-big(-indoor)?",
    "`splatkit-3dgs-big`": "splatkit-3dgs-big",
    "splatfacto": "splatfacto:30000",
}
"""The rows of a scene, with the names of their runs."""
SETS = {
    "south": 100,
    "bedroom210": 183,
    "bedroom105": 91,
    "fox": 43,
    "lego": 44,
    "rig": 36,
    "herzjesu": 21,
    "south15": 15,
    "bedroom15": 15,
    "fox14": 14,
    "banana": 14,
    "sceaux": 9,
}
"""The smaller sets, with their numbers of training photographs."""
FEW = 30
"""With fewer, -big is the same as splatkit-3dgs."""
LAST = (
    "4,500 steps, squared error",
    "at most one Gaussian for 59 pixels",
    "140 steps a photograph, 10,000 to 14,000",
    "rates of runs with many photographs",
    "Adam's second decay rate 0.999",
    "rates of fewer than 70 photographs times 3",
    "a limit by seed points and pixels alone",
)
"""The settings that methods had last, as ``before`` names them, the newest at the end: they count while no run has the
present ones."""
SMALL_FIRST = ":modules.resolution.max_downscale=4"

Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    runs = read_runs(RESULTS)
    for page in PAGES:
        text = page.read_text()
        made = with_tables(text, runs)
        if args.check and made != text:
            raise SystemExit(f"{page} differs from {RESULTS}: run python benchmarks/tables.py.")
        page.write_text(made)


def read_runs(path: Path) -> list[Run]:
    """All runs, each with its job's number and its GPU, and its method apart from steps and overrides."""
    runs: list[Run] = []
    for job in json.loads(path.read_text()):
        for run in job["runs"]:
            method, steps = run["run"].split(":")[:2]
            gpu = job["machine"]["device"].removeprefix("NVIDIA ").split()[0]
            runs.append({**run, "job": job["job"], "gpu": gpu, "method": method, "steps": int(steps)})
    return runs


def with_tables(text: str, runs: list[Run]) -> str:
    """A page with its tables made anew."""
    return TABLE.sub(lambda found: found[1] + TABLES[found[2]](runs) + found[3], text)


def full_size_table(runs: list[Run]) -> str:
    """Quality, times and memory of the methods with their present settings, beside splatfacto."""
    rows = []
    last = ""
    for name, method, steps, ms, figures in full_size_rows(runs):
        rows.append(["" if name == last else name, method, f"{steps:,}", *figures[:-1], f"{ms:.2f}", figures[-1]])
        last = name
    header = ["scene", "method", "steps", "PSNR", "SSIM", "wall s", "ratio", "GPU", "Gaussians", "ms/step", "peak MiB"]
    return table(header, rows)


def full_size_rows(runs: list[Run]) -> list[tuple[str, str, int, float, list[str]]]:
    """Scene, method, steps, milliseconds a step, and the figures of each method with its present or last settings.

    PSNR and SSIM are means of the runs that differ; a star says that they had the last settings. Times and memory are
    means of the runs of the newest job that were alone on their GPU, and ratios are to splatfacto's in that job. If it
    has none, they are to its shortest run of another job, in brackets, or left out.
    """
    rows = []
    for scene, name in SCENES.items():
        peers = [run for run in as_now(runs, scene, "splatfacto") if "wall_s" in run]
        for method in METHODS:
            found = of_present_settings(as_now(runs, scene, method))
            alone = [run for run in found if "wall_s" in run]
            if not alone:
                continue
            timed = of_last_job(alone)
            figures = quality(found, scene, method)
            assert figures is not None
            wall, ms, memory = (mean(run[key] for run in timed) for key in ("wall_s", "ms_per_step", "peak_mib"))
            beside = [run["wall_s"] for run in peers if run["job"] == timed[0]["job"]]
            if beside:
                share = ratio(wall / mean(beside))
            else:
                share = f"({ratio(wall / min(run['wall_s'] for run in peers))})" if peers else ""
            cells = [f"{figures[0]:.2f}{figures[2]}", f"{figures[1]:.4f}", f"{wall:.1f}"]
            cells += ["" if method == "splatfacto" else share, timed[0]["gpu"]]
            cells += [f"{timed[-1]['gaussians']:,}", f"{memory:.0f}"]
            rows.append((name, method, timed[0]["steps"], ms, cells))
    return rows


def small_first_table(runs: list[Run]) -> str:
    """Whole images from the start against small images first, with the same seed."""
    rows = []
    for method in METHODS[1:]:
        for scene, name in SCENES.items():
            for seed in (42, 7):
                small = [run for run in as_now(runs, scene, method, SMALL_FIRST) if run["seed"] == seed]
                settings = {run.get("before") for run in small}
                whole = [
                    run for run in as_now(runs, scene, method) if run["seed"] == seed and run.get("before") in settings
                ]
                if not (whole and small):
                    continue
                same_job = {run["job"]: run for run in whole if "wall_s" in run}
                times = [(same_job[run["job"]], run) for run in small if run["job"] in same_job and "wall_s" in run]
                rows.append(
                    [
                        method,
                        name,
                        str(seed),
                        f"{whole[-1]['psnr']:.2f}, {whole[-1]['ssim']:.4f}",
                        f"{small[-1]['psnr']:.2f}, {small[-1]['ssim']:.4f}",
                        f"{small[-1]['psnr'] - whole[-1]['psnr']:+.2f}",
                        "".join(f"{one['train_s']:.1f}, {two['train_s']:.1f}" for one, two in times),
                    ]
                )
    return table(["method", "scene", "seed", "whole", "small first", "dB", "training, s"], rows)


def readme_table(runs: list[Run]) -> str:
    """Times and qualities of the methods as they are now: fox at full size, and the small sets against FastGS."""
    rows = []
    for name, method, _, _, (psnr, ssim, wall, _, _, gaussians, memory) in full_size_rows(runs):
        if name == "fox":
            values = [re.sub(r" \(\d+\)|\*", "", psnr), f"{float(ssim):.3f}"]
            rows.append([name, method, f"{float(wall):.0f} s", *values, gaussians, memory])
    against = json.loads(FASTGS_RESULTS.read_text())["runs"]
    for scene in ("bedroom105", "south"):
        of_method = runs_of_methods(against, scene)
        for method in ("FastGS", *METHODS):
            of_this = of_method.get(method) or of_method.get(f"`{method}`") or []
            if found := distinct(newest(of_this)):
                wall = wall_of(of_this)
                psnr, ssim, gaussians = (mean_of(found, key) for key in ("psnr", "ssim", "gaussians"))
                memory = memory_of(of_this)
                time = f"{wall:.0f} s" if wall else ""
                rows.append([scene, method, time, f"{psnr:.2f}", f"{ssim:.3f}", f"{gaussians:,.0f}", f"{memory:.0f}"])
    return table(["scene", "method", "wall time", "PSNR", "SSIM", "Gaussians", "peak MiB"], rows)


def fastgs_table(runs: list[Run]) -> str:
    """Means of FastGS's runs and ours on each scene, with Gaussians and wall times relative to FastGS's.

    Times and memory are those of the last job in which runs were alone on their GPU.
    """
    rows = []
    for scene, name in FASTGS_SCENES.items():
        of_method = runs_of_methods(runs, scene)
        peer = of_method["FastGS"]
        for method, all_of_it in of_method.items():
            if not (peer and all_of_it):
                continue
            wall = wall_of(all_of_it)
            found = distinct(newest(all_of_it))
            gaussians, memory = mean_of(found, "gaussians"), memory_of(all_of_it)
            star = "*" if "before" in found[0] else ""
            rows.append(
                [
                    name if all_of_it is peer else "",
                    method + (f" ({len(found)})" if len(found) > 1 else "") + star,
                    f"{mean_of(found, 'psnr'):.2f}",
                    f"{mean_of(found, 'ssim'):.4f}",
                    f"{gaussians:,.0f}",
                    f"{gaussians / mean_of(newest(peer), 'gaussians'):.2f}",
                    *([f"{wall:.1f}", ratio(wall / wall_of(peer))] if wall else ["", ""]),
                    f"{memory:.0f}" if memory else "",
                ]
            )
    header = ["scene", "method", "PSNR", "SSIM", "Gaussians", "ratio", "wall s", "ratio", "peak MiB"]
    return table(header, rows)


def runs_of_methods(runs: list[Run], scene: str) -> dict[str, list[Run]]:
    """The runs on a scene against FastGS, by the names of their rows."""
    return {
        method: [run for run in runs if run["scene"] == scene and re.fullmatch(pattern, run["run"])]
        for method, pattern in FASTGS_METHODS.items()
    }


def distinct(runs: list[Run]) -> list[Run]:
    """Those with other figures, some of which were noted with few digits: two of ours with one seed and the same
    kernels are the same to the bit."""
    return list({(run.get("seed"), round(run["psnr"], 2), round(run["ssim"], 3)): run for run in runs}.values())


def sets_table(runs: list[Run]) -> str:
    """Means over seeds of the three methods on each set, and what the longer ones have more."""
    rows = []
    for scene, photographs in SETS.items():
        cells, means = [], []
        for method in METHODS[1:]:
            found = distinct(newest([run for run in runs if run["scene"] == scene and run["run"] == method]))
            means.append([mean(run[key] for run in found) for key in ("psnr", "ssim")] if found else None)
            seeds = f" ({len(found)})" if len(found) > 1 else ""
            seeds += "*" if any("before" in run for run in found) else ""
            cells.append("{:.2f}, {:.4f}{}".format(*means[-1], seeds) if means[-1] else "")
        fast, usual, big = means
        cells[-1] = cells[-1] if photographs >= FEW else "the same"
        rows.append([f"{scene} ({photographs})", *cells, difference(usual, fast), difference(big, usual)])
    header = ["set (photographs)", *METHODS[1:], "usual - `-fast`", "`-big` - usual"]
    return table(header, rows)


def difference(more: Sequence[float] | None, less: Sequence[float] | None) -> str:
    """The difference in PSNR, with its sign; an empty text if one of the two has not been measured."""
    return f"{more[0] - less[0]:+.2f}" if more and less else ""


def newest(runs: list[Run]) -> list[Run]:
    """Those `of_present_settings`; if there are none, those of the last job."""
    return of_present_settings(runs) or of_last_job(runs)


def of_present_settings(runs: list[Run]) -> list[Run]:
    """Those without ``before``; if there are none, those with the last settings."""
    for settings in (None, *reversed(LAST)):
        found = [run for run in runs if run.get("before") == settings]
        if found:
            return found
    return []


def wall_of(runs: list[Run]) -> float:
    """The mean wall time of a method's newest runs that have one, or 0."""
    return mean_of(timed(runs), "wall_s")


def timed(runs: list[Run]) -> list[Run]:
    """Those of the last job in which runs were alone on their GPU, with the newest settings that have such runs."""
    return of_last_job(newest([run for run in runs if "alone" in run["note"]]))


def of_last_job(runs: list[Run]) -> list[Run]:
    """Those of the newest job, which has the highest number."""
    last = max((run["job"] for run in runs), default=None)
    return [run for run in runs if run["job"] == last]


def memory_of(runs: list[Run]) -> float:
    """The mean peak memory of those of a method's runs whose time counts, or of all the newest."""
    return mean_of(timed(runs), "peak_mib") or mean_of(newest(runs), "peak_mib")


def mean_of(runs: list[Run], key: str) -> float:
    """The mean of a figure over the runs that have it, or 0; times are those of runs that were alone on their GPU."""
    values = [run[key] for run in runs if key in run and (not key.endswith("_s") or "alone" in run["note"])]
    return mean(values) if values else 0.0


TABLES: dict[str, Callable[[list[Run]], str]] = {
    "full_size": full_size_table,
    "small_first": small_first_table,
    "readme": readme_table,
    "sets": lambda _: sets_table(json.loads(SETS_RESULTS.read_text())["runs"]),
    "fastgs": lambda _: fastgs_table(json.loads(FASTGS_RESULTS.read_text())["runs"]),
}


def as_now(runs: Iterable[Run], scene: str, method: str, overrides: str = "") -> list[Run]:
    """Runs of a method with the settings that it has now, but for these overrides."""
    return [
        run
        for run in runs
        if run["scene"] == scene
        and run["run"] == f"{method}:{run['steps']}{overrides}"
        and run["method"] == method
        and "settings" not in run
    ]


def quality(runs: list[Run], scene: str, method: str) -> tuple[float, float, str] | None:
    """Mean PSNR and SSIM, and the number of runs if there are several, with a star if settings have changed since."""
    found = as_now(runs, scene, method)
    found = of_present_settings(found) or found
    different = distinct(found)
    if not different:
        return None
    number = f" ({len(different)})" if len(different) > 1 else ""
    number += "*" if any("before" in run for run in different) else ""
    return mean(run["psnr"] for run in different), mean(run["ssim"] for run in different), number


def ratio(value: float) -> str:
    """Two digits that count."""
    return f"{value:.2f}" if value >= 0.0995 else f"{value:.3f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
