"""What the built-in image models make of renders."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.ExifTags import IFD, Base
from torch import Tensor

from splatkit_ns.image_metrics.pixel_errors import l1
from splatkit_ns.image_model import PPISP, AffineColor, BilateralGrid
from splatkit_ns.image_model.bilateral_grid import _Slice
from splatkit_ns.image_model.exif import exposure_of, log_gains_of
from splatkit_ns.image_model.photographs import affine_change
from splatkit_ns.image_model.ppisp import color_corrected, color_homography, inverse_response, response, vignetting
from splatkit_ns.parts.training_views import TrainingView
from tests.image_model.helpers import HEIGHT, MODELS, NUM_IMAGES, WIDTH, Data, frame, made, render, shaken


@pytest.mark.parametrize("kind", MODELS)
def test_a_new_model_leaves_renders_as_they_are(kind: Any) -> None:
    model, image = made(kind), render()
    torch.testing.assert_close(model.apply(image, frame()), image, atol=1e-5, rtol=0)
    assert all(float(term) == 0 for term in model.regularizers(frame()).values())


@pytest.mark.parametrize("kind", MODELS)
def test_views_without_a_photograph_show_the_scene(kind: Any) -> None:
    model, image = shaken(made(kind)), render()
    assert model.apply(image, frame(None)) is image
    assert model.regularizers(frame(None)) == {}
    assert not torch.allclose(model.apply(image, frame()), image, atol=0.01)


def test_held_out_photographs_have_the_vignetting_of_the_only_camera() -> None:
    model, image = shaken(made(PPISP)), render()
    with torch.no_grad():
        model.centers[1:], model.falloffs[1:], model.curves[1:] = 0, 0, 0
        model.falloffs[0] = -0.5
        found = model.apply(image, frame(None))
        model.exposure.zero_()
        model.colors.zero_()
        model._cameras.zero_()
        torch.testing.assert_close(found, model.apply(image, frame(2)), atol=1e-5, rtol=0)
    darker = (found / image)[0].detach()
    assert float(darker[7, 8].amin()) > 0.95 > 0.9 > float(darker[0, 17].amax())


@pytest.mark.parametrize("kind", MODELS)
def test_the_mean_of_all_photographs_is_the_scene(kind: Any) -> None:
    model = shaken(made(kind))
    model.on_optimize()
    for parameter in model.photograph_parameters():
        assert float(parameter.detach().abs().amax()) > 0.01
        torch.testing.assert_close(parameter.mean(0), torch.zeros_like(parameter[0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
def test_a_photograph_trains_its_own_parameters(kind: Any) -> None:
    model = shaken(made(kind))
    (model.apply(render(), frame(1)).square().mean() + sum(model.regularizers(frame(1)).values())).backward()
    for parameter in model.photograph_parameters():
        rows = parameter.grad.reshape(NUM_IMAGES, -1).abs().amax(1)
        assert (rows > 0).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("kind", MODELS)
def test_a_part_of_an_image_is_changed_as_within_the_whole(kind: Any) -> None:
    model, image = shaken(made(kind)), render()
    whole = model.apply(image, frame())
    part = model.apply(image[:, 3:9, 5:14], frame(crop=(5, 3, 9, 6)))
    torch.testing.assert_close(part, whole[:, 3:9, 5:14], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
def test_a_step_reads_nothing_back_and_copies_nothing_to_the_device(kind: Any, monkeypatch: Any) -> None:
    """As a CUDA graph needs it; the first step may make constants."""
    model, image = shaken(made(kind)), render().requires_grad_()

    def step() -> None:
        (model.apply(image, frame_now).sum() + sum(model.regularizers(frame_now).values())).backward()

    frame_now = frame()
    step()

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("not in a graph")

    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "cpu", "numpy"):
        monkeypatch.setattr(Tensor, name, refused)
    for name in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.setattr(torch, name, refused)
    monkeypatch.setattr(Tensor, "new_tensor", refused)
    step()


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_clipped_in_a_photograph_may_be_any_brighter(kind: Any) -> None:
    """A pixel at the limit pulls at nothing if the render is brighter; others draw a render that is too bright back."""
    image = torch.tensor([0.5, 0.9, 1.2]).repeat(3, 1).T.expand(1, 2, 3, 3).clone().requires_grad_()
    target = torch.tensor([[0.5, 1.0, 1.0], [0.5, 0.8, 0.8]]).expand(3, 2, 3).permute(1, 2, 0)[None]
    l1(made(kind).apply(image, frame(2, (0, 0, 3, 2))), target).backward()
    gradient: Any = image.grad
    assert gradient[0, :, 1:].sum(-1).sign().tolist() == [[-1, 0], [1, 1]]


# ---------------------------------------------------------------------------------------------------------- affine


def test_an_affine_map_is_applied_to_colours() -> None:
    model, image = shaken(made(AffineColor)), render()
    matrix, offset = torch.eye(3) + model.change[2, :3].T, model.change[2, 3]
    torch.testing.assert_close(model.apply(image, frame()), (image @ matrix.T + offset).clamp(max=1))


# ---------------------------------------------------------------------------------------------------------- bilateral


def test_a_grid_of_equal_nodes_is_an_affine_map() -> None:
    model, image = made(BilateralGrid), render()
    change = 0.1 * torch.randn(3, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        model.nodes[2] = change.reshape(12, 1, 1, 1) - 0.03
        model.whole[2] = 0.03
    expected = (image + image @ change[:, :3].T + change[:, 3]).clamp(max=1)
    torch.testing.assert_close(model.apply(image, frame()), expected)
    assert float(model.regularizers(frame())["tv"]) == 0


def test_a_pixel_gets_the_map_of_its_place_and_luminance() -> None:
    """A grid whose offsets are column, row and level: interpolation of a linear function is exact."""
    model = made(BilateralGrid, columns=5, rows=4, levels=3)
    with torch.no_grad():
        level, row, column = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), torch.arange(5.0), indexing="ij")
        model.nodes[2, 3], model.nodes[2, 7], model.nodes[2, 11] = -column, -row, -level
    image = torch.zeros(1, HEIGHT, WIDTH, 3)
    image[0, 4, 10] = torch.tensor([0.2, 0.5, 0.9])
    found = image[0, 4, 10] - model.apply(image, frame())[0, 4, 10]
    x, y = (10.5 - 8) / 20 / 0.5, (4.5 - 7) / 19 / 0.4
    luminance = 0.299 * 0.2 + 0.587 * 0.5 + 0.114 * 0.9
    torch.testing.assert_close(found, torch.tensor([(x + 1) * 2, (y + 1) * 1.5, luminance * 2]).float())


def test_the_gradient_of_a_grid_is_that_of_grid_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(1, 12, 4, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    x, y = 5 * torch.rand(9, generator=generator).double(), 4 * torch.rand(7, generator=generator).double()
    z = 3 * torch.rand(7, 9, generator=generator).double()
    weights = torch.randn(12, 7, 9, generator=generator, dtype=torch.float64)
    sliced: Any = _Slice.apply(grid, x, y, z)
    (ours,) = torch.autograd.grad((sliced * weights).sum(), grid)
    places = torch.stack([(x / 2.5 - 1).expand(7, 9), (y[:, None] / 2 - 1).expand(7, 9), z / 1.5 - 1], dim=-1)
    theirs = F.grid_sample(grid, places[None, None], padding_mode="border", align_corners=True)[0, :, 0]
    torch.testing.assert_close(sliced, theirs)
    torch.testing.assert_close(ours, torch.autograd.grad((theirs * weights).sum(), grid)[0])


# ---------------------------------------------------------------------------------------------------------- PPISP

SHIFTS = torch.tensor([[0.03, 0.02], [-0.05, 0.04], [0.02, -0.06], [0.01, 0.03]])


def test_a_homography_moves_four_chromaticities_and_keeps_brightness() -> None:
    colors = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 1]]) * torch.tensor([[0.3], [0.6], [0.9], [0.2]])
    moved = color_corrected(colors.T[:, :, None], SHIFTS)[:, :, 0].T
    torch.testing.assert_close(moved.sum(-1), colors.sum(-1))
    before, after = (values[:, :2] / values.sum(-1, keepdim=True) for values in (colors, moved))
    torch.testing.assert_close(after, before + SHIFTS, atol=1e-5, rtol=0)
    straight = color_homography(torch.zeros(4, 2))
    torch.testing.assert_close(straight / straight[2, 2], torch.eye(3))


def test_vignetting_is_the_polynomial_of_the_distance() -> None:
    centers, falloffs = 0.02 * torch.arange(6.0).reshape(3, 2), -0.1 * torch.arange(9.0).reshape(3, 3)
    falloffs[0, 0] = 0.5  # above 1 there: clipped
    K = frame().view.Ks[0]
    shares = vignetting(centers, falloffs, K, HEIGHT, WIDTH)
    for channel, row, column in ((0, 11, 17), (1, 0, 0), (2, 5, 13)):
        x, y = (column + 0.5 - 8) / 20 - centers[channel, 0], (row + 0.5 - 7) / 19 - centers[channel, 1]
        r = float((x * x + y * y).sqrt())
        first, second, third = falloffs[channel].tolist()
        expected = min(max(1 + first * r**2 + second * r**4 + third * r**6, 0), 1)
        assert float(shares[channel, row, column]) == pytest.approx(expected, abs=1e-5)


def test_the_response_is_a_smooth_rising_curve_from_black_to_white() -> None:
    curves = torch.tensor([[0.4, -0.3, 0.2, 0.5], [-0.2, 0.5, -0.3, -0.7], [0.0, 0.3, 0.0, 0.0]]).double()
    x = torch.linspace(0.001, 0.999, 999, dtype=torch.float64).requires_grad_()
    image = x.expand(3, 1, -1)
    values = response(image, curves)
    assert bool((values.diff(dim=-1) > 0).all())
    torch.testing.assert_close(
        response(torch.tensor([[[0.0, 1.0]]] * 3).double(), curves)[:, 0].mean(0),
        torch.tensor([0.0, 1.0]).double(),
        atol=0.02,
        rtol=0,
    )
    (slopes,) = torch.autograd.grad(values[0].sum(), x)
    center = curves[0, 3].sigmoid()
    near = (x - center).abs().argmin()
    assert float(slopes[near + 1]) == pytest.approx(float(slopes[near - 1]), rel=0.02)
    for beyond in (-0.2, 1.3):
        outside = torch.full((3, 1, 1), beyond, dtype=torch.float64)
        edge = response(outside.clamp(1e-4, 1 - 1e-4), curves)
        torch.testing.assert_close(response(outside, curves) - edge, outside - outside.clamp(1e-4, 1 - 1e-4))


def test_a_response_is_undone_by_its_inverse() -> None:
    curves = torch.tensor([[0.4, -0.3, 0.2, 0.5], [-0.2, 0.5, -0.3, -0.7], [0.0, 0.3, 0.0, 0.0]]).double()
    image = torch.linspace(-0.1, 1.2, 40).double().expand(3, 1, -1)
    light = inverse_response(image, curves)
    assert float((light - image).abs().amax()) > 0.05
    within = (light > 1e-4) & (light < 1 - 1e-4)  # where powers are not cut off
    torch.testing.assert_close(response(light, curves)[within], image[within], atol=2e-4, rtol=0)


def test_a_response_alone_changes_nothing() -> None:
    """It is the exposures that it bends: the colours of the scene are those of the mean photograph."""
    model, image = made(PPISP), 0.05 + 0.9 * render()
    with torch.no_grad():
        model.curves[0] = torch.tensor([0.4, -0.3, 0.2, 0.5])
    torch.testing.assert_close(model.apply(image, frame()), image, atol=2e-3, rtol=0)
    with torch.no_grad():
        model.exposure[2] = 0.5
    assert not torch.allclose(model.apply(image, frame()), image * 2**0.5, atol=0.02)


def test_gradients_of_ppisp_are_right() -> None:
    generator = torch.Generator().manual_seed(0)
    image = (0.1 + 0.8 * torch.rand(3, 2, 3, generator=generator)).double().requires_grad_()
    shifts = SHIFTS.double().requires_grad_()
    curves = (0.2 * torch.randn(3, 4, generator=generator)).double().requires_grad_()
    centers = (0.1 * torch.randn(3, 2, generator=generator)).double().requires_grad_()
    falloffs = (-0.5 * torch.rand(3, 3, generator=generator)).double().requires_grad_()
    K = torch.tensor([[3.0, 0, 1.4], [0, 3.0, 1.1], [0, 0, 1]]).double()

    def camera(*values: Tensor) -> Tensor:
        image, centers, falloffs, shifts, curves = values
        light = inverse_response(image, curves.mean(0).expand(3, 4))
        return response(color_corrected(light * vignetting(centers, falloffs, K, 2, 3), shifts), curves)

    assert torch.autograd.gradcheck(camera, (image, centers, falloffs, shifts, curves))


def test_photographs_of_a_camera_share_its_vignetting_and_response() -> None:
    class Rig(Data):
        train_camera_numbers = (0, 0, 0, 0, 0)

    image = render()
    apart, together = made(PPISP), made(PPISP, Rig)
    for model in (apart, together):
        with torch.no_grad():
            model.falloffs[0] = -0.5
    assert torch.equal(together.apply(image, frame(4)), together.apply(image, frame(0)))
    # two cameras of five photographs: too few to tell a camera's properties from a photograph's
    assert torch.equal(apart.apply(image, frame(4)), apart.apply(image, frame(0)))

    class Two(Data):
        train_camera_numbers = (0, 0, 0, 0, 1, 1, 1, 1)

    two = PPISP()
    two.trainables(8)
    two.on_setup(logging.getLogger("splatkit_ns"), 0, Two)
    with torch.no_grad():
        two.falloffs[0] = -0.5
    assert not torch.allclose(two.apply(image, frame(3)), two.apply(image, frame(4)))


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_learns_an_exposure(kind: Any) -> None:
    """Half the light: each finds it from the image alone."""
    torch.manual_seed(0)
    model, image = made(kind, prior=0.0), render()
    target = 0.5 * image
    parameters = [entry.parameter for entry in model.trainables(NUM_IMAGES).values()]
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        ((model.apply(image, frame()) - target).abs().mean() + sum(model.regularizers(frame()).values())).backward()
        optimizer.step()
    assert float((model.apply(image, frame()) - target).abs().mean()) < 0.02


# ---------------------------------------------------------------------------------------------------------- EXIF


def photograph(path: Path, time: Any = None, aperture: Any = 2.0, iso: Any = 100) -> Path:
    image, exif = Image.new("RGB", (4, 4)), Image.Exif()
    if time is not None:
        entries = exif.get_ifd(IFD.Exif)
        entries[Base.ExposureTime], entries[Base.FNumber], entries[Base.ISOSpeedRatings] = time, aperture, iso
    image.save(path, exif=exif)
    return path


def test_exposure_is_read_from_exif(tmp_path: Path) -> None:
    slow = photograph(tmp_path / "a.jpg", 1 / 50)
    assert exposure_of(slow) == pytest.approx(float(torch.tensor(0.5).log2()), abs=1e-3)  # 1/50 s · 100 / 2²
    assert exposure_of(photograph(tmp_path / "b.jpg", 1 / 50, 4.0, 400)) == pytest.approx(exposure_of(slow))
    assert exposure_of(photograph(tmp_path / "c.jpg")) is None
    assert exposure_of(photograph(tmp_path / "d.jpg", 0)) is None
    (tmp_path / "e.jpg").write_bytes(b"no image")
    assert exposure_of(tmp_path / "e.jpg") is None


@pytest.mark.parametrize("kind", MODELS)
def test_a_new_run_starts_from_exif_and_a_resumed_one_does_not(kind: Any, tmp_path: Path) -> None:
    times = [1 / 100, 1 / 50, 1 / 100, None, 1 / 50]

    class Phone(Data):
        train_image_paths = tuple(photograph(tmp_path / f"{i}.jpg", time) for i, time in enumerate(times))

    gains = log_gains_of(Phone.train_image_paths)
    assert gains is not None
    assert gains[1] - gains[0] == pytest.approx(float(torch.tensor(2.0).log()) / 2.2, abs=1e-3)
    assert gains[3] == 0
    model, image = made(kind, Phone), torch.full((1, HEIGHT, WIDTH, 3), 0.4)
    dark, bright = (float(model.apply(image, frame(index)).mean()) for index in (0, 1))
    assert bright / dark == pytest.approx(2 ** (1 / 2.2), rel=0.05)
    for parameter in model.photograph_parameters():
        torch.testing.assert_close(parameter.mean(0), torch.zeros_like(parameter[0]), atol=1e-6, rtol=0)
    resumed = kind()
    resumed.trainables(NUM_IMAGES)
    resumed.on_setup(logging.getLogger("splatkit_ns"), 7, Phone)
    assert all(not bool(parameter.any()) for parameter in resumed.photograph_parameters())
    assert not bool(made(kind, Phone, use_exif=False).photograph_parameters()[0].any())
    assert log_gains_of(Phone.train_image_paths[:1]) is None


# ---------------------------------------------------------------------------------------------------------- the fit

GAINS = torch.tensor([[1.3, 1.3, 1.3], [0.7, 0.7, 0.7], [1.1, 1.0, 0.9], [0.9, 1.0, 1.1], [1.0, 1.0, 1.0]])
"""The factors of each photograph's colours; their means are 1."""


