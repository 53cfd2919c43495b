"""The checkpoint from which a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from rich.markup import escape

from splatkit_ns.files import quoted
from splatkit_ns.parts.context import StepContext
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.plugin.run.folder.own_methods import registered_name
from splatkit_ns.plugin.run.folder.run_folder import RunFolder
from splatkit_ns.splat import read_checkpoint


class LoadedCheckpoint(NamedTuple):
    """A checkpoint that has been read."""

    path: Path
    content: dict[str, Any]


def say_if_nothing_to_train(config: TrainerConfig, start_step: int) -> None:
    """Print what to do if the checkpoint has as many steps as the config sets.

    Args:
        config: the config of the run.
        start_step: the number of steps that have been trained.
    """
    if start_step >= config.max_num_iterations:
        CONSOLE.print(
            f"The checkpoint has {start_step} steps already, and --max-num-iterations is no larger: "
            f"nothing to train. To go on: --load-dir {escape(quoted(config.get_checkpoint_dir()))} with a larger "
            "--max-num-iterations, or a larger max_num_iterations in the config.yml that --load-config reads."
        )


def say_why_stopped(context: StepContext, step: int) -> None:
    """Print the reason if a part has requested the run to stop.

    Args:
        context: holds the request.
        step: the last step that was trained, counted from 1.

    Raises:
        SystemExit: the part requested it by raising this exception.
    """
    if context.exit_request is not None:
        raise context.exit_request
    if context.stop_reason is not None:
        CONSOLE.print(f"Training stops after step {step}: {escape(context.stop_reason)}")


def say_how_to_go_on(config: TrainerConfig, step: int) -> None:
    """Print the command that goes on with a run that was stopped and saved, if it has a ``config.yml``.

    Args:
        config: the config of the run.
        step: the last step that was trained, counted from 1.
    """
    path = config.get_base_dir() / "config.yml"
    if path.is_file():  # a refinement of `splatkit prune` has none
        CONSOLE.print(
            f"Stopped after step {step} of {config.max_num_iterations}, saved. To go on: ns-train "
            f"{registered_name(str(config.method_name))} --load-config {escape(quoted(path))}",
            soft_wrap=True,
        )


def run_checkpoint(config: TrainerConfig) -> LoadedCheckpoint | None:
    """The checkpoint that the config of a run names, or the newest of the run's own folder if the run is continued.

    Raises:
        SplatkitError: there is none that can be read.
    """
    if config.load_dir is not None:
        return LoadedCheckpoint(*checkpoint_files.newest_readable(Path(config.load_dir), config.load_step))
    if config.load_checkpoint is not None:
        path = Path(config.load_checkpoint)
        return LoadedCheckpoint(path, read_checkpoint(path))
    if RunFolder(config).is_continued:
        return LoadedCheckpoint(*checkpoint_files.newest_readable(config.get_checkpoint_dir(), None))
    return None
