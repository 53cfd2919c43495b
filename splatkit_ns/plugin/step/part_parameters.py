"""The parameters that parts own, as a model keeps them: in checkpoints, on its device, and in optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from splatkit_ns import ranges
from splatkit_ns.errors import ModuleError, hook_failure, listed
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.context import PARAMETER_ARGUMENTS, StepContext, bind_arguments
from splatkit_ns.parts.dispatch import ModuleDispatcher
from splatkit_ns.parts.near_misses import is_own_class
from splatkit_ns.parts.trainables import RowTrainable, Schedule, Trainable, networks_of, undeclared_parameters
from splatkit_ns.ranges import is_number
from splatkit_ns.splat.schema import KEYS


class OwnTensors(nn.Module):
    """The parameters and buffers of one part, by name."""

    def __init__(self, trainables: Mapping[str, Trainable], buffers: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__()
        for name, trainable in trainables.items():
            self.register_parameter(name, trainable.parameter)
        for name, buffer in buffers:
            self.register_buffer(name.replace(".", "/"), buffer)


class PartParameters(nn.Module):
    """Collects the trained parameters of every part, once, and keeps them.

    Args:
        gauss_params: the parameters of the Gaussians, to which rows of parts are added.
    """

    def __init__(self, gauss_params: nn.ParameterDict) -> None:
        super().__init__()
        self._gauss_params = [gauss_params]  # in a list, so that this module does not count them as its own
        self._collected: dict[int, SplatBaseModule[Any]] = {}
        self._tensors: set[int] = set()  # what parts own, by id: a part that holds another one does not own that's
        self.schedules: dict[str, Schedule] = {}
        """The optimizer settings of each parameter, by the name of its group."""
        self.rows: dict[str, RowTrainable] = {}
        """The parameters with one row for each Gaussian, by name."""
        self._of_users: list[str] = []  # the groups of parts that this package does not define
        self._set_to_evaluation: list[nn.Module] = []

    def add_parts(self, dispatcher: ModuleDispatcher, context: StepContext) -> None:
        """Add the parameters of parts that have not been collected before.

        Args:
            dispatcher: names the parts.
            context: the arguments that a part's `trainables` may name.

        Raises:
            ModuleError: a parameter that a part declares cannot be trained; the message names it.
            HookFailedError: the `trainables` of a part raised an exception.
        """
        for part_name, part in dispatcher.modules.items():
            if id(part) not in self._collected:
                self._collected[id(part)] = part
                self._add_part(part_name, part, context)

    def _add_part(self, part_name: str, part: SplatBaseModule[Any], context: StepContext) -> None:
        where = f"{part_name}.trainables"
        if isinstance(part, nn.Module) and "_parameters" not in vars(part):
            raise ModuleError(
                f"{part_name} is an nn.Module that has not been set up: its __init__ has to call super().__init__() "
                "first."
            )
        call = bind_arguments(part.trainables, PARAMETER_ARGUMENTS, where)
        try:
            declared: Any = call(context)
        except ModuleError:
            raise
        except Exception as error:
            raise hook_failure(where, context.step, error) from error
        checked = _checked(declared, where)
        if type(part).trainables is not SplatBaseModule.trainables:
            _check_types(checked, where)
        if left_out := undeclared_parameters(part, checked, self._tensors):
            context.logger.warning(
                "%s holds parameters that are not trained, because %s does not return them: %s. "
                "Return a Trainable for each%s, or say requires_grad_(False) if they are to stay.",
                part_name,
                where,
                listed(left_out, most=5),
                ", those of a network with **super().trainables()" if isinstance(part, nn.Module) else "",
            )
        before = set(self.schedules)
        own: dict[str, Trainable] = {}
        for name, entry in checked.items():
            if isinstance(entry, RowTrainable):
                self._add_rows(name, entry, where, context)
            elif id(entry.parameter) not in self._tensors:
                own[name] = entry
                self.schedules[f"{part_name}.{name}"] = entry
        if not is_own_class(type(part)):
            self._of_users += [group for group in self.schedules if group not in before]
        found = nn.Module.named_buffers(part) if isinstance(part, nn.Module) else ()
        buffers = [(name, buffer) for name, buffer in found if id(buffer) not in self._tensors]
        if own or buffers:
            self._check_name(part_name)
            tensors = OwnTensors(own, buffers).to(context.training_state.device)
            if isinstance(part, nn.Module):
                _move_buffers(part, tensors)
            self.add_module(part_name, tensors)
            self._tensors |= {id(tensor) for tensor in (*tensors.parameters(), *tensors.buffers())}

    def _check_name(self, part_name: str) -> None:
        """Check that ``PART.NAME`` can be the name of a part's parameters."""
        if not part_name or "." in part_name or hasattr(self, part_name):
            raise ModuleError(
                f"{part_name!r} cannot be the module_name of a part with parameters, which are called "
                "module_name.NAME in checkpoints and options: let it return letters, digits and _."
            )

    def _add_rows(self, name: str, entry: RowTrainable, where: str, context: StepContext) -> None:
        params = self._gauss_params[0]
        if name in KEYS or name in self.rows:
            raise ModuleError(
                f"{where}: there is a parameter {name!r} of the Gaussians already; give yours another name. What a "
                "part holds declares its own."
            )
        self.rows[name] = entry
        self.schedules[name] = entry
        context.training_state.start_rows_with(name, entry.rows)
        if name in params:
            return
        try:
            params[name] = nn.Parameter(entry.rows(context.training_state))
        except Exception as error:
            raise hook_failure(f"{where}: the rows {name!r}", context.step, error) from error

    def train(self, mode: bool = True) -> PartParameters:
        """Set the networks of parts to training or evaluation, too; what a part has set to evaluation stays so."""
        if mode:
            changed, self._set_to_evaluation = self._set_to_evaluation, []
        else:
            networks = [network for part in self._collected.values() for network in networks_of(part)]
            changed = [layer for network in networks for layer in network.modules() if layer.training]
            self._set_to_evaluation += changed
        for layer in changed:
            layer.training = mode
        return super().train(mode)

    def warn_of_untrained(self, optimizers: Mapping[str, Optimizer], context: StepContext) -> None:
        """Warn at the end of a run of parameters of users' parts that no gradient has reached.

        Args:
            optimizers: by group; they have no state of a parameter that they have never stepped.
            context: of the last step.
        """
        groups = self.groups() | {name: [self._gauss_params[0][name]] for name in self.rows}
        untrained = [
            name
            for name in self._of_users
            if name in optimizers
            and all(param.requires_grad and param not in optimizers[name].state for param in groups[name])
        ]
        if untrained:
            context.logger.warning(
                "No gradient has reached %s in this run: what the loss compares does not depend on them.",
                ", ".join(untrained),
            )

    @property
    def row_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the rows of parameters with one row for each Gaussian."""
        return {name: tuple(declared.shape) for name, declared in self.rows.items()}

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """One group for each parameter of a part's own, named ``PART.NAME``."""
        return {
            f"{part}.{name}": [param]
            for part, tensors in self.named_children()
            for name, param in tensors.named_parameters()
        }


