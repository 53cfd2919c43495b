"""nerfstudio's full-image datamanager, changed in four ways: one message for broken data, pictures and lenses as people
have them, machines without a GPU, and any number of images: what memory does not hold is read ahead of its use."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from splatkit_ns.loss_fn.base import TargetName
from splatkit_ns.parts.old_configs import FillsInDefaults
from splatkit_ns.plugin.data.cameras import camera_extent, pixel_counts
from splatkit_ns.plugin.data.checks.contents import check_mask_use, check_outputs, held_out_or_all, read_headers
from splatkit_ns.plugin.data.checks.data_folder import check_folder, explained
from splatkit_ns.plugin.data.checks.honoured import note_options
from splatkit_ns.plugin.data.checks.plausible import note_unseen_points
from splatkit_ns.plugin.data.loader.batches import (
    Batches,
    EvaluationViews,
    batch_bytes,
    indices_with_pixels,
    read_in_order,
    usable_cores,
)
from splatkit_ns.plugin.data.loader.dataset import SplatkitDataset
from splatkit_ns.plugin.data.loader.memory import ImageStorage, SideCopies, choose_storage
from splatkit_ns.plugin.data.loader.reading import ImageReader, TargetFiles
from splatkit_ns.plugin.data.loader.targets import depth_unit, target_files
from splatkit_ns.plugin.data.photographs.decoder_words import damaged_pictures_named
from splatkit_ns.plugin.data.photographs.masks import MaskMode, MaskUse, check_some_pixel_counts
from splatkit_ns.plugin.data.photographs.pictures import ExifOrientation, turns_pictures
from splatkit_ns.plugin.data.sampling.image_work import ImageWork
from splatkit_ns.plugin.data.sampling.sampler_state import load_sampler_state, sampler_state
from splatkit_ns.plugin.data.scenes.bare_colmap import dataparser_of
from splatkit_ns.plugin.data.scenes.dataparsers import own_reading
from splatkit_ns.plugin.data.scenes.parse_outputs import DEFAULT_LIMIT
from splatkit_ns.plugin.run.ending.excepthook import install_excepthook
from splatkit_ns.ranges import NonNegative, Positive


@dataclass
class SplatkitDatamanagerConfig(FillsInDefaults, FullImageDatamanagerConfig):
    """Settings of the datamanager."""

    _target: type = field(default_factory=lambda: SplatkitDatamanager)
    cache_gib: Annotated[float | None, NonNegative] = None
    """The memory for cached images, in GiB: on the GPU if all of them fit there (and cache-images is gpu), otherwise
    the main memory. Images that do not fit are read from disk ahead of their use, by max-thread-workers threads; a
    quarter of this memory is for those. None means a third of the GPU's memory that is free, or half of the main
    memory that is free; if training is on the CPU, at most 1 GiB."""
    max_seed_points: Annotated[int, Positive] = DEFAULT_LIMIT
    """Seed points to start from at most; so many are drawn from a larger point cloud."""
    exif_orientation: ExifOrientation = "auto"
    """Whether pictures are turned as their EXIF tags say. Auto turns them if the cameras have the size of turned
    pictures."""

    undistort: bool = True
    """Whether photographs are turned into those of pinhole cameras before training. False trains on them as they are,
    through their own lenses, so that no pixel of a fisheye is lost; for 3D Gaussians."""
    mask_mode: MaskMode = "ignore"
    """The meaning of masks. ignore: what is masked out counts nowhere; segment: it is empty, so that only what is left
    has Gaussians; alpha: the images' alpha channels tell what is empty and how opaque the rest is, and masks are
    ignored as before; sky: it is sky, which has no Gaussians but the renderer's sky (sky-degree). Losses pull alpha
    there, see their alpha-lambda."""
    mask_inverted: bool = False
    """Whether masks mark what is masked out in white instead of black."""
    mask_grow: int = 0
    """Pixels by which what is masked out grows on all sides, such as 3 for masks that are too tight; negative numbers
    shrink it."""

    render_background = None  # no field, so that it is neither a flag nor in config.yml
    """The background (3,) of the model that a command renders, which nerfstudio does not tell its data."""

    @property
    def mask_use(self) -> MaskUse:
        """The options of masks as one value."""
        return MaskUse(self.mask_mode, self.mask_inverted, self.mask_grow)


class SplatkitDatamanager(FullImageDatamanager[SplatkitDataset]):
    """Whole images and their cameras, cached as far as memory allows.

    Raises:
        DataError: on construction, or when images are first loaded, if the data set is broken.
    """

    config: SplatkitDatamanagerConfig

    def __init__(
        self,
        config: SplatkitDatamanagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        **kwargs: Any,
    ) -> None:
        install_excepthook()
        parser = config.dataparser
        if config.data is not None:
            parser.data = config.data
        with explained(parser):
            config.dataparser = parser = dataparser_of(parser)
            check_folder(parser)
            note_options(config)
        cache_images, config.cache_images = config.cache_images, "cpu"  # for "gpu", nerfstudio has a limit of its own
        with explained(parser), own_reading(parser, config.max_seed_points):
            super().__init__(config, device=device, test_mode=test_mode, **kwargs)
        config.cache_images = cache_images
        if test_mode != "inference":
            self._check_images(config.exif_orientation)
            check_mask_use(config.mask_use, self.train_dataparser_outputs)
        else:
            check_outputs(self.train_dataparser_outputs)
        self.train_dataset.mask_use = self.eval_dataset.mask_use = config.mask_use
        self.train_dataset.background = self.eval_dataset.background = config.render_background
        self.train_dataset.metadata["camera_extent"] = camera_extent(self.train_dataset.cameras)
        if self.train_dataset.alpha_color is not None:
            self.train_dataset.metadata["background_color"] = self.train_dataset.alpha_color
        self._train_views: list[Cameras] = []
        self.work = ImageWork()
        self._targets = TargetFiles()
        self._storage: ImageStorage | None = None
        self._copies = SideCopies(torch.device(device)) if torch.device(device).type == "cuda" else None

    def create_train_dataset(self) -> SplatkitDataset:
        """The images for training, with the cameras by which they are drawn."""
        return self._dataset_of(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> SplatkitDataset:
        """The images for evaluation, likewise; those for training if no others are left."""
        held_out = self.dataparser.get_dataparser_outputs(split=self.test_split)
        return self._dataset_of(held_out_or_all(held_out, self.train_dataparser_outputs))

    def _dataset_of(self, outputs: DataparserOutputs) -> SplatkitDataset:
        return SplatkitDataset(outputs, self.config.camera_res_scale_factor, self.config.undistort)

    # ------------------------------------------------------------------ images

    def _check_images(self, mode: ExifOrientation) -> None:
        outputs = self.train_dataparser_outputs, self.eval_dataset.dataparser_outputs
        sizes = {
            Path(path): (int(width), int(height))
            for found in outputs
            for path, width, height in zip(
                found.image_filenames, found.cameras.width, found.cameras.height, strict=True
            )
        }
        headers = read_headers(list(sizes))
        turned = turns_pictures(headers, sizes, mode)
        self.train_dataset.turns_pictures = self.eval_dataset.turns_pictures = turned
        for found in outputs:
            check_outputs(found, headers, turned, reads_masks=self.test_mode == "val")
        note_unseen_points(self.train_dataparser_outputs)

    def use_targets(self, wanted: Iterable[TargetName]) -> None:
        """Read depth or normals with the training images; call it before the images are loaded.

        Raises:
            DataError: the data set has none.
        """
        self._targets = TargetFiles(target_files(self, wanted), depth_unit(self.train_dataparser_outputs))

    def use_storage_of(self, other: SplatkitDatamanager) -> None:
        """Keep images where another datamanager keeps its own, within the same memory."""
        self._storage = other._storage

    def _reader(self, split: Literal["train", "eval"]) -> ImageReader:
        if split == "train":
            return ImageReader(self.train_dataset, self.config.cache_images_type, self._targets)
        return ImageReader(self.eval_dataset, self.config.cache_images_type)

    @cached_property
    def cached_train(self) -> Batches:
        """The training images; those that fit are loaded when this is first used."""
        with damaged_pictures_named(self.train_dataset.image_filenames):
            return self._load_images("train", cache_images_device=self.config.cache_images)

    @cached_property
    def cached_eval(self) -> Batches:
        """The evaluation images, likewise."""
        with damaged_pictures_named(self.eval_dataset.image_filenames):
            return self._load_images("eval", cache_images_device=self.config.cache_images)

    def _load_images(self, split: Literal["train", "eval"], cache_images_device: Literal["cpu", "gpu"]) -> Batches:
        read = self._reader(split)
        dataset = self.train_dataset if split == "train" else self.eval_dataset
        pixels, first = pixel_counts(dataset.cameras), read(0)
        if split == "train":
            check_some_pixel_counts(chain([first], map(read, range(1, len(dataset)))))
        if self._storage is None:
            others = self.eval_dataset.cameras if split == "train" and self.test_mode == "val" else None
            total = sum(pixels) + (0 if others is None else sum(pixel_counts(others)))
            self._storage = choose_storage(
                torch.device(self.device),
                math.ceil(batch_bytes(first) / pixels[0] * total),
                prefer_gpu=cache_images_device == "gpu",
                gib=self.config.cache_gib,
                workers=self.config.max_thread_workers,
            )
        batches = Batches(read, pixels, self._storage.budget, self._storage.keep, self._storage.stage)
        batches.fill(first, split)
        if split == "train":
            self.train_cameras = dataset.cameras
        return batches

    def read_train_images(self) -> Generator[dict[str, Any]]:
        """Read the training images in their order, ahead of their use, without keeping any."""
        workers = self.config.max_thread_workers or usable_cores()
        return read_in_order(self._reader("train"), range(len(self.train_dataset)), workers, workers + 1)

    def close(self) -> None:
        """End the threads that read images ahead."""
        for name in ("cached_train", "cached_eval"):
            if name in self.__dict__:
                self.__dict__[name].close()

    # ------------------------------------------------------------------ views

    def next_train(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """The next training image and its camera, drawn as nerfstudio draws it.

        Raises:
            DataError: the image cannot be used; it then stays the next one.
        """
        self.expect_views()
        view = self.train_view(self.train_unseen_cameras[0])
        self.train_unseen_cameras.pop(0)
        if not self.train_unseen_cameras:
            self.train_unseen_cameras = self.sample_train_cameras()
        self.copy_ahead(self.train_unseen_cameras[:1])
        return view

    def copy_ahead(self, indices: Iterable[int]) -> None:
        """Begin to copy the images of the next step to the GPU, of those that have been read."""
        if self._copies is None:
            return
        read = {index: self.cached_train[index] for index in indices if self.cached_train.is_ready(index)}
        self._copies.start({index: batch for index, batch in read.items() if not batch["image"].is_cuda})

    def expect_views(self, indices: Iterable[int] = (), wanted: Callable[[int], bool] = lambda place: True) -> None:
        """Read ahead the images that `train_view` will be asked for next, and then those of the next steps.

        Args:
            indices: of the images that come next.
            wanted: tells by an image's place in the order of the rest, 0-based, whether this process takes it.
        """
        coming = (image for place, image in enumerate(self._coming()) if wanted(place))
        copied = self._copies or ()  # they have been read
        self.cached_train.expect(image for image in chain(indices, coming) if image not in copied)

    def _coming(self) -> Iterator[int]:
        """The training images in the order in which they will be drawn, up to the end of the next round.

        The next round is drawn here for a look at it; the generator is then set back. A round of the strategy "fps" is
        not looked at, because it also draws from NumPy's global generator.
        """
        yield from self.train_unseen_cameras
        if self.config.train_cameras_sampling_strategy == "random":
            generator, left = self.random_generator, self.train_unseen_cameras
            state = generator.getstate()
            following = self.work.next_round(left, self.sample_train_cameras(), generator)
            generator.setstate(state)
            yield from following

    def train_view(self, index: int) -> tuple[Cameras, dict[str, Any]]:
        """A training image and its camera."""
        copy = self._copies.take(index) if self._copies else None
        batch = self.cached_train[index] if copy is None else copy
        if not self._train_views:
            cameras = self.train_cameras.to(self.device)
            self._train_views = [cameras[i : i + 1] for i in range(len(self.train_dataset))]
            for number, camera in enumerate(self._train_views):
                camera.metadata = {**(camera.metadata or {}), "cam_idx": number}
            if self.test_mode == "val":
                _ = self.cached_eval  # a damaged image is found now, not hundreds of steps later
        return self._train_views[index], batch

    @cached_property
    def measured(self) -> Sequence[int]:
        """The indices of the evaluation images that can be measured: masks leave some of their pixels."""
        outputs = self.eval_dataset.dataparser_outputs
        if not outputs.mask_filenames:
            return range(len(self.eval_dataset))
        return indices_with_pixels(self.cached_eval, [Path(path).name for path in outputs.image_filenames])

    @property
    def fixed_indices_eval_dataloader(self) -> Any:
        """The evaluation images that can be measured and their cameras, in order; see `measured`. Images that are not
        cached are read ahead."""
        return EvaluationViews(self.eval_dataset.cameras, self.cached_eval, self.measured, self.device)

    def next_eval_image(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """An evaluation image that can be measured, drawn as nerfstudio draws it; if none can be, any."""
        for _ in range(2 * len(self.eval_dataset)):
            camera, batch = super().next_eval_image(step)
            if "mask" not in batch or batch["mask"].any():
                break
        return camera, batch  # type: ignore[reportPossiblyUnbound]

    def sampler_state(self) -> dict[str, Any]:
        """The state of the image sampler, as numbers that a checkpoint can hold."""
        return sampler_state(self)

    def load_sampler_state(self, state: dict[str, Any]) -> None:
        """Go on drawing from a state of `sampler_state`; see `data.sampling.sampler_state.load_sampler_state`."""
        load_sampler_state(self, state)
