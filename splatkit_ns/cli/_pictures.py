"""The pictures of ``splatkit render``, drawn one frame after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.cli._camera_path_files import Crop
from splatkit_ns.cli.render import RenderOptions
from splatkit_ns.near_fade import faded
from splatkit_ns.printing import say
from splatkit_ns.renderer import RenderOptions as RendererOptions
from splatkit_ns.renderer import SplatRenderer
from splatkit_ns.rendering import view_images
from splatkit_ns.splat import SplatTrainingState

_LOOKED_AT = 8
"""The frames from which the range of depths is taken."""
_SMALL_SIDE = 160
"""The longest side in pixels of the images that are made for this."""


@dataclass
class Scene:
    """The Gaussians to draw, how they are drawn, and the cameras that saw them."""

    state: SplatTrainingState
    renderer: SplatRenderer[Any]
    background: Tensor
    """(3,)"""
    sh_degree: int | None
    pipeline: Any = None
    """The pipeline of the run, if there is one."""


@dataclass
class Frames:
    """The cameras to draw from."""

    views: list[View]
    names: list[str] | None = None
    """Names of the images, without suffix, if they are not numbered."""
    fps: float = 30.0
    crop: Crop | None = None
    near: float = 0.0
    """The depth in units of the scene below which Gaussians fade; see `near_fade.faded`."""


class Pictures:
    """The images of all kinds, drawn one frame after the other.

    Args:
        scene: to draw.
        frames: the cameras.
        options: of the command.
        console: the output for the progress.
    """

    def __init__(self, scene: Scene, frames: Frames, options: RenderOptions, console: Console) -> None:
        self.views = frames.views
        self._fade_below = frames.near
        self._scene = scene
        self._kinds = options.images
        self._console = console
        self._options = RendererOptions(sh_degree=scene.sh_degree, backgrounds=scene.background[None])
        self._near, self._far = 0.0, 1.0
        if "depth" in self._kinds:
            self._near, self._far = options.depth_range or self._range_of_depths()
            say(console, f"Depth is drawn from {self._near:.4g} (blue) to {self._far:.4g} (red)")

    def raw(self) -> Iterator[dict[str, Tensor]]:
        """The values of each frame by kind, as `view_images` has them, with a progress bar in a terminal."""
        hidden = not self._console.is_terminal
        for view in track(self.views, "Rendering", console=self._console, disable=hidden):
            yield self._values(view, ("alpha", *self._kinds))

    def coloured(self, values: dict[str, Tensor]) -> list[Tensor]:
        """Images (H, W, 3) in [0, 1] of the values of a frame, in the order of the kinds."""
        return [self._coloured(kind, values[kind], values["alpha"][..., None]) for kind in self._kinds]

    def side_by_side(self) -> Iterator[Tensor]:
        """One image a frame, the kinds from left to right."""
        return (torch.cat(self.coloured(values), dim=1) for values in self.raw())

    def _coloured(self, kind: str, values: Tensor, alpha: Tensor) -> Tensor:
        if kind == "rgb":
            return values
        if kind == "alpha":
            return alpha.expand(-1, -1, 3)
        if kind == "normals":
            there = (values != 0).any(dim=-1, keepdim=True)
            return torch.where(there, values * 0.5 + 0.5, 0) * alpha
        return _turbo((values - self._near) / (self._far - self._near)) * alpha

    def _values(self, view: View, kinds: Sequence[str]) -> dict[str, Tensor]:
        scene = self._scene
        view = view.to(scene.state.device)
        state = faded(scene.state, view, self._fade_below)
        return view_images(scene.renderer, state, view, self._options, kinds)

    def _range_of_depths(self) -> tuple[float, float]:
        """Nearest and farthest depth of what covers half of a pixel, without the outermost hundredths."""
        count = min(_LOOKED_AT, len(self.views))
        found: list[Tensor] = []
        for index in {round(i) for i in np.linspace(0, len(self.views) - 1, count)}:
            view = self.views[index]
            values = self._values(smaller(view, max(view.width, view.height) // _SMALL_SIDE), ("alpha", "depth"))
            found.append(values["depth"][values["alpha"] > 0.5])
        depths = torch.cat(found)
        if len(depths) == 0:
            return 0.0, 1.0
        near, far = (float(value) for value in np.quantile(depths.numpy(), (0.01, 0.99)))
        return near, max(far, near * 1.01)


def _turbo(values: Tensor) -> Tensor:
    """Colours (H, W, 3) of numbers (H, W), from blue at 0 to red at 1."""
    from matplotlib import colormaps  # half a second: for depth alone

    return torch.from_numpy(colormaps["turbo"](values.clamp(0, 1).numpy())[..., :3]).float()


def smaller(view: View, downscale: int) -> View:
    """The view with both sides divided, if so many pixels are there."""
    return view.smaller(max(1, min(downscale, view.width, view.height)))
