"""A bilateral grid of affine changes of colours for each photograph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from splatkit_ns.image_model.photographs import PhotographModel, clipped, kernels_fit
from splatkit_ns.parts.image_frame import ImageFrame
from splatkit_ns.parts.trainables import Trainable
from splatkit_ns.ranges import NonNegative, Share, at_least
from splatkit_ns.triton_kernels import LazyKernel, lazy_kernel

LUMINANCE = (0.299, 0.587, 0.114)
"""The weights of the channels in the luminance (ITU-R BT.601)."""


@dataclass
class BilateralGrid(PhotographModel):
    """A grid over an image's width, height and luminance for each photograph, with an affine map in each node.

    The map of a pixel is interpolated at its place and the luminance of its render: changes of exposure, white
    balance and tone curve, also of parts of the image, as phones make them. Wang et al., "Bilateral Guided Radiance
    Field Processing", 2024 (https://arxiv.org/abs/2406.00448), section 4. Here the maps of the nodes are changes of one
    map for the whole photograph, which learns faster: exposure is found soon, and single nodes do not follow the noise
    of single steps. The mean of the grids of all photographs is the identity, at every node.
    """

    capturable: ClassVar[bool] = True

    columns: Annotated[int, at_least(2)] = 16
    """Nodes along the width."""
    rows: Annotated[int, at_least(2)] = 16
    """Nodes along the height."""
    levels: Annotated[int, at_least(2)] = 8
    """Nodes along the luminance."""
    nodes_lr: Annotated[float, Share] = 0.05
    """Learning rate of the nodes, as a share of `lr`."""
    prior: Annotated[float, NonNegative] = 0.01
    """Weight of the squared difference of a photograph's map as a whole from the identity."""
    tv_lambda: Annotated[float, NonNegative] = 100.0
    """Weight of the total variation: the mean squared difference of neighbouring nodes, summed over the three axes."""

    @property
    def gpu_kernels(self) -> tuple[LazyKernel[Any], ...]:
        return (grid_kernels,)

    def trainables(self, num_train_images: int) -> Mapping[str, Trainable]:
        shape = (num_train_images, 12, self.levels, self.rows, self.columns)
        self.whole, self.nodes = nn.Parameter(torch.zeros(num_train_images, 12)), nn.Parameter(torch.zeros(shape))
        slow = self.nodes_lr * self.lr
        return {
            "whole": Trainable(self.whole, lr=self.lr, lr_final=self.lr * self.lr_end),
            "nodes": Trainable(self.nodes, lr=slow, lr_final=slow * self.lr_end),
        }

    def parameters_of_model(self) -> list[nn.Parameter]:
        return [self.whole, self.nodes]

    def photograph_parameters(self) -> list[nn.Parameter]:
        return [self.whole, self.nodes]

    def start_from(self, changes: Tensor) -> None:
        self.whole.copy_(changes.transpose(1, 2).reshape(-1, 12))

    def on_setup(self, logger: logging.Logger, step: int, data_provider: Any) -> None:
        super().on_setup(logger, step, data_provider)
        self._extent = getattr(data_provider, "train_extent", (1.0, 1.0))

    def apply(self, rendered: Tensor, frame: ImageFrame) -> Tensor:
        if frame.image_index is None:
            return rendered
        whole, nodes = (p.index_select(0, frame.image_index) for p in (self.whole, self.nodes))
        grid = nodes + whole[:, :, None, None, None]
        if kernels_fit(rendered) and (kernels := grid_kernels()) is not None:
            image, _ = kernels
            return clipped(image(rendered, grid[0].permute(2, 3, 1, 0), frame.view.Ks[0], self._extent))
        colors = rendered[0].movedim(-1, 0)
        maps = _Slice.apply(grid, *self._places(colors.detach(), frame)).reshape(3, 4, *rendered.shape[1:3])
        return clipped((colors + (maps[:, :3] * colors).sum(1) + maps[:, 3]).movedim(0, -1)[None])

    def regularizers(self, frame: ImageFrame) -> Mapping[str, Tensor]:
        if frame.image_index is None:
            return {}
        whole, nodes = (p.index_select(0, frame.image_index) for p in (self.whole, self.nodes))
        kernels = grid_kernels() if kernels_fit(nodes) else None
        variation = total_variation(nodes) if kernels is None else kernels[1](nodes)
        return {"prior": self.prior * whole.square().sum(), "tv": self.tv_lambda * variation}

    def _places(self, colors: Tensor, frame: ImageFrame) -> tuple[Tensor, Tensor, Tensor]:
        """The places of the pixels in the grid, from 0 to the number of nodes less one: columns (W,), rows (H,) and
        levels (H, W).

        Columns and rows are those of the viewing direction, so that a part of an image, or a smaller one, has the same.
        """
        _, height, width = colors.shape
        Ks, device, dtype = frame.view.Ks[0], colors.device, colors.dtype
        x = (torch.arange(width, device=device, dtype=dtype) + 0.5 - Ks[0, 2]) / (Ks[0, 0] * self._extent[0])
        y = (torch.arange(height, device=device, dtype=dtype) + 0.5 - Ks[1, 2]) / (Ks[1, 1] * self._extent[1])
        red, green, blue = LUMINANCE
        luminance = (red * colors[0] + green * colors[1] + blue * colors[2]).clamp(0, 1)
        return (
            (x.clamp(-1, 1) + 1) * ((self.columns - 1) / 2),
            (y.clamp(-1, 1) + 1) * ((self.rows - 1) / 2),
            luminance * (self.levels - 1),
        )


