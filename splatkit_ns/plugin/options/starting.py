"""The checks and the config.yml of a run that begins."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from copy import copy
from pathlib import Path
from typing import Any

from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from rich.markup import escape

from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.plugin.data.scenes.bare_colmap import dataparser_of
from splatkit_ns.plugin.options.check import (
    check_device,
    check_options,
    check_renderer,
    machine_problems,
    option_name,
)
from splatkit_ns.plugin.options.compared import compared_options
from splatkit_ns.plugin.options.length import fit_to_length, fit_to_scene, is_short
from splatkit_ns.plugin.reporting.console import report_once
from splatkit_ns.plugin.run.checkpoints.resuming import say_if_nothing_to_train
from splatkit_ns.plugin.run.ending.excepthook import install_excepthook
from splatkit_ns.plugin.run.ending.signals import StoppedBySignal, interruptible
from splatkit_ns.plugin.run.folder.checkpoint_files import checkpoint_paths
from splatkit_ns.plugin.run.folder.command_line import LOAD_CONFIG, TRAINING, options_of, pass_over_imports
from splatkit_ns.plugin.run.folder.config_file import PLACE, note_unknown_settings
from splatkit_ns.plugin.run.folder.run_folder import RunFolder
from splatkit_ns.plugin.run.opaque_parts import part_itself
from splatkit_ns.plugin.run.processes.machines import Machine, Machines, address_of
from splatkit_ns.plugin.run.processes.rank_processes import hide_ranks, number_of_ranks
from splatkit_ns.ranges import is_number
from splatkit_ns.splat.state_checkpoint import package_versions


def check_run(config: Any) -> None:
    """Check options and device before a run begins, and fit its settings to its length.

    If the renderer needs gsplat's CUDA code, the first check compiles it.

    Raises:
        SplatkitError: options are out of range, or the device or gsplat's code cannot be used.
        StoppedBySignal: Ctrl+C.
    """
    with interruptible():
        check_options(config)
        fit_to_length(config)
        if number_of_ranks(config) == 1 or config.machine.device_type != "cuda":  # else each rank checks its own GPU
            check_device(config.machine.device_type)
            check_renderer(config.pipeline.model.renderer, config.machine.device_type)


def _choose_dataparser(datamanager: Any) -> None:
    """Let ``config.yml`` name the dataparser that the data need."""
    given = copy(datamanager.dataparser)
    if datamanager.data is not None:
        given.data = datamanager.data
    chosen = dataparser_of(given)
    if chosen is not given:  # else the config stays as it is, and a run that is started again is known by it
        datamanager.dataparser = chosen


def placed(config: Any, arguments: Sequence[str] | None = None) -> Any:
    """Give a config that ``ns-train --load-config`` has read the devices and machines of the command line.

    The other options of that command do not count, for which there is a note: nerfstudio passes over them.

    Args:
        config: of the run; changed.
        arguments: of the command; None means those of this process.

    Returns:
        The config.
    """
    given = options_of(TRAINING, sys.argv if arguments is None else arguments)
    if LOAD_CONFIG not in given:
        return config
    places = {f"--machine.{name.replace('_', '-')}": name for name in PLACE}
    for option, name in places.items():
        if option in given:
            setattr(config.machine, name, type(getattr(config.machine, name))(given[option]))
    others = [name for name in given if name not in (LOAD_CONFIG, *places)]
    if others:
        report_once(
            f"--load-config takes all settings from its file. What else is given does not count: {', '.join(others)}. "
            "Change the file instead, or start from the run's checkpoints: --load-dir in place of --load-config."
        )
    return config


def _meet(config: Any) -> Machines | None:
    """Meet the other machines of a run; None if there are none.

    Raises:
        SplatkitError: see `Machines.meet`.
    """
    machine = config.machine
    problems = machine_problems(machine)
    if machine.num_machines <= 1 or address_of(machine.dist_url) is None:
        if problems:
            raise OptionsError(problems)
        return None
    options = compared_options(config, option_name)
    folder = config.get_base_dir().absolute()
    this = Machine(machine.machine_rank, socket.gethostname(), folder, package_versions(), options)
    machines = Machines(this, machine.num_machines, machine.dist_url)
    if problems:
        error = OptionsError(problems)
        machines.refuse(error)
        raise error
    machines.meet()
    return machines


def refuse_moved_run(arguments: Sequence[str], config: Any) -> None:
    """Refuse to begin anew if ``ns-train --load-config`` names a run that has been moved since it was trained.

    Raises:
        SplatkitError: there are checkpoints beside the file, and none in the folder that it names as that of the run.
    """
    named = options_of(TRAINING, arguments).get(LOAD_CONFIG)
    if named is None or checkpoint_paths(config.get_checkpoint_dir()):
        return
    beside = Path(named).absolute().parent
    if checkpoint_paths(beside / config.relative_model_dir):
        raise SplatkitError(
            f"--load-config: the run's checkpoints are in {beside}, but its config.yml says that the run is "
            f"{config.get_base_dir()}, as seen from {Path.cwd()}, where there are none. If ns-train was started "
            "in another folder before, start it there. If the run has been moved, move it back, or correct "
            "output_dir, experiment_name and timestamp in config.yml. To train anew, use a copy of config.yml alone."
        )


def save_run_config(config: Any) -> None:
    """Check the options, claim the run's folder, and write ``config.yml`` into it.

    If a part cannot be written, the run goes on, but the other ``ns-*`` commands cannot open it.

    Raises:
        SplatkitError: options are out of range, the device cannot be used, or the folder cannot be written or belongs
            to another run. No empty folder is left behind.
    """
    install_excepthook()
    pass_over_imports(TRAINING)
    note_unknown_settings(config)
    folder = RunFolder(config)
    try:
        with interruptible():
            machines = _meet(config)
        with nullcontext() if machines is None else machines.telling():
            _check_and_claim(config, folder)
    except (SplatkitError, StoppedBySignal):
        if config.machine.machine_rank == 0:
            folder.discard_if_empty()
        raise
    hide_ranks(config, machines)


def _check_and_claim(config: Any, folder: RunFolder) -> None:
    is_first = config.machine.machine_rank == 0  # which alone writes
    try:
        _choose_dataparser(config.pipeline.datamanager)
        fit_to_length(config)
        if is_first:
            refuse_moved_run(sys.argv, config)
            folder.note_if_same_run()
        config.check()
        if is_first:
            folder.save_config()
    except Exception as error:  # YAML pickles the parts, and a user's part may raise any exception
        if isinstance(error, SplatkitError) or not is_first:
            raise
        report_once(
            f"There is no config.yml in {config.get_base_dir()}, so ns-eval, ns-export and ns-viewer cannot open "
            f"this run: a part of it cannot be pickled ({type(error).__name__}: {error})."
        )


def fit_run_to_scene(config: Any, model: Any, writes: bool) -> None:
    """Let a run take the settings that its photographs need, such as the number of its steps, if they are not given.

    Args:
        config: the config of the run; changed.
        model: a `SplatkitModel`, whose parts have not been set up; it takes the settings that have changed.
        writes: whether this process writes into the folder of the run: ``config.yml`` then gets these settings, too.

    Raises:
        SplatkitError: the folder cannot be written.
    """
    photographs, steps = model.context.num_train_images, config.max_num_iterations
    if fit_to_scene(config, photographs):
        fewer = config.max_num_iterations if config.max_num_iterations < steps else None
        model.take_settings(config.pipeline.model, photographs, fewer)
        if writes:
            RunFolder(config).store_fitted()


def say_what_begins(config: Any, start_step: int, pipeline: Any) -> None:
    """Print the size of a run in one line, or what to do if the checkpoint has as many steps as the config sets.

    Args:
        config: the config of the run.
        start_step: the number of steps that have been trained.
        pipeline: its parts have been set up.
    """
    say_if_nothing_to_train(config, start_step)
    if config.pipeline.model.init_ply is not None and (config.load_dir or config.load_checkpoint):
        report_once("The Gaussians are those of the checkpoint: --pipeline.model.init-ply does not count beside it.")
    if start_step < config.max_num_iterations:
        model, cameras = pipeline.model, pipeline.datamanager.train_dataset.cameras
        number, at_a_time = len(model.training_state), model.context.world_size * model.context.batch_size
        text = describe_run(config, cameras, model.densification, number, at_a_time)
        CONSOLE.print(escape(text), highlight=False, soft_wrap=True)


def describe_run(config: Any, cameras: Cameras, densification: Any, number: int, at_a_time: int = 1) -> str:
    """The size of a run in one line: photographs, steps, and the limit of Gaussians and the dropout, if there are any.

    Args:
        config: the config of the run.
        cameras: those of the training images.
        densification: the run-time copy, set up.
        number: the number of Gaussians, which a limit below it leaves as they are.
        at_a_time: the number of photographs of a step; steps count single ones unless told otherwise.
    """
    sizes = sorted(set(zip(cameras.width.flatten().tolist(), cameras.height.flatten().tolist(), strict=True)))
    shown = " to ".join(f"{width}×{height}" for width, height in dict.fromkeys((sizes[0], sizes[-1])))
    parts = [f"{len(cameras)} photographs of {shown}", f"{config.max_num_iterations:,} steps"]
    if at_a_time > 1:
        parts[-1] += f", {at_a_time} photographs at a time" if config.count_images else f" of {at_a_time} photographs"
    limit = getattr(densification, "limit", getattr(densification, "max_gaussians", None))
    if is_number(limit):
        parts.append(f"at most {max(limit, number):,} Gaussians")
    dropout = getattr(part_itself(config.pipeline.model.renderer), "dropout", 0.0)
    if is_number(dropout) and dropout > 0:
        parts.append(f"dropout {dropout:.2g}")
    if is_short(config):
        parts.append(f"schedules fitted to {config.max_num_iterations:,} steps")
    return f"Training: {', '.join(parts)}"
