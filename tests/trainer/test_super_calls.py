"""A subclass of a built-in densification or loss names what it needs, and hands the rest over by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gsplat.strategy import DefaultStrategy
from torch import Tensor

from splatkit_ns.densification import (
    GsplatStrategy,
    SplatBudgetDensification,
    SplatDefaultDensification,
    SplatMCMCDensification,
)
from splatkit_ns.loss_fn import Splat2DGSLossFn, Splat3DGSLossFn
from splatkit_ns.modules import SplatBaseModule
from splatkit_ns.renderer import Splat2DGSRenderer, Splat3DGSRenderer
from tests.trainer.helpers import train

SETTINGS: dict[str, Any] = {"refine_start_iter": 0, "refine_stop_iter": 100, "refine_every": 2}


class FirstOfAll:
    """Counts its calls, and lets the class after it do the work."""

    calls = 0

    def densify(self, step: int, **others: Any) -> None:
        assert step == self.calls + 1
        assert {"training_state", "rend_out", "masks", "loss", "world_rank", "modules"} <= set(others)
        self.calls += 1
        super().densify(step=step, **others)  # type: ignore[misc]


class Default(FirstOfAll, SplatDefaultDensification): ...


class Budget(FirstOfAll, SplatBudgetDensification): ...


class MCMC(FirstOfAll, SplatMCMCDensification): ...


class Gsplat(FirstOfAll, GsplatStrategy): ...


STRATEGIES = [
    Default(grow_grad2d=1e-6, **SETTINGS),
    Budget(grow_grad2d=1e-6, budget=False, max_per_seed=0, **SETTINGS),
    MCMC(**SETTINGS),
    Gsplat(DefaultStrategy(grow_grad2d=1e-6, **SETTINGS)),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_densification(tiny_scene: Path, tmp_path: Path, strategy: Any) -> None:
    class Looks(SplatBaseModule[Any]):
        def on_cleanup(self, densification: Any) -> None:
            self.calls = densification.calls

    result = train(tiny_scene, tmp_path, 4, densification=strategy, modules=[Looks()])
    assert result.modules[-1].calls == 4  # type: ignore[attr-defined]
    assert len(result.training_state) > 48, "it grew"


class Brighter:
    """Adds a term to the loss of the class after it."""

    def compute_loss(self, rendered_frames: Tensor, **others: Any) -> dict[str, Tensor]:
        assert {"target_frames", "training_state", "rend_out", "masks", "view", "step"} <= set(others)
        terms = super().compute_loss(rendered_frames=rendered_frames, **others)  # type: ignore[misc]
        return {**terms, "dark": torch.relu(0.5 - rendered_frames).mean()}


class Brighter3DGS(Brighter, Splat3DGSLossFn): ...


class Brighter2DGS(Brighter, Splat2DGSLossFn): ...


@pytest.mark.parametrize(
    ("loss_fn", "renderer", "terms"),
    [
        (Brighter3DGS(opacity_reg=0.01), Splat3DGSRenderer(), {"l1", "dssim", "opacity_reg", "dark"}),
        (
            Brighter2DGS(normal_consistency_start_iter=0, distortion_start_iter=0),
            Splat2DGSRenderer(),
            {"l1", "dssim", "normal_consistency", "distortion", "dark"},
        ),
    ],
    ids=["3dgs", "2dgs"],
)
def test_loss(tiny_scene: Path, tmp_path: Path, loss_fn: Any, renderer: Any, terms: set[str]) -> None:
    metrics = train(tiny_scene, tmp_path, 2, loss_fn=loss_fn, renderer=renderer).metrics
    assert {name.removeprefix("loss/") for name in metrics if name.startswith("loss/")} == terms
    assert metrics["loss"] == pytest.approx(sum(metrics[f"loss/{name}"] for name in terms), rel=1e-5)
