"""The quality of the held-out images during a run: figures, the worst image, and a contact sheet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nerfstudio.utils import writer
from nerfstudio.utils.writer import EventName

from splatkit_ns.files import atomic_write
from splatkit_ns.parts.evaluation import HeldOutFigures, ImageEvaluation
from splatkit_ns.parts.files import write_or_warn
from splatkit_ns.plugin.reporting.contact_sheet import SheetRow, contact_sheet
from splatkit_ns.plugin.run.parts.run_data import RunData
from splatkit_ns.ranks import Ranks

logger = logging.getLogger("splatkit_ns")

FOLDER = "held_out"


class HeldOutImages:
    """Measures the held-out images of a run, and writes a contact sheet of each evaluation.

    It does nothing if no image is held out, or if the evaluation images are trained on.

    Args:
        data: the data of the run; its `held_out` becomes the figures.
        folder: of the run.
        wanted: whether to measure at all.
        stops: whether the run is to stop at once; asked between images.
    """

    def __init__(self, data: RunData, folder: Path, wanted: bool, stops: Callable[[], bool]) -> None:
        self._data, self._folder, self._stops = data, folder / FOLDER, stops
        self._wanted = wanted and Ranks.current().rank == 0 and data.holds_images_out
        self.sheet: Path | None = None
        """The newest contact sheet."""

    @property
    def figures(self) -> HeldOutFigures | None:
        """The figures of the last evaluation."""
        return self._data.held_out

    @property
    def results(self) -> dict[str, Any]:
        """The figures and the sheet, by the names under which they are printed."""
        return {"Held-out Images": self.figures, "Contact Sheet": self.sheet}

    def measure(self, step: int) -> None:
        """Measure the images after a step (counted from 1), print the result and write the sheet.

        Training is not affected, whatever goes wrong: it is told, and the run goes on without.
        """
        if not self._wanted or (self.figures is not None and self.figures.step == step):
            return
        began = time.perf_counter()
        rows: list[SheetRow] = []
        corrected: list[float] = []
        try:
            for image in self._data.measure_held_out():
                if self._stops():
                    return
                rows.append(_row(image))
                if self._data.has_image_model:
                    corrected.append(image.metrics["cc_psnr"])
        except Exception as error:  # of a renderer or image model of the user's, or for lack of memory
            self._wanted = False
            logger.warning(
                "The held-out images cannot be measured (%s: %s): no more tries.", type(error).__name__, error
            )
            return
        if not rows:  # the datamanager has said why
            self._wanted = False
            return
        figures = _figures(step, rows, corrected, self._data.num_held_out)
        self._data.held_out = figures
        writer.put_scalar(name=EventName.CURR_TEST_PSNR, scalar=figures.psnr, step=step - 1)
        logger.info("Step %d: %s (%.1f s)", step, figures, time.perf_counter() - began)
        self._write(step, rows, figures)

    def _write(self, step: int, rows: list[SheetRow], figures: HeldOutFigures) -> None:
        path = self._folder / f"step_{step:06d}.jpg"
        sheet = contact_sheet(rows, f"Step {step}: mean of {len(rows)} held-out images {figures.psnr:.2f} dB")

        def write() -> None:
            atomic_write(path, lambda file: sheet.save(file, format="JPEG", quality=90))

        if write_or_warn(logger, f"The contact sheet of step {step}", write):
            self.sheet = path


def _row(image: ImageEvaluation) -> SheetRow:
    return SheetRow.of(image.name, image.metrics["psnr"], image.metrics.get("ssim"), image.target, image.rendered)


def _figures(step: int, rows: list[SheetRow], corrected: list[float], num_held_out: int) -> HeldOutFigures:
    worst = min(rows, key=lambda row: row.psnr)
    ssims = [row.ssim for row in rows if row.ssim is not None]
    return HeldOutFigures(
        step=step,
        psnr=sum(row.psnr for row in rows) / len(rows),
        ssim=sum(ssims) / len(ssims) if len(ssims) == len(rows) else None,
        num_measured=len(rows),
        num_images=num_held_out,
        worst_name=worst.name,
        worst_psnr=worst.psnr,
        cc_psnr=sum(corrected) / len(corrected) if corrected else None,
    )
