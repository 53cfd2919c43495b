"""The result of a run from Python, and a trained run that is opened: Gaussians, figures, and images to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, overload

from torch import Tensor

from splatkit_ns import rendering
from splatkit_ns.cameras import View
from splatkit_ns.modules import ImageEvaluation, SplatBaseModule
from splatkit_ns.plugin.loading import load_run
from splatkit_ns.plugin.model import SplatkitModel
from splatkit_ns.plugin.run.parts.run_data import RunData
from splatkit_ns.splat import SplatTrainingState


class RunImages:
    """Images of a run, made with the parts of the run and what they have learnt."""

    training_state: SplatTrainingState
    run_model: SplatkitModel

    def images(self) -> Iterator[ImageEvaluation]:
        """Render the held-out images one by one, beside the photographs, with their metrics; see `RunData.evaluate`."""
        data = self.run_model.context.data_provider
        assert isinstance(data, RunData)
        return data.evaluate()

    @overload
    def render(self, view: View, *, depth: bool = False) -> Tensor: ...

    @overload
    def render(self, view: Sequence[View], *, depth: bool = False) -> list[Tensor]: ...

    def render(self, view: View | Sequence[View], *, depth: bool = False) -> Tensor | list[Tensor]:
        """Render the Gaussians with the run's renderer, on its evaluation background; see `splatkit_ns.render`.

        Args:
            view: a camera, or a list of them.
            depth: render depth instead of colours.

        Raises:
            SplatkitError: see `splatkit_ns.render`.
        """
        model = self.run_model
        settings: dict[str, Any] = {
            "renderer": model.renderer,
            "background": model.backgrounds.of_evaluation(model.device),
            "sh_degree": model.sh_degree_now(),
            "depth": depth,
        }
        return rendering.render(self.training_state, view, **settings)


@dataclass(frozen=True, eq=False)
class SplatTrainerResult(RunImages):
    """The result of a run."""

    training_state: SplatTrainingState
    """The trained Gaussians and their optimizers; its `save_ckpt` still writes the run's full checkpoint."""
    metrics: dict[str, float]
    """The figures of the last step: ``loss``, its terms as ``loss/NAME``, ``psnr`` of its training image and
    ``num_gaussians``; and the last means of each `SplatEvaluator` as ``eval/NAME``. Without a trained step only
    ``num_gaussians``."""
    step: int
    """The last step that was trained, counted from 1."""
    output_dir: Path
    """The run's folder, with config.yml, which the ``ns-*`` commands take."""
    checkpoint_path: Path
    """The checkpoint after the last step; there is none if a run was stopped before its first."""
    stop_reason: str | None
    """The reason that a module or hook gave to ``stop``; None if the run came to its last step."""
    modules: tuple[SplatBaseModule[Any], ...]
    """The run-time copies of renderer, image model, loss, densification and modules, each after the parts that it
    holds, in the order of their hooks."""
    history: list[dict[str, float]]
    """The figures of each step that was logged (see ``steps_per_log``) and of the last: ``step``, counted from 1,
    ``seconds`` since training began, and as in ``metrics`` ``loss``, its terms, ``psnr`` and ``num_gaussians``; of
    logged steps also ``learning_rate/NAME``. ``pandas.DataFrame(result.history)`` makes a table of it."""
    run_model: SplatkitModel = field(repr=False)
    """The model of the run, as nerfstudio's classes know it."""


@dataclass(frozen=True, eq=False)
class OpenedRun(RunImages):
    """A trained run in the state of one of its checkpoints."""

    training_state: SplatTrainingState
    """The trained Gaussians, with all their rows."""
    step: int
    """The last step that was trained, counted from 1."""
    checkpoint_path: Path
    """The checkpoint that was read."""
    run_model: SplatkitModel = field(repr=False)
    """The model of the run, as nerfstudio's classes know it; its parts have the parameters that they had learnt."""


def open_run(
    config_path: str | PathLike[str],
    *,
    data: Path | None = None,
    step: int | None = None,
    device: str | None = None,
    trust: Sequence[str] = (),
) -> OpenedRun:
    """Open a trained run of ``ns-train`` or `SplatTrainer`, to look at it from Python.

    Args:
        config_path: the run's ``config.yml``.
        data: folder of the data set; None means the one that the run used.
        step: the checkpoint's step, counted from 1; None means the newest checkpoint.
        device: "cuda" or "cpu"; None means "cuda" if the machine has it.
        trust: packages or modules of your own parts that the config may name; others than nerfstudio's and ours are
            refused, since a config may name any code.

    Raises:
        SplatkitError: the config names objects that are not trusted, there is no config or checkpoint of a splatkit
            method, or the data set does not exist.
    """
    run = load_run(Path(config_path), data=data, step=None if step is None else step - 1, device=device, trust=trust)
    model = run.pipeline.model
    return OpenedRun(model.training_state, run.step + 1, run.checkpoint, model)
