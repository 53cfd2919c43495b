"""The parameters of a model: those of any number of Gaussians, of parts, and of the cameras."""

from __future__ import annotations

from typing import Any

from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor, nn

from splatkit_ns.plugin.data.initial import StartSettings, initial_gaussians, one_gaussian
from splatkit_ns.plugin.run.checkpoints import weights
from splatkit_ns.plugin.step.part_parameters import PartParameters, fit_rows
from splatkit_ns.splat import SplatTrainingState
from splatkit_ns.splat.row_parameters import RowParameters


class ModelParameters(nn.Module):
    """A model of any number of Gaussians.

    They come from a checkpoint (`load_state_dict`), or are made when training requests its parameters
    (`get_param_groups`): opening a trained run does not compute its initial Gaussians.
    """

    config: StartSettings
    seed_points: tuple[Tensor, Tensor] | None
    scene_box: SceneBox
    camera_optimizer: CameraOptimizer
    part_params: PartParameters

    def _make_stand_in(self, sh_degree: int) -> None:
        """Put one Gaussian in the place of those to come."""
        stand_in = one_gaussian(sh_degree)
        self.gauss_params = RowParameters({name: nn.Parameter(value) for name, value in stand_in.items()})
        self.is_stand_in = True
        """Whether the Gaussians have neither been loaded nor made yet."""
        self.training_state = SplatTrainingState(self.gauss_params, {})

    def get_gaussian_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group for each parameter with a row a Gaussian."""
        return {name: [param] for name, param in self.gauss_params.items()}

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group for each parameter: the Gaussians', the parts', and the camera optimizer's.

        Raises:
            SplatkitError: the Gaussians have to be made, and the file to make them from cannot be used.
        """
        if self.is_stand_in:
            rows = self.part_params.row_shapes
            self._set_gaussians(initial_gaussians(self.config, self.seed_points, self.scene_box, rows))
        groups = {**self.get_gaussian_param_groups(), **self.part_params.groups()}
        self.camera_optimizer.get_param_groups(param_groups=groups)
        return groups

    def _set_gaussians(self, values: dict[str, Tensor]) -> None:
        """Put values of any number of Gaussians into the `Parameter` objects, which optimizers know.

        Row parameters of parts that are not among the values start with the values that the parts declare.
        """
        for name, value in values.items():
            fit_rows(self.gauss_params, name, value.to(self.gauss_params["means"]))
        for name, declared in self.part_params.rows.items():
            if name not in values:
                self.gauss_params[name].data = declared.rows(self.training_state)
        self.is_stand_in = False

    def load_state_dict(self, dict: dict[str, Any], **kwargs: Any) -> Any:
        """Load weights of any number of Gaussians; the `Parameter` objects, which optimizers know, stay the same.

        A note names the parameters of parts that this model does not have. They are dropped, unless they have one row
        a Gaussian: those are kept.

        Raises:
            SplatkitError: the weights are of another type of model; the message says what was found and what helps.
        """
        rows = weights.check(dict, self.gauss_params)
        self._set_gaussians({name: value.clone() for name, value in rows.items()})
        fitting = weights.without_unknown_parts(dict, self.part_params.state_dict(), self.gauss_params)
        return nn.Module.load_state_dict(self, fitting, **kwargs)
