"""The trainer as hooks see it."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from splatkit_ns.hooks.writers.base import Writer
from splatkit_ns.parts.context import StepContext
from splatkit_ns.splat import SplatTrainingState

POINT_CLOUD_NAMES = {
    "position": "means",
    "scaling": "scales",
    "rotation": "quats",
    "opacity": "opacities",
    "features": "sh0",
    "features_rest": "shN",
}
"""The names that hooks use for the Gaussians' parameters, and the names used everywhere else."""


def hooks_name(parameter: str) -> str:
    """The name that hooks use for a parameter, such as ``point_cloud.position`` for ``means``."""
    ours = {theirs: f"point_cloud.{name}" for name, theirs in POINT_CLOUD_NAMES.items()}
    return ours.get(parameter, parameter)


class PointCloudView:
    """The Gaussians: their number is its length, their raw parameters its attributes (``position``, ``scaling``, …)."""

    def __init__(self, state: SplatTrainingState) -> None:
        self._state = state

    def __len__(self) -> int:
        return len(self._state)

    def __getattr__(self, name: str) -> Tensor:
        if name in POINT_CLOUD_NAMES:
            return self._state.params[POINT_CLOUD_NAMES[name]]
        raise AttributeError(f"the point cloud has no {name!r}; it has: {', '.join(POINT_CLOUD_NAMES)}")


class ModelView:
    """The model: its Gaussians as ``point_cloud``, and the same as ``training_state``."""

    def __init__(self, state: SplatTrainingState) -> None:
        self.training_state = state
        self.point_cloud = PointCloudView(state)


class OptimizerView:
    """All optimizers as one."""

    def __init__(self, optimizers: dict[str, Any]) -> None:
        self._optimizers = optimizers

    @property
    def param_groups(self) -> list[MutableMapping[str, Any]]:
        """The groups of all optimizers, each with its ``name``, like ``point_cloud.position``.

        What is written to a group (``group["lr"] = 1e-3``) reaches its optimizer.
        """
        return [
            ChainMap(group, {"name": hooks_name(name)})
            for name, optimizer in self._optimizers.items()
            for group in optimizer.param_groups
        ]


class DatapipelineView:
    """The data: the two data sets, which have a length, and their images.

    Args:
        datamanager: nerfstudio's.
    """

    def __init__(self, datamanager: Any) -> None:
        self._datamanager = datamanager

    @property
    def training_dataset(self) -> Any:
        """nerfstudio's data set of the training images."""
        return self._datamanager.train_dataset

    @property
    def validation_dataset(self) -> Any:
        """nerfstudio's data set of the evaluation images."""
        return self._datamanager.eval_dataset

    def next_train(self, step: int) -> dict[str, Any]:
        """Draw a training image, as `next_val` returns one; the run then trains on the images after it."""
        camera, batch = self._datamanager.next_train(step)
        return {**batch, "camera": camera}

    def next_val(self, index: int) -> dict[str, Any]:
        """An evaluation image by its index, as nerfstudio's batch: ``image``, (H, W, 3 or 4), ``image_idx``, and more.

        Its camera is there as ``camera``.
        """
        dataset = self.validation_dataset
        return {**dataset[index], "camera": dataset.cameras[index : index + 1]}


class ConfigView:
    """The run's settings: ``max_steps``, and every field of the trainer's config."""

    def __init__(self, config: Any) -> None:
        self._config = config

    @property
    def max_steps(self) -> int:
        """Number of steps of the whole run."""
        return self._config.max_num_iterations

    @property
    def val_interval(self) -> int:
        """Steps between two of nerfstudio's evaluations on all images; 0 means none."""
        return self._config.steps_per_eval_all_images

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._config, name)


