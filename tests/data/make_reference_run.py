"""Makes the run of a release that later versions must still load: a tiny scene, config.yml, checkpoint, and its PSNR.

    python -m tests.data.make_reference_run tests/data/v0.1.0

Run it once for each release whose config or checkpoint differs from the last one's, and commit the folder. It is never
made anew for a release that is out: that would hide what the test is for.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from nerfstudio.scripts import train
from nerfstudio.utils.eval_utils import eval_setup

from tests.plugin.helpers import run_config
from tests.tiny_scene import write_tiny_scene

STEPS = 20


def make(folder: Path) -> None:
    """Write the run into a folder that does not exist yet; all paths in it are relative to that folder."""
    folder.mkdir(parents=True)
    here = Path.cwd()
    os.chdir(folder)
    try:
        write_tiny_scene(Path("scene"))
        config = run_config(Path("scene"), Path("runs"), steps=STEPS)
        train.main(config)
        path = config.get_base_dir() / "config.yml"
        for log in config.get_base_dir().glob("events.*"):
            log.unlink()
        shutil.rmtree(config.get_base_dir() / "wandb", ignore_errors=True)
        _, pipeline, _, step = eval_setup(path)
        metrics = pipeline.get_average_eval_image_metrics()
        expected = {
            "config": str(path),
            "step": step,
            "num_gaussians": pipeline.model.num_points,
            "psnr": metrics["psnr"],
            "ssim": metrics["ssim"],
        }
        Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    finally:
        os.chdir(here)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