@lazy_kernel(otherwise="Bilateral grids run without Triton")
def grid_kernels() -> tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]:
    """The image, and the total variation, in a few kernels per direction; None if they cannot be used."""
    from splatkit_ns.image_model._bilateral_grid_triton import GridImage, TotalVariation, first_launches

    first_launches("cuda")
    return GridImage.apply, TotalVariation.apply


def total_variation(nodes: Tensor) -> Tensor:
    """The mean squared difference of neighbouring nodes (1, 12, levels, rows, columns), summed over the three axes."""
    return torch.stack([nodes.diff(dim=axis).square().mean() for axis in (2, 3, 4)]).sum()


class _Slice(torch.autograd.Function):
    """Interpolates a grid at the places of pixels. The places get no gradient.

    The gradient of the grid is made of matrix products: unlike that of `grid_sample`, it is the same in every run.
    """

    @staticmethod
    def forward(ctx: Any, grid: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Args: grid (1, 12, L, R, C), and the places (W,), (H,) and (H, W). Returns (12, H, W)."""
        levels, rows, columns = grid.shape[2:]
        ctx.save_for_backward(x, y, z)
        ctx.levels, ctx.rows, ctx.columns = levels, rows, columns
        scaled = [
            (x * (2 / (columns - 1)) - 1).expand_as(z),
            (y[:, None] * (2 / (rows - 1)) - 1).expand_as(z),
            z * (2 / (levels - 1)) - 1,
        ]
        places = torch.stack(scaled, dim=-1)[None, None]
        return F.grid_sample(grid, places, padding_mode="border", align_corners=True)[0, :, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, y, z = ctx.saved_tensors
        (of_maps,) = gradients
        on_columns, on_rows = _shares(x, ctx.columns), _shares(y, ctx.rows).T
        levels = [
            on_rows @ ((of_maps * (1 - (z - level).abs()).clamp(min=0)) @ on_columns) for level in range(ctx.levels)
        ]
        return torch.stack(levels, dim=1)[None], None, None, None


def _shares(places: Tensor, num: int) -> Tensor:
    """The shares (N, num) that nodes 0 to num - 1 have in the values at places (N,)."""
    nodes = torch.arange(num, device=places.device, dtype=places.dtype)
    return (1 - (places[:, None] - nodes).abs()).clamp(min=0)
