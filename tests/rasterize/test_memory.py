"""Memory grows with Gaussians, intersections and pixels, never with Gaussians times pixels."""

from __future__ import annotations

from pathlib import Path

from tests.fork_server import run_code

SCRIPT = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import torch
from raster_scenes import random_scene
from splatkit_ns.rasterize import rasterization

def step(n, width, height):
    scene = random_scene(n=n, width=width, height=height, size=0.01, sh_bands=16)
    for name in ("means", "quats", "scales", "opacities", "colors"):
        scene[name].requires_grad_()
    rasterization(**scene, sh_degree=3)[0].sum().backward()

step(100, 32, 32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(60_000, 320, 180)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_sixty_thousand_gaussians_fit_in_a_few_hundred_megabytes() -> None:
    run = run_code(SCRIPT, str(Path(__file__).parent))
    assert run.returncode == 0, run.stderr
    megabytes = float(run.stdout)
    # The scene and its gradients are 30 MB, in float64 while it is made 60 MB; one float for each Gaussian and pixel
    # would be 13 800 MB.
    assert megabytes < 400