def _checked(declared: Any, where: str) -> Mapping[str, Trainable | RowTrainable]:
    if not isinstance(declared, Mapping):
        raise ModuleError(f"{where} returned {declared!r}, expected a dict of Trainable and RowTrainable by name.")
    names: dict[int, str] = {}
    for name, entry in declared.items():
        if not isinstance(name, str) or not name or "." in name:
            raise ModuleError(f"{where}: {name!r} is no name for a parameter; use letters, digits and _.")
        if not isinstance(entry, (Trainable, RowTrainable)):
            raise ModuleError(
                f"{where}: {name!r} is of type {type(entry).__name__}, expected Trainable(parameter, lr=…), or "
                "RowTrainable(shape=…, lr=…) for one row a Gaussian."
            )
        parameter: Any = entry.parameter if isinstance(entry, Trainable) else None
        if isinstance(entry, Trainable) and not isinstance(parameter, nn.Parameter):
            raise ModuleError(f"{where}: {name!r} holds {type(parameter).__name__}, expected a torch.nn.Parameter.")
        if isinstance(entry, RowTrainable):
            _check_rows(name, entry, where)
        if wrong := ranges.problems(entry):
            raise ModuleError(f"{where}: of {name!r}, {'; '.join(wrong)}.")
        if parameter is not None and (first := names.setdefault(id(parameter), name)) != name:
            raise ModuleError(f"{where}: {first!r} and {name!r} hold the same parameter; return it once.")
    return declared


def _check_types(declared: Mapping[str, Trainable | RowTrainable], where: str) -> None:
    """Check that what a part itself declares can have gradients; of a network, integers are kept as they are."""
    for name, entry in declared.items():
        if isinstance(entry, Trainable) and not entry.parameter.is_floating_point():
            raise ModuleError(
                f"{where}: {name!r} is a parameter of {entry.parameter.dtype}, which has no gradients; make it of "
                "float32, or keep it in an attribute or in state_dict."
            )


def _check_rows(name: str, entry: RowTrainable, where: str) -> None:
    shape: Any = entry.shape
    if not isinstance(shape, (tuple, list)) or not all(isinstance(size, int) for size in shape):
        raise ModuleError(f"{where}: the shape of {name!r} is {shape!r}, expected that of a row, such as (3,).")
    if not callable(entry.initial) and not is_number(entry.initial):
        raise ModuleError(
            f"{where}: initial of {name!r} is of type {type(entry.initial).__name__}, expected a number, or a function "
            "that returns the rows of the Gaussians in a training state."
        )


def _move_buffers(part: nn.Module, tensors: OwnTensors) -> None:
    """Let a part use the buffers that are kept, on the device of the training."""
    kept: dict[str, Tensor] = dict(tensors.named_buffers())
    for prefix, module in nn.Module.named_modules(part):
        for name in list(module._buffers):  # type: ignore[reportPrivateUsage]  # there is no public way to replace one
            full = (f"{prefix}.{name}" if prefix else name).replace(".", "/")
            if full in kept:  # not of a part that this one holds
                module._buffers[name] = kept[full]  # type: ignore[reportPrivateUsage]


def fit_rows(params: nn.ParameterDict, name: str, value: Tensor) -> None:
    """Give a row parameter other rows, in the same `Parameter` object if there is one."""
    if name in params:
        params[name].data = value
    else:
        params[name] = nn.Parameter(value)
