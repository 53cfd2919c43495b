"""Opening a trained run for evaluation, as ``ns-eval`` does, with one message if it cannot be opened."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from splatkit_ns import ranges
from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.data.checks.placement import note_if_opened_elsewhere
from splatkit_ns.plugin.options.check import check_device, check_renderer
from splatkit_ns.plugin.pipeline import SplatkitPipeline, SplatkitPipelineConfig
from splatkit_ns.plugin.run.checkpoints import stored_state
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.plugin.run.folder.config_file import note_unknown_settings, read_config_file
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
    config_path: Path,
    *,
    data: Path | None = None,
    step: int | None = None,
    device: str | None = None,
    trust: Sequence[str] = (),
) -> LoadedRun:
    """Open a run, which may be a stranger's: neither its config nor its checkpoint can run code.

    Checkpoints are looked for beside ``config.yml`` first, so a run's folder may have been moved or copied.

    Args:
        config_path: the run's ``config.yml``.
        data: folder of the data set; None means the one that the run used.
        step: the checkpoint's step, 0-based; None means the newest checkpoint that is whole.
        device: "cuda" or "cpu"; None means "cuda" if the machine has it, else "cpu".
        trust: packages or modules of parts that the run's config may name besides nerfstudio's and ours.

    Raises:
        SplatkitError: there is no config or checkpoint of a splatkit method, the config names objects that are not
            trusted, or the data set does not exist; or gsplat's CUDA code is needed and cannot be used.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device, option="--device")
    config = read_config(config_path, trust)
    check_renderer(config.pipeline.model.renderer, torch.device(device).type)
    path, checkpoint = _read_checkpoint(checkpoint_folder(config, config_path), step)
    if data is not None:
        config.pipeline.datamanager.data = data
    with _wrong_values_named(config, config_path):
        pipeline: Any = config.pipeline.setup(device=device, test_mode="test")
    note_if_opened_elsewhere(pipeline.datamanager, config_path.parent)
    stored_state.restore_weights(pipeline, checkpoint, path)
    return LoadedRun(config, pipeline.eval(), path, int(checkpoint["step"]))


@contextmanager
def _wrong_values_named(config: SplatkitTrainerConfig, path: Path) -> Generator[None]:
    """Raise an error that names the values in a config which no setting can have, if one of them fails the block."""
    try:
        yield
    except SplatkitError:
        raise
    except Exception as error:  # a value of any type, anywhere
        if wrong := ranges.problems(config):
            raise SplatkitError(f"--load-config: {path} cannot be used: {'; '.join(wrong)}.") from error
        raise


def checkpoint_folder(config: SplatkitTrainerConfig, path: Path) -> Path:
    """The folder of a run's checkpoints: that beside its ``config.yml`` if there are any, else that in the config."""
    folder = path.parent / config.relative_model_dir
    return folder if checkpoint_files.checkpoint_paths(folder) else config.get_checkpoint_dir()


def read_config(path: Path, trust: Sequence[str] = (), shown: str = "--load-config: ") -> SplatkitTrainerConfig:
    """Read the config of a run of a splatkit method.

    Args:
        path: the run's ``config.yml``.
        trust: see `load_run`.
        shown: stands before the path in messages.

    Raises:
        SplatkitError: it cannot be read, or names objects that are not trusted; then nothing in it was run.
    """
    config = read_config_file(path, trust, shown)
    pipeline = getattr(config, "pipeline", None)
    if isinstance(config, SplatkitTrainerConfig) and isinstance(pipeline, SplatkitPipelineConfig):
        note_unknown_settings(config)
        return config
    method = getattr(config, "method_name", None)
    found = f"is a run of the method {method!r}" if method else f"holds {type(config).__name__}, no run"
    raise SplatkitError(
        f"{shown}{path} {found}; expected one of a splatkit method (such as splatkit-3dgs), which ns-train "
        "writes into the run's folder as config.yml."
    )


def _read_checkpoint(folder: Path, step: int | None) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint, or that of a step; if there is only one, the error says why it cannot be read."""
    paths = checkpoint_files.checkpoint_paths(folder)
    if len(paths) == 1 and step in (None, checkpoint_files.step_of(paths[0])):
        return paths[0], read_checkpoint(paths[0])
    return checkpoint_files.newest_readable(folder, step)
