"""Masks of what stands in one photograph only: people who walk by, and things that were moved."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.errors import ModuleError, OptionsError
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.frame_edit import FrameEdit
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.parts.steps import reaches_one_of
from splatkit_ns.parts.training_views import TrainingView, TrainingViewSource
from splatkit_ns.ranges import Fraction, NonNegative, Positive

CELLS = 60
"""The number of cells along the shorter side of an image."""
LEAST_KNOWN = 0.5
"""The share of a cell's pixels that masks of the data must leave, or it is not judged."""
OTHERS = 16
"""The number of other photographs that a photograph's errors are compared with."""
PLACES, COARSE_DEPTHS = 8, 16
"""The sides of the grids of places and of depths by which photographs that show the same are found."""
LEAST_OTHERS = 5
"""The number of them that must show a place, or it is not judged."""
SHARING = 0.1
"""The share of them that must have nearly the same error there, or it belongs to the one photograph."""
AROUND = 0.5
"""The share of the limit above which an error belongs to the region beside it that is above the limit."""
OUTLIER = 6.0
"""Median absolute deviations above the median of all photographs' cells, from which on an error is an outlier."""
LARGEST_SHARE = 0.3
"""The share of a photograph above which nothing of it is masked: then the render, not the photograph, is wrong."""

Cells = NDArray[np.bool_]


