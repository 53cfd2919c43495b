"""Settings of a `SplatTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch

from splatkit_ns import ranges
from splatkit_ns.errors import OptionsError
from splatkit_ns.ranges import NonNegative, Opacity, Positive, at_most, one_of
from splatkit_ns.splat import LEARNING_RATES

BackgroundColor = Literal["auto", "random", "black", "white"]


@dataclass
class SplatTrainerConfig:
    """Settings of a run from Python; those that ``ns-train`` has, too, have the same defaults."""

    max_steps: Annotated[int, Positive]
    """Number of training steps; modules count them from 1 to this."""
    output_dir: str | Path = "outputs"
    """Where runs are saved; a run's folder is ``output_dir/experiment_name/splatkit-3dgs/TIME``, as ``ns-train``'s."""
    experiment_name: str | None = None
    """None means the name of the data's folder."""
    seed: Annotated[int, NonNegative, at_most(2**32 - 1)] = 42
    """Of all random generators."""
    device: str | None = None
    """``"cuda"`` or ``"cpu"``; None means the GPU if there is one."""
    sh_degree: Annotated[int, one_of(0, 1, 2, 3)] = 3
    """Highest degree of the spherical harmonics that make colours depend on the direction, 0 to 3."""
    sh_degree_interval: Annotated[int, Positive] = 1000
    """One more degree is used every this many steps."""
    init_opacity: Annotated[float, Opacity] = 0.1
    """Opacity at the start, in (0, 1)."""
    init_scale: Annotated[float, Positive] = 1.0
    """Size at the start, relative to the mean distance of the three nearest neighbours."""
    num_random: Annotated[int, Positive] = 50_000
    """Number of random points that training starts from where the data has no seed points."""
    global_scale: Annotated[float, Positive] = 1.0
    """Multiplies the scene's scale, which learning rates of positions and sizes in densification are relative to."""
    learning_rates: dict[str, float] = field(default_factory=dict[str, float])
    """By parameter: means, scales, quats, opacities, sh0, shN. Those left out are 3DGS's; that of means is relative to
    the scene's scale and falls to a hundredth."""
    background_color: BackgroundColor = "auto"
    """Colour behind the Gaussians. random changes every step, which keeps surfaces opaque; auto is the colour onto
    which the data set lays its images, random for images with an alpha channel, and black otherwise."""
    render_depth: bool = False
    """Render expected depth in training, too, for losses that read ``rend_out.depths``."""
    steps_per_save: Annotated[int, NonNegative] = 2000
    """Steps between the trainer's own checkpoints; there is always one after the last step."""
    steps_per_log: Annotated[int, Positive] = 50
    """Steps between log entries."""
    lpips: bool = True
    """Report LPIPS in evaluation. Its weights are loaded at first use; without them it is left out."""
    hooks: tuple[str, ...] = ()
    """Hooks, by registered name or import path (package.module:Class). An instance goes into the trainer's modules, as
    ``HookModule([hook])``."""
    writers: tuple[str, ...] = ()
    """Where hooks and trainer write to, by name or import path: JsonLinesWriter, TensorboardWriter, WandbWriter."""

    def check(self) -> None:
        """Check all settings at once.

        Raises:
            OptionsError: names every setting that is out of its range.
        """
        problems = ranges.problems(self)
        for name in ("hooks", "writers"):
            names = 'a tuple or list of names, such as ("LogHook",) with the comma'
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)):
                problems.append(f"{name} is {value!r}, expected {names}")
        known = ", ".join(LEARNING_RATES)
        for name, rate in self.learning_rates.items():
            if name not in LEARNING_RATES:
                problems.append(f"learning_rates has {name!r}, expected names among: {known}")
            if (complaint := Positive.complaint(rate)) is not None:
                problems.append(f"learning_rates[{name!r}] {complaint}")
        if self.device is not None and str(self.device) not in ("cuda", "cuda:0", "cpu"):
            problems.append(
                f"device is {self.device!r}, expected cuda, cpu or None (to use another GPU, set the environment "
                "variable CUDA_VISIBLE_DEVICES)"
            )
        if problems:
            raise OptionsError(problems)

    @property
    def device_type(self) -> Literal["cuda", "cpu"]:
        """The device's kind, with None decided."""
        if self.device is None:
            return "cuda" if torch.cuda.is_available() else "cpu"
        return "cuda" if str(self.device).startswith("cuda") else "cpu"
