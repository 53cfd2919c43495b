"""The Triton kernels of the image models against PyTorch in float64, in Triton's interpreter and on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.triton_interpreter import assert_prints

RUN = """
import dataclasses
import logging
import torch
from splatkit_ns.cameras import View
from splatkit_ns.image_model import PPISP, AffineColor, BilateralGrid, affine, bilateral_grid, ppisp
from splatkit_ns.parts.image_frame import ImageFrame

PHOTOGRAPHS = 5
CASES = [
    (AffineColor, {}, (31, 70)),
    (BilateralGrid, dict(columns=3, rows=4, levels=5), (40, 60)),
    (BilateralGrid, dict(columns=2, rows=2, levels=2), (16, 31)),
    (PPISP, {}, (31, 40)),
]


class Data:
    train_camera_numbers = (0, 2, 0, 2, 0)
    train_extent = (0.7, 0.4)


def model_and_frame(kind, settings, device, dtype, size):
    generator = torch.Generator().manual_seed(1)
    model = kind(**settings)
    for name, entry in model.trainables(PHOTOGRAPHS).items():
        value = 0.1 * torch.randn(entry.parameter.shape, generator=generator)
        entry.parameter.data = value.to(device, dtype)
    model.on_setup(logging.getLogger("splatkit_ns"), 0, Data)
    if kind is PPISP:
        model._cameras = torch.tensor(Data.train_camera_numbers, device=device)  # two cameras of five photographs
        model._camera_shares = (torch.bincount(model._cameras, minlength=PHOTOGRAPHS) / PHOTOGRAPHS).to(dtype)
    height, width = size
    K = torch.tensor([[width, 0, 0.42 * width], [0, 1.1 * width, 0.55 * height], [0, 0, 1]])
    view = View(torch.eye(4)[None].to(device, dtype), K[None].to(device, dtype), width, height)
    return model, ImageFrame(view, torch.tensor([3], device=device))


def derived(device, dtype, kind, settings, size):
    '''The image, the regularisers, and the gradients of the render and of all parameters.'''
    model, frame = model_and_frame(kind, settings, device, dtype, size)
    generator = torch.Generator().manual_seed(2)
    render = 1.1 * torch.rand(1, *size, 3, generator=generator)  # never below 0, where PPISP divides by nearly nothing
    render[0, :2, :3] = torch.tensor([0.0, 0.5, 1.0])
    render = render.to(device, dtype).requires_grad_()
    weights = (0.5 + torch.rand(render.shape, generator=generator)).to(device, dtype)
    image, terms = model.apply(render, frame), list(model.regularizers(frame).values())
    parameters = model.parameters_of_model()
    of_image = torch.autograd.grad((image * weights).sum(), [render, *parameters])
    of_terms = torch.autograd.grad(sum((i + 1) * term for i, term in enumerate(terms)), parameters, allow_unused=True)
    return [image.detach(), torch.stack(terms).detach()], [*of_image, *(g for g in of_terms if g is not None)]


def assert_alike(found, expected):
    for values, true in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(values.cpu().double(), true, rtol=1e-5, atol=1e-5)
    for values, true in zip(found[1], expected[1], strict=True):
        largest = true.abs().max()
        wrong = (values.cpu().double() - true).abs() > 1e-4 * largest
        # slopes jump where values are cut off, so that rounding may decide for a pixel of a million
        assert wrong.sum() <= 1e-5 * true.numel(), (tuple(true.shape), int(wrong.sum()))
        assert largest > 0
"""

IN_THE_INTERPRETER = (
    RUN
    + """
from splatkit_ns.image_model import _affine_triton, _bilateral_grid_triton, _ppisp_triton

affine.affine_kernel = lambda: _affine_triton.AffineChange.apply
bilateral_grid.grid_kernels = lambda: (
    _bilateral_grid_triton.GridImage.apply, _bilateral_grid_triton.TotalVariation.apply
)
ppisp.ppisp_kernels = lambda: (_ppisp_triton.PPISPImage.apply, _ppisp_triton.PPISPPenalties.apply)
for case in CASES:
    for module in (affine, bilateral_grid, ppisp):
        module.kernels_fit = lambda rendered: True
    found = derived("cpu", torch.float32, *case)
    for module in (affine, bilateral_grid, ppisp):
        module.kernels_fit = lambda rendered: False
    assert_alike(found, derived("cpu", torch.float64, *case))
print("alike")
"""
)


def test_in_the_interpreter() -> None:
    assert_prints(IN_THE_INTERPRETER, "alike\n")


ON_THE_GPU = ("AffineColor", "BilateralGrid", "PPISP")


def functions() -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(RUN, found)
    return found


@pytest.mark.gpu
def test_the_kernels_work() -> None:
    found = functions()
    assert found["affine"].affine_kernel() is not None, "Triton works where there are GPU tests"
    assert found["bilateral_grid"].grid_kernels() is not None
    assert found["ppisp"].ppisp_kernels() is not None


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(12, 18), (546, 979), (900, 1600)])
@pytest.mark.parametrize("kind", ON_THE_GPU)
def test_on_the_gpu(kind: str, size: tuple[int, int]) -> None:
    found = functions()
    ours = found["derived"]("cuda", torch.float32, found[kind], {}, size)
    found["assert_alike"](ours, found["derived"]("cpu", torch.float64, found[kind], {}, size))


@pytest.mark.gpu
def test_grids_of_other_sizes_on_the_gpu() -> None:
    found = functions()
    for case in found["CASES"]:
        found["assert_alike"](
            found["derived"]("cuda", torch.float32, *case), found["derived"]("cpu", torch.float64, *case)
        )


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ON_THE_GPU)
def test_results_have_the_same_bits_every_time(kind: str) -> None:
    found = functions()
    first, second = (found["derived"]("cuda", torch.float32, found[kind], {}, (900, 1600)) for _ in range(2))
    for one, other in zip([*first[0], *first[1]], [*second[0], *second[1]], strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ON_THE_GPU)
def test_a_cuda_graph_does_the_same_for_another_photograph(kind: str) -> None:
    """A graph that was captured for one photograph makes the image and the gradients of the one it is given."""
    found = functions()
    model, frame = found["model_and_frame"](found[kind], {}, "cuda", torch.float32, (90, 160))
    render = torch.rand(1, 90, 160, 3, device="cuda", requires_grad=True)
    parameters = model.parameters_of_model()

    def step() -> list[torch.Tensor]:
        image = model.apply(render, frame)
        loss = image.square().mean() + sum(model.regularizers(frame).values())
        return [image, *torch.autograd.grad(loss, [render, *parameters])]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    frame.image_index.fill_(1)
    graph.replay()
    for ours, expected in zip(captured, step(), strict=True):
        assert torch.equal(ours, expected)
