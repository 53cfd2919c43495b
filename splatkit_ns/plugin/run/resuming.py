"""The checkpoint from which a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from nerfstudio.engine.trainer import TrainerConfig

from splatkit_ns.plugin.run import checkpoints
from splatkit_ns.plugin.run.folder import RunFolder


class LoadedCheckpoint(NamedTuple):
    """A checkpoint that has been read."""

    path: Path
    content: dict[str, Any]


def run_checkpoint(config: TrainerConfig) -> LoadedCheckpoint | None:
    """The checkpoint that the config of a run names, or the newest of the run's own folder if the run is continued.

    Raises:
        SplatkitError: there is none that can be read.
    """
    if config.load_dir is not None:
        return LoadedCheckpoint(*checkpoints.newest_readable(Path(config.load_dir), config.load_step))
    if config.load_checkpoint is not None:
        path = Path(config.load_checkpoint)
        return LoadedCheckpoint(path, checkpoints.read(path))
    if RunFolder(config).is_continued:
        return LoadedCheckpoint(*checkpoints.newest_readable(config.get_checkpoint_dir(), None))
    return None
