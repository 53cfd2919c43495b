"""Writers that need nerfstudio."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from nerfstudio.utils import writer as nerfstudio_writer
from torch import Tensor
from typing_extensions import Self

from splatkit_ns.errors import SplatkitError
from splatkit_ns.hooks import WRITER_REGISTRY, Writer

Vis = Literal[
    "viewer", "wandb", "tensorboard", "comet", "viewer+wandb", "viewer+tensorboard", "viewer+comet", "viewer_legacy",
    "none",
]  # fmt: skip
"""nerfstudio's viewers and event writers."""

LOGIN = {
    "wandb": "Log in with `wandb login`, or set WANDB_MODE=offline.",
    "comet": "Set COMET_API_KEY, or log in with `comet login`.",
}
"""Logging service -> the advice if a run cannot be started there."""


@contextmanager
def explained_logins(vis: str) -> Generator[None]:
    """Explain errors of the writers of ``--vis``, which nerfstudio starts in the block.

    Raises:
        SplatkitError: a writer cannot be started, because its package or a login is missing.
    """
    try:
        yield
    except Exception as error:  # of the services' own classes
        advice = _advice(vis.removeprefix("viewer+"), error)
        at = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        if advice is None or "setup_event_writer" not in at:
            raise
        raise SplatkitError(f"--vis {vis} could not start a run: {_sentence(error)} {advice}") from error


@WRITER_REGISTRY.register()
class WandbWriter(Writer):
    """Weights & Biases, through nerfstudio's writer: the same run if ``--vis wandb`` has started one.

    Args:
        writer: nerfstudio's.
        step_offset: added to every step; W&B wants steps that never go down, and nerfstudio's are 0-based.
    """

    def __init__(self, writer: Any, step_offset: int = 0) -> None:
        self._writer = writer
        self._step_offset = step_offset

    @classmethod
    def for_run(cls, log_dir: Path, experiment_name: str, project_name: str) -> Self:
        """Start a W&B run, or join nerfstudio's.

        Raises:
            SplatkitError: the run cannot be started, because the package or a login is missing.
        """
        for writer in nerfstudio_writer.EVENT_WRITERS:
            if isinstance(writer, nerfstudio_writer.WandbWriter):
                return cls(writer, step_offset=-1)
        try:
            return cls(nerfstudio_writer.WandbWriter(log_dir, experiment_name, project_name))
        except Exception as error:  # of wandb's own classes
            what, advice = _sentence(error), _advice("wandb", error)
            raise SplatkitError(f"WandbWriter could not start a run: {what} {advice}") from error

    def write_scalar(self, name: str, scalar: float | Tensor, step: int) -> None:
        """Log a number."""
        self._writer.write_scalar(name, float(scalar), step + self._step_offset)

    def write_image(self, name: str, image: Tensor, step: int) -> None:
        """Log an image."""
        self._writer.write_image(name, image.detach().cpu(), step + self._step_offset)

    def write_config(self, name: str, config_dict: Mapping[str, Any], step: int) -> None:
        """Set the run's config."""
        self._writer.write_config(name, dict(config_dict), step)


def _advice(service: str, error: Exception) -> str | None:
    """The advice for this service; None if the service is not known."""
    return "Install it with pip." if service in LOGIN and isinstance(error, ImportError) else LOGIN.get(service)


def _sentence(error: Exception) -> str:
    return f"{error}".strip().rstrip(".") + "."
