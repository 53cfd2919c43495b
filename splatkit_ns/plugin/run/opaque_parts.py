"""Wrappers that keep parts which are no dataclasses whole in a config.

tyro, which makes the command line, would take a plain class apart: it offers the arguments of ``__init__`` as flags and
makes a new object from their defaults, whatever arguments the given object was made with.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from splatkit_ns.densification import SplatDensification
from splatkit_ns.image_model import ImageModelChoice, SplatImageModel
from splatkit_ns.loss_fn import SplatLossFn
from splatkit_ns.parts.copying import Uncopied, copyable_or_wrapped, running_copy
from splatkit_ns.renderer import SplatRenderer


def _refuse(arguments: list[str]) -> NoReturn:
    raise ValueError(f"objects cannot be given on the command line, found {arguments}")


Opaque = Annotated[
    Any,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="OBJECT",
        instance_from_str=_refuse,
        is_instance=lambda instance: True,
        str_from_instance=lambda instance: [type(instance).__name__],
    ),
    tyro.conf.Suppress,
]
"""A field that the command line neither shows nor changes."""


@dataclass
class OpaqueRenderer(SplatRenderer):
    """A renderer whose settings are no flags."""

    module: Opaque


@dataclass
class OpaqueLossFn(SplatLossFn):
    """A loss whose settings are no flags."""

    module: Opaque


@dataclass
class OpaqueImageModel(SplatImageModel):
    """An image model whose settings are no flags."""

    module: Opaque


@dataclass
class OpaqueDensification(SplatDensification):
    """A densification strategy whose settings are no flags."""

    module: Opaque


WRAPPER_OF: tuple[tuple[type[Any], Any], ...] = (
    (SplatRenderer, OpaqueRenderer),
    (SplatLossFn, OpaqueLossFn),
    (SplatDensification, OpaqueDensification),
    (SplatImageModel, OpaqueImageModel),
)
"""The base of each kind of part, with its wrapper."""
WRAPPERS = tuple(wrapper for _, wrapper in WRAPPER_OF)
"""The wrappers."""


def _is_made_of_its_fields(part: Any) -> bool:
    """Whether this is a dataclass with a generated ``__init__``; a subclass may have one of its own."""
    if not dataclasses.is_dataclass(part):
        return False
    names = {field.name for field in dataclasses.fields(part) if field.init}
    return set(inspect.signature(type(part)).parameters) == names


def opaque_part(part: Any) -> Any:
    """The form in which a config holds a part of a model: the part itself if it is a dataclass that can be copied, else
    a wrapper.

    Raises:
        TypeError: it is no part of a model.
    """
    copyable = copyable_or_wrapped(part)
    if _is_made_of_its_fields(part) and not isinstance(copyable, Uncopied):
        return part
    for base, wrapper in WRAPPER_OF:
        if isinstance(part, base):
            return wrapper(copyable)
    raise TypeError(f"{part!r} is no renderer, image model, loss or densification.")


def instance(part: Any) -> Any:
    """A run-time copy of a part that `opaque_part` returned."""
    return running_copy(part_itself(part))


def instances(parts: Iterable[Any]) -> list[Any]:
    """Run-time copies of parts that `opaque_part` returned; what parts share, such as a network, their copies share."""
    given = [part_itself(part) for part in parts]
    try:
        return deepcopy(given)
    except Exception:  # whatever the user's objects raise
        return [running_copy(part) for part in given]


def part_itself(part: Any) -> Any:
    """The part that was given to `opaque_part`, or that a choice of parts names."""
    if isinstance(part, ImageModelChoice):
        return part.chosen
    if isinstance(part, WRAPPERS):
        part = part.module
    return part.module if isinstance(part, Uncopied) else part
