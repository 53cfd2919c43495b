"""The photographs and cameras of a data set, for looking at them without training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.data.cameras import lens_views
from splatkit_ns.plugin.data.loader.batches import Batches
from splatkit_ns.plugin.data.photographs import images
from splatkit_ns.plugin.datamanager import SplatkitDatamanager, SplatkitDatamanagerConfig
from splatkit_ns.splat.rng import rng_state, set_rng_state

Split = Literal["train", "eval"]


@dataclass(frozen=True, eq=False)
class Photograph:
    """An image of a data set as training sees it: scaled, and without lens distortion, as the provider says."""

    name: str
    """The name of its file."""
    view: View
    """Its camera, on the CPU, in the frame in which Gaussians are trained."""
    _batches: Batches = field(repr=False)
    _index: int = field(repr=False)

    @property
    def image(self) -> Tensor:
        """(H, W, 3) in [0, 1]; transparent pixels are black. It is read from disk if memory does not hold it."""
        return images.composite(images.ground_truth(self._batches[self._index]["image"], 1), torch.zeros(3))

    @property
    def mask(self) -> Tensor | None:
        """(H, W) bool, True = training uses this pixel; None for all of them."""
        batch = self._batches[self._index]
        return images.valid_pixels(batch["mask"], 1) if "mask" in batch else None


class OpenedData:
    """A data set that has been read, except for its images.

    Args:
        config: of the datamanager that training would use.
        split: the images for training, or those for evaluation.

    Raises:
        SplatkitError: the data set is broken, or there is no such split.
    """

    def __init__(self, config: SplatkitDatamanagerConfig, split: Split) -> None:
        if split not in ("train", "eval"):
            raise SplatkitError(f"split is {split!r}, expected train or eval.")
        state = rng_state()
        self._manager: SplatkitDatamanager = config.setup(device="cpu", test_mode="val")
        set_rng_state(state)
        self._dataset = self._manager.train_dataset if split == "train" else self._manager.eval_dataset
        self._split: Split = split

    def names(self) -> list[str]:
        """The names of the image files."""
        return [path.name for path in self._dataset.image_filenames]

    def views(self) -> list[View]:
        """The cameras after the removal of lens distortion."""
        return list(lens_views(self._dataset.cameras))

    def photographs(self) -> list[Photograph]:
        """The images, which are kept as 8-bit values as far as memory allows."""
        batches = self._manager.cached_train if self._split == "train" else self._manager.cached_eval
        found = zip(self.names(), self.views(), range(len(batches)), strict=True)
        return [Photograph(name, view, batches, index) for name, view, index in found]
