"""Colours by the position of a point on an object: each function maps (N, 3) local points to (N, 3) linear RGB."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Texture = Callable[[Array, "Noise"], Array]


class Noise:
    """Smooth random values in space, with detail at every size (a periodic volume whose spectrum falls as a power)."""

    CELLS = 96

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        frequency = np.fft.fftfreq(self.CELLS) * self.CELLS
        x, y, z = np.meshgrid(frequency, frequency, frequency[: self.CELLS // 2 + 1], indexing="ij")
        amplitude = np.maximum(np.sqrt(x * x + y * y + z * z), 1.0) ** -2.6
        amplitude[0, 0, 0] = 0.0
        spectrum = np.fft.rfftn(generator.standard_normal((self.CELLS,) * 3)) * amplitude
        volume = np.fft.irfftn(spectrum, s=(self.CELLS,) * 3, axes=(0, 1, 2))
        self._values = (volume / volume.std()).astype(np.float32).ravel()

    def __call__(self, points: Array, per_unit: float = 1.0) -> Array:
        """(N,) values of mean 0 and deviation 1 at (N, 3) points; the pattern repeats after 1 / `per_unit` units."""
        position = (points * (per_unit * self.CELLS)).astype(np.float32)
        base = np.floor(position)
        fraction = position - base
        corner = base.astype(np.int64)
        low, high = corner % self.CELLS, (corner + 1) % self.CELLS
        strides = np.array([self.CELLS * self.CELLS, self.CELLS, 1])
        low, high = low * strides, high * strides
        value = np.zeros(len(points), np.float32)
        for bits in range(8):
            index = np.zeros(len(points), np.int64)
            weight = np.ones(len(points), np.float32)
            for axis in range(3):
                upper = bits >> axis & 1
                index += (high if upper else low)[:, axis]
                weight *= fraction[:, axis] if upper else 1 - fraction[:, axis]
            value += weight * self._values[index]
        return value.astype(np.float64)


def rgb(code: str) -> Array:
    """Linear RGB of an sRGB colour such as "c8a15a"."""
    return (np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)]) / 255) ** 2.2


def mix(first: Array, second: Array, share: Array) -> Array:
    """The blend of two colours: `first` if `share` (N,) is 0, `second` if it is 1; both (3,) or (N, 3)."""
    return first + (second - first) * np.clip(share, 0, 1)[:, None]


def step(value: Array, edge: float, width: float) -> Array:
    """0 below `edge`, 1 above it, with a smooth ramp of `width`: edges that can be photographed without flicker."""
    t = np.clip((value - edge) / width + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def wood(points: Array, noise: Noise) -> Array:
    """Planks along x, each of its own tone, with grain and dark joints."""
    plank = np.floor(points[:, 1] / 0.2)
    shift = np.stack([plank * 0.37, plank * 0.61, plank * 0.23], axis=1)
    grain = noise(points * np.array([0.12, 1.0, 1.0]) + shift, 0.55)
    tone = noise(shift * 1.7, 1.0)
    color = mix(rgb("8a5a32"), rgb("d6a467"), 0.5 + 0.22 * grain + 0.17 * tone)
    edge = np.abs(points[:, 1] / 0.2 - plank - 0.5)
    return color * (1 - 0.65 * step(edge, 0.47, 0.04))[:, None]


def globe(points: Array, noise: Noise) -> Array:
    """Seas, land that turns from green to sand with height, ice at the poles, and a net of meridians."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    height = noise(unit + np.array([0.2, 0.6, 0.1]), 0.3)
    land = mix(rgb("3f8f45"), rgb("e0c27a"), step(height, 0.45, 0.8))
    sea = mix(rgb("123f8c"), rgb("2f86c9"), step(height, -0.75, 0.9))
    color = mix(sea, land, step(height, -0.2, 0.08))
    color = mix(color, rgb("f4f7fa"), step(np.abs(unit[:, 2]) + 0.04 * height, 0.88, 0.05))
    longitude = np.arctan2(unit[:, 1], unit[:, 0]) / (np.pi / 6)
    latitude = np.arcsin(np.clip(unit[:, 2], -1, 1)) / (np.pi / 6)
    across = np.abs(longitude - np.round(longitude)) * np.sqrt(1 - np.clip(unit[:, 2], -1, 1) ** 2)
    line = np.minimum(across, np.abs(latitude - np.round(latitude)))
    return mix(color, rgb("f2e9c8"), 0.3 * (1 - step(line, 0.02, 0.02)))


