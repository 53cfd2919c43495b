"""Checks of a data set, the same as those of training."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.progress import Progress

from splatkit_ns.doctor.findings import Finding
from splatkit_ns.errors import SplatkitError, listed
from splatkit_ns.memory import GIB
from splatkit_ns.methods import splatkit_3dgs
from splatkit_ns.plugin.data.loader.survey import (
    ReadingResult,
    Room,
    SplitFigures,
    read_all_images,
    room_for,
    split_figures,
)
from splatkit_ns.plugin.data.photographs.decoder_words import decoder_complaints, printed_words
from splatkit_ns.plugin.datamanager import SplatkitDatamanager, SplatkitDatamanagerConfig
from splatkit_ns.plugin.options.check import check_data_options
from splatkit_ns.plugin.reporting.console import collected_notes, quiet_console

FEW_IMAGES = 20
SHOWN_NAMES = 6
FEW_POINTS = 1000
DAMAGED = "Look at it: it may be grey or wrong from some row on. Restore it, or take it out of the data set."


@dataclass
class _Pipeline:
    datamanager: SplatkitDatamanagerConfig = field(
        default_factory=lambda: deepcopy(splatkit_3dgs.config.pipeline.datamanager)  # type: ignore[reportReturnType]
    )


@dataclass
class _DataOptions:
    pipeline: _Pipeline = field(default_factory=_Pipeline)


def parse_data_options(arguments: Sequence[str]) -> SplatkitDatamanagerConfig:
    """Read options of ``ns-train`` about data, and a dataparser with its options.

    Arguments that do not parse end the process with 2.

    Raises:
        OptionsError: options are out of their ranges.
    """
    kind: Any = tyro.conf.SuppressFixed[tyro.conf.FlagConversionOff[_DataOptions]]
    parsed: Any = tyro.cli(kind, prog="splatkit doctor --data FOLDER", args=list(arguments))
    check_data_options(parsed)
    return parsed.pipeline.datamanager


def examine_data(
    folder: Path, config: SplatkitDatamanagerConfig, console: Console
) -> tuple[list[Finding], dict[str, Any] | None]:
    """Open a data set as training does, and read each photograph once.

    Args:
        folder: of the data set.
        config: see `parse_data_options`.
        console: for a progress bar, if it is a terminal.

    Returns:
        The findings, and figures as JSON can hold them; None if the data set cannot be opened.
    """
    config.data = folder
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    hook = sys.excepthook
    with collected_notes() as notes:
        try:
            with _unattended():
                manager = SplatkitDatamanager(config, device=device, test_mode="val")
                splits = {"train": manager.train_dataset, "eval": manager.eval_dataset}
                figures = {name: split_figures(dataset) for name, dataset in splits.items()}
        except SplatkitError as error:
            facts = {"folder": str(folder)}
            return [*_notes(notes), Finding("data", "fault", str(error), facts=facts)], None
        finally:
            sys.excepthook = hook
        total = sum(len(found.names) for found in figures.values())
        with printed_words() as printed, _progress(console, total) as report:
            results = {
                name: read_all_images(dataset, config.cache_images_type, report) for name, dataset in splits.items()
            }
    names = [name for found in figures.values() for name in found.names]
    complaints = decoder_complaints(dict.fromkeys(names)) if printed() else {}
    num_bytes = sum(result.num_bytes for result in results.values())
    room = room_for(config, device, num_bytes)
    findings = data_findings(folder, type(config.dataparser).__name__, figures, results, room)
    findings += [
        Finding("damaged", "note", f"{name}: its decoder says: {text}", DAMAGED) for name, text in complaints.items()
    ]
    return [*findings, *_notes(notes)], _figures(folder, config, figures, results, room, notes)


@contextmanager
def _unattended() -> Generator[None]:
    """A block in which nerfstudio prints nothing, and gets no answer if it asks whether to make smaller images."""
    terminal = sys.stdin
    with quiet_console(), Path(os.devnull).open() as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = terminal


@contextmanager
def _progress(console: Console, total: int) -> Generator[Callable[[int], None]]:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Reading photographs", total=total)
        yield lambda _: progress.advance(task)


def data_findings(
    folder: Path,
    parser: str,
    figures: dict[str, SplitFigures],
    results: dict[str, ReadingResult],
    room: Room,
) -> list[Finding]:
    """The findings about a data set that could be opened.

    Args:
        folder: of the data set.
        parser: the name of the dataparser's config.
        figures: of the splits "train" and "eval".
        results: of reading their images.
        room: the memory for images.
    """
    train = figures["train"]
    found = [Finding("data", "ok", f"{folder}, read by {parser.removesuffix('Config')}")]
    found += [*_photographs(figures), _held_out(figures), _lenses(train), _masks(train, results["train"])]
    found += [_seed_points(train), _room(figures, results, room)]
    problems = [problem for result in results.values() for problem in result.problems]
    found += [Finding("damaged", "fault", problem) for problem in problems]
    return found


def _photographs(figures: dict[str, SplitFigures]) -> list[Finding]:
    train = figures["train"]
    sizes = ", ".join(
        f"{count} of {width}×{height}" for (width, height), count in sorted(train.sizes.items(), key=lambda x: -x[1])
    )
    text = f"{len(train.names)} for training: {sizes}"
    if len(train.names) < FEW_IMAGES:
        advice = "Few photographs make a good scene from near their own places only. More of them help most."
        return [Finding("photographs", "note", text, advice, "splatkit poses PHOTOS --output FOLDER")]
    return [Finding("photographs", "ok", text)]


def _held_out(figures: dict[str, SplitFigures]) -> Finding:
    train, held = figures["train"].names, figures["eval"].names
    both = sorted(set(train) & set(held))
    if both:
        return Finding(
            "held_out", "note", f"{len(both)} of {len(held)} evaluation images are trained on, too: figures are not "
            "those of images that training has not seen", "Hold out every 8th image:",
            "ns-train … nerfstudio-data --eval-mode interval --eval-interval 8",
        )  # fmt: skip
    return Finding("held_out", "ok", f"{len(held)}: {listed([Path(name).name for name in held], SHOWN_NAMES)}")


def _lenses(train: SplitFigures) -> Finding:
    text = ", ".join(f"{count} {name}" for name, count in train.lenses.items())
    if set(train.lenses) == {"pinhole"}:
        return Finding("lenses", "ok", text)
    if not train.undistorts:
        return Finding("lenses", "ok", f"{text}; training uses the images as they are")
    share = train.pixels / train.stored_pixels
    how = "without distortion (--pipeline.datamanager.undistort False trains 3D Gaussians on them as they are)"
    return Finding("lenses", "ok", f"{text}; training uses images of {share:.0%} of the pixels, {how}")


def _masks(train: SplitFigures, result: ReadingResult) -> Finding:
    if train.masks == 0:
        return Finding("masks", "ok", "none")
    if result.masked_share is None:
        return Finding("masks", "ok", f"{train.masks}")
    text = f"{train.masks}, which leave out {result.masked_share:.1%} of the pixels"
    if result.masked_share > 0.9:
        status = "fault" if result.masked_share == 1 else "note"
        return Finding(
            "masks", status, text, "Masks are black where a photograph is left out. If these mark it in white:",
            "ns-train … --pipeline.datamanager.mask-inverted True",
        )  # fmt: skip
    return Finding("masks", "ok", text)


def _seed_points(train: SplitFigures) -> Finding:
    if train.seed_points is None:
        return Finding("seed_points", "ok", "none: training starts from random points")
    text = f"{train.seed_points:,}"
    if train.seed_points < FEW_POINTS:
        return Finding(
            "seed_points", "note", f"{text}: few to start from", "To compare with random points:",
            "ns-train … --pipeline.model.random-init True",
        )  # fmt: skip
    return Finding("seed_points", "ok", text)


def _room(figures: dict[str, SplitFigures], results: dict[str, ReadingResult], room: Room) -> Finding:
    needed = sum(result.num_bytes for result in results.values())
    count = sum(len(found.names) for found in figures.values())
    place = "the GPU's" if room.on_gpu else "main"
    text = (
        f"{count} images take {needed / GIB:.3g} GiB; training gives them up to {room.limit / GIB:.3g} GiB of {place}"
    )
    if needed <= room.limit:
        return Finding("image_memory", "ok", f"{text} memory: all are kept")
    return Finding(
        "image_memory", "note", f"{text} memory: those that do not fit are read from disk ahead of their use",
        "If there is more memory:", f"ns-train … --pipeline.datamanager.cache-gib {needed / GIB * 1.35:.2g}",
    )  # fmt: skip


def _notes(notes: Sequence[str]) -> list[Finding]:
    return [Finding("not_honoured", "note", note, "See docs/data.md.") for note in notes]


def _figures(
    folder: Path,
    config: SplatkitDatamanagerConfig,
    figures: dict[str, SplitFigures],
    results: dict[str, ReadingResult],
    room: Room,
    notes: Sequence[str],
) -> dict[str, Any]:
    train = figures["train"]
    return {
        "folder": str(folder),
        "dataparser": type(config.dataparser).__name__.removesuffix("Config"),
        "training_images": len(train.names),
        "held_out_images": list(figures["eval"].names),
        "sizes": [{"width": w, "height": h, "images": count} for (w, h), count in train.sizes.items()],
        "lenses": train.lenses,
        "pixel_share": train.pixels / train.stored_pixels,
        "masks": train.masks,
        "masked_share": results["train"].masked_share,
        "seed_points": train.seed_points,
        "image_bytes": sum(result.num_bytes for result in results.values()),
        "image_memory_bytes": room.limit,
        "images_on_gpu": room.on_gpu,
        "damaged": [problem for result in results.values() for problem in result.problems],
        "notes": list(notes),
    }
