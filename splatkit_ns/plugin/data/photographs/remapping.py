"""Photographs and masks resampled as pinhole cameras would have taken them, by several threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from numpy.typing import NDArray

from splatkit_ns.plugin.data.photographs.undistortion import (
    lens_keys,
    pinhole_of,
    undistorted_fisheye624,
    undistortion_maps,
    unusable_lens,
)

SLIVER = 1.0
"""Pixels this far outside the photograph take the colour of its edge; those farther outside are masked out."""
KEPT_BYTES = 256 * 1024**2
"""The most memory for maps of lenses that several photographs share; maps of further lenses are made each time."""


@dataclass(frozen=True)
class PixelMap:
    """The place in the stored photograph of each pixel of the pinhole camera."""

    x: NDArray[np.float32]
    """(H, W), 0 at the centre of the first pixel."""
    y: NDArray[np.float32]
    inside: NDArray[np.bool_] | None
    """(H, W), whether that is a place in the photograph; None if all are."""

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return self.x.nbytes + self.y.nbytes + (0 if self.inside is None else self.inside.nbytes)


@dataclass
class _Lens:
    """The lens of one or several photographs."""

    is_shared: bool
    kept: PixelMap | None = None
    lock: Lock = field(default_factory=Lock)


class Undistorter:
    """Turns photographs of any lens into those of pinhole cameras; see `pinhole_cameras`. Threads may share it.

    Args:
        stored: the cameras (C,) of the photographs as they are stored.
        paths: their files, for messages.
        kept_bytes: the memory for maps that are used again.
    """

    def __init__(self, stored: Cameras, paths: Sequence[Path], kept_bytes: int = KEPT_BYTES) -> None:
        self._stored, self._paths = stored, paths
        self._keys = lens_keys(stored)
        self._kinds: list[int] = stored.camera_type.flatten().tolist()
        counts = Counter(self._keys)
        self._lenses = {key: _Lens(count > 1) for key, count in counts.items() if key is not None}
        self._free = kept_bytes
        self._lock = Lock()

    def __call__(
        self, index: int, image: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A photograph and its mask as the pinhole camera would have taken them.

        Colours are weighted by alpha, so that those of transparent pixels do not matter. A pixel of the new mask is
        valid if all pixels that it blends are valid.

        Args:
            index: of the photograph.
            image: (H, W, 3 or 4), uint8 or float.
            mask: (H, W, 1) bool, or None.

        Returns:
            The same of the pinhole camera's size; a mask also if the pinhole camera sees more than the photograph.

        Raises:
            DataError: the lens cannot be undistorted.
        """
        if self._keys[index] is None:
            return image, mask
        if self._kinds[index] == CameraType.FISHEYE624.value:
            stored = self._camera(index)
            if mask is not None:
                raise unusable_lens(stored, self._paths[index], "")
            _, pixels, valid = undistorted_fisheye624(stored, image.numpy())
            return torch.from_numpy(np.ascontiguousarray(pixels)), valid
        places = self._map_of(index)
        try:
            pixels = torch.from_numpy(_remapped(image.numpy(), places))
        except cv2.error as error:  # of sides of more than 32,767 pixels
            raise unusable_lens(self._camera(index), self._paths[index], str(error)) from error
        if mask is None:
            return pixels, None if places.inside is None else torch.from_numpy(places.inside.copy())[..., None]
        values: Any = mask[..., 0].bool().numpy().astype(np.float32)
        valid: Any = cv2.remap(values, places.x, places.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) > 1 - 1e-4
        if places.inside is not None:
            valid &= places.inside
        return pixels, torch.from_numpy(valid[..., None])

    def seen(self, index: int) -> torch.Tensor | None:
        """The pixels of the pinhole camera that the photograph shows, (H, W, 1) bool; None if it shows all."""
        if self._keys[index] is None:
            return None
        inside = self._map_of(index).inside
        return None if inside is None else torch.from_numpy(inside.copy())[..., None]

    def _map_of(self, index: int) -> PixelMap:
        """The map of a photograph's lens, kept if there is memory for it and other photographs have that lens."""
        key = self._keys[index]
        assert key is not None
        lens = self._lenses[key]
        if not lens.is_shared:
            return self._made(index)
        with lens.lock:  # one thread makes it, the others wait for it
            if lens.kept is not None:
                return lens.kept
            found = self._made(index)
            with self._lock:
                if found.nbytes <= self._free:
                    self._free -= found.nbytes
                    lens.kept = found
                else:
                    lens.is_shared = False  # the next thread does not wait in vain
            return found

    def _camera(self, index: int) -> Cameras:
        return self._stored[index].reshape(())

    def _made(self, index: int) -> PixelMap:
        stored = self._camera(index)
        x, y = undistortion_maps(stored, pinhole_of(stored, self._paths[index]))
        width, height = int(stored.width), int(stored.height)
        inside = (x > -SLIVER) & (x < width - 1 + SLIVER) & (y > -SLIVER) & (y < height - 1 + SLIVER)
        return PixelMap(x, y, None if inside.all() else inside)


def _remapped(image: NDArray[Any], places: PixelMap) -> NDArray[Any]:
    x, y = places.x, places.y
    if image.shape[2] == 3:
        return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    top = np.float32(255 if image.dtype == np.uint8 else 1)
    floats = image.astype(np.float32) / top
    floats[..., :3] *= floats[..., 3:]
    found = cv2.remap(floats, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = found[..., 3:]
    found[..., :3] = np.where(alpha > 0, found[..., :3] / np.maximum(alpha, 1e-6), 0)
    found = np.clip(found, 0, 1) * top
    return np.rint(found).astype(np.uint8) if image.dtype == np.uint8 else found
