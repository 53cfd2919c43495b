"""Opening a trained run for evaluation, as ``ns-eval`` does, with one message if it cannot be opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.options.check import check_device
from splatkit_ns.plugin.pipeline import SplatkitPipeline, SplatkitPipelineConfig
from splatkit_ns.plugin.run import checkpoints
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig
from splatkit_ns.splat import read_checkpoint


@dataclass(frozen=True)
class LoadedRun:
    """A run in the state of one of its checkpoints, set to evaluation."""

    config: SplatkitTrainerConfig
    pipeline: SplatkitPipeline
    checkpoint: Path
    step: int
    """0-based."""


def load_run(
    config_path: Path, *, data: Path | None = None, step: int | None = None, device: str | None = None
) -> LoadedRun:
    """Open a run.

    Checkpoints are looked for beside ``config.yml`` first, so a run's folder may have been moved or copied. The config
    is trusted, as nerfstudio's own commands trust it: it is YAML that may name any Python object. Checkpoints are not.

    Args:
        config_path: the run's ``config.yml``.
        data: folder of the data set; None means the one that the run used.
        step: the checkpoint's step, 0-based; None means the newest checkpoint that is whole.
        device: "cuda" or "cpu"; None means "cuda" if the machine has it, else "cpu".

    Raises:
        SplatkitError: there is no config or checkpoint of a splatkit method, or the data set does not exist.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device, option="--device")
    config = _read_config(config_path)
    folder = config_path.parent / config.relative_model_dir
    if not checkpoints.checkpoint_paths(folder):
        folder = config.get_checkpoint_dir()
    path, checkpoint = _read_checkpoint(folder, step)
    if data is not None:
        config.pipeline.datamanager.data = data
    pipeline: Any = config.pipeline.setup(device=device, test_mode="test")
    checkpoints.restore_weights(pipeline, checkpoint, path)
    return LoadedRun(config, pipeline.eval(), path, int(checkpoint["step"]))


def _read_config(path: Path) -> SplatkitTrainerConfig:
    if path.is_dir():
        inside = path / "config.yml"
        hint = f" Its config is {inside}." if inside.is_file() else ""
        raise SplatkitError(f"--load-config: {path} is a folder; give the path of a run's config.yml.{hint}")
    try:
        config: Any = yaml.load(path.read_text("utf-8"), Loader=yaml.Loader)  # as nerfstudio's commands do
    except FileNotFoundError:
        raise SplatkitError(f"--load-config: {path} does not exist. ns-train prints the path when it starts.") from None
    except Exception as error:  # YAML calls constructors of any class that the file names
        reason = " ".join(str(error).split())[:300]
        raise SplatkitError(
            f"--load-config: {path} cannot be read ({type(error).__name__}: {reason}). It must be the config.yml of a "
            "run, and what it names must be importable here: methods of your own need their folder on PYTHONPATH."
        ) from error
    pipeline = getattr(config, "pipeline", None)
    if isinstance(config, SplatkitTrainerConfig) and isinstance(pipeline, SplatkitPipelineConfig):
        return config
    method = getattr(config, "method_name", None)
    found = f"is a run of the method {method!r}" if method else f"holds {type(config).__name__}, no run"
    raise SplatkitError(
        f"--load-config: {path} {found}; expected one of a splatkit method (such as splatkit-3dgs), which ns-train "
        "writes into the run's folder as config.yml."
    )


def _read_checkpoint(folder: Path, step: int | None) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint, or that of a step; if there is only one, the error says why it cannot be read."""
    paths = checkpoints.checkpoint_paths(folder)
    if len(paths) == 1 and step in (None, checkpoints.step_of(paths[0])):
        return paths[0], read_checkpoint(paths[0])
    return checkpoints.newest_readable(folder, step)
