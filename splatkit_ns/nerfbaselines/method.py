"""The methods as classes that NerfBaselines trains, saves, loads and renders."""

from __future__ import annotations

import ast
import json
import shutil
import tempfile
import weakref
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from splatkit_ns.cameras import View
from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.errors import SplatkitError
from splatkit_ns.files import atomic_write_text
from splatkit_ns.methods import find_method
from splatkit_ns.nerfbaselines.dataset import PINHOLE, colour, write_dataset
from splatkit_ns.nerfbaselines.stepping import SteppedTrainer
from splatkit_ns.plugin.options.setting import OptionError, set_option
from splatkit_ns.plugin.reporting.console import reset_writers
from splatkit_ns.plugin.run import checkpoints
from splatkit_ns.plugin.run.opaque_parts import instance
from splatkit_ns.plugin.run.weights import PARTS, without_unknown_parts
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig
from splatkit_ns.renderer import RenderOptions
from splatkit_ns.rendering import view_images
from splatkit_ns.splat import SplatTrainingState, read_checkpoint
from splatkit_ns.splat.rng import seed_everything

DESCRIPTION, CHECKPOINT = "splatkit.json", "model.ckpt"
METRICS_EVERY = 10
"""Steps: reading the loss makes the processor wait for the GPU."""
OUTPUTS = {"color": "rgb", "depth": "depth", "accumulation": "alpha"}
"""The name of an output -> that in `view_images`."""


@dataclass(frozen=True)
class Description:
    """What a checkpoint needs besides the Gaussians."""

    method: str
    overrides: dict[str, Any]
    """The options that differ from the method's: place in the config -> value."""
    step: int
    """The number of steps that have been trained."""
    num_iterations: int
    sh_degree: int
    """The degree up to which spherical harmonics are used after this step."""
    background: list[float]
    transform: list[list[float]]
    """(3, 4), from the data set's frame to that of training, before `scale`."""
    scale: float


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
        self._source = None if checkpoint is None else Path(checkpoint)
        loaded = None if self._source is None else _read(self._source)
        overrides = {**(loaded.overrides if loaded else {}), **(config_overrides or {})}
        self._overrides = {_place(name): _value(value) for name, value in overrides.items()}
        self.config = _method_config(self.method_name, self._overrides)
        self._trainer: SteppedTrainer | None = None
        self._loaded_step = None if loaded is None else loaded.step
        if train_dataset is not None:
            self._start(train_dataset)
        elif self._source is not None and loaded is not None:
            self._state = SplatTrainingState.from_ckpt(self._source / CHECKPOINT, device=self._device)
            self._loaded = loaded
            self._renderer = _trained_renderer(self.config, self._source / CHECKPOINT, self._device)
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
        config = self.config
        manager = NerfstudioDataProvider(data, eval_mode="all").datamanager_config()
        config.pipeline.datamanager.dataparser, config.pipeline.datamanager.data = manager.dataparser, data
        config.pipeline.model.background_color = _named(colour(dataset["metadata"].get("background_color")))
        config.output_dir, config.experiment_name, config.timestamp = self._folder, "run", "run"
        config.vis, config.held_out, config.save_only_latest_checkpoint = "none", False, True
        config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
        config.steps_per_save = 0
        config.logging.local_writer.enable, config.logging.profiler = False, "none"
        if self._source is not None:
            config.load_checkpoint = self._source / CHECKPOINT
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
            "loaded_step": self._loaded_step,
            "loaded_checkpoint": None if self._source is None else str(self._source),
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
        self._source, self._next_step = None, step + 1
        model = self._trainer.pipeline.model
        loss = model.context.loss
        if loss is None or self._next_step % METRICS_EVERY:
            return {}
        return {"loss": float(loss.detach()), "num_gaussians": float(len(model.training_state))}

    def save(self, path: str) -> None:
        """Write the checkpoint: ``splatkit.json`` and ``model.ckpt``, with which training goes on as in ``ns-train``.

        Args:
            path: the folder; made if it does not exist.
        """
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        if self._source is not None:  # nothing has been trained since it was loaded
            if not folder.samefile(self._source):
                for name in (DESCRIPTION, CHECKPOINT):
                    shutil.copyfile(self._source / name, folder / name)
            return
        assert self._trainer is not None
        step = self._next_step - 1
        self._trainer.save_checkpoint(step)
        shutil.copyfile(checkpoints.path_of(self._trainer.checkpoint_dir, step), folder / CHECKPOINT)
        atomic_write_text(folder / DESCRIPTION, json.dumps(self._description().__dict__, indent=1))

    def _description(self) -> Description:
        if self._trainer is None:
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
        view = _view(camera.item(), found).to(state.device)
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


def _read(folder: Path) -> Description:
    path = folder / DESCRIPTION
    try:
        return Description(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise SplatkitError(f"{path} cannot be read: {error}. Expected a checkpoint of a splatkit method.") from error


def _trained_renderer(config: SplatkitTrainerConfig, checkpoint: Path, device: str) -> Any:
    """The renderer with its parameters as they have been trained, such as a sky."""
    renderer: Any = instance(config.pipeline.model.renderer)
    own = {f"{renderer.module_name}.{name}": found.parameter for name, found in renderer.trainables().items()}
    if own:
        stored = read_checkpoint(checkpoint)["pipeline"]
        weights = {key.removeprefix("_model."): value for key, value in stored.items()}
        fitting = without_unknown_parts(weights, own, {})
        for name, parameter in own.items():
            parameter.data = fitting[PARTS + name].to(device)
    return renderer


def _place(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")


def _value(value: Any) -> Any:
    """A value of an option; text is read as a Python literal if it is one."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _method_config(name: str, overrides: dict[str, Any]) -> SplatkitTrainerConfig:
    config: Any = deepcopy(find_method(name).config)
    for place, value in overrides.items():
        try:
            set_option(config, place, value)
        except OptionError as error:
            raise SplatkitError(f"{place}{error}") from error
    return config


def _named(background: np.ndarray[Any, Any]) -> Literal["black", "white"]:
    if np.allclose(background, 0):
        return "black"
    if np.allclose(background, 1):
        return "white"
    raise SplatkitError(f"The data set's background colour is {background.tolist()}, expected black or white.")


def _view(camera: Any, description: Description) -> View:
    """A camera of the data set's frame in that of training."""
    if int(camera.camera_models) != PINHOLE:
        raise SplatkitError("The camera is no pinhole camera, and only those are drawn.")
    pose, transform = np.eye(4), np.eye(4)
    pose[:3] = np.asarray(camera.poses, np.float64)[:3, :4]
    transform[:3] = description.transform
    pose = transform @ pose
    pose[:3, 3] *= description.scale
    fl_x, fl_y, cx, cy = (float(value) for value in camera.intrinsics)
    width, height = (int(size) for size in camera.image_sizes)
    K = torch.tensor([[[fl_x, 0, cx], [0, fl_y, cy], [0, 0, 1]]])
    return View(torch.from_numpy(pose).float()[None], K, width, height)


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
