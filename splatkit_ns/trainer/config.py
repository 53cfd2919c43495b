"""Settings of a `SplatTrainer`: a method's config, and the changes of a run to it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.methods import MethodSpecification, find_method
from splatkit_ns.plugin.data.backgrounds import BackgroundColor
from splatkit_ns.plugin.options.check import option_problems
from splatkit_ns.plugin.options.setting import OptionError, set_option
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig

SHORTHANDS = {
    "max_steps": "max_num_iterations",
    "output_dir": "output_dir",
    "experiment_name": "experiment_name",
    "seed": "machine.seed",
    "device": "machine.device_type",
    "num_devices": "machine.num_devices",
    "batch_size": "batch_size",
    "num_machines": "machine.num_machines",
    "machine_rank": "machine.machine_rank",
    "dist_url": "machine.dist_url",
    "sh_degree": "pipeline.model.sh_degree",
    "sh_degree_interval": "pipeline.model.sh_degree_interval",
    "init_opacity": "pipeline.model.init_opacity",
    "init_scale": "pipeline.model.init_scale",
    "num_random": "pipeline.model.num_random",
    "global_scale": "pipeline.model.global_scale",
    "background_color": "pipeline.model.background_color",
    "render_depth": "pipeline.model.output_depth_during_training",
    "lpips": "pipeline.model.lpips",
    "steps_per_save": "steps_per_save",
    "steps_per_log": "logging.steps_per_log",
    "hooks": "hooks",
    "writers": "writers",
}
"""The fields of `SplatTrainerConfig` that are settings of the method, with their places in its config."""

PARTS = ("renderer", "image_model", "loss_fn", "densification")


@dataclass
class SplatTrainerConfig:
    """Settings of a run from Python: a method, and all changes to its settings.

    `settings` reaches every option of ``ns-train``; the other fields are short names for the most common ones. None
    means that the method's own value stays.
    """

    max_steps: int | None = None
    """Number of training steps; modules count them from 1 to this. Fewer than the method is made for make its schedules
    shorter; see ``full_length`` in `SplatkitTrainerConfig`."""
    method: str | MethodSpecification = "splatkit-3dgs-adc"
    """The method to start from, by its name for ``ns-train`` or as `make_method` returns it. The default is 3DGS with
    the paper's settings. Its parts are used unless `SplatTrainer` is given others."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further settings by the names of ``ns-train``'s options, such as ``{"pipeline.model.init_ply": "scene.ply"}``."""
    output_dir: str | Path = "outputs"
    """The folder of all runs; a run's own is ``output_dir/experiment_name/METHOD/TIME``, as ``ns-train``'s."""
    experiment_name: str | None = None
    """None means the name of the data's folder."""
    seed: int | None = None
    """Seed of all random generators; the methods have 42."""
    device: str | None = None
    """``"cuda"`` or ``"cpu"``; None means the GPU if there is one."""
    num_devices: int | None = None
    """Number of processes that train the run together, each on a GPU of its own, or on a share of the CPU. A script
    that sets it has to call ``run`` under ``if __name__ == "__main__":``, because the processes import the script."""
    batch_size: int | None = None
    """Number of images that each process renders at a step."""
    num_machines: int | None = None
    """Number of machines that train the run together, with ``num_devices`` processes each. The same script runs on all,
    with a ``machine_rank`` of its own on each; `SplatTrainer.run` returns on machine 0 alone."""
    machine_rank: int | None = None
    """The number of this machine, from 0."""
    dist_url: str | None = None
    """``"tcp://HOST:PORT"``: an address of machine 0, and a free port there, at which the machines find each other."""
    sh_degree: int | None = None
    """Highest degree of the spherical harmonics that make colours depend on the direction, 0 to 3; 3DGS has 3."""
    sh_degree_interval: int | None = None
    """The number of steps after which one more degree is used; 3DGS has 1000."""
    init_opacity: float | None = None
    """Opacity at the start, in (0, 1); 3DGS has 0.1."""
    init_scale: float | None = None
    """Size at the start, relative to the mean distance of the three nearest neighbours; 3DGS has 1."""
    num_random: int | None = None
    """Number of random points that training starts from if the data has no seed points; 50,000 by default."""
    global_scale: float | None = None
    """A factor of the scene's scale, to which learning rates of positions and sizes in densification are relative."""
    learning_rates: dict[str, float] = field(default_factory=dict[str, float])
    """Learning rates by group of parameters: means, scales, quats, opacities, sh0, shN, camera_opt, and those of parts,
    such as Exposure.log_gain; also in a run resumed from a checkpoint. Those left out are the method's. That of means
    is relative to the scene's scale. Schedules keep their shape: if the method's rate falls to a hundredth, so does
    the new one."""
    background_color: BackgroundColor | None = None
    """Colour behind the Gaussians. random changes every step, which keeps surfaces opaque; auto is the colour onto
    which the data set lays its images, random for images with an alpha channel, and black otherwise."""
    render_depth: bool | None = None
    """Whether training renders expected depth, too, for losses that read ``rend_out.depths``."""
    steps_per_save: int | None = None
    """Steps between the trainer's own checkpoints; there is always one after the last step."""
    steps_per_log: int | None = None
    """Steps between log entries."""
    lpips: bool | None = None
    """Whether evaluation reports LPIPS. Its weights are loaded at first use; without them it is left out."""
    hooks: tuple[str, ...] | None = None
    """Hooks, by registered name or import path (package.module:Class). An instance goes into the trainer's modules, as
    ``HookModule([hook])``."""
    writers: tuple[str, ...] | None = None
    """Writers for hooks and trainer, by name or import path: JsonLinesWriter, TensorboardWriter, WandbWriter."""

    def check(self) -> None:
        """Check all settings at once, before there are data and parts; `SplatTrainer` checks them with these, too.

        Raises:
            SplatkitError: there is no such method.
            OptionsError: names every setting that does not exist or is out of its range.
        """
        problems: list[str] = []
        config = self.method_config()
        self.set_in(config, problems)
        problems += option_problems(config, self.name_of, modules=None)
        if problems:
            raise OptionsError(problems)

    def set_in(self, config: SplatkitTrainerConfig, problems: list[str]) -> None:
        """Make these settings.

        Args:
            config: of the run.
            problems: is appended to, a line for each setting that cannot be made.
        """
        for place, value in self._given(problems).items():
            try:
                set_option(config, place, value)
            except OptionError as error:
                problems.append(f"{self.name_of(place)}{error}")
        rates: Any = self.learning_rates
        if isinstance(rates, Mapping):
            config.learning_rates = {**config.learning_rates, **rates}
        else:
            problems.append(f"learning_rates is {rates!r:.60}, expected a dict of rates by name, such as means")

    def method_config(self) -> SplatkitTrainerConfig:
        """A copy of the method's config, without these settings.

        Raises:
            SplatkitError: there is no such method.
        """
        if isinstance(self.method, str):
            config = find_method(self.method).config
        else:
            config = getattr(self.method, "config", None)
        if not isinstance(config, SplatkitTrainerConfig):
            raise SplatkitError(
                f"method is {self.method!r:.80}, expected the name of a splatkit method, or what make_method returns."
            )
        return deepcopy(config)

    def _given(self, problems: list[str]) -> dict[str, Any]:
        """The settings to be made, by their places."""
        given = {place: getattr(self, name) for name, place in SHORTHANDS.items() if getattr(self, name) is not None}
        if self.device is not None:
            given["machine.device_type"] = self._device_type(problems)
        given["output_dir"] = Path(self.output_dir)
        for name in ("hooks", "writers"):
            if isinstance(given.get(name), list):
                given[name] = tuple(given[name])
        shown = {place: name for name, place in SHORTHANDS.items() if name != "output_dir" and place in given}
        settings: Any = self.settings
        if not isinstance(settings, Mapping):
            problems.append(f"settings is {settings!r:.60}, expected a dict of values by option")
            return given
        for option, value in settings.items():
            place = _place(option)
            part = place.removeprefix("pipeline.model.")
            if place in shown:
                problems.append(f"{shown[place]} and settings[{option!r}] are the same: give one of them")
            elif part in PARTS and place != part:
                problems.append(f"settings[{option!r}]: hand the part to SplatTrainer, as {part}=…")
            else:
                given[place] = value
        return given

    def changes_part(self, name: str) -> bool:
        """Whether a setting is one of a part, such as the renderer."""
        return any(_place(option).startswith(f"pipeline.model.{name}.") for option in self.settings)

    def _device_type(self, problems: list[str]) -> str:
        if str(self.device) not in ("cuda", "cuda:0", "cpu"):
            problems.append(
                f"device is {self.device!r}, expected cuda, cpu or None (to use another GPU, set the environment "
                "variable CUDA_VISIBLE_DEVICES)"
            )
            return "cpu"  # which is checked no further
        return str(self.device).partition(":")[0]

    def name_of(self, place: str) -> str:
        """The name that Python has for an option, for messages.

        Args:
            place: in the config of a run, such as ``pipeline.model.sh_degree``.
        """
        names = {known: name for name, known in SHORTHANDS.items()}
        if place == "learning_rates" or (place in names and getattr(self, names[place]) is not None):
            return names.get(place, place)
        return f"settings[{place!r}]"


def _place(option: str) -> str:
    """The place in a run's config of an option, which may be written as on the command line."""
    return str(option).removeprefix("--").replace("-", "_")
