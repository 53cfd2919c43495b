"""The images of a step, and what steps count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from splatkit_ns.ranges import Positive


@dataclass
class ImagesPerStep:
    """The options that say how many images a step has."""

    batch_size: Annotated[int, Positive] = 1
    """Images that each process renders at a step, one after the other; the step takes their mean gradient."""
    count_images: bool = True
    """With several images a step (--machine.num-devices, --batch-size), steps of the settings count images: N a step
    take an N-th of the steps, with learning rates times the root of N. False: settings stay, the run sees N times the
    images."""
