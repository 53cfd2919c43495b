"""A strategy of its own for runs much shorter than their method is made for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from splatkit_ns.densification.budget import SplatBudgetDensification
from splatkit_ns.densification.mcmc import SplatMCMCDensification
from splatkit_ns.parts.fitting import SHORT_RUN, Fitting, fitted

ONLY_OF_MCMC = ("noise_lr", "min_opacity", "growth", "gradient_power", "usual_error")


@dataclass
class SplatFittingDensification(SplatMCMCDensification, Fitting):
    """3DGS-MCMC in long runs; `SplatBudgetDensification` in runs with fewer than 2,500 steps.

    In few steps the latter gets further with fewer Gaussians, and there is no time to overfit. Common settings mean the
    same. If a setting that only MCMC has is a plain number, the user has chosen it: short runs keep MCMC then.
    """

    def in_run(self, steps: int) -> SplatMCMCDensification | SplatBudgetDensification:
        """The strategy, with its settings, for a shorter run of so many steps."""
        keeps_mcmc = steps >= SHORT_RUN or any(not isinstance(getattr(self, name), Fitting) for name in ONLY_OF_MCMC)
        settings = {field.name: fitted(getattr(self, field.name), steps) for field in dataclasses.fields(self)}
        if keeps_mcmc:
            return SplatMCMCDensification(**settings)
        shared = {name: value for name, value in settings.items() if name not in ONLY_OF_MCMC}
        return SplatBudgetDensification(reset_every=0, **shared)

    def as_mcmc(self) -> SplatMCMCDensification:
        """3DGS-MCMC with the same settings, for runs of any length."""
        settings: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return SplatMCMCDensification(**settings)
