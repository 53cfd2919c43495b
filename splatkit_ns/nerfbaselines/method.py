"""The methods as classes that NerfBaselines trains, saves, loads and renders."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from splatkit_ns.errors import SplatkitError
from splatkit_ns.files import atomic_write_text
from splatkit_ns.nerfbaselines.checkpoint import (
    CHECKPOINT,
    DESCRIPTION,
    Description,
    read_description,
    trained_renderer,
    view_of,
)
from splatkit_ns.nerfbaselines.dataset import write_dataset
from splatkit_ns.nerfbaselines.overrides import by_place, method_config, use_folder
from splatkit_ns.nerfbaselines.stepping import SteppedTrainer
from splatkit_ns.plugin.reporting.console import reset_writers
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.renderer import RenderOptions
from splatkit_ns.rendering import view_images
from splatkit_ns.splat import SplatTrainingState
from splatkit_ns.splat.rng import seed_everything

METRICS_EVERY = 10
"""Steps: reading the loss makes the processor wait for the GPU."""
OUTPUTS = {"color": "rgb", "depth": "depth", "accumulation": "alpha"}
"""The name of an output -> that in `view_images`."""


class SplatkitMethod:
    """A method of this package, in NerfBaselines' terms.

    Args:
        checkpoint: folder that `save` wrote; None begins anew.
        train_dataset: the data to train on; None if the checkpoint is only to be rendered.
        config_overrides: options as ``ns-train`` names them (``pipeline.model.sh-degree``) -> values, also as text.

    Raises:
        SplatkitError: neither a checkpoint nor data, an option that does not exist, or broken data.
    """

    method_name: ClassVar[str]

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        train_dataset: Any = None,
        config_overrides: dict[str, Any] | None = None,
    ) -> None:
        self._loaded = None if checkpoint is None else read_description(Path(checkpoint), self.method_name)
        self._loaded_from = None if checkpoint is None else Path(checkpoint)
        overrides = {**(self._loaded.overrides if self._loaded else {}), **(config_overrides or {})}
        self._overrides = by_place(overrides)
        self.config = method_config(self.method_name, self._overrides)
        self._trainer: SteppedTrainer | None = None
        if train_dataset is not None:
            self._start(train_dataset)
        elif self._loaded_from is not None:
            self._state = SplatTrainingState.from_ckpt(self._loaded_from / CHECKPOINT, device=self._device)
            self._renderer = trained_renderer(self.config, self._loaded_from / CHECKPOINT, self._device)
        else:
            raise SplatkitError(f"{self.method_name} needs a data set to train on, or a checkpoint.")

    @property
    def _device(self) -> str:
        return str(self.config.machine.device_type)

    def _start(self, dataset: Any) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="splatkit-nerfbaselines-"))
        self._forget_folder = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        data = self._folder / "data"
        data.mkdir()
        write_dataset(dataset, data)
        config: Any = self.config
        use_folder(config, self._folder, data, dataset["metadata"].get("background_color"))
        if self._loaded_from is not None:
            config.load_checkpoint = self._loaded_from / CHECKPOINT
        reset_writers()
        seed_everything(config.machine.seed)
        config.save_config()
        self._trainer = SteppedTrainer(config)
        self._trainer.setup()
        self._trainer.begin()
        self._next_step = self._trainer.start_step

    @classmethod
    def get_method_info(cls) -> dict[str, Any]:
        """The data that the method needs and what it renders."""
        return {
            "method_id": cls.method_name,
            "required_features": frozenset(("color", "points3D_xyz", "points3D_rgb")),
            "supported_camera_models": frozenset(("pinhole",)),
            "supported_outputs": tuple(OUTPUTS),
            "can_resume_training": True,
        }

    def get_info(self) -> dict[str, Any]:
        """The length of the training, and the checkpoint that was loaded."""
        return {
            **self.get_method_info(),
            "num_iterations": self.config.max_num_iterations,
            "loaded_step": None if self._loaded is None else self._loaded.step,
            "loaded_checkpoint": None if self._loaded_from is None else str(self._loaded_from),
            "hparams": {"method": self.method_name, **self._overrides},
        }

    def train_iteration(self, step: int) -> dict[str, float]:
        """Train a step.

        Args:
            step: its number, 0-based: the one after the last.

        Returns:
            Every tenth step ``loss`` and ``num_gaussians``, else nothing.

        Raises:
            SplatkitError: another step is next, or see `SplatkitTrainer.train`.
        """
        if self._trainer is None:
            raise SplatkitError("This model was opened without a data set, so it cannot be trained.")
        if step != self._next_step:
            raise SplatkitError(f"Step {step} was asked for, but the next one is {self._next_step} (0-based).")
        self._trainer.train_one(step)
        self._next_step = step + 1
        model = self._trainer.pipeline.model
        loss = model.context.loss
        if loss is None or self._next_step % METRICS_EVERY:
            return {}
        return {"loss": float(loss.detach()), "num_gaussians": float(len(model.training_state))}

    def save(self, path: str) -> None:
        """Write the checkpoint: ``splatkit.json`` and ``model.ckpt``, with which training goes on as in ``ns-train``.

        Args:
            path: the folder; made if it does not exist.

        Raises:
            SplatkitError: no step has been trained yet.
            OSError: a file cannot be written.
        """
        folder, step = Path(path), None if self._trainer is None else self._next_step
        if self._loaded is not None and step in (None, self._loaded.step):  # nothing has been trained since
            self._copy_loaded(folder)
            return
        if self._trainer is None or not step:
            raise SplatkitError("There is nothing to save before the first step.")
        folder.mkdir(parents=True, exist_ok=True)
        self._trainer.save_checkpoint(step - 1)
        shutil.copyfile(checkpoint_files.path_of(self._trainer.checkpoint_dir, step - 1), folder / CHECKPOINT)
        atomic_write_text(folder / DESCRIPTION, json.dumps(asdict(self._description()), indent=1))

    def _copy_loaded(self, folder: Path) -> None:
        """Copy the checkpoint that was loaded, unless it is to be saved where it is."""
        assert self._loaded_from is not None
        folder.mkdir(parents=True, exist_ok=True)
        if not folder.samefile(self._loaded_from):
            for name in (DESCRIPTION, CHECKPOINT):
                shutil.copyfile(self._loaded_from / name, folder / name)

    def _description(self) -> Description:
        if self._trainer is None:
            assert self._loaded is not None
            return self._loaded
        model, outputs = self._trainer.pipeline.model, self._trainer.pipeline.datamanager.train_dataparser_outputs
        return Description(
            method=self.method_name,
            overrides=self._overrides,
            step=self._next_step,
            num_iterations=self.config.max_num_iterations,
            sh_degree=model.sh_degree_now(),
            background=model.backgrounds.of_evaluation(model.device).tolist(),
            transform=outputs.dataparser_transform.tolist(),
            scale=float(outputs.dataparser_scale),
        )

    @torch.no_grad()
    def render(self, camera: Any, *, options: dict[str, Any] | None = None) -> dict[str, np.ndarray[Any, Any]]:
        """Render an image.

        Args:
            camera: one pinhole camera, in the frame of the data set.
            options: ``outputs`` names those that are wanted.

        Returns:
            ``color`` (H, W, 3) and ``accumulation`` (H, W) in [0, 1], and ``depth`` (H, W) along the viewing axis in
            units of the data set; float32.

        Raises:
            SplatkitError: the camera is no pinhole camera.
        """
        wanted = (options or {}).get("outputs") or tuple(OUTPUTS)
        found = self._description()
        if self._trainer is None:
            state, renderer = self._state, self._renderer
        else:
            state, renderer = self._trainer.pipeline.model.training_state, self._trainer.pipeline.model.renderer
        view = view_of(camera.item(), found).to(state.device)
        background = torch.tensor([found.background], device=state.device)
        settings = RenderOptions(sh_degree=found.sh_degree, backgrounds=background)
        kinds = [OUTPUTS[name] for name in OUTPUTS if name in wanted]
        images = view_images(renderer, state, view, settings, kinds)
        result = {name: images[kind].float().numpy() for name, kind in OUTPUTS.items() if kind in images}
        if "depth" in result:
            result["depth"] = result["depth"] / np.float32(found.scale)
        return result

    def get_train_embedding(self, index: int) -> None:
        """There are no embeddings of images."""

    def optimize_embedding(self, dataset: Any, *, embedding: Any = None) -> Any:
        """There are no embeddings of images.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"{self.method_name} has no embeddings of images")

    def close(self) -> None:
        """End the training and delete its temporary files."""
        if self._trainer is not None:
            self._trainer.end()
            self._forget_folder()


class Splatkit3DGS(SplatkitMethod):
    """``splatkit-3dgs``."""

    method_name = "splatkit-3dgs"


class Splatkit3DGSFast(SplatkitMethod):
    """``splatkit-3dgs-fast``."""

    method_name = "splatkit-3dgs-fast"


class Splatkit3DGSBig(SplatkitMethod):
    """``splatkit-3dgs-big``."""

    method_name = "splatkit-3dgs-big"


class Splatkit3DGSSmall(SplatkitMethod):
    """``splatkit-3dgs-small``."""

    method_name = "splatkit-3dgs-small"


class Splatkit3DGSADC(SplatkitMethod):
    """``splatkit-3dgs-adc``."""

    method_name = "splatkit-3dgs-adc"


class Splatkit3DGSMCMC(SplatkitMethod):
    """``splatkit-3dgs-mcmc``."""

    method_name = "splatkit-3dgs-mcmc"


class Splatkit2DGS(SplatkitMethod):
    """``splatkit-2dgs``."""

    method_name = "splatkit-2dgs"
