"""Time SSIM, forward and backward, against fused_ssim and pytorch_msssim on one image.

python benchmarks/ssim_gpu.py [--height 1600 --width 900] [--json FILE]

"Masked" means that a disc in the middle counts, and no window that reaches out of it; the peers know no masks.

The rendered image lies as rasterisers make it, (1, H, W, 3), and the gradient is wanted in that order, too: what a
method needs to copy for that counts. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from splatkit_ns.image_metrics.ssim import ssim, ssim_map_by_convolution, valid_windows
from splatkit_ns.image_metrics.ssim_window import gaussian_window

Method = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=1600)
    parser.add_argument("--width", type=int, default=900)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    target = torch.rand(1, args.height, args.width, 3, device="cuda")
    rendered = (target + 0.1 * torch.randn_like(target)).clamp(0, 1).requires_grad_()
    figures = compared(methods(), rendered, target)
    figures |= compared(masked_methods(disc(args.height, args.width)), rendered, target)
    if args.json:
        args.json.write_text(json.dumps({"height": args.height, "width": args.width, **figures}, indent=1))


def compared(measures: dict[str, Method], rendered: Tensor, target: Tensor) -> dict[str, dict[str, float]]:
    """Time methods, of which the first is ours, and print the times, differences and ratios."""
    figures: dict[str, dict[str, float]] = {}
    first = next(iter(measures))
    expected = None
    for name, measure in measures.items():
        value, milliseconds, mebibytes = timed(measure, rendered, target)
        expected = value if expected is None else expected
        figures[name] = {"ms": milliseconds, "mib": mebibytes, "difference": abs(value - expected)}
        print(f"{name:<24} {milliseconds:7.3f} ms  {mebibytes:6.0f} MiB   value differs by {abs(value - expected):.1e}")
    print("  ".join(f"{first} / {name} = {figures[first]['ms'] / each['ms']:.2f}" for name, each in figures.items()))
    return figures


def disc(height: int, width: int) -> Tensor:
    """A mask (1, H, W) of half of the pixels."""
    y, x = torch.meshgrid(torch.arange(height, device="cuda"), torch.arange(width, device="cuda"), indexing="ij")
    return ((y / height - 0.5) ** 2 + (x / width - 0.5) ** 2 < 1 / (2 * torch.pi))[None]


def masked_methods(mask: Tensor) -> dict[str, Method]:
    """Name -> mean SSIM of the windows that lie in the mask, of two batches (B, 3, H, W)."""
    window = gaussian_window(torch.float32, torch.device("cuda"))

    def by_convolution(a: Tensor, b: Tensor) -> Tensor:
        valid = valid_windows(mask, a)
        a, b = (torch.where(mask[:, None], image, 0.0) for image in (a, b))
        return (ssim_map_by_convolution(a, b, window) * valid[:, None]).sum() / (3 * valid.sum())

    return {"masked": lambda a, b: ssim(a, b, mask=mask), "masked, convolutions": by_convolution}


def methods() -> dict[str, Method]:
    """Name -> mean SSIM of two batches (B, 3, H, W)."""
    found: dict[str, Method] = {"splatkit": ssim}
    try:
        from fused_ssim import fused_ssim

        found["fused_ssim"] = lambda a, b: fused_ssim(a.contiguous(), b.contiguous(), padding="valid")
    except ImportError:
        pass
    try:
        from pytorch_msssim import SSIM

        module = SSIM(data_range=1.0, size_average=True, channel=3).cuda()
        found["pytorch_msssim"] = module
    except ImportError:
        pass
    window = gaussian_window(torch.float32, torch.device("cuda"))
    found["convolutions"] = lambda a, b: ssim_map_by_convolution(a, b, window).mean()
    return found


def timed(measure: Method, rendered: Tensor, target: Tensor) -> tuple[float, float, float]:
    """Value, median milliseconds of forward and backward, and their peak of memory in MiB."""

    def once() -> Tensor:
        rendered.grad = None
        value = measure(rendered.permute(0, 3, 1, 2), target.permute(0, 3, 1, 2))
        value.backward()
        return value

    rendered.grad = None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(10):
        value = once()
    peak = torch.cuda.max_memory_allocated() - before
    times: list[float] = []
    for _ in range(50):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        once()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return value.item(), sorted(times)[len(times) // 2], peak / 2**20


if __name__ == "__main__":
    main()
