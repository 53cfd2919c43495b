"""The views of a run's Gaussians from its training cameras."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splatkit_ns.errors import SplatkitError
from splatkit_ns.formats.gaussians import DoubleArray
from splatkit_ns.mesh.frames import SceneFrame
from splatkit_ns.mesh.options import FrameName
from splatkit_ns.mesh.views import DepthView
from splatkit_ns.plugin.data.cameras import pinhole_view
from splatkit_ns.plugin.data.photographs.masks import solid_pixels
from splatkit_ns.plugin.data.photographs.undistortion import pinhole_cameras
from splatkit_ns.plugin.data.scenes.scene_frames import frame_to_training
from splatkit_ns.plugin.pipeline import SplatkitPipeline


class RunViews:
    """Rendered views of all training cameras, as pinhole cameras would see them.

    Args:
        pipeline: set to evaluation.
        min_accumulation: pixels that the Gaussians cover less than this show no surface.

    Raises:
        DataError: a lens sees more than a pinhole camera can.
    """

    def __init__(self, pipeline: SplatkitPipeline, min_accumulation: float) -> None:
        self._model = pipeline.model
        self._min_accumulation = min_accumulation
        outputs = pipeline.datamanager.train_dataparser_outputs
        self._has_masks = outputs.mask_filenames is not None
        self._dataset = pipeline.datamanager.train_dataset
        self._cameras: Any = pinhole_cameras(self._dataset.stored_cameras, self._dataset.image_filenames)
        points = outputs.metadata.get("points3D_xyz")
        self.seed_points: DoubleArray | None = None if points is None else points.double().cpu().numpy()
        """(N, 3) in nerfstudio's frame, or None if the data set has none."""
        self._datamanager = pipeline.datamanager
        self.has_surface_depth = False
        """Whether the renderer's surfaces are better than the average along the ray; known after the first view."""

    def __len__(self) -> int:
        return len(self._cameras)

    def frame(self, name: FrameName) -> SceneFrame:
        """The move of the scene from a frame into nerfstudio's.

        Raises:
            SplatkitError: the data set's files do not say what it is.
        """
        if name == "nerfstudio":
            return SceneFrame.identity()
        return SceneFrame.from_dataparser(*frame_to_training(self._datamanager, name))

    @property
    def longest_side(self) -> int:
        """The longest side of all pictures, in pixels."""
        return int(torch.maximum(self._cameras.width, self._cameras.height).max())

    def views(self, downscale: float = 1.0) -> Iterator[DepthView]:
        """Render one camera after the other.

        Args:
            downscale: sides of the pictures are divided by this.

        Raises:
            SplatkitError: the renderer makes no depth image.
        """
        if not self._has_masks:
            for index in range(len(self)):
                yield self._view(index, downscale, None)
            return
        with closing(self._datamanager.read_train_images()) as images:
            for index, image in enumerate(images):
                if not self._dataset.undistorts:
                    pixels, mask = self._dataset.undistorter(index, image["image"], image.get("mask"))
                    image = {**image, "image": pixels, **({} if mask is None else {"mask": mask})}
                yield self._view(index, downscale, solid_pixels(image))

    def _view(self, index: int, downscale: float, mask: NDArray[np.bool_] | None) -> DepthView:
        camera = deepcopy(self._cameras[index : index + 1])
        if downscale > 1:
            camera.rescale_output_resolution(1 / downscale)
        outputs = self._model.get_outputs_for_camera(camera)
        self.has_surface_depth = "surface_depth" in outputs
        depth = outputs.get("surface_depth", outputs.get("depth"))
        if depth is None:
            raise SplatkitError(
                f"The renderer {type(self._model.renderer).__name__} makes no depth image, which a mesh is made from: "
                "its payload has neither depths_expected nor surface_depths."
            )
        depth, covered = depth[..., 0].cpu().numpy(), outputs["accumulation"][..., 0].cpu().numpy()
        known = np.isfinite(depth) & (depth > 0) & (covered > 0) & (covered >= self._min_accumulation)
        if mask is not None:  # undistorted as in training
            known &= _resampled(mask, known.shape)
        view = pinhole_view(camera)
        return DepthView(
            depth=np.where(known, depth, 0).astype(np.float32),
            color=outputs["rgb"].cpu().numpy().astype(np.float32),
            K=view.Ks[0].double().cpu().numpy(),
            cam_to_world=view.cam_to_worlds[0].double().cpu().numpy(),
        )


def _resampled(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask at another resolution: each pixel has the value in its middle."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(shape, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]
