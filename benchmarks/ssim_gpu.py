"""Time SSIM, forward and backward, against fused_ssim and pytorch_msssim on one image.

python benchmarks/ssim_gpu.py [--height 1600 --width 900] [--json FILE]

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

from splatkit_ns.image_metrics.ssim import ssim, ssim_map_by_convolution
from splatkit_ns.image_metrics.ssim_window import gaussian_window


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=1600)
    parser.add_argument("--width", type=int, default=900)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    target = torch.rand(1, args.height, args.width, 3, device="cuda")
    rendered = (target + 0.1 * torch.randn_like(target)).clamp(0, 1).requires_grad_()
    reference = None
    figures: dict[str, dict[str, float]] = {}
    for name, measure in methods().items():
        value, milliseconds = timed(measure, rendered, target)
        reference = value if reference is None else reference
        figures[name] = {"ms": milliseconds, "difference": abs(value - reference)}
        print(f"{name:<16} {milliseconds:7.3f} ms   value differs by {abs(value - reference):.1e}")
    first = figures["splatkit"]["ms"]
    print("  ".join(f"splatkit / {name} = {first / figure['ms']:.2f}" for name, figure in figures.items()))
    if args.json:
        args.json.write_text(json.dumps({"height": args.height, "width": args.width, **figures}, indent=1))


def methods() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Name -> mean SSIM of two batches (B, 3, H, W)."""
    found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"splatkit": ssim}
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


def timed(measure: Callable[[Tensor, Tensor], Tensor], rendered: Tensor, target: Tensor) -> tuple[float, float]:
    """Value, and median milliseconds of forward and backward."""

    def once() -> Tensor:
        rendered.grad = None
        value = measure(rendered.permute(0, 3, 1, 2), target.permute(0, 3, 1, 2))
        value.backward()
        return value

    for _ in range(10):
        value = once()
    times: list[float] = []
    for _ in range(50):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        once()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return value.item(), sorted(times)[len(times) // 2]


if __name__ == "__main__":
    main()
