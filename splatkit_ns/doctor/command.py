"""The work of ``splatkit doctor``."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rich.console import Console

from splatkit_ns.doctor.compilers import check_compiler
from splatkit_ns.doctor.cpu_kernels import check_cpu_kernels
from splatkit_ns.doctor.findings import Finding, checked, worst
from splatkit_ns.doctor.gpu import gather_gpu_facts, gpu_findings
from splatkit_ns.doctor.gsplat_code import CompiledGsplat, find_compiled_gsplat, gsplat_findings
from splatkit_ns.doctor.options import DoctorOptions
from splatkit_ns.doctor.packages import (
    check_bytecode,
    check_package,
    check_packages,
    check_python,
    installed_version,
    package_version,
)
from splatkit_ns.doctor.programs import check_colmap, check_ffmpeg, check_lpips
from splatkit_ns.doctor.storage import cache_folders, check_caches, check_memory, check_outputs
from splatkit_ns.doctor.triton_health import gather_triton_facts, triton_finding
from splatkit_ns.errors import SplatkitError
from splatkit_ns.printing import say
from splatkit_ns.rasterize.cuda import gather_facts

COLOURS = {"ok": "green", "note": "yellow", "fault": "red"}
NAME_WIDTH = 13
INDENT = 7 + NAME_WIDTH


def examine(options: DoctorOptions, console: Console | None = None) -> int:
    """Run all checks, and print what they find.

    Args:
        options: see `DoctorOptions`.
        console: the output; None means the terminal.

    Returns:
        The exit status: 1 if there is a fault, otherwise 0.

    Raises:
        SplatkitError: options of ns-train without a data set.
    """
    console = console or Console()
    if options.data_options and options.data is None:
        raise SplatkitError(
            f"Not an option of splatkit doctor: {' '.join(options.data_options)}. Options of ns-train about a data set "
            "come after --data FOLDER; splatkit doctor --help lists the others."
        )
    examined = _data_examination(options, console)
    findings = examine_machine(options)
    if not options.json:
        show(console, findings)
    of_data, data = examined()
    if not options.json:
        show(console, of_data)
    findings += of_data
    if options.json:
        say(console, json.dumps(as_json(findings, data), indent=1))
    else:
        console.print(summary(findings), highlight=False)
    return int(worst(findings) == "fault")


def _data_examination(
    options: DoctorOptions, console: Console
) -> Callable[[], tuple[list[Finding], dict[str, Any] | None]]:
    """The examination of the data set, after its options have been read."""
    if options.data is None:
        return lambda: ([], None)
    from splatkit_ns.doctor.data import examine_data, parse_data_options  # loads nerfstudio: takes seconds

    config = parse_data_options(options.data_options)
    return partial(examine_data, options.data, config, Console(quiet=True) if options.json else console)


def examine_machine(options: DoctorOptions) -> list[Finding]:
    """The findings of this machine."""
    facts = gather_facts()
    has_gpu = facts.gpu is not None
    kernels, folder = ([], None) if has_gpu else check_cpu_kernels()

    def kernels_of_gpu() -> list[Finding]:
        compiled = find_compiled_gsplat()
        triton = gather_triton_facts(installed_version("triton"))
        return [triton_finding(triton, compiled.is_ready), *gsplat_findings(facts, compiled)]

    def gsplat() -> list[Finding]:
        return gsplat_findings(facts, CompiledGsplat(None))

    return [
        *checked("python", check_python),
        *checked("splatkit", check_package),
        *checked("packages", check_packages),
        *checked("bytecode", check_bytecode),
        *checked("gpu", lambda: gpu_findings(gather_gpu_facts())),
        *(checked("triton", kernels_of_gpu) if has_gpu else checked("gsplat", gsplat)),
        *kernels,
        *checked("compiler", lambda: check_compiler(has_gpu=has_gpu)),
        *checked("memory", check_memory),
        *checked("outputs", lambda: check_outputs(options.outputs)),
        *checked("caches", lambda: check_caches(cache_folders(folder))),
        *checked("ffmpeg", check_ffmpeg),
        *checked("colmap", check_colmap),
        *checked("lpips", check_lpips),
    ]


def as_json(findings: Sequence[Finding], data: dict[str, Any] | None) -> dict[str, Any]:
    """All findings as JSON can hold them, and the figures of the data set."""
    checks = [
        {
            "name": finding.name,
            "status": finding.status,
            "text": finding.text,
            "advice": finding.advice,
            "command": finding.command,
            "facts": dict(finding.facts),
        }
        for finding in findings
    ]
    return {"version": package_version(), "status": worst(findings), "checks": checks, "data": data}


def show(console: Console, findings: Sequence[Finding]) -> None:
    """Print findings: text is broken at the width of the terminal, but commands are not, so that they can be copied."""
    width = max(console.width - INDENT, 40)
    for finding in findings:
        colour = COLOURS[finding.status]
        lines = [*_wrapped(finding.text, width), *_wrapped(finding.advice, width)]
        console.print(f"[bold {colour}]{finding.status:<7}[/]{finding.name:<{NAME_WIDTH}}", end="", highlight=False)
        for number, line in enumerate(lines):
            say(console, line if number == 0 else " " * INDENT + line)
        if finding.command:
            say(console, " " * INDENT + finding.command, style="bold")


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def summary(findings: Sequence[Finding]) -> str:
    """One line about all findings."""
    counts = {status: sum(finding.status == status for finding in findings) for status in ("fault", "note")}
    if counts["fault"]:
        names = ", ".join(dict.fromkeys(finding.name for finding in findings if finding.status == "fault"))
        return f"{counts['fault']} fault(s), {counts['note']} note(s): mend {names} before training."
    return f"No fault, {counts['note']} note(s): ready to train."