class TrainerView:
    """The trainer as a hook can read and control it.

    Before data and model are loaded, in `Hook.before_run`, there are only ``cfg``, ``exp_dir``, ``device``, ``hooks``
    and ``global_step``.

    Args:
        call_hook: calls a method of all hooks.
        hooks: that `call_hook` reaches.
    """

    def __init__(self, call_hook: Callable[..., None], hooks: Sequence[Any] = ()) -> None:
        self.hooks = list(hooks)
        """The hooks that `call_hook` reaches, in their order."""
        self.call_hook = call_hook
        """``call_hook(name, **kwargs)`` calls a method of all hooks that have it."""
        self.logger: Writer | None = None
        """The writer of scalars and images, from `Hook.before_train` on; None if no writer was chosen."""
        self.metric_dict: dict[str, Any] = {}
        """The last evaluation image: L1_loss, psnr, ssims, lpips if its weights are there, the last three also after a
        colour correction (cc_psnr, cc_ssim, cc_lpips), the render as images and the ground truth as gt_images, both
        (1, H, W, 3) in [0, 1], and rgb_file_name."""
        self.val_dataset_size = 0
        """Number of images of the current or last evaluation."""
        self.val_is_complete = False
        """Whether these are all evaluation images; nerfstudio also checks a single one now and then."""
        self.error: BaseException | None = None
        """The exception that ended the run, in `Hook.exception` and `Hook.after_run`."""
        self._trainer: Any = None

    def connect(self, trainer: Any) -> None:
        """Attach this view to a trainer; called by the trainer itself."""
        self._trainer = trainer

    @property
    def unwrapped(self) -> Any:
        """nerfstudio's trainer itself.

        Raises:
            RuntimeError: the run has not begun.
        """
        if self._trainer is None:
            raise RuntimeError("These hooks belong to no trainer yet.")
        return self._trainer

    @property
    def cfg(self) -> ConfigView:
        """The run's settings."""
        return ConfigView(self.unwrapped.config)

    @property
    def exp_dir(self) -> Path:
        """Folder of the run's results."""
        return self.unwrapped.base_dir

    @property
    def device(self) -> str:
        """The device of the training, like ``cuda:0`` or ``cpu``."""
        return str(self.unwrapped.device)

    @property
    def global_step(self) -> int:
        """The current step, 1-based; outside steps the number of those done."""
        pipeline = getattr(self._trainer, "pipeline", None)
        return 0 if pipeline is None else pipeline.model.context.step

    @property
    def start_steps(self) -> int:
        """The first step of this process, 1-based: 1 in a run that starts afresh."""
        return self.unwrapped.start_step + 1

    @property
    def datapipeline(self) -> DatapipelineView:
        """The training and evaluation images."""
        return DatapipelineView(self._pipeline.datamanager)

    @property
    def renderer(self) -> Any:
        """The run's renderer, a `SplatRenderer`."""
        return self.context.renderer

    @property
    def schedulers(self) -> Mapping[str, Any]:
        """The schedules of the learning rates, by names such as ``point_cloud.position``; the trainer steps them."""
        schedules = self.unwrapped.optimizers.schedulers
        return MappingProxyType({hooks_name(name): schedule for name, schedule in schedules.items()})

    @property
    def optimizer_dict(self) -> dict[str, Any]:
        """The values of this step that densification uses; empty before the first render of a process.

        ``loss``: scalar. ``uv_points``: positions in the image, (C, N, 2), with their gradient after the backward
        pass. ``radii``: (C, N) in pixels, 0 if not seen. ``visibility``: (C, N) bool.
        """
        payload = self.context.rend_out
        if payload is None:
            return {}
        return {
            "loss": self.context.loss,
            "uv_points": payload.means2d,
            "radii": payload.radii,
            "visibility": payload.radii > 0,
        }

    def stop(self, reason: str) -> None:
        """End the run after this step as if it were the last; see `StepContext.stop`."""
        self.context.stop(reason)

    @property
    def context(self) -> StepContext:
        """All values that modules can take as arguments: images, masks, payload, and more.

        Raises:
            AttributeError: data and model have not been loaded yet, as in `Hook.before_run`.
        """
        return self._pipeline.model.context

    @property
    def _pipeline(self) -> Any:
        pipeline = getattr(self.unwrapped, "pipeline", None)
        if pipeline is None:
            raise AttributeError(
                "data and model are loaded after before_run, in which a trainer has cfg, exp_dir, device, hooks and "
                "global_step alone"
            )
        return pipeline

    @property
    def model(self) -> ModelView:
        """The Gaussians."""
        return ModelView(self.context.training_state)

    @property
    def optimizer(self) -> OptimizerView:
        """The optimizers of all parameters."""
        return OptimizerView(self.unwrapped.optimizers.optimizers)

    @property
    def loss_dict(self) -> dict[str, Tensor]:
        """The last step's loss as ``loss``, and its named terms; scalar tensors, without gradient."""
        context = self.context
        if context.loss is None:
            return {}
        return {name: term.detach() for name, term in {**context.loss_terms, "loss": context.loss}.items()}

    def save_checkpoint(self, path: str | Path, then: Callable[[OSError | None], None] | None = None) -> None:
        """Write a checkpoint of the current step to a file, from which a run can be resumed.

        See `SplatTrainingState.save_ckpt`: during a step the file is written at its end.
        """
        self.context.training_state.save_ckpt(path, then=then)
