"""A picture of cameras and points, from above and from the side."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.files import atomic_write
from splatkit_ns.poses.scene import Scene

MAX_POINTS = 100_000
"""More points are thinned out: they would hide each other."""
MARGIN = 0.15
SIZE_INCHES, DOTS_PER_INCH = (14.0, 7.0), 100
FRUSTUM = 0.04
"""Length of the drawn cameras, in widths of a view."""

Array = NDArray[np.float64]


def draw(scene: Scene, title: str, path: Path) -> None:
    """Draw a scene: points in their colours, cameras as pyramids, from blue for the first to red for the last.

    Args:
        scene: at least one camera.
        title: text above.
        path: the PNG file.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    across, forward, up = axes_of(scene)
    centres = np.array([picture.cam_to_world[:3, 3] for picture in scene.pictures])
    chosen = thinned(len(scene.points))
    points, colors = scene.points[chosen], scene.colors[chosen] / 255
    figure = Figure(SIZE_INCHES, DOTS_PER_INCH, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title)
    for column, (name, vertical, depth) in enumerate((("from above", forward, -up), ("from the side", up, forward))):
        view = np.stack([across, vertical], axis=1)
        order = np.argsort(points @ depth)[::-1]  # the nearest are drawn last
        low, high = bounds(points @ view, centres @ view)
        panel = figure.add_subplot(1, 2, column + 1)
        panel.scatter(*(points[order] @ view).T, s=1.5, c=colors[order], linewidths=0)
        lines = [edge @ view for edge in frusta(scene, FRUSTUM * float((high - low).max()))]
        hues = np.repeat(np.linspace(0, 1, len(centres)), len(lines) // len(centres))
        panel.add_collection(LineCollection(lines, array=hues, cmap="turbo", linewidths=0.8))
        panel.set(title=name, xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", facecolor="0.93")
        panel.tick_params(labelsize=7)

    def write(file: BinaryIO) -> None:
        canvas.print_png(file)

    atomic_write(path, write)


def axes_of(scene: Scene) -> tuple[Array, Array, Array]:
    """Unit vectors to the right, forward and up: up is the cameras' mean, and across is where they spread most.

    Returns:
        Three vectors (3,), at right angles.
    """
    poses = np.array([picture.cam_to_world for picture in scene.pictures])
    up = -poses[:, :3, 1].mean(axis=0)
    up = up / np.linalg.norm(up) if np.linalg.norm(up) > 1e-6 else -poses[0, :3, 1]
    level = np.eye(3) - np.outer(up, up)
    spread = (poses[:, :3, 3] - poses[:, :3, 3].mean(axis=0)) @ level
    across = np.linalg.svd(spread)[2][0] @ level
    if np.linalg.norm(spread) < 1e-9 or np.linalg.norm(across) < 1e-6:
        across = poses[0, :3, 0] @ level
    across = across / np.linalg.norm(across)
    forward = np.cross(up, across)
    if (poses[:, :3, 2].mean(axis=0) @ forward) < 0:  # the cameras look away from the reader
        across, forward = -across, -forward
    return across, forward, up


def bounds(points: Array, centres: Array) -> tuple[Array, Array]:
    """The part of a plane to show: all cameras, and the points but for a few far ones.

    Args:
        points: (N, 2).
        centres: (M, 2), of the cameras.

    Returns:
        Lower left and upper right corner, (2,) each.
    """
    low, high = centres.min(axis=0), centres.max(axis=0)
    if len(points):
        few, most = np.quantile(points, [0.02, 0.98], axis=0)
        low, high = np.minimum(low, few), np.maximum(high, most)
    margin = MARGIN * max(float((high - low).max()), 1e-6)
    return low - margin, high + margin


def frusta(scene: Scene, length: float) -> list[Array]:
    """The edges of the cameras' pyramids.

    Args:
        scene: the cameras.
        length: from the tip to the base, in units of the scene.

    Returns:
        Lines (M, 3) in the scene, two for each camera.
    """
    lines: list[Array] = []
    for picture in scene.pictures:
        camera = scene.cameras[picture.camera]
        focal = camera.values[0]
        x, y = camera.width / 2 / focal, camera.height / 2 / focal
        corners = length * np.array([[-x, -y, 1.0], [x, -y, 1.0], [x, y, 1.0], [-x, y, 1.0]])
        pose = picture.cam_to_world
        base = corners @ pose[:3, :3].T + pose[:3, 3]
        tip = pose[:3, 3]
        lines.append(np.stack([base[0], base[1], base[2], base[3], base[0]]))
        lines.append(np.stack([base[0], tip, base[1], base[2], tip, base[3]]))
    return lines


def thinned(number: int) -> NDArray[np.int64]:
    """Indices of at most `MAX_POINTS` of so many points, the same in each call."""
    chosen = np.random.default_rng(0).permutation(number)[:MAX_POINTS]
    return np.sort(chosen)
