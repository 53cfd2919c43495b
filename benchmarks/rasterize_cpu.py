"""Time the CPU rasterizer, forward and backward, against PyTorch.

The peer is gsplat's own PyTorch code, as far as it runs without CUDA: covariances, projection and spherical harmonics
from `gsplat.cuda._torch_impl`; its compositing calls a CUDA kernel, so a tiled PyTorch one stands in for it, on tile
lists that our binning made (which favours the peer). 2D Gaussians of the same scene are timed beside them, with all
that 2DGS trains on: colour, depth, normals, distortion. They have no peer: gsplat's PyTorch code for them needs CUDA.

    python benchmarks/rasterize_cpu.py --scene path/to/scene --gaussians 16000 60000
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plyfile import PlyData
from scipy.spatial import cKDTree
from torch import Tensor

from splatkit_ns.rasterize import rasterization, rasterization_2dgs

SH_C0 = 0.28209479177387814
NAMES = ("means", "quats", "scales", "opacities", "colors")


def load_seed_points(scene: Path) -> tuple[np.ndarray, np.ndarray]:
    """(positions (N, 3) float64, colours (N, 3) in [0, 1]) from the scene's sparse_pc.ply."""
    vertices = PlyData.read(str(scene / "sparse_pc.ply"))["vertex"]
    positions = np.stack([vertices[axis] for axis in ("x", "y", "z")], -1).astype(np.float64)
    colours = np.stack([vertices[c] for c in ("red", "green", "blue")], -1).astype(np.float64) / 255.0
    return positions, colours


def load_camera(scene: Path, height: int, index: int) -> tuple[Tensor, Tensor, int, int]:
    """(viewmat (1, 4, 4), K (1, 3, 3), width, height) of one frame of transforms.json, scaled to that height."""
    meta = json.loads((scene / "transforms.json").read_text())
    frame = meta["frames"][index % len(meta["frames"])]
    value = {**meta, **frame}
    cam_to_world = np.array(frame["transform_matrix"], dtype=np.float64)

    cam_to_world[:3, 1:3] *= -1  # OpenGL to OpenCV axes
    viewmat = np.linalg.inv(cam_to_world)
    width = round(value["w"] * height / value["h"])
    sx, sy = width / value["w"], height / value["h"]
    K = np.array([[value["fl_x"] * sx, 0, value["cx"] * sx], [0, value["fl_y"] * sy, value["cy"] * sy], [0, 0, 1]])
    as_batch = (torch.tensor(matrix, dtype=torch.float32)[None] for matrix in (viewmat, K))
    return next(as_batch), next(as_batch), width, height


def make_gaussians(positions: np.ndarray, colours: np.ndarray, count: int) -> dict[str, Tensor]:
    """Gaussians as training starts with: scales from the 3 nearest neighbours, opacity 0.1, SH degree 3."""
    rng = np.random.default_rng(0)
    if count <= len(positions):
        chosen = rng.permutation(len(positions))[:count]
        positions, colours = positions[chosen], colours[chosen]
    else:
        nearest = cKDTree(positions).query(positions, k=4)[0][:, 1:].mean(1)
        extra = rng.integers(0, len(positions), count - len(positions))
        jitter = rng.normal(size=(len(extra), 3)) * nearest[extra, None] * 0.5
        positions = np.concatenate([positions, positions[extra] + jitter])
        colours = np.concatenate([colours, colours[extra]])
    distance = np.sqrt((cKDTree(positions).query(positions, k=4)[0][:, 1:] ** 2).mean(1)).clip(1e-6)
    sh = rng.normal(size=(count, 16, 3)) * 0.05
    sh[:, 0] = (colours - 0.5) / SH_C0
    scene = {
        "means": positions,
        "quats": rng.normal(size=(count, 4)),
        "scales": np.repeat(distance[:, None], 3, 1),
        "opacities": np.full(count, 0.1),
        "colors": sh,
    }
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in scene.items()}


def render_ours(g: dict[str, Tensor], viewmats: Tensor, Ks: Tensor, width: int, height: int) -> Tensor:
    return rasterization(**g, viewmats=viewmats, Ks=Ks, width=width, height=height, sh_degree=3)[0]


def render_ours_2dgs(g: dict[str, Tensor], viewmats: Tensor, Ks: Tensor, width: int, height: int) -> Tensor:
    """(1, H, W, 8): colour, expected depth, normal, distortion."""
    rendered = rasterization_2dgs(
        **g, viewmats=viewmats, Ks=Ks, width=width, height=height, sh_degree=3, render_mode="RGB+ED", distloss=True
    )
    assert rendered.distortion is not None
    return torch.cat([rendered.renders, rendered.normals, rendered.distortion], dim=-1)


