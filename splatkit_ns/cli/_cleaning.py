"""The work of ``splatkit clean``, and what ``splatkit prune`` shares with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from splatkit_ns import ranges
from splatkit_ns.cleaning import rules
from splatkit_ns.cleaning.weights import Seen, seen_in
from splatkit_ns.cli._exporting import all_gaussians, open_run, sky_renderer
from splatkit_ns.cli._files import check_outputs, read_all, without_run, write_file
from splatkit_ns.cli._measuring import HeldOutViews
from splatkit_ns.cli.clean import CleanOptions
from splatkit_ns.cli.prune import PruneOptions
from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.formats import Gaussians
from splatkit_ns.formats.offset_files import read_offset, write_offset
from splatkit_ns.plugin.data.cameras import lens_views
from splatkit_ns.plugin.loading import LoadedRun
from splatkit_ns.printing import say
from splatkit_ns.splat import SplatModel

MOST_LOSS = 0.04
"""The most dB of PSNR at the held-out photographs that this may cost then. Other rules that are on by default cost some
thousandths, so that all together stay below 0.05."""
HALVINGS = 5
"""The number of shares, each half of the one before, that are tried before 0."""


@dataclass
class Scene:
    """Gaussians to make fewer, and the run that they are from."""

    gaussians: Gaussians
    """All that were found, including those that are not finite."""
    run: LoadedRun | None

    def seen(self, console: Console) -> Seen:
        """The contribution of the Gaussians, all finite, to the training views."""
        assert self.run is not None
        pipeline = self.run.pipeline
        device = pipeline.device
        state = SplatModel.from_gaussians(self.gaussians).for_rendering(device)
        cameras: Any = pipeline.datamanager.train_dataset.cameras
        views = track(
            lens_views(cameras.to(device)),
            "Looking at the photographs",
            len(cameras),
            console=console,
            disable=not console.is_terminal,
        )
        return seen_in(pipeline.model.renderer, state, views)


def clean(options: CleanOptions, console: Console | None = None) -> None:
    """Do what the options say.

    Args:
        options: see `CleanOptions`.
        console: where the report goes; None means the terminal.

    Raises:
        SplatkitError: options, run or file do not allow it; the message says why.
    """
    console = console or Console()
    check_options(options)
    scene = open_scene(options, console)
    whole = scene.gaussians
    leave_out_not_finite(scene, console)
    views = HeldOutViews(scene.run.pipeline, None) if scene.run else None
    before = views.psnr(scene.gaussians) if views else 0.0
    seen = scene.seen(console) if scene.run else None
    gone = np.zeros(len(scene.gaussians), bool)
    for mask, reason in _found(scene.gaussians, options, seen):
        _went(console, mask & ~gone, reason)
        gone |= mask
    after: float | None = None
    if seen is not None and views is not None:
        share, mask, after = _unneeded(scene.gaussians, gone, seen, options.weight_share, views)
        _went(console, mask & ~gone, f"of the least weight, {share:.3g} of all, in the photographs")
        gone |= mask
    if gone.all():
        raise SplatkitError("Nothing is left: every Gaussian is one that has to go. Loosen the options.")
    kept = scene.gaussians.take(~gone)
    share = len(kept) / len(whole)
    say(console, f"{len(kept):,} of {len(whole):,} Gaussians are left, {share:.1%}")
    write_outputs(options.output, kept, options.input, console)
    if views:
        say_cost(console, before, views.psnr(kept) if after is None else after, views)


def check_options(options: CleanOptions | PruneOptions, others: Sequence[str] = ()) -> None:
    """Check what both commands have, and the rules of `clean`.

    Args:
        options: of either command.
        others: problems that were found already.

    Raises:
        OptionsError: names all problems.
    """
    problems = [*ranges.problems(options, shown=ranges.flag), *others]
    if options.load_config is None and options.input is None:
        problems.append("neither --load-config nor --input is given, expected one of them")
    if isinstance(options, CleanOptions):
        if options.load_config is None and options.input is not None:
            problems += without_run(options, ("weight_share", "load_step", "data"))
        if options.box and not all(low < high for low, high in zip(options.box[:3], options.box[3:], strict=True)):
            problems.append(f"--box is {options.box}, expected three smallest coordinates and then three largest")
        if options.sphere and not (np.isfinite(options.sphere[:3]).all() and options.sphere[3] > 0):
            problems.append(f"--sphere is {options.sphere}, expected a centre and then a radius above 0")
    if problems:
        raise OptionsError(problems)
    check_outputs(
        options.output, overwrite=options.overwrite, inputs=[options.input] if options.input is not None else []
    )


def open_scene(options: CleanOptions | PruneOptions, console: Console) -> Scene:
    """Open the run, the file, or both.

    Raises:
        SplatkitError: one of them cannot be opened.
    """
    gaussians = None
    if options.input is not None:
        gaussians = read_all(options.input)
        if options.load_config is not None and read_offset(options.input)[0] is not None:
            raise SplatkitError(f"--input: {options.input} has an offset, so it is not in the run's frame.")
    if options.load_config is None:
        assert gaussians is not None
        return Scene(gaussians, None)
    run = open_run(options.load_config, options, console)
    if gaussians is None and sky_renderer(run) is not None:
        say(
            console,
            "The sky of the run is left out. To have it, export the run with its sky, and name that file with --input.",
        )
    return Scene(all_gaussians(run) if gaussians is None else gaussians, run)


def leave_out_not_finite(scene: Scene, console: Console) -> None:
    """Remove Gaussians with values that are NaN or infinite, and say how many.

    Raises:
        SplatkitError: none is left.
    """
    bad = rules.not_finite(scene.gaussians)
    _went(console, bad, "NaN or infinite")
    if bad.all():
        raise SplatkitError("Nothing is left: all Gaussians are NaN or infinite.")
    if bad.any():
        scene.gaussians = scene.gaussians.take(~bad)


def _found(gaussians: Gaussians, options: CleanOptions, seen: Seen | None) -> Iterator[tuple[rules.Mask, str]]:
    """The masks of Gaussians that have to go for what they are, and why."""
    if options.min_opacity > 0:
        yield rules.faint(gaussians, options.min_opacity), f"of an opacity below {options.min_opacity:.3g}"
    if options.box is not None:
        yield rules.outside_box(gaussians, options.box), "outside the box"
    if options.sphere is not None:
        yield rules.outside_sphere(gaussians, options.sphere), "outside the sphere"
    if options.max_size is not None:
        yield rules.oversized(gaussians, options.max_size), f"larger than {options.max_size:g}"
    if options.max_elongation is not None:
        reason = f"more than {options.max_elongation:g} times as long as wide"
        yield rules.needles(gaussians, options.max_elongation), reason
    if options.min_cluster > 1:
        mask = rules.small_clusters(gaussians, options.min_cluster)
        if seen is not None:  # what is sparse in the distance does not hang in the air
            mask &= seen.in_front.numpy()
        yield mask, f"alone or in a cluster of fewer than {options.min_cluster}"


def _unneeded(
    gaussians: Gaussians, gone: rules.Mask, seen: Seen, share: float | None, views: HeldOutViews
) -> tuple[float, rules.Mask, float | None]:
    """The share of all weight that goes, the mask of those that make it, and PSNR after it if it was measured.

    Args:
        gaussians: all finite.
        gone: those that go by other rules.
        seen: their contribution to the training views.
        share: what the user gave; None means `rules.WEIGHT_SHARE`, or as much less that it costs `MOST_LOSS` at most.
        views: where the cost is measured.
    """
    weights = seen.weights.numpy()
    if share is not None:
        return share, rules.unneeded(weights, share), None
    without = views.psnr(gaussians.take(~gone)) if not gone.all() else 0.0
    for tried in (rules.WEIGHT_SHARE / 2**halvings for halvings in range(HALVINGS)):
        mask = rules.unneeded(weights, tried)
        kept = ~(gone | mask)
        if kept.any() and without - (after := views.psnr(gaussians.take(kept))) <= MOST_LOSS:
            return tried, mask, after
    return 0.0, rules.unneeded(weights, 0.0), None


def _went(console: Console, mask: rules.Mask, reason: str) -> None:
    count = int(mask.sum())
    if count:
        say(console, f"{count:,} Gaussian(s) {reason}")


def write_outputs(outputs: Sequence[Path], kept: Gaussians, source: Path | None, console: Console) -> None:
    """Write the files, with the offset of the file that they are made of, and a line about each."""
    offset, frame = (None, None) if source is None else read_offset(source)
    for path in outputs:
        written = write_file(path, kept)
        write_offset(path, offset, frame)
        say(console, written.line())


def say_cost(console: Console, before: float, after: float, views: HeldOutViews) -> None:
    """Print PSNR of the held-out photographs before and after."""
    change = f"{before:.3f} dB before, {after:.3f} dB after ({after - before:+.3f})"
    say(console, f"PSNR of {len(views)} {views.kind} photograph(s): {change}")
