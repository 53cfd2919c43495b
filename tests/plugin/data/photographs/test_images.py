"""Ground truth at the resolution of a step, masks, transparent images."""

from __future__ import annotations

import pytest
import torch

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.data.photographs.images import composite, ground_truth, valid_pixels


def test_bytes_become_floats() -> None:
    image = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    assert ground_truth(image, 1)[0, 0].tolist() == pytest.approx([0.0, 0.2, 1.0])


def test_floats_stay() -> None:
    image = torch.rand(4, 4, 3)
    assert ground_truth(image, 1) is image


def test_downscaling_averages_squares_and_drops_the_rest() -> None:
    image = torch.arange(5 * 7 * 3, dtype=torch.float32).reshape(5, 7, 3)
    small = ground_truth(image, 2)
    assert small.shape == (2, 3, 3)
    torch.testing.assert_close(small[1, 2], image[2:4, 4:6].mean((0, 1)))


def test_colours_are_averaged_in_proportion_to_their_alpha() -> None:
    image = torch.tensor([[[0.8, 0.0, 0.0, 1.0], [0.0, 0.4, 0.0, 0.5]], [[0.3, 0.9, 0.7, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    small = ground_truth(image, 2)[0, 0]
    assert small.tolist() == pytest.approx([0.8 / 1.5, 0.2 / 1.5, 0.0, 1.5 / 4])
    background = torch.tensor([0.1, 0.2, 0.3])
    expected = composite(image, background).mean((0, 1))
    torch.testing.assert_close(composite(small[None, None], background)[0, 0], expected)
    assert ground_truth(torch.tensor([0.5, 0.5, 0.5, 0.0]).expand(2, 2, 4), 2).tolist() == [[[0, 0, 0, 0]]]


def test_no_pixel_left_is_told() -> None:
    with pytest.raises(SplatkitError, match="7×5 pixels cannot be made 8 times smaller"):
        ground_truth(torch.zeros(5, 7, 3), 8)


def test_a_small_pixel_is_valid_only_if_all_that_it_averages_are() -> None:
    mask = torch.ones(4, 6, 1, dtype=torch.bool)
    mask[1, 3] = False
    assert valid_pixels(mask, 2).tolist() == [[True, False, True], [True, True, True]]
    assert torch.equal(valid_pixels(mask, 1), mask[..., 0])


def test_masks_may_be_numbers() -> None:
    assert valid_pixels(torch.tensor([[[0.0], [1.0]]]), 1).tolist() == [[False, True]]


def test_transparent_images_are_laid_onto_the_background() -> None:
    image = torch.tensor([[[1.0, 0.5, 0.0, 0.25]]])
    expected = [0.25 * 1.0 + 0.75 * 0.2, 0.25 * 0.5 + 0.75 * 0.4, 0.75 * 0.8]
    assert composite(image, torch.tensor([0.2, 0.4, 0.8]))[0, 0].tolist() == pytest.approx(expected)
    opaque = torch.rand(2, 2, 3)
    assert composite(opaque, torch.zeros(3)) is opaque
