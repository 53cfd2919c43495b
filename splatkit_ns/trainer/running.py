"""Running the training of a `SplatTrainer`, in this process or in several, and collecting its result."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from splatkit_ns.errors import SplatkitError
from splatkit_ns.hooks import HookModule
from splatkit_ns.image_metrics.psnr import psnr
from splatkit_ns.modules import SplatBaseModule, SplatEvaluator
from splatkit_ns.plugin.reporting.console import quiet_console, reset_writers
from splatkit_ns.plugin.reporting.history import History
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.plugin.run.processes.rank_processes import run_in_ranks
from splatkit_ns.plugin.trainer import SplatkitTrainer, SplatkitTrainerConfig
from splatkit_ns.splat.rng import seed_everything
from splatkit_ns.trainer.result import SplatTrainerResult


def train_here(config: SplatkitTrainerConfig, modules: list[SplatBaseModule[Any]]) -> SplatTrainerResult:
    """Train in this process.

    Args:
        config: the config of the run, which has claimed its folder.
        modules: the run-time copies of further modules.
    """
    trainer, figures = _train(config, modules)
    context = trainer.pipeline.model.context
    return _result(trainer, figures, trainer.step + 1, context.stop_reason, tuple(context.modules))


def train_in_ranks(config: SplatkitTrainerConfig, modules: list[SplatBaseModule[Any]]) -> SplatTrainerResult:
    """Train in several processes, and open the last checkpoint in this one; see `train_here` for the arguments.

    Raises:
        SystemExit: the run has ended, and its results are on another machine.
    """
    ended: _Ended | None = run_in_ranks(config, _train_in_rank, modules)
    if ended is None:
        raise SystemExit(0)
    config = replace(config, hooks=(), writers=(), vis="none")
    path = checkpoint_files.path_of(config.get_checkpoint_dir(), ended.step - 1)
    if path.exists():
        config.load_checkpoint, config.load_dir = path, None
    try:
        with quiet_console():
            seed_everything(config.machine.seed)
            trainer = SplatkitTrainer(config)
            trainer.modules += [module for module in modules if not isinstance(module, HookModule)]
            trainer.setup()
    finally:
        reset_writers()
    own = tuple(trainer.pipeline.model.context.modules)
    return _result(trainer, ended.figures, ended.step, ended.stop_reason, ended.modules or own)


def check_script() -> None:
    """Check that the processes of several ranks can import the program, as they do when they start.

    Raises:
        SplatkitError: it has no file.
    """
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)  # none in a notebook, of which nothing is imported
    if path is not None and getattr(main, "__spec__", None) is None and not Path(path).exists():
        raise SplatkitError(
            f"Several processes import the program that starts them, but there is no file {path}. Save the program as "
            'a script, with its calls under if __name__ == "__main__":, and run that.'
        )


@dataclass(frozen=True)
class _Figures:
    """The figures of a run's steps, for `SplatTrainerResult`."""

    metrics: dict[str, float]
    history: list[dict[str, float]]


@dataclass(frozen=True)
class _Ended:
    """The end of a run in rank 0, as it is sent to the process that started the ranks."""

    figures: _Figures
    step: int
    stop_reason: str | None
    modules: tuple[SplatBaseModule[Any], ...] | None
    """The run-time copies of all parts; None if they cannot be sent."""


def _train_in_rank(config: SplatkitTrainerConfig, modules: list[SplatBaseModule[Any]]) -> _Ended:
    trainer, figures = _train(config, modules)
    context = trainer.pipeline.model.context
    parts: tuple[SplatBaseModule[Any], ...] | None = tuple(context.modules)
    try:
        pickle.dumps(parts)
    except Exception:  # what a part of a user has made, such as an open file
        parts = None
    return _Ended(figures, trainer.step + 1, context.stop_reason, parts)


def _train(config: SplatkitTrainerConfig, modules: list[SplatBaseModule[Any]]) -> tuple[SplatkitTrainer, _Figures]:
    reset_writers()
    seed_everything(config.machine.seed)
    try:
        trainer = SplatkitTrainer(config)
        trainer.modules += modules
        try:
            trainer.setup()
            history = History.begin()
            trainer.train()
        finally:
            if trainer.viewer_state is not None:
                trainer.shutdown()
    finally:
        reset_writers()
    return trainer, _figures(trainer, history)


def _figures(trainer: SplatkitTrainer, history: History) -> _Figures:
    model = trainer.pipeline.model
    context = model.context
    metrics: dict[str, float] = {}
    if context.loss is not None:
        metrics["loss"] = float(context.loss.detach())
        metrics |= {f"loss/{name}": float(term.detach()) for name, term in context.loss_terms.items()}
        if context.rendered_frames is not None and context.target_frames is not None:
            metrics["psnr"] = float(psnr(context.rendered_frames, context.target_frames, context.masks))
    metrics["num_gaussians"] = len(model.training_state)
    if context.loss is not None:
        history.complete(trainer.step + 1, metrics)
    for module in context.modules:
        if isinstance(module, SplatEvaluator):
            metrics |= {f"eval/{name}": value for name, value in getattr(module, "metrics", {}).items()}
    return _Figures(metrics, history.entries)


def _result(
    trainer: SplatkitTrainer,
    figures: _Figures,
    step: int,
    stop_reason: str | None,
    modules: tuple[SplatBaseModule[Any], ...],
) -> SplatTrainerResult:
    model = trainer.pipeline.model
    return SplatTrainerResult(
        training_state=model.training_state,
        metrics=figures.metrics,
        step=step,
        output_dir=trainer.base_dir,
        checkpoint_path=checkpoint_files.path_of(trainer.checkpoint_dir, step - 1),
        stop_reason=stop_reason,
        modules=modules,
        history=figures.history,
        run_model=model,
    )