@dataclass
class SplatTransientMasks(SplatBaseModule[SplatRenderPayload]):
    """Finds what stands in one photograph only, and leaves it out of loss and densification.

    The errors of all photographs are compared at a few moments. Averaged with their sign over cells of the image,
    errors of detail that is not learnt yet cancel out. Errors that other photographs have at the same place, too, tell
    what the scene lacks; what remains is a figure that they do not show, if the render is usually right there. At the
    first moment, when the scene is still coarse, regions where far more remains than elsewhere are masked. What was
    masked wrongly is then learnt from the other photographs, and unmasked at the next moments, for masks only shrink.

    Raises:
        OptionsError: if a setting is out of range.
        ModuleError: at set-up, if there are no training images; after the first step, if its camera is no pinhole.
    """

    begin: Annotated[float, Fraction] = 0.3
    """Share of the steps after which the first masks are made; 0 turns this module off."""
    review: tuple[float, ...] = (0.45, 0.6, 0.75)
    """Shares of the steps after which masks are made smaller; those that are not later than `begin` are left out."""
    least_error: Annotated[float, NonNegative] = 0.15
    """The least error of a cell's mean colour, in the channel where it is largest, that can be masked."""
    least_area: Annotated[float, Positive] = 0.01
    """The least share of the image that a region must have to be masked."""
    same_depth: Annotated[float, Positive] = 0.1
    """The relative difference of depth up to which another photograph shows a place, and nothing in front of it."""

    @property
    def is_idle(self) -> bool:
        return self.begin == 0

    def on_setup(self, data_provider: Any, max_steps: int, logger: logging.Logger) -> None:
        if not isinstance(data_provider, TrainingViewSource):
            raise ModuleError(f"{self.module_name} needs training images, but the run's data offers none.")
        if not all(0 < share <= 1 for share in self.review):
            raise OptionsError([f"{self.module_name}.review is {self.review}, expected shares above 0 and up to 1"])
        later = (share for share in self.review if share > self.begin)
        self._moments = {max(1, round(share * max_steps)) for share in (self.begin, *later)}
        self._masks: list[Tensor] = getattr(self, "_masks", [])
        if self._masks and len(self._masks) != data_provider.num_train_images:
            logger.warning(
                "%s: the masks of the checkpoint are of %d photographs, now there are %d: they are made anew.",
                self.module_name,
                len(self._masks),
                data_provider.num_train_images,
            )
            self._masks = []
        self._masked = [bool(mask.any()) for mask in self._masks]

    def pre_step(self, masks: Tensor | None, target_frames: Tensor, image_index: int | None) -> FrameEdit | None:
        if not self._masks or image_index is None or not self._masked[image_index]:
            return None
        valid = ~_resized(self._masks[image_index], target_frames.shape[1:3])[None]
        return FrameEdit(masks=valid if masks is None else masks & valid)

    @torch.no_grad()
    def post_step(
        self, step: int, images_per_step: int, data_provider: Any, view: View, logger: logging.Logger
    ) -> None:
        if view.lens != "pinhole":
            raise ModuleError(
                f"{self.module_name} needs photographs of pinhole cameras, but trains on those of an {view.lens} lens. "
                "Set --pipeline.datamanager.undistort True."
            )
        if not reaches_one_of(step, self._moments, images_per_step):
            return
        cells = list[CellErrors]()
        for index in range(data_provider.num_train_images):
            cells.append(cell_errors(data_provider.training_view(index, with_depth=True)))
        others = [[cells[other] for other in chosen] for chosen in chosen_others(cells, self.same_depth)]
        errors = [unshared_error(own, compared, self.same_depth) for own, compared in zip(cells, others, strict=True)]
        limit = max(self.least_error, _outlier_limit(own[np.isfinite(usual)] for own, usual in errors))
        found = [self._regions(own - usual > limit, own > AROUND * limit) for own, usual in errors]
        if self._masks:
            before = [_resized(old.cpu(), new.shape).numpy() for new, old in zip(found, self._masks, strict=True)]
            found = [new & old for new, old in zip(found, before, strict=True)]
        self._masks = [torch.from_numpy(mask).to(view.device) for mask in found]
        self._masked = [bool(mask.any()) for mask in found]
        logger.info(
            "Step %d: %.1f %% of all pixels are masked, in %d of %d photographs; %.0f %% cannot be judged, "
            "since too few other photographs show them.",
            step,
            100 * np.mean([mask.mean() for mask in found]),
            sum(self._masked),
            len(found),
            100 * np.mean([np.isinf(usual).mean() for _, usual in errors]),
        )

    def _regions(self, wrong: Cells, likely: Cells) -> Cells:
        """The cells to mask: regions of wrong cells that are large enough, likely ones beside them, and a margin."""
        from scipy import ndimage

        labels, num = _labelled(wrong)
        is_large = np.bincount(labels.ravel(), minlength=num + 1) >= self.least_area * wrong.size
        is_large[0] = False
        regions: Cells = is_large[labels]
        labels, _ = _labelled(likely | regions)
        whole: Cells = np.isin(labels, labels[regions])
        for chosen in (whole, regions):
            mask: Any = ndimage.binary_dilation(chosen, structure=np.ones((3, 3)))
            if mask.mean() <= LARGEST_SHARE:
                return mask
        return np.zeros_like(wrong)

    def state_dict(self) -> dict[str, Any]:
        return {"masks": list(getattr(self, "_masks", []))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._masks = list(state["masks"])


@dataclass(frozen=True, eq=False)
class CellErrors:
    """The errors of a photograph's cells."""

    view: View
    """The camera."""
    errors: Tensor
    """Mean of render less photograph, (3, rows, columns); NaN where masks of the data leave too little."""
    depths: Tensor
    """Mean depth along the camera's axis, (rows, columns)."""
    places: Tensor
    """The points of the scene that the cells show, (rows, columns, 3)."""


def cell_errors(view: TrainingView) -> CellErrors:
    """Compute the errors of the colours of a photograph's cells, averaged with their sign over 3×3 cells.

    The median of each channel over the image is taken off, as it may be exposure.

    Args:
        view: a training image beside its render, with depth.
    """
    error = (view.rendered_frames.clamp(0, 1) - view.target_frames).permute(0, 3, 1, 2)
    known = torch.ones_like(error[:, :1]) if view.masks is None else view.masks[:, None].to(error)
    height, width = error.shape[2:]
    size = max(1, round(min(height, width) / CELLS))

    def mean(values: Tensor) -> Tensor:
        cells = F.avg_pool2d(values, size, ceil_mode=True, count_include_pad=False)
        return F.avg_pool2d(cells, 3, stride=1, padding=1, count_include_pad=False)

    shares = mean(known)
    cells = (mean(error * known) / shares.clamp(min=1e-6))[0]
    cells = torch.where(shares[0] >= LEAST_KNOWN, cells, torch.nan)
    cells = cells - cells.flatten(1).nanmedian(dim=1).values[:, None, None]
    assert view.depths is not None
    z = mean(view.depths.permute(0, 3, 1, 2))[0, 0]
    rows, columns = (torch.arange(num, device=z.device) for num in z.shape)
    Ks, pose = view.view.Ks[0], view.view.cam_to_worlds[0]
    x = (((columns + 0.5) * size).clamp(max=width) - Ks[0, 2]) / Ks[0, 0]
    y = (((rows + 0.5) * size).clamp(max=height) - Ks[1, 2]) / Ks[1, 1]
    rays = torch.stack([x.expand_as(z), y[:, None].expand_as(z), torch.ones_like(z)], dim=-1)
    return CellErrors(view.view, cells, z, (z[..., None] * rays) @ pose[:3, :3].T + pose[:3, 3])


def chosen_others(cells: Sequence[CellErrors], same_depth: float) -> list[list[int]]:
    """Choose the photographs with which each is compared, at most `OTHERS`, in order.

    Those that show at least half as many of its places as the one that shows most, and the `OTHERS` that show most, are
    candidates. From these, photographs of all distances are taken: what walks by is in the next ones, too.

    Args:
        cells: of all photographs.
        same_depth: see `SplatTransientMasks`; here twice as much, since the grid of depths is coarse.
    """
    Ks = torch.stack([one.view.Ks[0] for one in cells])
    poses = torch.stack([one.view.cam_to_worlds[0] for one in cells])
    sizes = Ks.new_tensor([[one.view.width, one.view.height] for one in cells])[:, None]
    coarse = (COARSE_DEPTHS, COARSE_DEPTHS)
    depths = torch.cat([F.interpolate(one.depths[None, None], coarse).flatten(2)[:, 0] for one in cells])
    chosen = list[list[int]]()
    for index, one in enumerate(cells):
        places = F.interpolate(one.places.permute(2, 0, 1)[None], (PLACES, PLACES))[0].flatten(1).T
        pixels, z = _projected(places, Ks[:, None], poses[:, None])
        shares = pixels / sizes
        inside = (z > 0) & ((shares >= 0) & (shares < 1)).all(-1)
        column, row = (shares.nan_to_num().clamp(0, 1 - 1e-6) * COARSE_DEPTHS).long().unbind(-1)
        found = depths.gather(1, row * COARSE_DEPTHS + column)
        shown = (inside & ((found - z).abs() < 2 * same_depth * z)).float().mean(1)
        shown[index] = 0
        ranked = shown.sort(descending=True).values
        candidates = ((shown > 0) & (shown >= torch.minimum(ranked[0] / 2, ranked[:OTHERS][-1]))).tolist()
        distances = (poses[:, :3, 3] - poses[index, :3, 3]).norm(dim=1)
        order = [other for other in distances.argsort().tolist() if candidates[other]]
        spread = np.linspace(0, len(order) - 1, min(OTHERS, len(order)))
        chosen.append(sorted({order[round(place)] for place in spread}))
    return chosen


def unshared_error(
    own: CellErrors, others: Sequence[CellErrors], same_depth: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compare the errors of a photograph's cells with those of others at the same places.

    Args:
        own: the photograph's.
        others: those of other photographs.
        same_depth: see `SplatTransientMasks`.

    Returns:
        The difference from the nearest ones, and how large the others' errors usually are, (rows, columns) each, in the
        channel where they are largest. Where too few other photographs show the place, as is so if the render shows
        the figure before it, they are the error itself and infinity.
    """
    alone = own.errors.abs().amax(0).nan_to_num()
    if len(others) < LEAST_OTHERS:
        return alone.cpu().numpy(), np.full(alone.shape, np.inf, np.float32)
    errors = torch.stack([_seen_from(other, own.places, same_depth) for other in others])
    difference = (own.errors - errors).abs().amax(1).nanquantile(SHARING, dim=0)
    usual = errors.abs().amax(1).nanmedian(dim=0).values
    is_known = (errors.isfinite().all(1).sum(0) >= LEAST_OTHERS) & difference.isfinite()
    return (
        torch.where(is_known, difference, alone).cpu().numpy(),
        torch.where(is_known, usual, torch.inf).cpu().numpy(),
    )


def _projected(places: Tensor, Ks: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels (…, 2) at which cameras see places (…, 3), and the depths (…) of these."""
    points = ((places - poses[..., :3, 3])[..., None, :] @ poses[..., :3, :3])[..., 0, :]
    z = points[..., 2]
    focal, centre = Ks[..., [0, 1], [0, 1]], Ks[..., :2, 2]
    return points[..., :2] / z.clamp(min=1e-6)[..., None] * focal + centre, z


def _seen_from(cells: CellErrors, places: Tensor, same_depth: float) -> Tensor:
    """The errors of a photograph's cells at places (rows, columns, 3): (3, rows, columns), NaN if it shows others."""
    view = cells.view
    pixels, z = _projected(places, view.Ks[0], view.cam_to_worlds[0])
    grid = 2 * pixels / pixels.new_tensor([view.width, view.height]) - 1
    inside = (z > 1e-6) & (grid.abs() < 1).all(-1)
    values = torch.cat([cells.errors, cells.depths[None]])[None]
    grid = grid.nan_to_num().clamp(-2, 2)[None]
    found = F.grid_sample(values, grid, mode="nearest", padding_mode="border", align_corners=False)[0]
    shown = inside & ((found[3] - z).abs() < same_depth * z)
    return torch.where(shown, found[:3], torch.nan)


def _labelled(cells: Cells) -> tuple[NDArray[np.int32], int]:
    """The number of the region that each cell belongs to, 0 for none, and how many there are."""
    from scipy import ndimage

    found: Any = ndimage.label(cells, structure=np.ones((3, 3)))
    return found


def _outlier_limit(errors: Iterable[NDArray[np.float32]]) -> float:
    """The error from which on a cell is an outlier among those of all photographs; infinite without any."""
    values = np.concatenate([error.ravel() for error in errors])
    if values.size == 0:
        return float("inf")
    median = np.median(values)
    return float(median + OUTLIER * np.median(np.abs(values - median)))


def _resized(cells: Tensor, size: Sequence[int]) -> Tensor:
    """A mask of cells at another size, such as that of an image, (H, W) bool."""
    height, width = size
    rows = torch.arange(height, device=cells.device) * cells.shape[0] // height
    columns = torch.arange(width, device=cells.device) * cells.shape[1] // width
    return cells[rows][:, columns]
