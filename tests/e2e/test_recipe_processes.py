"""The parts of docs/recipes.md in processes of their own, from a folder outside the package."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.splat import read_checkpoint
from tests.parts import recipe_parts
from tests.parts.test_recipes import differing
from tests.tiny_scene import write_tiny_scene

ROOT = Path(__file__).parents[2]
STEPS = 60
METHODS = """

from splatkit_ns.densification import SplatDefaultDensification
from splatkit_ns.methods import make_method

growing = SplatDefaultDensification(
    refine_start_iter=2, refine_every=5, reset_every=0, grow_grad2d=1e-6, max_gaussians=80
)
exposure = make_method("exposure", image_model=Exposure(), densification=growing)
features = make_method("features", loss_fn=FeatureLoss(), densification=growing)
depth = make_method(
    "depth",
    modules=[AddWhereDepthErrs(every=4, error=0.01, most=5)],
    loss_fn=Splat3DGSLossFn(depth_lambda=0.1),
    densification=growing,
)
sky = make_method("sky", renderer=SkyRenderer(), densification=growing)
weights = TrustBrightLess(above=0.4)
stop = StopWhenFlat(window=25, share=0.9)
"""
"""Behind the parts in the user's file: four methods, and two modules that are loaded by their import paths."""
OWN = ("weights", "stop")
PATIENCE = 1200


class Lab:
    """A user's folder with the parts and a data set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "my_parts.py").write_text(Path(str(recipe_parts.__file__)).read_text() + METHODS)
        write_tiny_scene(folder / "data", depth=True)
        methods = ("exposure", "features", "depth", "sky")
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
            "NERFSTUDIO_METHOD_CONFIGS": ",".join(f"{name}=my_parts:{name}" for name in methods),
        }

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command of nerfstudio's."""
        program = shutil.which(words[0], path=Path(sys.executable).parent) or words[0]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [program, *words[1:]], cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def train(self, name: str, timestamp: str) -> subprocess.Popen[bytes]:
        """Start ``ns-train`` as the documentation says it."""
        own = ["--modules.own", f"my_parts:{name}"] if name in OWN else []
        return self.start(
            "ns-train", "splatkit-3dgs-adc" if name in OWN else name, *own,
            *("--max-num-iterations", str(STEPS), "--steps-per-save", "4", "--vis", "none", "--timestamp", timestamp),
            *("--pipeline.model.lpips", "False", "--machine.device-type", "cpu"),
            *("--modules.evaluator.eval-steps", str(STEPS), "50", "--save-only-latest-checkpoint", "False"),
            *("nerfstudio-data", "--data", "data", "--eval-mode", "interval", "--eval-interval", "4"),
            *("--depth-unit-scale-factor", "0.001"),
        )  # fmt: skip

    def run_folder(self, timestamp: str) -> Path:
        """The folder of a run."""
        return next(self.folder.glob(f"outputs/*/*/{timestamp}"))

    def checkpoints(self, timestamp: str) -> list[Path]:
        """The checkpoints of a run; none while it has no folder."""
        return [
            path
            for folder in self.folder.glob(f"outputs/*/*/{timestamp}/nerfstudio_models")
            for path in checkpoint_files.checkpoint_paths(folder)
        ]

    def log(self) -> str:
        """The end of what the commands have printed."""
        return (self.folder / "log").read_text()[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exposure", "depth", "sky", "weights", "stop", "features"])
def test_a_recipe_is_cut_resumed_and_evaluated_by_real_commands(name: str, tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    assert lab.train(name, "whole").wait(PATIENCE) == 0, lab.log()

    cut = lab.train(name, "cut")
    end = time.monotonic() + PATIENCE
    while not lab.checkpoints("cut"):
        assert cut.poll() is None, lab.log()
        assert time.monotonic() < end
        time.sleep(0.002)
    cut.send_signal(signal.SIGTERM)
    assert cut.wait(PATIENCE) == 128 + signal.SIGTERM, lab.log()
    whole = read_checkpoint(lab.checkpoints("whole")[-1])
    assert read_checkpoint(lab.checkpoints("cut")[-1])["step"] < whole["step"]
    assert lab.train(name, "cut").wait(PATIENCE) == 0, lab.log()
    resumed = read_checkpoint(lab.checkpoints("cut")[-1])
    assert differing(whole, resumed) == []
    assert whole["step"] == (50 if name == "stop" else STEPS) - 1

    config = lab.run_folder("cut") / "config.yml"
    evaluation = lab.start("ns-eval", "--load-config", str(config), "--output-path", "results.json")
    assert evaluation.wait(PATIENCE) == 0, lab.log()
    theirs = json.loads((tmp_path / "results.json").read_text())["results"]
    stats = lab.run_folder("whole") / f"eval/stats/step_{whole['step'] + 1:06d}.json"
    ours = json.loads(stats.read_text())["mean"]
    assert {metric: theirs[metric] for metric in ours} == ours
