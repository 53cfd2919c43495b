"""The base of everything that hooks into training."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Generic

from torch import nn

from splatkit_ns.parts.payload import PayloadT, SplatRenderPayload
from splatkit_ns.parts.trainables import RowTrainable, Trainable, module_trainables
from splatkit_ns.triton_kernels import LazyKernel


class SplatBaseModule(Generic[PayloadT]):
    """Base of renderers, losses, densification strategies and every other module.

    Override the hooks you need. A hook receives, by keyword, exactly the arguments that its signature names; it may
    leave any of them out or take ``**kwargs``. A name that does not exist is an error before training starts. Here
    hooks take anything, so that type checkers accept a hook with names; none gets arguments by position.

    Settings belong in the fields of a dataclass (or ``__init__``); what is needed at run time (files, writers,
    tensors) is made in `on_setup`, so that a module can be copied, pickled and stored in a config.

    The generic parameter says which payload the module reads: ``SplatBaseModule[MyPayload]`` is refused at set-up
    beside a renderer that returns something else.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, nn.Module) and "__hash__" not in vars(cls):
            cls.__hash__ = object.__hash__  # PyTorch needs it, and a dataclass has none

    @property
    def module_name(self) -> str:
        """The name of this module in messages and checkpoints."""
        return type(self).__name__

    @property
    def is_idle(self) -> bool:
        """Whether its settings turn this module off; then none of its hooks is called, and it costs nothing."""
        return False

    @property
    def may_own_parameters(self) -> bool:
        """Whether `trainables` may declare parameters."""
        return isinstance(self, nn.Module) or type(self).trainables is not SplatBaseModule.trainables

    capturable: ClassVar[bool] = False
    """For renderers, image models and losses: whether `render`, `apply` or `compute_loss` may be captured in a CUDA
    graph. Then its kernels must not depend on numbers that change from step to step, and nothing may be read back from
    the device. The value holds for the class that sets it; subclasses have to set it again."""

    @property
    def gpu_kernels(self) -> tuple[LazyKernel[Any], ...]:
        """Kernels that its steps use on a GPU, to be compiled while the data is read."""
        return ()

    def trainables(self, *args: Any, **kwargs: Any) -> Mapping[str, Trainable | RowTrainable]:
        """The parameters that this part owns and the trainer optimises, by name.

        Called once, when the part joins a run or an opened one, before weights are loaded and before `on_setup`. A
        part that is an `nn.Module` trains its parameters without a method of its own.
        """
        return module_trainables(self) if isinstance(self, nn.Module) else {}

    def on_setup(self, *args: Any, **kwargs: Any) -> None:
        """Once, before the first step and after a checkpoint has been loaded."""

    def on_checkpoint_loaded(self, *args: Any, **kwargs: Any) -> None:
        """After a checkpoint has been loaded, before `on_setup`; not in a run that starts afresh."""

    def pre_batch(self, *args: Any, **kwargs: Any) -> None:
        """At the very beginning of a step, before the training image is drawn."""

    def pre_step(self, *args: Any, **kwargs: Any) -> Any:
        """After the training image has been drawn, before rendering.

        May change what the step compares with: return a `FrameEdit`.
        """

    def pre_compute_loss(self, *args: Any, **kwargs: Any) -> None:
        """After rendering, before the loss."""

    def post_compute_loss(self, *args: Any, **kwargs: Any) -> None:
        """After the loss, before backward."""

    def on_optimize(self, *args: Any, **kwargs: Any) -> None:
        """After the optimizers' step, before densification; the gradients are still there."""

    def post_step(self, *args: Any, **kwargs: Any) -> None:
        """At the end of a step, after densification."""

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """After every module's `post_step`: the place to evaluate, when the step is complete for all of them."""

    def on_gaussians_changed(self, *args: Any, **kwargs: Any) -> None:
        """After the rows of the Gaussians changed; ``row_change`` says which new row was which old one."""

    def pre_validation(self, *args: Any, **kwargs: Any) -> None:
        """Before an evaluation during training, of ``num_images`` images; ``all_images`` says whether that is all."""

    def pre_validation_image(self, *args: Any, **kwargs: Any) -> None:
        """Before an evaluation image is rendered."""

    def post_validation_image(self, *args: Any, **kwargs: Any) -> None:
        """After an evaluation image: ``metrics``, ``image_name``, ``rendered_frames`` and ``target_frames``."""

    def post_validation(self, *args: Any, **kwargs: Any) -> None:
        """After the last image of an evaluation."""

    def pre_save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Before the run's state is collected for a checkpoint."""

    def post_train(self, *args: Any, **kwargs: Any) -> None:
        """After the last step, before the last checkpoint; not when training ends by an exception."""

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """When training ends by an exception, before `on_cleanup`; ``exception`` is what was raised."""

    def on_phase(self, *args: Any, **kwargs: Any) -> None:
        """After each part of a step; ``phase`` names the part that ends: see `context.PHASES`."""

    def on_cleanup(self, *args: Any, **kwargs: Any) -> None:
        """Once, after the last step, also when training ends by an exception or a signal, or `on_setup` failed."""

    def wants_depth(self, step: int) -> bool:
        """Whether this part reads ``rend_out.depths_expected`` in a step, counted from 1.

        Depth is rendered only in the steps that need it, and costs nothing in the others.
        """
        return False

    def state_dict(self) -> dict[str, Any]:
        """The state of this module for a checkpoint: tensors, numbers, strings, and lists or dicts of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned; called before `on_setup`.

        All tensors in it are on the training device, whatever device they were on when the checkpoint was written.
        """


def overrides(part: object, method: str, base: type) -> bool:
    """Whether a part's class, or the part itself, has a method of its own in place of that of a base class."""
    return getattr(getattr(part, method), "__func__", None) is not getattr(base, method)


def payload_type(module: SplatBaseModule[Any]) -> type[SplatRenderPayload]:
    """The payload that a module's class declares, `SplatRenderPayload` if it declares none."""
    for cls in type(module).__mro__:
        for base in getattr(cls, "__orig_bases__", ()):
            for argument in typing.get_args(base):
                if isinstance(argument, type) and issubclass(argument, SplatRenderPayload):
                    return argument
    return SplatRenderPayload
