"""Settings of a `SplatTrainer`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from splatkit_ns.errors import OptionsError
from splatkit_ns.splat import LEARNING_RATES

BackgroundColor = Literal["auto", "random", "black", "white"]


@dataclass
class SplatTrainerConfig:
    """Settings of a run from Python; those that ``ns-train`` has, too, have the same defaults."""

    max_steps: int
    """Number of training steps; modules count them from 1 to this."""
    output_dir: str | Path = "outputs"
    """Where runs are saved; a run's folder is ``output_dir/experiment_name/splatkit-3dgs/TIME``, as ``ns-train``'s."""
    experiment_name: str | None = None
    """None means the name of the data's folder."""
    seed: int = 42
    """Of all random generators."""
    device: str | None = None
    """``"cuda"`` or ``"cpu"``; None means the GPU if there is one."""
    sh_degree: int = 3
    """Highest degree of the spherical harmonics that make colours depend on the direction, 0 to 3."""
    sh_degree_interval: int = 1000
    """One more degree is used every this many steps."""
    init_opacity: float = 0.1
    """Opacity at the start, in (0, 1)."""
    init_scale: float = 1.0
    """Size at the start, relative to the mean distance of the three nearest neighbours."""
    num_random: int = 50_000
    """Number of random points that training starts from where the data has no seed points."""
    global_scale: float = 1.0
    """Multiplies the scene's scale, which learning rates of positions and sizes in densification are relative to."""
    learning_rates: dict[str, float] = field(default_factory=dict[str, float])
    """By parameter: means, scales, quats, opacities, sh0, shN. Those left out are 3DGS's; that of means is relative to
    the scene's scale and falls to a hundredth."""
    background_color: BackgroundColor = "auto"
    """Colour behind the Gaussians. random changes every step, which keeps surfaces opaque; auto is the colour onto
    which the data set lays its images, random for images with an alpha channel, and black otherwise."""
    render_depth: bool = False
    """Render expected depth in training, too, for losses that read ``rend_out.depths``."""
    steps_per_save: int = 2000
    """Steps between the trainer's own checkpoints; there is always one after the last step."""
    steps_per_log: int = 50
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
        problems: list[str] = []
        for name in ("max_steps", "sh_degree_interval", "steps_per_log", "num_random"):
            _expect(problems, name, getattr(self, name), "a whole number of at least 1", _whole_from(1))
        for name in ("steps_per_save", "seed"):
            _expect(problems, name, getattr(self, name), "a whole number of at least 0", _whole_from(0))
        _expect(problems, "sh_degree", self.sh_degree, "0, 1, 2 or 3", lambda x: x in (0, 1, 2, 3))
        for name in ("init_scale", "global_scale"):
            _expect(problems, name, getattr(self, name), "a number above 0", _positive)
        _expect(problems, "init_opacity", self.init_opacity, "in (0, 1)", lambda x: _positive(x) and x < 1)
        colors = get_args(BackgroundColor)
        _expect(problems, "background_color", self.background_color, " or ".join(colors), lambda x: x in colors)
        for name in ("hooks", "writers"):
            names = 'a tuple or list of names, such as ("LogHook",) with the comma'
            _expect(problems, name, getattr(self, name), names, lambda x: isinstance(x, (tuple, list)))
        known = ", ".join(LEARNING_RATES)
        for name, rate in self.learning_rates.items():
            if name not in LEARNING_RATES:
                problems.append(f"learning_rates has {name!r}, expected names among: {known}")
            _expect(problems, f"learning_rates[{name!r}]", rate, "a number above 0", _positive)
        devices = ("cuda", "cuda:0", "cpu")
        _expect(
            problems,
            "device",
            self.device,
            "cuda, cpu or None (to use another GPU, set the environment variable CUDA_VISIBLE_DEVICES)",
            lambda x: x is None or str(x) in devices,
        )
        if problems:
            raise OptionsError(problems)

    @property
    def device_type(self) -> Literal["cuda", "cpu"]:
        """The device's kind, with None decided."""
        if self.device is None:
            return "cuda" if torch.cuda.is_available() else "cpu"
        return "cuda" if str(self.device).startswith("cuda") else "cpu"


def _expect(problems: list[str], name: str, value: Any, expected: str, fits: Any) -> None:
    try:
        good = bool(fits(value))
    except (TypeError, ValueError):
        good = False
    if not good:
        problems.append(f"{name} is {value!r}, expected {expected}")


def _whole_from(lowest: int) -> Any:
    return lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= lowest


def _positive(x: Any) -> bool:
    return x > 0 and math.isfinite(x)
