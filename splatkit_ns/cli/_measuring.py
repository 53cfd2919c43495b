"""The difference of pictures of Gaussians from those of a run at its held-out views, or from the photographs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.errors import SplatkitError
from splatkit_ns.formats import Gaussians
from splatkit_ns.formats.frames import Similarity, transform
from splatkit_ns.image_metrics.psnr import psnr
from splatkit_ns.plugin.data.cameras import lens_view
from splatkit_ns.plugin.data.photographs.images import evaluation_target
from splatkit_ns.plugin.pipeline import SplatkitPipeline
from splatkit_ns.renderer import RenderOptions
from splatkit_ns.splat import SplatModel

MOST_DB = 120.0
"""PSNR of equal images, which is infinite, counts as this in means; float32 has not much more."""


class HeldOutViews:
    """The held-out cameras of a run, or some of them, evenly chosen, and the pictures to compare with.

    Args:
        pipeline: of the run, set to evaluation.
        limit: at most this many cameras; None for all.
        reference: Gaussians in the frame of training, all finite, whose pictures are the ones to compare with; None
            for the photographs, as evaluation has them.

    Raises:
        SplatkitError: no photograph has a pixel that its mask leaves.
    """

    def __init__(self, pipeline: SplatkitPipeline, limit: int | None, reference: Gaussians | None = None) -> None:
        self._model = pipeline.model
        self._background = self._model.backgrounds.of_evaluation(self._model.device)[None]
        data = pipeline.datamanager
        cameras: Any = data.eval_dataset.cameras
        are_trained_on = set(data.eval_dataset.image_filenames) <= set(data.train_dataset.image_filenames)
        self._kind = "training" if are_trained_on else "held-out"
        usable = data.measured if reference is None else range(len(cameras))
        if not usable:
            raise SplatkitError(
                "The masks of all held-out photographs leave no pixel, so that nothing can be measured."
            )
        count = min(limit or len(usable), len(usable))
        self._chosen = sorted({usable[round(i)] for i in np.linspace(0, len(usable) - 1, count)})
        self._views = [lens_view(cameras[index : index + 1].to(pipeline.device)) for index in self._chosen]
        self._photographs = data.cached_eval if reference is None else None
        self._pictures = None if reference is None else self.pictures(reference, Similarity.identity())

    def __len__(self) -> int:
        return len(self._views)

    @property
    def kind(self) -> str:
        """The word for these views in a report: a data set's split may leave none that are not trained on."""
        return self._kind

    def psnr(self, gaussians: Gaussians, move: Similarity | None = None) -> float:
        """The mean PSNR in dB of pictures of Gaussians, at most `MOST_DB`.

        Args:
            gaussians: such as a file has them.
            move: from the frame of training into theirs, which the cameras follow; None if it is the same.
        """
        shown = self._rendered(gaussians, move or Similarity.identity())
        found = [float(psnr(new, *target)) for new, target in zip(shown, self._targets(), strict=True)]
        return float(np.mean(np.minimum(found, MOST_DB)))

    def pictures(self, gaussians: Gaussians, move: Similarity) -> list[Tensor]:
        """Render Gaussians that were moved, from the cameras moved along: images (H, W, 3) on the CPU."""
        return list(self._rendered(gaussians, move))

    def _targets(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The pictures to compare with and their masks, on the CPU."""
        if self._pictures is not None:
            yield from ((picture, None) for picture in self._pictures)
            return
        assert self._photographs is not None
        for view, batch in zip(self._views, self._photographs.in_order(self._chosen), strict=True):
            target, mask = evaluation_target(batch, self._background.expand(view.height, view.width, 3))
            yield target.cpu(), None if mask is None else mask.cpu()

    @torch.no_grad()
    def _rendered(self, gaussians: Gaussians, move: Similarity) -> Iterator[Tensor]:
        # The scale alone is undone, because renderers have settings in units of the frame of training.
        model = SplatModel.from_gaussians(transform(gaussians, Similarity(np.eye(3), np.zeros(3), 1 / move.scale)))
        state = model.for_rendering(self._background.device)
        options = RenderOptions(sh_degree=gaussians.sh_degree, backgrounds=self._background)
        for view in self._views:
            yield self._model.renderer.render(state, _moved(view, move), options).renders[0].clamp(0, 1).cpu()


def _moved(view: View, move: Similarity) -> View:
    """The view in a frame that is turned and shifted, and as large as before."""
    poses = view.cam_to_worlds.double().cpu().numpy()
    matrix = Similarity(move.rotation, move.translation / move.scale).matrix()
    return replace(view, cam_to_worlds=torch.from_numpy(matrix @ poses).to(view.cam_to_worlds))
