"""Train a scene, then clean it and prune it with the commands, and report Gaussians and PSNR of the held-out images.

    python benchmarks/clean_and_prune.py SCENE [--run splatkit-3dgs] [--refine 300 1000] [--only-clean]
        [--out results.json] [--keep FOLDER]

Every 8th image is held out. Each row is one command, as a user would give it, and its figures are those that the
command prints. With --keep, the run's Gaussians and the cleaned ones as SPZ, pictures of both, and the report of
``splatkit export`` stay in that folder.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from train_gpu import machine, method_config

SHARES = ("50%", "25%")
KEPT = re.compile(r"([\d,]+) of ([\d,]+) Gaussians are (?:left|kept)")
PSNR = re.compile(r"PSNR of \d+ held-out photograph\(s\): ([\d.]+) dB before, ([\d.]+) dB after")
REFINED = re.compile(r"([\d.]+) dB after [\d,]+ step\(s\) of refinement")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=lambda path: Path(path).resolve())
    parser.add_argument("--run", default="splatkit-3dgs", help="METHOD[:STEPS[:overrides]], as of train_gpu.py")
    parser.add_argument("--refine", type=int, nargs="*", default=[300, 1000], help="steps of refinement")
    parser.add_argument("--only-clean", action="store_true", help="without prune")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--keep", type=Path, help="folder for files and pictures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = train(args.scene, args.run, folder)
        report: dict[str, Any] = {"scene": args.scene.name, "run": args.run, "machine": machine(), "commands": []}

        def measure(name: str, subcommand: str, *arguments: str | Path) -> None:
            report["commands"].append(measured(name, config, subcommand, *arguments))
            if args.out:
                args.out.write_text(json.dumps(report, indent=1) + "\n")

        measure("clean", "clean", "--output", folder / "clean.ply", folder / "clean.spz")
        if args.keep:
            keep(folder, config, args.keep)
        for share in () if args.only_clean else SHARES:
            for steps in (0, *args.refine):
                path = folder / f"{share[:-1]}-{steps}.ply"
                measure(f"prune --to {share} --refine {steps}", "prune", "--to", share, "--refine", str(steps),
                        "--output", path)  # fmt: skip


def train(scene: Path, run: str, folder: Path) -> Path:
    """Train as ``ns-train`` does; returns the run's config.yml."""
    from nerfstudio.scripts import train as script

    config = method_config(scene, run)
    config.output_dir = folder / "outputs"
    script._set_random_seed(config.machine.seed)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    return config.get_base_dir() / "config.yml"


def command(*arguments: str | Path) -> str:
    """Run a command of ``splatkit`` in this process; returns what it prints.

    Raises:
        SystemExit: it fails.
    """
    from splatkit_ns.cli import main as splatkit

    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        status = splatkit([str(argument) for argument in arguments])
    if status:
        raise SystemExit(f"splatkit {arguments[0]} failed: {output.getvalue()[-3000:]}")
    return output.getvalue()


def measured(name: str, config: Path, subcommand: str, *arguments: str | Path) -> dict[str, Any]:
    """The figures that a command prints, and its seconds."""
    began = time.perf_counter()
    text = command(subcommand, "--load-config", config, *arguments)
    seconds = time.perf_counter() - began
    kept, psnr = KEPT.search(text), PSNR.search(text)
    assert kept is not None, text
    assert psnr is not None, text
    refined = REFINED.search(text)
    row: dict[str, Any] = {
        "command": name,
        "gaussians_before": int(kept[2].replace(",", "")),
        "gaussians": int(kept[1].replace(",", "")),
        "psnr_before": float(psnr[1]),
        "psnr": float((refined or psnr)[1 if refined else 2]),
        "seconds": round(seconds, 1),
        "report": [line for line in text.splitlines() if "Gaussian" in line or "PSNR" in line],
    }
    print(f"{name:<30} {row['gaussians']:>9,} Gaussians, {row['psnr'] - row['psnr_before']:+.3f} dB", flush=True)
    return row


def keep(folder: Path, config: Path, target: Path) -> None:
    """Write the report of ``export``, the cleaned file, and pictures of a turn before and after, into a folder."""
    from splatkit_ns.formats import usable_format_names

    target.mkdir(parents=True, exist_ok=True)
    files = [folder / f"run.{name}" for name in usable_format_names()]
    (target / "export.txt").write_text(command("export", "--load-config", config, "--output", *files))
    for name in ("run.spz", "clean.spz"):
        (target / name).write_bytes((folder / name).read_bytes())
    for name in ("run", "clean"):
        command("render", "--load-config", config, "--input", folder / f"{name}.ply", "--output", target / name,
                "--frames", "24", "--width", "640", "--height", "480", "--image-format", "jpg")  # fmt: skip


if __name__ == "__main__":
    main()
