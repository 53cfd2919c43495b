"""The interfaces of a training step: to the model, to its data, and to the two ways to run the differentiated part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor, nn

from splatkit_ns.parts.context import StepContext
from splatkit_ns.plugin.step.frame import TrainingFrame
from splatkit_ns.plugin.step.parts import StepParts
from splatkit_ns.splat import SplatTrainingState


class StepModel(Protocol):
    """A model whose three methods render, compare and densify."""

    context: StepContext
    training_state: SplatTrainingState
    camera_optimizer: CameraOptimizer
    parts: StepParts

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """The trained parameters, one group for each."""
        ...

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:
        """Render the camera of the frame."""
        ...

    def get_loss_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compare the render with the photograph; the loss is then in the context."""
        ...

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """Figures of this step's image for the log."""
        ...

    def sh_degree_now(self) -> int:
        """The degree up to which this step evaluates spherical harmonics."""
        ...

    def wants_depth_now(self) -> bool:
        """Whether this step renders depth."""
        ...


class FrameSource(Protocol):
    """A datamanager."""

    def next_train(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """The next training image: its camera, and its batch."""
        ...


class ForwardBackward(Protocol):
    """Runs render, loss and backward pass of one of a step's images: the first, the second, …"""

    makes_graphs: bool
    """Whether steps run as CUDA graphs where that is possible; the same on all ranks."""
    is_replay: bool
    """Whether the image has run as a CUDA graph."""
    runs_beside: bool
    """Whether its graphs run beside those of the step's other images."""
    needs_graph: bool
    """Whether the next step captures a graph in place of one that had too little space."""
    meanwhile: Callable[[], None]
    """Called, if at all, while the host waits for the device to begin a step, for work that it can do ahead."""
    when_slow: Callable[[], None]
    """Called now and then while the device does not begin a step for long; may raise."""

    @property
    def work(self) -> int:
        """The work of the image in the step before the last one, on which most of that step's time depends.

        On CUDA it is what `ListSpace.work` counts if it is measured, else the length of the tile lists; 0 if it is not
        known.
        """
        ...

    def last_work(self) -> int:
        """The work of the image in the last step, which `work` will be after the next one; waits for the device."""
        ...

    def begin(self, frame: TrainingFrame) -> None:
        """Begin an image: launch its graph, if it has one. With `runs_beside`, all images of a step are begun before
        the first is run."""
        ...

    def run(self, frame: TrainingFrame, batch: dict[str, Any]) -> dict[str, Any]:
        """Run render, loss and backward pass of the image that has been begun, or wait for its graph; then context and
        gradients hold the results.

        Returns:
            The outputs of the model; empty if they are in the context alone.
        """
        ...

    def close(self) -> None:
        """Free the memory that earlier steps still hold."""
        ...
