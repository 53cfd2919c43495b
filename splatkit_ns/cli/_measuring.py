"""The difference of pictures of Gaussians from those of a run at its held-out views, or from the photographs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.formats import Gaussians
from splatkit_ns.formats.frames import Similarity, transform
from splatkit_ns.image_metrics.psnr import psnr
from splatkit_ns.plugin.data.cameras import pinhole_view
from splatkit_ns.plugin.data.images import evaluation_target
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
    """

    def __init__(self, pipeline: SplatkitPipeline, limit: int | None, reference: Gaussians | None = None) -> None:
        self._model = pipeline.model
        self._background = self._model.backgrounds.of_evaluation(self._model.device)[None]
        cameras: Any = pipeline.datamanager.eval_dataset.cameras
        if reference is None:  # the cameras of undistorted images are others
            frames: list[Any] = pipeline.datamanager.fixed_indices_eval_dataloader
        else:
            frames = [(cameras[index : index + 1].to(pipeline.device), None) for index in range(len(cameras))]
        count = min(limit or len(frames), len(frames))
        chosen = [frames[index] for index in sorted({round(i) for i in np.linspace(0, len(frames) - 1, count)})]
        self._views = [pinhole_view(camera) for camera, _ in chosen]
        self._targets: list[tuple[Tensor, Tensor | None]] = []
        if reference is not None:
            self._targets = [(picture, None) for picture in self.pictures(reference, Similarity.identity())]
            return
        for view, (_, batch) in zip(self._views, chosen, strict=True):
            target, mask = evaluation_target(batch, self._background.expand(view.height, view.width, 3))
            self._targets.append((target.cpu(), None if mask is None else mask.cpu()))

    def __len__(self) -> int:
        return len(self._views)

    def psnr(self, gaussians: Gaussians, move: Similarity | None = None) -> float:
        """The mean PSNR in dB of pictures of Gaussians, at most `MOST_DB`.

        Args:
            gaussians: such as a file has them.
            move: from the frame of training into theirs, which the cameras follow; None if it is the same.
        """
        shown = self.pictures(gaussians, move or Similarity.identity())
        found = [float(psnr(new, *target)) for new, target in zip(shown, self._targets, strict=True)]
        return float(np.mean(np.minimum(found, MOST_DB)))

    @torch.no_grad()
    def pictures(self, gaussians: Gaussians, move: Similarity) -> list[Tensor]:
        """Render Gaussians that were moved, from the cameras moved along: images (H, W, 3) on the CPU."""
        # The scale alone is undone, because renderers have settings in units of the frame of training.
        model = SplatModel.from_gaussians(transform(gaussians, Similarity(np.eye(3), np.zeros(3), 1 / move.scale)))
        state = model.for_rendering(self._background.device)
        options = RenderOptions(sh_degree=self._model.sh_degree_now(), backgrounds=self._background)
        shown = [self._model.renderer.render(state, _moved(view, move), options) for view in self._views]
        return [payload.renders[0].clamp(0, 1).cpu() for payload in shown]


def _moved(view: View, move: Similarity) -> View:
    """The view in a frame that is turned and shifted, and as large as before."""
    poses = view.cam_to_worlds.double().cpu().numpy()
    matrix = Similarity(move.rotation, move.translation / move.scale).matrix()
    return replace(view, cam_to_worlds=torch.from_numpy(matrix @ poses).to(view.cam_to_worlds))
