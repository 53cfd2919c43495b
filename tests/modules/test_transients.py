"""Masks of what stands in one photograph only, without a run: a plane before cameras that move along it."""

from __future__ import annotations

import logging
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.errors import ModuleError, OptionsError
from splatkit_ns.modules.transients import (
    OTHERS,
    CellErrors,
    SplatTransientMasks,
    cell_errors,
    chosen_others,
    unshared_error,
)
from splatkit_ns.parts.training_views import TrainingView

NUM, WIDTH, HEIGHT, FOCAL, DISTANCE = 9, 180, 120, 120.0, 2.0
VIEW = View.look_at((0, -1, 0), (0, 0, 0))
LOGGER = logging.getLogger("splatkit_ns")


def on_plane(index: int) -> tuple[Tensor, Tensor]:
    """The coordinates x and y of the points that a camera sees, (HEIGHT, WIDTH) each."""
    x = (torch.arange(WIDTH) + 0.5 - WIDTH / 2) * DISTANCE / FOCAL + 0.2 * index
    y = (torch.arange(HEIGHT) + 0.5 - HEIGHT / 2) * DISTANCE / FOCAL
    return x.expand(HEIGHT, WIDTH), y[:, None].expand(HEIGHT, WIDTH)


class Plane:
    """Photographs of a plane beside renders that lack its fine stripes, and a patch of it altogether."""

    num_train_images = NUM

    def __init__(self) -> None:
        self.figures: dict[int, Tensor] = {}
        """The pixels of a photograph, (HEIGHT, WIDTH) bool, in which something stands."""
        self.patch = 0.4
        """The error of the patch."""

    def training_view(self, index: int, with_depth: bool = False) -> TrainingView:
        x, y = on_plane(index)
        smooth = 0.5 + 0.1 * torch.sin(x)[..., None].expand(-1, -1, 3)
        patch = ((x - 0.5).abs() < 0.4) & ((y - 0.3).abs() < 0.3)
        photograph = smooth + 0.2 * torch.sign(torch.sin(200 * x))[..., None] - self.patch * patch[..., None]
        if index in self.figures:
            photograph[self.figures[index]] = torch.tensor([0.9, 0.1, 0.1])
        pose = torch.eye(4)[None].clone()
        pose[0, 0, 3] = 0.2 * index
        Ks = torch.tensor([[[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]])
        depths = torch.full((1, HEIGHT, WIDTH, 1), DISTANCE) if with_depth else None
        return TrainingView(View(pose, Ks, WIDTH, HEIGHT), photograph[None], smooth[None], None, depths)


def figure(left: int, top: int, width: int = 32, height: int = 48) -> Tensor:
    pixels = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    pixels[top : top + height, left : left + width] = True
    return pixels


def made(plane: Any, **settings: Any) -> SplatTransientMasks:
    module = SplatTransientMasks(begin=0.2, review=(0.3,), **settings)
    module.on_setup(plane, 100, LOGGER)
    return module


def masked(module: SplatTransientMasks, index: int, masks: Tensor | None = None) -> Tensor:
    """The pixels that a step leaves out, (HEIGHT, WIDTH)."""
    edit = module.pre_step(masks, torch.zeros(1, HEIGHT, WIDTH, 3), index)
    if edit is None:
        return torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    assert edit.masks is not None
    assert not bool(edit.masks.all()), "steps with a mask that leaves out nothing have other kernels"
    return ~edit.masks[0]


def test_a_figure_is_masked_and_what_all_photographs_share_is_not(caplog: pytest.LogCaptureFixture) -> None:
    plane = Plane()
    plane.figures = {2: figure(80, 40), 5: figure(120, 60)}
    module = made(plane)
    assert module.pre_step(None, torch.zeros(1, HEIGHT, WIDTH, 3), 2) is None
    module.post_step(19, 1, plane, VIEW, LOGGER)
    assert module.pre_step(None, torch.zeros(1, HEIGHT, WIDTH, 3), 2) is None
    with caplog.at_level(logging.INFO):
        module.post_step(20, 1, plane, VIEW, LOGGER)
    assert re.search(
        r"[1-4]\.\d % of all pixels are masked, in 2 of 9 photographs; \d+ % cannot be judged", caplog.text
    )
    for index in range(NUM):
        left_out, there = masked(module, index), plane.figures.get(index, torch.zeros(HEIGHT, WIDTH, dtype=torch.bool))
        assert bool((left_out & there).sum() >= 0.95 * there.sum())
        assert int((left_out & ~there).sum()) <= 1200 * bool(there.any())
    data = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    data[:, :5] = False
    assert torch.equal(masked(module, 2, data), masked(module, 2) | ~data[0])


def test_errors_that_are_shared_are_taken_off() -> None:
    plane = Plane()
    cells = [cell_errors(plane.training_view(index, with_depth=True)) for index in range(NUM)]
    own = cells[3].errors.abs().amax(0)
    assert float(own.max()) > 0.3
    error, usual = unshared_error(cells[3], cells[:3] + cells[4:], 0.1)
    assert float(error[np.isfinite(usual)].max()) < 0.15
    assert float(usual[np.isfinite(usual)].max()) > 0.3
    error, usual = unshared_error(cells[0], cells[1:5], 0.1)  # four other photographs decide nothing
    assert np.isinf(usual).all()
    np.testing.assert_array_equal(error, cells[0].errors.abs().amax(0).numpy())


def test_photographs_are_compared_with_those_that_show_the_same() -> None:
    turned = torch.diag(torch.tensor([-1.0, 1, -1, 1]))
    cells = list[CellErrors]()
    for index in range(48):  # the first 24 look at one wall, the others at another behind them
        x, around = 0.02 * (index % 24), turned if index >= 24 else torch.eye(4)
        pose = around.clone()[None]
        pose[0, 0, 3] = x
        K = torch.tensor([[[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]])
        view = View(pose, K, WIDTH, HEIGHT)
        photograph = torch.zeros(1, HEIGHT, WIDTH, 3)
        depths = torch.full((1, HEIGHT, WIDTH, 1), DISTANCE)
        cells.append(cell_errors(TrainingView(view, photograph, photograph, None, depths)))
    for index, others in enumerate(chosen_others(cells, 0.1)):
        assert len(others) == OTHERS
        assert index not in others
        assert all((other >= 24) == (index >= 24) for other in others)
    assert {1, 23} <= set(chosen_others(cells, 0.1)[0]), "the nearest and the farthest"


def test_masks_shrink_and_come_back_from_a_checkpoint() -> None:
    plane = Plane()
    plane.figures = {2: figure(80, 40), 4: figure(40, 40)}
    module = made(plane)
    module.post_step(20, 1, plane, VIEW, LOGGER)
    again = SplatTransientMasks(begin=0.2, review=(0.3,))
    again.load_state_dict(module.state_dict())
    again.on_setup(plane, 100, LOGGER)
    assert all(torch.equal(masked(module, index), masked(again, index)) for index in range(NUM))
    smaller = SplatTransientMasks(begin=0.2, review=(0.3,))  # the images of the first moment were made smaller
    smaller.load_state_dict({"masks": [mask[::2, ::2] for mask in module.state_dict()["masks"]]})
    smaller.on_setup(plane, 100, LOGGER)
    smaller.post_step(30, 1, plane, VIEW, LOGGER)
    assert float((masked(smaller, 2) != masked(module, 2)).float().mean()) < 0.02
    del plane.figures[4]  # the render explains it now
    plane.figures[6] = figure(20, 20)
    again.post_step(30, 1, plane, VIEW, LOGGER)
    assert torch.equal(masked(again, 2), masked(module, 2))
    assert not any(bool(masked(again, index).any()) for index in (4, 6))


def test_masks_of_a_checkpoint_with_other_photographs_are_made_anew(caplog: pytest.LogCaptureFixture) -> None:
    plane = Plane()
    plane.figures = {2: figure(80, 40)}
    before, module = made(plane), SplatTransientMasks(begin=0.2, review=(0.3,))
    before.post_step(20, 1, plane, VIEW, LOGGER)
    module.load_state_dict({"masks": before.state_dict()["masks"][:-1]})
    module.on_setup(plane, 100, LOGGER)
    assert "the masks of the checkpoint are of 8 photographs, now there are 9: they are made anew" in caplog.text
    assert not any(bool(masked(module, index).any()) for index in range(NUM))
    module.post_step(30, 1, plane, VIEW, LOGGER)
    assert bool(masked(module, 2).any())


def test_a_photograph_that_is_wrong_altogether_is_not_masked() -> None:
    plane = Plane()
    plane.figures = {2: figure(0, 0, WIDTH, 54), 3: figure(80, 40, 4, 4)}  # too large, and too small
    module = made(plane)
    module.post_step(20, 1, plane, VIEW, LOGGER)
    assert not any(bool(masked(module, index).any()) for index in range(NUM))


def test_masks_fit_smaller_images_and_parts_of_the_data_count_for_nothing() -> None:
    plane = Plane()
    plane.figures = {2: figure(80, 40)}
    module = made(plane)
    module.post_step(20, 1, plane, VIEW, LOGGER)
    edit = module.pre_step(None, torch.zeros(1, HEIGHT // 2, WIDTH // 2, 3), 2)
    assert edit is not None
    assert torch.equal(~edit.masks[0], masked(module, 2)[1::2, 1::2])  # type: ignore[index]
    view = plane.training_view(2, with_depth=True)
    nothing = TrainingView(
        view.view,
        view.target_frames,
        view.rendered_frames,
        torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool),
        view.depths,
    )
    assert bool(cell_errors(nothing).errors.isnan().all())


def test_begin_0_is_off_and_data_without_views_are_refused() -> None:
    assert SplatTransientMasks(begin=0.0).is_idle
    assert not SplatTransientMasks().is_idle
    with pytest.raises(OptionsError, match=r"review is \(45\.0,\), expected shares above 0 and up to 1"):
        SplatTransientMasks(review=(45.0,)).on_setup(Plane(), 100, LOGGER)
    with pytest.raises(ModuleError, match="SplatTransientMasks needs training images"):
        SplatTransientMasks().on_setup(object(), 100, LOGGER)
    with pytest.raises(ModuleError, match=r"opencv_fisheye lens\. Set --pipeline\.datamanager\.undistort True"):
        made(Plane()).post_step(1, 1, Plane(), VIEW.fisheye(), LOGGER)
