"""The Python entry to training: nerfstudio's trainer, set up from parts."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splatkit_ns.data_provider import SplatDataProvider
from splatkit_ns.densification import SplatDensification
from splatkit_ns.errors import SplatkitError
from splatkit_ns.image_metrics.psnr import psnr
from splatkit_ns.loss_fn import SplatLossFn
from splatkit_ns.modules import SplatBaseModule, SplatEvaluator
from splatkit_ns.parts.checks import check_instance
from splatkit_ns.parts.copying import running_copy
from splatkit_ns.plugin.model import SplatkitModelConfig
from splatkit_ns.plugin.pipeline import SplatkitPipelineConfig
from splatkit_ns.plugin.reporting.console import reset_writers
from splatkit_ns.plugin.reporting.history import History
from splatkit_ns.plugin.run.folder import RunFolder
from splatkit_ns.plugin.run.held import held
from splatkit_ns.plugin.run.modules import check_parts, draws_progress
from splatkit_ns.plugin.run_config import gaussian_optimizers, surroundings, trainer_config
from splatkit_ns.plugin.trainer import SplatkitTrainer, SplatkitTrainerConfig
from splatkit_ns.renderer import SplatRenderer
from splatkit_ns.splat import check_writable
from splatkit_ns.trainer.config import SplatTrainerConfig
from splatkit_ns.trainer.result import SplatTrainerResult

METHOD_NAME = "splatkit-3dgs"
"""The registered method under whose name runs are saved, so that the ``ns-*`` commands open them."""


class SplatTrainer:
    """Trains Gaussians from Python, with the same steps, checkpoints and writers as ``ns-train``.

    Renderer, loss, densification and modules are copied for each run, so that what a run changes stays out of yours;
    the result holds the copies. What cannot be copied is used as it is.

    Args:
        config: settings of the run.
        data_provider: what to train on.
        renderer: None means `Splat3DGSRenderer`.
        loss_fn: None means `Splat3DGSLossFn`.
        densification: None means `SplatDefaultDensification`.
        modules: what else hooks into training, in this order.
        ckpt_path: checkpoint to go on from, written by `SplatExporter`, `SplatTrainingState.save_ckpt` or ``ns-train``.
        viewer: run nerfstudio's viewer during training.

    Raises:
        SplatkitError: something is not what it should be, a setting is out of range, the output folder cannot be
            written, or the checkpoint does not exist.
    """

    def __init__(
        self,
        config: SplatTrainerConfig,
        data_provider: SplatDataProvider,
        renderer: SplatRenderer[Any] | None = None,
        loss_fn: SplatLossFn[Any] | None = None,
        densification: SplatDensification[Any] | None = None,
        modules: Sequence[SplatBaseModule[Any]] = (),
        ckpt_path: str | PathLike[str] | None = None,
        viewer: bool = False,
    ) -> None:
        check_instance(config, SplatTrainerConfig, "config")
        config.check()
        check_instance(data_provider, SplatDataProvider, "data_provider")
        check_parts(renderer, loss_fn, densification, modules)
        if ckpt_path is not None and not Path(ckpt_path).is_file():
            raise SplatkitError(f"ckpt_path: there is no file {ckpt_path}.")
        check_writable(config.output_dir, "SplatTrainerConfig.output_dir")
        self.config = config
        self.data_provider = data_provider
        self.modules = tuple(modules)
        self.ckpt_path = None if ckpt_path is None else Path(ckpt_path)
        self.viewer = viewer
        self._parts = {"renderer": renderer, "loss_fn": loss_fn, "densification": densification}

    def run(self) -> SplatTrainerResult:
        """Train, up to ``max_steps``; from a checkpoint, only the steps that are missing.

        Each call is a new run in a folder of its own. The seeds of all global random generators are set.

        Raises:
            SplatkitError: the data, the checkpoint or a module does not fit; also if a loss is not finite.
            StoppedBySignal: SIGINT or SIGTERM asked to stop; everything is saved and cleaned up.
            HookFailedError: a module's hook raised.
        """
        config = self._trainer_config()
        config.save_config()
        reset_writers()
        seed_everything(self.config.seed)
        trainer = SplatkitTrainer(config)
        try:
            trainer.modules += [running_copy(module) for module in self.modules]
            trainer.setup()
            history = History.begin()
            trainer.train()
        finally:
            reset_writers()
            RunFolder(config).release()
            if getattr(trainer, "viewer_state", None) is not None:
                trainer.shutdown()
        return _result(trainer, history)

    def _trainer_config(self) -> SplatkitTrainerConfig:
        """nerfstudio's config of this run, in a new folder."""
        settings = self.config
        model = SplatkitModelConfig(
            **{name: held(part) for name, part in self._parts.items() if part is not None},
            sh_degree=settings.sh_degree,
            sh_degree_interval=settings.sh_degree_interval,
            init_opacity=settings.init_opacity,
            init_scale=settings.init_scale,
            num_random=settings.num_random,
            global_scale=settings.global_scale,
            background_color=settings.background_color,
            output_depth_during_training=settings.render_depth,
            lpips=settings.lpips,
        )
        datamanager = self.data_provider.datamanager_config()
        datamanager.data = datamanager.dataparser.data  # nerfstudio names the experiment after it
        config = trainer_config(
            METHOD_NAME,
            model,
            max_num_iterations=settings.max_steps,
            output_dir=Path(settings.output_dir),
            experiment_name=settings.experiment_name,
            steps_per_save=settings.steps_per_save,
            load_checkpoint=self.ckpt_path,
            hooks=tuple(settings.hooks),
            writers=tuple(settings.writers),
            pipeline=SplatkitPipelineConfig(datamanager=datamanager, model=model),
            optimizers=gaussian_optimizers(settings.learning_rates),
            **surroundings(
                device_type=settings.device_type,
                seed=settings.seed,
                steps_per_log=settings.steps_per_log,
                table=sys.stdout.isatty() and not draws_progress(self.modules),
                viewer=self.viewer,
            ),
        )
        config.set_timestamp()
        return config


def seed_everything(seed: int) -> None:
    """Seed the global random generators of Python, NumPy and PyTorch, as ``ns-train`` does."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def _result(trainer: SplatkitTrainer, history: History) -> SplatTrainerResult:
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
    return SplatTrainerResult(
        training_state=model.training_state,
        metrics=metrics,
        step=trainer.step + 1,
        output_dir=trainer.base_dir,
        checkpoint_path=trainer.checkpoint_dir / f"step-{trainer.step:09d}.ckpt",
        modules=tuple(context.modules),
        history=history.entries,
        run_model=model,
    )