class Views(Data):
    """Photographs with known gains beside renders. A corner is masked out, and some of what is bright is clipped."""

    num_train_images = NUM_IMAGES

    def training_view(self, index: int) -> TrainingView:
        image = render(index)
        photograph = (image * GAINS[index]).clamp(max=1)
        photograph[:, :4] = 0
        mask = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
        mask[:, :4] = False
        return TrainingView(frame().view, photograph, image, mask)


@pytest.mark.parametrize("kind", MODELS)
def test_learning_starts_from_a_fit(kind: Any) -> None:
    model, views = made(kind), Views()
    for step in (1, 9, 11, 12):
        model.post_step(step, 100, 1, views)
        assert not bool(model.photograph_parameters()[0].any())
    model.post_step(9, 100, 4, views)  # with four images a step, 13 is the first that learns
    image = 0.5 * render(7)
    for index, gains in enumerate(GAINS):
        error = model.apply(image, frame(index)) - image * gains
        assert float(error.abs().mean()) < 0.01  # PPISP keeps R + G + B of colours that are not grey


@pytest.mark.parametrize("kind", MODELS)
def test_no_fit_without_need_or_views(kind: Any) -> None:
    unwanted = made(kind, use_fit=False)
    unwanted.post_step(10, 100, 1, Views())
    assert not bool(unwanted.photograph_parameters()[0].any())
    blind = made(kind)
    blind.post_step(10, 100, 1, Data())
    assert not bool(blind.photograph_parameters()[0].any())
    started = shaken(made(kind))  # as from EXIF data
    before = [parameter.detach().clone() for parameter in started.photograph_parameters()]
    started.post_step(10, 100, 1, Views())
    for parameter, value in zip(started.photograph_parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_a_photograph_of_which_nothing_counts_is_left_as_it_is() -> None:
    image = render()
    nothing = TrainingView(frame().view, image, image, torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool))
    assert not bool(affine_change(nothing).any())
    assert bool(affine_change(TrainingView(frame().view, image, 0.5 * image, None)).any())
