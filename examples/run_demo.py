"""The script of `make demo`: it makes a scene, trains on it, measures the result, exports it and shows it in a picture.

    python examples/run_demo.py [--out demo] [--steps 1500] [--method splatkit-3dgs-adc]

Only nerfstudio's own commands are called, those of the environment that this script runs in.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from contact_sheet import make_contact_sheet
from tqdm import tqdm

STEPS = 1200
EVAL_INTERVAL = 8  # every eighth view is held out
SCENE_SCRIPT = Path(__file__).with_name("make_demo_scene.py")
STEP_ROW = re.compile(r"^(?:\x1b\[[0-9;]*m)*(\d+) \(\d+\.\d+%\)")  # of nerfstudio's table: 120 (8.00%)  35 ms …


class DemoError(Exception):
    """A part of the demo failed; the message names it, and the log with the details."""


def run(name: str, command: list[str | Path], log: Path) -> Iterator[str]:
    """Runs one command, and yields its lines as they are printed; `log` gets them, too.

    Raises:
        DemoError: the command is missing, or ended with a status other than 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if not Path(command[0]).exists():
        raise DemoError(f"{command[0]} is missing: is splatkit-ns installed in this environment?")
    last = ""
    with log.open("w") as file:
        file.write(f"$ {' '.join(map(str, command))}\n")
        file.flush()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                last = line.strip() or last
                yield line
            status = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if status:
        raise DemoError(f"{name} failed with status {status}: {last}\nThe whole output is in {log}")


def say(text: str) -> None:
    """Prints one line of progress at once."""
    print(text, flush=True)


def to_type(program: Path) -> str:
    """The word that starts a program here: its name if that is enough, else its path."""
    found = shutil.which(program.name)
    if found is not None and Path(found).parent.resolve() == program.parent.resolve():
        return program.name
    path = program.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def train(programs: Path, out: Path, method: str, steps: int) -> Path:
    """Trains on `out`/scene, with a progress bar in a terminal; returns the run's `config.yml`."""
    outputs = out / "outputs"
    shutil.rmtree(outputs, ignore_errors=True)
    command: list[str | Path] = [programs / "ns-train", method, "--data", out / "scene", "--output-dir", outputs]
    command += ["--experiment-name", "scene", "--timestamp", "demo", "--max-num-iterations", str(steps)]
    command += ["--vis", "tensorboard", "--logging.local-writer.max-log-size", "0"]
    command += [f"--steps-per-eval-{kind}=0" for kind in ("batch", "image", "all-images")]
    command += ["nerfstudio-data", "--eval-mode", "interval", "--eval-interval", str(EVAL_INTERVAL)]
    command += ["--downscale-factor", "1", "--load-3D-points", "True"]
    with tqdm(total=steps, unit="step", desc="      ", disable=None, leave=False) as bar:
        for line in run("ns-train", command, out / "logs" / "train.log"):
            row = STEP_ROW.match(line)
            if row:
                bar.update(int(row[1]) - bar.n)
    return outputs / "scene" / method / "demo" / "config.yml"


def evaluate(programs: Path, out: Path, config: Path) -> dict[str, float]:
    """Measures the held-out views, leaves their pictures in `out`/renders, and returns the mean metrics."""
    shutil.rmtree(out / "renders", ignore_errors=True)
    command: list[str | Path] = [programs / "ns-eval", "--load-config", config, "--output-path", out / "eval.json"]
    command += ["--render-output-path", out / "renders"]
    list(run("ns-eval", command, out / "logs" / "eval.log"))
    return json.loads((out / "eval.json").read_text())["results"]


def export(programs: Path, out: Path, config: Path) -> Path:
    """Writes the Gaussians as a `.ply` and returns its path."""
    command: list[str | Path] = [programs / "ns-export", "gaussian-splat", "--load-config", config]
    list(run("ns-export", [*command, "--output-dir", out / "export"], out / "logs" / "export.log"))
    return out / "export" / "splat.ply"


def demo(programs: Path, out: Path, method: str, steps: int) -> None:
    """Runs all parts; prints one line for each and a summary at the end."""
    start = time.monotonic()
    say(f"[1/4] The scene: {out / 'scene'}")
    list(run("make_demo_scene.py", [sys.executable, SCENE_SCRIPT, out / "scene"], out / "logs" / "scene.log"))
    say(f"[2/4] Training {method}, {steps} steps")
    config = train(programs, out, method, steps)
    say("[3/4] Measuring on the held-out views")
    metrics = evaluate(programs, out, config)
    say("[4/4] Exporting")
    ply = export(programs, out, config)
    views = sorted((out / "renders").glob("*img_*.png"))
    sheet = make_contact_sheet(views, out / "demo.png")
    say(f"\nDone in {time.monotonic() - start:.0f} s.")
    say(f"  PSNR of {len(views)} held-out views: {metrics['psnr']:.2f} dB")
    say(f"  Gaussians, for any splat viewer:  {ply}")
    say(f"  ground truth beside render:       {sheet}")
    say(f"  look around:                      {to_type(programs / 'ns-viewer')} --load-config {config}")


def main(words: list[str] | None = None, programs: Path | None = None) -> int:
    """Runs the demo; returns the exit status. `programs` is the folder of the ns-* commands, by default Python's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything: demo if not given")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps: {STEPS} if not given")
    parser.add_argument("--method", default="splatkit-3dgs-adc", help="splatkit-3dgs-adc if not given")
    arguments = parser.parse_args(words)
    try:
        demo(programs or Path(sys.executable).parent, arguments.out, arguments.method, arguments.steps)
    except DemoError as error:
        print(f"\nThe demo stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nThe demo was interrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
