"""Time writing and reading a scene in every format, or open it in every format with programs of others.

python benchmarks/formats.py [--gaussians 1000000] [--formats spz sog …] [--scene FILE] [--runs 3] [--json FILE]
python benchmarks/formats.py --readers [--scene FILE] [--formats spz sog …] [--json FILE] [--folder FOR_PICTURES]

Gaussians are drawn from a trained scene, with noise, or made at random without one. Seconds are those of the processor,
which other programs on the machine change little. "One thread" is the part that no second core can share, so that with
two idle cores a file takes that and half of the rest. "Passed" are those of the clock, which count on an idle machine.

With --readers, the scene (a made-up ball without a file) is written in each format. Viewers in Chromium draw it, and
PSNR is that of their picture against our render of the same file; libraries read it, and what counts is the largest
difference from our own reading. Needs Chromium, Node.js, npm and the packages that tests/browser names. With --folder,
pictures are kept there, ours to the left.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splatkit_ns import SplatModel, formats, render, save_image, turntable
from splatkit_ns.formats import Gaussians, usable_format_names
from splatkit_ns.formats.frames import flip_yz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=1_000_000)
    parser.add_argument("--formats", nargs="+", choices=usable_format_names(), default=usable_format_names())
    parser.add_argument("--scene", type=Path, help="a file of a trained scene")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one if not given")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--readers", action="store_true", help="open the files with programs of others")
    args = parser.parse_args()
    if args.readers:
        open_with_readers(args)
        return
    scene = made(args.gaussians, args.scene)
    figures: dict[str, dict[str, float]] = {}
    for name in args.formats:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            path = Path(folder) / f"scene.{name}"
            write = [seconds(lambda path=path: formats.write(path, scene)) for _ in range(args.runs)]
            read = [seconds(lambda path=path: formats.read(path)) for _ in range(args.runs)]
            figures[name] = {"bytes": path.stat().st_size, **named("write", write), **named("read", read)}
        row = figures[name]
        print(
            f"{name:<15} {row['bytes'] / 1e6:8.1f} MB"
            + "".join(
                f"   {kind} {row[f'{kind}_seconds']:6.2f} s, {row[f'{kind}_one_thread_seconds']:.2f} of one thread, "
                f"{row[f'{kind}_two_cores_seconds']:.2f} on two cores, {row[f'{kind}_passed_seconds']:.2f} passed"
                for kind in ("write", "read")
            ),
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps({"gaussians": len(scene), "formats": figures}, indent=1) + "\n")


def open_with_readers(args: argparse.Namespace) -> None:
    """Print what each reader makes of each format, and write it as JSON and pictures."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.browser.readers import READERS, ReaderError, differences
    from tests.browser.scenes import ball
    from tests.browser.viewers import SAME, VIEWERS, ViewerError, Viewers, open_viewers

    scene = formats.read(args.scene) if args.scene else ball()
    view = turntable(SplatModel.from_gaussians(scene), num=8, width=480, height=360)[1]

    def first_line(error: Exception, path: Path) -> str:
        return str(error).splitlines()[0].replace(str(path), path.name)[:200]

    def seen(viewers: Viewers, viewer: str, path: Path, name: str) -> dict[str, Any]:
        axes = VIEWERS[viewer].get(name, SAME)
        try:
            found = viewers.open(viewer, path, view, axes)
        except ViewerError as error:
            return {"refused": first_line(error, path)}
        ours = render(path, view).numpy()
        if args.folder:
            pair = np.concatenate([ours, found.image], axis=1)
            save_image(torch.from_numpy(pair).float(), args.folder / f"{viewer}-{name}.png")
        psnr = float(-10 * np.log10(np.mean((found.image - ours) ** 2)))
        up = "y" if axes is SAME else "minus-y"
        return {"gaussians": found.num, "psnr": round(psnr, 2), "up": up, "mean": found.image.mean((0, 1)).tolist()}

    def read(reader: str, path: Path) -> dict[str, Any]:
        if missing := READERS[reader].missing():
            return {"not tried": missing}
        try:
            found = READERS[reader].read(path, path.parent)
        except ReaderError as error:
            return {"refused": first_line(error, path)}
        ours = formats.read(path)
        if len(found) != len(ours):
            return {"gaussians": len(found)}
        as_is, turned = differences(found, ours), differences(flip_yz(found), ours)
        right = as_is["means"] <= turned["means"]
        return {"gaussians": len(found), "differences": as_is if right else turned, "turned": not right}

    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, open_viewers() as viewers:
        for name in args.formats:
            path = Path(folder) / f"scene.{name}"
            formats.write(path, scene)
            figures[name] = {
                "bytes": path.stat().st_size,
                **{viewer: seen(viewers, viewer, path, name) for viewer in VIEWERS},
                **{reader: read(reader, path) for reader in READERS},
            }
            print(name, json.dumps(figures[name], indent=1), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"gaussians": len(scene), "formats": figures}, indent=1) + "\n")


def made(num: int, scene: Path | None) -> Gaussians:
    """So many Gaussians of SH degree 3, or of that of the scene."""
    generator = np.random.default_rng(0)

    def noise(width: float, *shape: int) -> np.ndarray:
        return generator.standard_normal((num, *shape), dtype=np.float32) * np.float32(width)

    if scene is None:
        return Gaussians(noise(1, 3), noise(1, 3), noise(1, 4), noise(1), noise(0.3, 1, 3), noise(0.1, 15, 3))
    drawn = formats.read(scene)
    drawn = drawn.take(generator.integers(0, len(drawn), num))
    arrays = drawn.arrays()
    for key, width in {"means": 0.01, "scales": 0.1, "sh0": 0.05, "shN": 0.02}.items():
        arrays[key] = arrays[key] + noise(width, *arrays[key].shape[1:])
    return Gaussians(**arrays, render_mode=drawn.render_mode)


def named(kind: str, runs: list[tuple[float, float, float]]) -> dict[str, float]:
    """The quickest of the runs."""
    whole, single, passed = min(runs)
    return {
        f"{kind}_seconds": round(whole, 3),
        f"{kind}_one_thread_seconds": round(single, 3),
        f"{kind}_two_cores_seconds": round(single + max(whole - single, 0) / 2, 3),
        f"{kind}_passed_seconds": round(passed, 3),
    }


def seconds(work: Callable[[], object]) -> tuple[float, float, float]:
    """The processor's seconds of all threads, those of this one, and those of the clock."""
    whole, single, clock = time.process_time(), time.thread_time(), time.perf_counter()
    work()
    return time.process_time() - whole, time.thread_time() - single, time.perf_counter() - clock


if __name__ == "__main__":
    main()