def render_torch(g: dict[str, Tensor], viewmats: Tensor, Ks: Tensor, width: int, height: int) -> Tensor:
    """gsplat's PyTorch projection and SH, then tiled compositing by cumulative products."""
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci, _spherical_harmonics

    from splatkit_ns.rasterize.cpu.tiles import TILE, build_tile_lists

    covars, _ = _quat_scale_to_covar_preci(g["quats"], g["scales"], compute_preci=False)
    radii, means2d, depths, conics, _ = _fully_fused_projection(g["means"], covars, viewmats, Ks, width, height)
    centre = torch.inverse(viewmats)[0, :3, 3]
    colours = (_spherical_harmonics(3, g["means"] - centre, g["colors"]) + 0.5).clamp_min(0.0)
    lists = build_tile_lists(
        *(t.detach().contiguous().numpy() for t in (means2d[0], conics[0], g["opacities"], depths[0])),
        (radii[0] > 0).numpy(), width, height,
    )  # fmt: skip
    rows = []
    for tile_y in range(lists.tiles_y):
        row = []
        for tile_x in range(lists.tiles_x):
            tile = tile_y * lists.tiles_x + tile_x
            ids = torch.from_numpy(lists.gaussian_ids[lists.offsets[tile] : lists.offsets[tile + 1]]).long()
            ys = torch.arange(tile_y * TILE, min(height, tile_y * TILE + TILE)) + 0.5
            xs = torch.arange(tile_x * TILE, min(width, tile_x * TILE + TILE)) + 0.5
            dx = xs[None, None, :] - means2d[0, ids, 0][:, None, None]
            dy = ys[None, :, None] - means2d[0, ids, 1][:, None, None]
            a, b, c = (conics[0, ids, k][:, None, None] for k in range(3))
            alpha = g["opacities"][ids][:, None, None] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
            alpha = alpha.clamp_max(0.999)
            alpha = alpha * (alpha.detach() >= 1 / 255)
            alpha = alpha * (torch.cumprod(1 - alpha.detach(), 0) > 1e-4)
            light = torch.cumprod(torch.cat([torch.ones_like(alpha[:1]), 1 - alpha[:-1]]), 0) if len(ids) else alpha
            row.append(torch.einsum("nhw,nc->hwc", alpha * light, colours[ids]))
        rows.append(torch.cat(row, 1))
    return torch.cat(rows, 0)[None]


def measure(
    render: Callable[..., Tensor], gaussians: dict[str, Tensor], camera: tuple[Any, ...], repeats: int, warm_up: int
) -> tuple[dict[str, float], Tensor]:
    """Median milliseconds {"forward", "backward", "total"} and the image."""
    leaves = {name: gaussians[name].clone().requires_grad_() for name in NAMES}
    forward, backward = [], []
    image = torch.empty(0)
    for i in range(warm_up + repeats):
        for leaf in leaves.values():
            leaf.grad = None
        start = time.perf_counter()
        image = render(leaves, *camera)
        middle = time.perf_counter()
        image.backward(torch.ones_like(image))
        end = time.perf_counter()
        if i >= warm_up:
            forward.append((middle - start) * 1e3)
            backward.append((end - middle) * 1e3)
    total = [f + b for f, b in zip(forward, backward, strict=True)]
    times = {"forward": forward, "backward": backward, "total": total}
    return {name: statistics.median(values) for name, values in times.items()}, image.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, required=True, help="folder with transforms.json and sparse_pc.ply")
    parser.add_argument("--gaussians", type=int, nargs="+", default=[16000, 60000])
    parser.add_argument("--height", type=int, default=320, help="of the image, in pixels; the width follows")
    parser.add_argument("--frame", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-peer", action="store_true", help="time ours only")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    positions, colours = load_seed_points(args.scene)
    camera = load_camera(args.scene, args.height, args.frame)
    width, height = camera[2:]
    rows = []
    print(f"{width}x{height}, {args.threads} threads, SH degree 3, milliseconds (median of {args.repeats})")
    print(f"{'Gaussians':>10} {'renderer':<14} {'forward':>9} {'backward':>9} {'total':>9} {'ratio':>7}")
    for count in args.gaussians:
        gaussians = make_gaussians(positions, colours, count)
        ours, image = measure(render_ours, gaussians, camera, args.repeats, warm_up=2)
        row: dict[str, Any] = {"gaussians": count, "splatkit": ours}
        print(f"{count:>10} {'splatkit-ns':<14} {ours['forward']:9.1f} {ours['backward']:9.1f} {ours['total']:9.1f}")
        discs, _ = measure(render_ours_2dgs, gaussians, camera, args.repeats, warm_up=2)
        row["splatkit_2dgs"] = discs
        print(f"{'':>10} {'ours, 2DGS':<14} {discs['forward']:9.1f} {discs['backward']:9.1f} {discs['total']:9.1f}")
        if not args.no_peer:
            peer, peer_image = measure(render_torch, gaussians, camera, repeats=2, warm_up=1)
            ratio = peer["total"] / ours["total"]
            row |= {"torch": peer, "ratio": ratio, "mean_difference": float((image - peer_image).abs().mean())}
            print(
                f"{'':>10} {'PyTorch':<14} {peer['forward']:9.1f} {peer['backward']:9.1f} {peer['total']:9.1f}"
                f" {ratio:6.1f}x  mean difference {row['mean_difference']:.1e}"
            )
        rows.append(row)
    if args.json:
        settings = {"width": width, "height": height, "threads": args.threads, "repeats": args.repeats}
        args.json.write_text(json.dumps({**settings, "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
