"""The colours behind the Gaussians, in training and outside it."""

from __future__ import annotations

from typing import Literal

import torch
from nerfstudio.model_components import renderers
from nerfstudio.utils.colors import get_color
from torch import Tensor

BackgroundColor = Literal["auto", "random", "black", "white"]

VIEWER_BACKGROUND = (0.1490, 0.1647, 0.2157)
"""The viewer's own background colour. It is shown if a model trained on random backgrounds is transparent."""


class Backgrounds:
    """The background of each kind of image.

    Args:
        mode: random changes at every step; auto is the data set's colour, random for images with an alpha channel.
        dataset_color: (3,), the colour that the data set puts behind transparent images; None, which means black, if
            it leaves them transparent.
    """

    def __init__(self, mode: BackgroundColor, dataset_color: Tensor | None = None) -> None:
        self._mode = mode
        self._colors = {
            "auto": torch.zeros(3) if dataset_color is None else torch.as_tensor(dataset_color, dtype=torch.float32),
            "random": torch.tensor(VIEWER_BACKGROUND),
            "black": get_color("black"),
            "white": get_color("white"),
        }

    def of_step(self, has_alpha: bool, device: torch.device) -> Tensor:
        """The background of a training image, (3,); a random one is drawn anew.

        Args:
            has_alpha: whether the image is RGBA.
            device: the device of the result.
        """
        if self._mode == "random" or (self._mode == "auto" and has_alpha):
            return torch.rand(3, device=device)
        return self._fixed(device)

    def of_evaluation(self, device: torch.device) -> Tensor:
        """The background outside training, (3,); the colour of a crop box, while viewer or ``ns-render`` set one."""
        if renderers.BACKGROUND_COLOR_OVERRIDE is not None:
            return renderers.BACKGROUND_COLOR_OVERRIDE.to(device, torch.float32)
        return self._fixed(device)

    def _fixed(self, device: torch.device) -> Tensor:
        color = self._colors[self._mode] = self._colors[self._mode].to(device)
        return color

    def set_viewer_color(self, color: Tensor) -> None:
        """Take the viewer's background colour, (3,), which is shown behind models trained on random backgrounds."""
        self._colors["random"] = color
