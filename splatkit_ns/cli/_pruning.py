"""The work of ``splatkit prune``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from splatkit_ns import formats
from splatkit_ns.cli._cleaning import check_options, leave_out_not_finite, open_scene, say_cost, write_outputs
from splatkit_ns.cli._files import file_bytes, shown_bytes
from splatkit_ns.cli._measuring import HeldOutViews
from splatkit_ns.cli._refining import check_modules, refine
from splatkit_ns.cli.prune import PruneOptions
from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.formats import Gaussians
from splatkit_ns.printing import say

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_MOST_TRIES = 10
_CLOSE = 0.985
"""A file of this share of the wanted size is large enough."""


def prune(options: PruneOptions, console: Console | None = None) -> None:
    """Do what the options say. If there are no more Gaussians than may be kept, all are written.

    Args:
        options: see `PruneOptions`.
        console: where the report goes; None means the terminal.

    Raises:
        SplatkitError: options, run or file do not allow it; the message says why.
    """
    console = console or Console()
    _check(options)  # a slip is told before the run is opened
    scene = open_scene(options, console)
    assert scene.run is not None
    if options.refine:
        check_modules(scene.run.config, options.trust)
    leave_out_not_finite(scene, console)
    whole, num = scene.gaussians, len(scene.gaussians)
    views = HeldOutViews(scene.run.pipeline, None)
    before = views.psnr(whole)
    weights = scene.seen(console).weights.numpy()
    rows = _rows_to_keep(whole, weights, options)
    kept = whole.take(rows)
    if len(rows) == num:
        limit = f"--size is {options.size}, and they fit" if options.to is None else f"--to is {options.to}"
        say(console, f"All {num:,} Gaussians are kept: {limit}")
    else:
        share = f"{weights[rows].sum() / max(weights.sum(), 1e-30):.1%}"
        say(console, f"{len(rows):,} of {num:,} Gaussians are kept, which make {share} of what the photographs show")
    if not options.refine:
        write_outputs(options.output, kept, options.input, console)
        say_cost(console, before, views.psnr(kept), views)
        return
    pruned = views.psnr(kept)
    say(console, f"Refining them for {options.refine:,} step(s)")
    kept = refine(scene.run, kept, options.refine, options.output[0].parent, options.device)
    kept = _still_fitting(kept, weights[rows], options, console)
    write_outputs(options.output, kept, options.input, console)
    after = views.psnr(kept)
    say_cost(console, before, pruned, views)
    say(console, f"{after:.3f} dB after {options.refine:,} step(s) of refinement ({after - before:+.3f})")


def number_to_keep(text: str, num: int) -> int:
    """The number that ``--to`` means, of so many Gaussians; at least 1.

    Raises:
        OptionsError: it means none.
    """
    share = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%").replace(",", "").replace("_", ""))
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf") or (share and value > 100) or (not share and value != int(value)):
        raise OptionsError([f"--to is {text!r}, expected a whole number above 0, or a share such as 25%"])
    return max(1, round(value / 100 * num) if share else int(value))


def bytes_of(text: str) -> int:
    """The number of bytes that ``--size`` means.

    Raises:
        OptionsError: it means none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text, re.IGNORECASE)
    factor = _UNITS.get(found[2].lower()) if found else None
    if found is None or factor is None or int(float(found[1]) * factor) < 1:
        raise OptionsError([f"--size is {text!r}, expected a size such as 10MB or 500KB"])
    return int(float(found[1]) * factor)


def _check(options: PruneOptions) -> None:
    problems: list[str] = []
    if (options.to is None) == (options.size is None):
        found = "neither is given" if options.to is None else "both are given"
        problems.append(f"--to and --size: {found}, expected one of them")
    try:
        if options.to is not None:
            number_to_keep(options.to, 1)
        if options.size is not None:
            bytes_of(options.size)
    except OptionsError as error:
        problems += error.problems
    check_options(options, problems)


def _rows_to_keep(whole: Gaussians, weights: NDArray[Any], options: PruneOptions) -> NDArray[np.intp]:
    order = np.argsort(-weights, kind="stable")
    if options.to is not None:
        return np.sort(order[: number_to_keep(options.to, len(whole))])
    assert options.size is not None
    return np.sort(order[: _number_that_fits(whole, order, options.output, bytes_of(options.size))])


def _number_that_fits(whole: Gaussians, order: NDArray[np.intp], outputs: Sequence[Path], limit: int) -> int:
    """The number of Gaussians, the first of an order, whose files are no larger than so many bytes, and nearly so.

    Raises:
        SplatkitError: not even one fits.
    """
    fits, fitting_bytes = 0, 0
    too_many, larger_bytes = len(whole) + 1, 0
    count = len(whole)
    for _ in range(_MOST_TRIES):
        found = _largest_file(whole.take(np.sort(order[:count])), outputs)
        if found <= limit:
            fits, fitting_bytes = count, found
        else:
            too_many, larger_bytes = count, found
        if too_many - fits <= 1 or fitting_bytes >= _CLOSE * limit:
            break
        aim = (1 + _CLOSE) / 2 * limit
        guess = fits + (too_many - fits) * (aim - fitting_bytes) / (larger_bytes - fitting_bytes)
        count = min(max(int(guess), fits + 1), too_many - 1)
    if fits == 0:
        raise SplatkitError(f"--size is {shown_bytes(limit)}, and a file of {count:,} Gaussian(s) is larger.")
    return fits


def _largest_file(gaussians: Gaussians, outputs: Sequence[Path]) -> int:
    """Bytes of the largest file, or folder of files, that these Gaussians become."""
    sizes: list[int] = []
    for output in {formats.find_format(output).name: output for output in outputs}.values():
        with TemporaryDirectory() as folder:
            path = Path(folder, output.name)
            try:
                formats.write(path, gaussians)
            except OSError as error:
                raise SplatkitError(f"{path}: {error.strerror or error}.") from error
            sizes.append(file_bytes(path))
    return max(sizes)


def _still_fitting(kept: Gaussians, weights: NDArray[Any], options: PruneOptions, console: Console) -> Gaussians:
    """Refined Gaussians without those that are too many now: other values may take more bytes."""
    if options.size is None or _largest_file(kept, options.output) <= bytes_of(options.size):
        return kept
    order = np.argsort(-weights, kind="stable")
    count = _number_that_fits(kept, order, options.output, bytes_of(options.size))
    say(console, f"{len(kept) - count:,} more Gaussian(s) go: the refined ones take more bytes")
    return kept.take(np.sort(order[:count]))
