"""Masks of what was painted into photographs: used in training, and compared with those that training finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from splatkit_ns.modules import SplatTransientMasks
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.frame_edit import FrameEdit


class OracleMasks(SplatBaseModule[Any]):
    """Leaves exactly what was painted out of loss and densification: the most that any masks can win."""

    def __init__(self, figures: Path, begin: float) -> None:
        self.figures, self.begin = figures, begin
        """The folder of the masks of what was painted, and the share of the steps from which on they are used."""
        self._valid: dict[str, Tensor | None] = {}

    def pre_step(
        self, step: int, max_steps: int, target_frames: Tensor, masks: Tensor | None, image_name: str
    ) -> FrameEdit | None:
        if step <= self.begin * max_steps:
            return None
        if image_name not in self._valid:
            there = painted_in(self.figures / Path(image_name).name, target_frames.shape[1:3])
            self._valid[image_name] = torch.from_numpy(~there)[None].to(target_frames.device) if there.any() else None
        valid = self._valid[image_name]
        return None if valid is None else FrameEdit(masks=valid if masks is None else masks & valid)


class SharesMasked(SplatBaseModule[Any]):
    """Records how much is masked of what was painted, and of all else, whenever masks change."""

    def __init__(self, figures: Path) -> None:
        self.figures = figures
        """The folder of the masks of what was painted; it may be missing."""
        self.shares: list[dict[str, float]] = []

    def on_evaluate(self, step: int, modules: Any, data_provider: Any) -> None:
        found = [module for module in modules if isinstance(module, SplatTransientMasks)]
        state = found[0].state_dict()["masks"] if found else []
        if state and (not self.shares or any(a is not b for a, b in zip(state, self._before, strict=True))):
            self._before = state
            self.shares.append({"step": step, **shares_masked(state, data_provider, self.figures)})


def painted_in(path: Path, size: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which pixels of a photograph of a size (height, width) were painted; none if there is no such file."""
    if not path.exists():
        return np.zeros(size, bool)
    with Image.open(path) as image:
        return np.asarray(image.resize((size[1], size[0])))


def shares_masked(masks: list[Tensor], data_provider: Any, figures: Path) -> dict[str, float]:
    """The shares that are masked of the painted figures, and of the other pixels, at the resolution of the masks.

    A figure counts as found if half of it is masked. Of the figures found, `found_figures_masked` is masked.
    """
    counts, found = np.zeros((2, 2)), list[tuple[int, int]]()
    names = data_provider.datamanager.train_dataset.image_filenames
    for mask, name in zip(masks, names, strict=True):
        masked = mask.cpu().numpy()
        there = painted_in(figures / Path(name).name, masked.shape)
        counts += [[(masked & there).sum(), there.sum()], [(masked & ~there).sum(), (~there).sum()]]
        if there.any():
            found.append((int((masked & there).sum()), int(there.sum())))
    whole = [(part, all_of_it) for part, all_of_it in found if part >= all_of_it / 2]
    (of_figures, figure), (of_others, others) = counts
    return {
        "figures_masked": float(of_figures / max(1, figure)),
        "others_masked": float(of_others / others),
        "figures": len(found),
        "figures_found": len(whole),
        "found_figures_masked": sum(part for part, _ in whole) / max(1, sum(all_of_it for _, all_of_it in whole)),
    }
