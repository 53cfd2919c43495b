"""The ``data_provider`` of modules while a run trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from splatkit_ns.cameras import LensModel
from splatkit_ns.image_model import IdentityImageModel
from splatkit_ns.parts.evaluation import HeldOutFigures, ImageEvaluation
from splatkit_ns.parts.image_frame import ImageFrame
from splatkit_ns.parts.training_views import TrainingView
from splatkit_ns.plugin.data.backgrounds import Backgrounds
from splatkit_ns.plugin.data.cameras import lens_models
from splatkit_ns.plugin.data.photographs.masks import MaskMode
from splatkit_ns.plugin.step.interfaces import StepModel
from splatkit_ns.plugin.step.measures import Measures
from splatkit_ns.ranks import Ranks
from splatkit_ns.renderer import RenderOptions
from splatkit_ns.splat.rng import rng_state, set_rng_state
from splatkit_ns.splat.state_checkpoint import package_versions

SPLIT_FIELDS = ("data", "eval_mode", "eval_interval", "train_split_fraction", "downscale_factor", "alpha_color")
MASKS: dict[MaskMode, str] = {
    "ignore": "pixels outside the images' masks do not count",
    "segment": "pixels outside the images' masks are the background",
    "sky": "all pixels count; those outside the images' masks are sky",
    "alpha": "transparent pixels are the background; pixels outside the images' masks do not count",
}
METRICS = {
    "psnr": "-10 log10 of the mean squared error over all valid pixels and channels, images in [0, 1]; dB",
    "ssim": "11×11 Gaussian window, sigma 1.5, k1 0.01, k2 0.03, no padding; windows wholly inside the mask",
    "lpips": "AlexNet, inputs scaled to [-1, 1]; pixels outside the mask black in both images",
    "cc_psnr, cc_ssim, cc_lpips": "the same after an affine change of the render's colours (3×3 matrix and offset), "
    "fitted to each photograph by least squares over its valid pixels",
    "aligned_psnr, …": "the same after the camera has been aligned with the photograph while the Gaussians stay fixed; "
    "only of runs that correct poses",
    "mean": "arithmetic mean over images",
}


MOST_HELD_OUT = 64
"""At most this many held-out images are measured during training, spread evenly over all of them."""


class RunModel(StepModel, Protocol):
    """A model that also evaluates."""

    training: bool
    backgrounds: Backgrounds
    measures: Measures
    config: Any

    @property
    def device(self) -> torch.device:
        """The device of the Gaussians."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Set the model to training."""
        ...

    def get_outputs_for_camera(self, camera: Cameras) -> dict[str, Any]:
        """Render an evaluation image."""
        ...

    def get_image_metrics_and_images(
        self, outputs: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Measure it."""
        ...


class RunData:
    """The images of a run, and its evaluation; an `EvaluationSource` and a `TrainingViewSource`.

    Args:
        datamanager: a `SplatkitDatamanager`; also an attribute, for everything that this class does not offer.
        model: renders and measures.
    """

    def __init__(self, datamanager: Any, model: RunModel) -> None:
        self.datamanager = datamanager
        self._model = model
        self._test_data: Any = None
        self.held_out: HeldOutFigures | None = None
        """The figures of the last evaluation of held-out images."""

    @property
    def num_train_images(self) -> int:
        """Number of training images."""
        return len(self.datamanager.train_dataset)

    @property
    def num_train_pixels(self) -> int:
        """Pixels of all training images together, at full resolution."""
        cameras = self.datamanager.train_dataset.cameras
        return int((cameras.width.long() * cameras.height.long()).sum())

    @property
    def train_camera_numbers(self) -> list[int]:
        """The number of each training image's camera, from 0: images with the same size and intrinsics are of one."""
        cameras = self.datamanager.train_dataset.cameras
        values = (cameras.fx, cameras.fy, cameras.cx, cameras.cy, cameras.width, cameras.height)
        found: dict[tuple[float, ...], int] = {}
        rows = torch.cat([value.double().reshape(-1, 1) for value in values], dim=1).tolist()
        return [found.setdefault(tuple(row), len(found)) for row in rows]

    @property
    def train_lenses(self) -> set[LensModel]:
        """The models of the lenses through which training images are drawn."""
        return lens_models(self.datamanager.train_dataset.cameras)

    @property
    def train_extent(self) -> tuple[float, float]:
        """The largest distance of a training image's edge from its principal point, in focal lengths: across, down."""
        cameras = self.datamanager.train_dataset.cameras
        across = torch.maximum(cameras.cx, cameras.width - cameras.cx) / cameras.fx
        down = torch.maximum(cameras.cy, cameras.height - cameras.cy) / cameras.fy
        return float(across.max()), float(down.max())

    @property
    def num_eval_images(self) -> int:
        """Number of evaluation images, also of those that `evaluate` leaves out."""
        return len(self.eval_image_paths)

    @property
    def train_image_paths(self) -> list[Path]:
        """Files of the training images, in the order of `train_image`."""
        return [Path(path) for path in self.datamanager.train_dataset.image_filenames]

    @property
    def eval_image_paths(self) -> list[Path]:
        """Files of the evaluation images, in the order of `evaluate`, also of those that it leaves out."""
        return [Path(path) for path in self._evaluation_data().eval_dataset.image_filenames]

    def train_image(self, index: int) -> Tensor:
        """A training image as it is stored, (H, W, 3 or 4): uint8 in 0…255, or float in [0, 1]."""
        return self.datamanager.cached_train[index]["image"]

    def expect_views(self, indices: Sequence[int]) -> None:
        """Prepare for calls of `training_view` with these indices: images that memory does not hold are read ahead."""
        self.datamanager.expect_views(indices)

    @torch.no_grad()
    def training_view(self, index: int, with_depth: bool = False) -> TrainingView:
        """A training image beside its render with the Gaussians as they are now, at this step's resolution.

        It is on the step's background from the beginning of a step (`pre_step`) to its end.

        Raises:
            IndexError: there is no image of this number.
        """
        self._check_index("training_view", index)
        model = self._model
        current = model.parts.frame
        camera, batch = self.datamanager.train_view(index)
        frame = model.parts.frames.make(camera, batch, None if current is None else current.background)
        assert frame.target is not None
        options = RenderOptions(
            sh_degree=model.sh_degree_now(),
            backgrounds=frame.background[None],
            render_mode="RGB+ED" if with_depth else "RGB",
        )
        view = model.parts.frames.corrected(frame)
        payload = model.parts.renderer.render(model.training_state, view, options)
        seen = ImageFrame(view, frame.index_on_device, frame.image_name, model.context.step)
        image = model.parts.image_of(payload.renders, seen)
        return TrainingView(view, frame.target, image, frame.mask, payload.depths_expected if with_depth else None)

    def use_downscale(self, downscale: int) -> None:
        """Divide the sides of training images by this, from the next image on; evaluation images keep their size."""
        self._model.parts.frames.downscale = downscale

    def draw_next(self, indices: Sequence[int]) -> None:
        """Let training images, by number, be drawn next; then the others follow in the order in which they were.

        A step draws as many as it has images, each at most once. All ranks have to call it; what rank 0 names counts.

        Raises:
            IndexError: there is no image of such a number.
        """
        for index in indices:
            self._check_index("draw_next", index)
        first = Ranks.current().gather_objects([int(index) for index in indices])[0]
        self.datamanager.train_unseen_cameras[:0] = first

    def _check_index(self, method: str, index: int) -> None:
        if not 0 <= index < self.num_train_images:
            raise IndexError(f"{method}: there is no image {index}; they are 0 to {self.num_train_images - 1}.")

    def evaluate(self) -> Iterator[ImageEvaluation]:
        """Render and measure the evaluation images one by one, with the Gaussians as they are now.

        These are the images and figures of ``ns-eval``: if the data set has a test split, such as Blender's, the images
        are from that split. Images whose masks leave no pixel are left out. Training is not affected: nothing is drawn
        from the random generators.
        """
        model = self._model
        data = self._evaluation_data()
        with model.parts.dispatcher.validation(len(data.measured)) as is_heard:
            for index, (camera, batch) in zip(data.measured, data.fixed_indices_eval_dataloader, strict=True):
                if is_heard:
                    model.parts.dispatcher.run("pre_validation_image")
                yield self._measured(camera, batch, data.eval_dataset.image_filenames[index])

    @property
    def holds_images_out(self) -> bool:
        """Whether there are evaluation images, and none of them is trained on."""
        held_out = set(self.datamanager.eval_dataset.image_filenames)
        return bool(held_out) and held_out.isdisjoint(self.datamanager.train_dataset.image_filenames)

    @property
    def num_held_out(self) -> int:
        """Number of the run's own evaluation images that can be measured, such as Blender's for validation."""
        return len(self.datamanager.measured)

    def measure_held_out(self) -> Iterator[ImageEvaluation]:
        """Measure the run's own evaluation images, `MOST_HELD_OUT` of them if there are more, without LPIPS.

        Training is not affected, and modules are not told.
        """
        data = self.datamanager
        frames, count = data.fixed_indices_eval_dataloader, min(self.num_held_out, MOST_HELD_OUT)
        for index in torch.linspace(0, self.num_held_out - 1, count).round().long().tolist():
            camera, batch = frames[index]
            with self._model.measures.quickly():
                result = self._measured(camera, batch, data.eval_dataset.image_filenames[data.measured[index]])
            yield result

    def _measured(self, camera: Cameras, batch: dict[str, Any], path: Path) -> ImageEvaluation:
        model = self._model
        was_training = model.training
        model.train(False)
        try:
            with torch.no_grad():
                outputs = model.get_outputs_for_camera(camera)
                metrics, images = model.get_image_metrics_and_images(outputs, batch)
        finally:
            model.train(was_training)
        width = images["img"].shape[1] // 2
        return ImageEvaluation(
            name=Path(path).name,
            metrics=metrics,
            target=images["img"][:, :width],
            rendered=images["img"][:, width:],
        )

    def evaluation_protocol(self) -> dict[str, Any]:
        """A description of how the figures are computed, of values that JSON can hold."""
        data = self._evaluation_data()
        parser = data.config.dataparser
        fields = {field.name for field in dataclasses.fields(parser)}
        split = {name: _plain(getattr(parser, name)) for name in SPLIT_FIELDS if name in fields}
        model = self._model
        color = [round(float(channel), 4) for channel in model.backgrounds.of_evaluation(model.device)]
        masked = data.eval_dataset.dataparser_outputs.mask_filenames
        return {
            "split": {"dataparser": type(parser).__name__.removesuffix("Config"), **split},
            "num_train_images": self.num_train_images,
            "num_eval_images": self.num_eval_images,
            "eval_images": [path.name for path in self.eval_image_paths],
            "left_out": [path.name for index, path in enumerate(self.eval_image_paths) if index not in data.measured],
            "background": {"training": model.config.background_color, "evaluation": color},
            "masks": MASKS[data.config.mask_mode] if masked or data.config.mask_mode == "alpha" else "none",
            "compared_with": self._compared_with(),
            "metrics": METRICS,
            "versions": package_versions(),
        }

    @property
    def has_image_model(self) -> bool:
        """Whether training compares photographs with what an image model makes of renders."""
        return not isinstance(self._model.parts.image_model, IdentityImageModel)

    def _compared_with(self) -> str:
        model = self._model.parts.image_model
        if not model.applies_in_evaluation:
            return "the render of the scene, without an image model"
        return f"what {model.module_name} makes of the render, without a training photograph"

    def _evaluation_data(self) -> Any:
        """The datamanager with the split that ``ns-eval`` measures: usually the run's own."""
        if self._test_data is None:
            self._test_data = self.datamanager
            if self.datamanager.test_split != "test":
                test = self.datamanager.dataparser.get_dataparser_outputs(split="test")
                if list(test.image_filenames) != list(self.datamanager.eval_dataset.image_filenames):
                    state = rng_state()
                    self._test_data = self.datamanager.config.setup(device=self.datamanager.device, test_mode="test")
                    self._test_data.use_storage_of(self.datamanager)
                    set_rng_state(state)
        return self._test_data


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
