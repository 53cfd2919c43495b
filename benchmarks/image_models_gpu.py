"""Time image models, forward and backward with their regularisers, with and without their Triton kernels.

python benchmarks/image_models_gpu.py [--height 900 --width 1600] [--photographs 43] [--kernels] [--json FILE]

Each runs as a CUDA graph, as in training. "exposure" is the part of docs/recipes.md, which is plain PyTorch; "by
brackets" is the same, but takes rows of parameters as `rows[index]`, whose gradient sorts. `--kernels` also prints the
time of each kernel.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from splatkit_ns.cameras import View
from splatkit_ns.image_model import PPISP, AffineColor, BilateralGrid, affine, bilateral_grid, ppisp
from splatkit_ns.image_model.photographs import PhotographModel, kernels_fit
from splatkit_ns.parts.image_frame import ImageFrame
from splatkit_ns.parts.trainables import Trainable


class Exposure(PhotographModel):
    """The exposure of docs/recipes.md."""

    takes_rows_by_brackets = False

    def trainables(self, num_train_images: int) -> dict[str, Trainable]:
        self.log_gain = nn.Parameter(torch.zeros(num_train_images, 3))
        self.offset = nn.Parameter(torch.zeros(num_train_images, 3))
        return {"log_gain": Trainable(self.log_gain, lr=self.lr), "offset": Trainable(self.offset, lr=self.lr)}

    def parameters_of_model(self) -> list[nn.Parameter]:
        return [self.log_gain, self.offset]

    def photograph_parameters(self) -> list[nn.Parameter]:
        return []

    def start_from(self, changes: Tensor) -> None:
        raise NotImplementedError("only a run needs it")

    def apply(self, rendered: Tensor, frame: ImageFrame) -> Tensor:
        assert frame.image_index is not None
        if self.takes_rows_by_brackets:
            return rendered * self.log_gain[frame.image_index].exp() + self.offset[frame.image_index]
        log_gain, offset = (rows.index_select(0, frame.image_index) for rows in (self.log_gain, self.offset))
        return rendered * log_gain.exp() + offset


class ExposureByBrackets(Exposure):
    takes_rows_by_brackets = True


MODELS = {
    "affine": AffineColor,
    "bilateral-grid": BilateralGrid,
    "ppisp": PPISP,
    "exposure": Exposure,
    "by brackets": ExposureByBrackets,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--width", type=int, default=1600)
    parser.add_argument("--photographs", type=int, default=43)
    parser.add_argument("--kernels", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    for name, kind in MODELS.items():
        step = training_step(kind, args)
        use_kernels(False)
        torch_ms = timed(step)
        use_kernels(True)
        triton_ms = timed(step)
        figures[name] = {"ms": triton_ms, "ms_pytorch": torch_ms}
        print(f"{name:<16} {triton_ms:7.3f} ms   PyTorch {torch_ms:7.3f} ms   ratio {triton_ms / torch_ms:.3f}")
        if args.kernels:
            print_kernels(step)
    if args.json:
        args.json.write_text(json.dumps({**vars(args), "json": str(args.json), **figures}, indent=1))


def use_kernels(wanted: bool) -> None:
    """Use the Triton kernels, or PyTorch's operations."""
    for module in (affine, bilateral_grid, ppisp):
        vars(module)["kernels_fit"] = kernels_fit if wanted else lambda rendered: False


def training_step(kind: Any, args: argparse.Namespace) -> Callable[[], None]:
    """Image, regularisers and all gradients of one photograph, and the mean of the photographs kept at 0."""
    torch.manual_seed(0)
    model = kind()
    for entry in model.trainables(args.photographs).values():
        entry.parameter.data = (0.05 * torch.randn_like(entry.parameter)).cuda()
    model.on_setup(logging.getLogger("splatkit_ns"), 0, None)
    height, width = args.height, args.width
    K = torch.tensor([[0.9 * width, 0, width / 2], [0, 0.9 * width, height / 2], [0, 0, 1]], device="cuda")
    model._extent = (0.5 / 0.9, 0.5 / 0.9 * height / width)
    view = View(torch.eye(4, device="cuda")[None], K[None], width, height)
    frame = ImageFrame(view, torch.tensor([args.photographs // 2], device="cuda"))
    y, x = torch.meshgrid(torch.linspace(0, 6, height), torch.linspace(0, 9, width), indexing="ij")
    smooth = 0.5 + 0.4 * torch.stack([torch.sin(x + y), torch.cos(1.3 * x - y), torch.sin(0.7 * x * y)], dim=-1)
    render = (smooth + 0.03 * torch.randn_like(smooth))[None].cuda().requires_grad_()
    upstream = torch.randn_like(render)

    def step() -> None:
        image = model.apply(render, frame)
        terms = list(model.regularizers(frame).values())
        torch.autograd.backward([image, *terms], [upstream, *(torch.ones_like(term) for term in terms)])
        for tensor in (render, *model.parameters_of_model()):
            tensor.grad = None
        model.on_optimize()

    return step


def graph_of(step: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """The step as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def timed(step: Callable[[], None]) -> float:
    """Median milliseconds of a step."""
    graph = graph_of(step)
    times: list[float] = []
    for _ in range(110):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[10:])[50]


def print_kernels(step: Callable[[], None]) -> None:
    """Print the time of each kernel of a step, and how often it runs."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(10):
            step()
        torch.cuda.synchronize()
    found: list[tuple[float, int, str]] = []
    for event in profile.key_averages():
        found.append((event.device_time_total / 10, event.count // 10, event.key))
    print(f"    {sum(count for _, count, _ in found)} launches, {sum(time for time, _, _ in found):.0f} µs")
    for time, count, name in sorted(found, reverse=True)[:12]:
        print(f"    {time:7.1f} µs  {count:3d} x  {name[:90]}")


if __name__ == "__main__":
    main()
