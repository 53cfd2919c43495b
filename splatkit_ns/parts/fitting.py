"""Settings that count steps and fit the length of a run: what they are if they are None.

A schedule in fixed numbers of steps is made for one length. In a much shorter run densification would begin after half
of the steps or never, and nothing would come to rest. A setting that is None is a share of the run's steps instead,
within limits: Gaussians need some steps between two refinements however short the run is, and 3DGS's numbers are
enough however long it is. All shares and limits are in this file. A setting that is a number stays what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from splatkit_ns.errors import ModuleError


@dataclass(frozen=True)
class Fitting:
    """A share of the steps of a run, within limits.

    Args:
        share: of the steps, in (0, 1].
        least: the least number of steps.
        most: the largest number of steps; None for no limit.
    """

    share: float
    least: int = 1
    most: int | None = None

    def steps(self, setting: int | None, max_steps: int | None, name: str) -> int:
        """The number of steps that a setting means in a run.

        Args:
            setting: the setting.
            max_steps: the number of steps of the run; None or 0 if it is not known.
            name: of the setting, for the message.

        Raises:
            ModuleError: the setting is None, and the number of steps is not known.
        """
        if setting is not None:
            return setting
        if not max_steps:
            raise ModuleError(f"{name} is None, which follows the steps of the run, but their number is not known.")
        fitting = max(self.least, round(self.share * max_steps))
        return fitting if self.most is None else min(self.most, fitting)


REFINE_START = Fitting(1 / 10, most=500)
"""Densification begins after a tenth of the steps, at the latest after 500."""
REFINE_STOP = Fitting(5 / 6)
"""It ends with a sixth of the steps left."""
GRADIENTS_EVERY = Fitting(1 / 10, least=10, most=100)
"""The steps over which adaptive density control sums up gradients."""
RELOCATION_EVERY = Fitting(1 / 20, least=10, most=50)
"""The steps between two relocations of MCMC."""
SH_DEGREE_INTERVAL = Fitting(1 / 10, most=1000)
"""The steps after which one more degree of the spherical harmonics is used."""
DISTORTION_START = Fitting(1 / 10, most=3000)
"""2DGS's term of distortion is used from a tenth of the steps on."""
NORMALS_START = Fitting(7 / 30, most=7000)
"""2DGS's consistency of normals is used from then on."""


class SHSettings(Protocol):
    """The settings of spherical harmonics; see the model's config."""

    sh_degree: int
    sh_degree_interval: int | None
    init_ply: Path | None


def sh_degree_at(step: int, settings: SHSettings, max_steps: int) -> int:
    """The degree up to which spherical harmonics are evaluated.

    Gaussians of a file were trained before: all their degrees are used from the start. So they are in an opened run
    whose interval follows the number of steps, which is not known then: coefficients that were not trained are 0.

    Args:
        step: the number of steps before this one.
        settings: those of the model.
        max_steps: the number of steps of the run; 0 if it is not known.
    """
    interval = settings.sh_degree_interval
    if settings.init_ply is not None or (interval is None and max_steps == 0):
        return settings.sh_degree
    return min(step // SH_DEGREE_INTERVAL.steps(interval, max_steps, "sh_degree_interval"), settings.sh_degree)