def candy(points: Array, noise: Noise) -> Array:
    """Stripes that wind round a ring of radius 0.3."""
    around = np.arctan2(points[:, 1], points[:, 0])
    tube = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]) - 0.3)
    wave = np.sin(7 * around + 2 * tube)
    return mix(rgb("c3202f"), rgb("f6ead2"), step(wave, 0.1, 0.3)) * (1 + 0.06 * noise(points, 0.8))[:, None]


def marble(points: Array, noise: Noise) -> Array:
    """White stone with grey veins."""
    bend = noise(points, 0.5)
    vein = np.abs(np.sin(7 * points @ np.array([1.0, 0.6, 0.8]) + 2.2 * bend))
    color = mix(rgb("5b6470"), rgb("f0ece4"), step(vein, 0.22, 0.4))
    return color * (1 + 0.05 * noise(points + 0.3, 0.9))[:, None]


def glaze(points: Array, noise: Noise) -> Array:
    """Bands of a vase: teal and cream, with a zigzag and lines between them."""
    around = np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi)
    height = points[:, 2]
    zigzag = np.abs((around * 14) % 1 - 0.5) * 0.22
    inside = step(height, 0.3, 0.02) * (1 - step(height, 0.46, 0.02))
    color = mix(rgb("0f6a6e"), rgb("efe3c4"), inside)
    color = mix(color, rgb("d9772b"), inside * (1 - step(np.abs(height - 0.325 - zigzag), 0.024, 0.015)))
    for line in (0.1, 0.16, 0.56, 0.66):
        color = mix(color, rgb("efe3c4"), 1 - step(np.abs(height - line), 0.014, 0.012))
    return color * (1 + 0.07 * noise(points, 0.7))[:, None]


def harlequin(points: Array, noise: Noise) -> Array:
    """Lozenges on a cone: yellow and navy."""
    around = np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) * 8
    height = points[:, 2] / 0.16
    wave = np.sin(np.pi * (around + height)) * np.sin(np.pi * (around - height))
    return mix(rgb("f0b429"), rgb("1d2c5e"), step(wave, 0, 0.25)) * (1 + 0.05 * noise(points, 0.8))[:, None]


def orange(points: Array, noise: Noise) -> Array:
    """The skin of an orange."""
    return mix(rgb("d35f12"), rgb("f5a13a"), 0.5 + 0.25 * noise(points, 2.5))


def stone(points: Array, noise: Noise) -> Array:
    """Dark slate."""
    return mix(rgb("33383f"), rgb("737b85"), 0.45 + 0.25 * noise(points, 0.8))


def book(cover: str, size: tuple[float, float, float]) -> Texture:
    """A closed book: cloth covers with a frame and a label, pages on three sides."""

    def texture(points: Array, noise: Noise) -> Array:
        x, y, z = points.T
        from_edge = np.minimum(size[0] / 2 - np.abs(x), size[1] / 2 - np.abs(y))
        cloth = rgb(cover) * (1 + 0.1 * noise(points, 2.0))[:, None]
        frame = np.abs(from_edge - 0.035) < 0.008
        label = (np.abs(x) < size[0] * 0.2) & (np.abs(y) < size[1] * 0.12)
        cloth = mix(cloth, rgb("e9d39a"), (frame | label).astype(float))
        lines = 0.85 + 0.15 * np.sin(z / size[2] * 50)
        inside = (z > 0.1 * size[2]) & (z < 0.9 * size[2]) & (y > -0.49 * size[1])
        return np.where(inside[:, None], rgb("efe6cf") * lines[:, None], cloth)

    return texture


def surroundings(directions: Array, noise: Noise) -> Array:
    """Sky with soft clouds above, hills and fields below: the background of the table, by unit direction (N, 3)."""
    up = directions[:, 2]
    sky = mix(rgb("f6dfc2"), rgb("3f86d0"), np.clip(up / 0.55, 0, 1) ** 0.6)
    cloud = step(noise(directions * np.array([1, 1, 2.0]) + 0.4, 0.2), 0.35, 1.2)
    sky = mix(sky, rgb("ffffff"), 0.8 * cloud * step(up, 0.1, 0.25))
    around = noise(directions * np.array([1, 1, 0]), 0.16)
    fields = noise(directions * np.array([1, 1, 1.6]), 0.3)
    ground = mix(rgb("4c7a3d"), rgb("c9bb62"), step(fields, 0.25, 0.9))
    ground = mix(ground, rgb("2f5134"), 0.8 * np.clip(-up * 1.3, 0, 1))
    hills = mix(rgb("8fa3bd"), rgb("5f7f78"), step(-up, 0.0, 0.2))
    ground = mix(hills, ground, step(-up, 0.1 + 0.03 * around, 0.12))
    return mix(ground, sky, step(up, 0.04 + 0.035 * around, 0.03))
