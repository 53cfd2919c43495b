"""Networks in a run's ``config.yml``: the weights with which a part that is an `nn.Module` begins, and its layers.

PyYAML would write tensors as calls of PyTorch's own functions, one of which runs any code. Here they are bytes.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from splatkit_ns.parts.base import SplatBaseModule

CHARACTERS = 80_000
"""The most characters of a piece of a tensor: longer values are refused in a config."""
ORDERED = ("_modules", "_parameters", "_buffers")
"""The attributes of an `nn.Module` whose order is that of its layers and weights."""


def stored_tensor(dtype: str, shape: Sequence[int], trains: bool | None, pieces: Sequence[str]) -> Tensor:
    """Make the tensor that a config holds.

    Args:
        dtype: such as ``float32``.
        shape: of the tensor.
        trains: whether a parameter wants gradients; None for a tensor that is no parameter.
        pieces: its bytes in base64, in order.

    Raises:
        ValueError: the bytes are not those of such a tensor.
    """
    kind: Any = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"There is no type of tensors {dtype!r}.")
    data = bytearray(b"".join(base64.b64decode(piece, validate=True) for piece in pieces))
    flat = torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
    found = flat.reshape(tuple(shape))
    return found if trains is None else nn.Parameter(found, requires_grad=trains)


def _represent(dumper: yaml.Dumper, tensor: Tensor) -> yaml.Node:
    plain = tensor.detach().cpu().contiguous()
    data = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    step = CHARACTERS // 4 * 3
    arguments = [
        str(plain.dtype).removeprefix("torch."),
        list(plain.shape),
        tensor.requires_grad if isinstance(tensor, nn.Parameter) else None,
        [base64.b64encode(data[i : i + step]).decode() for i in range(0, len(data), step)],
    ]
    name = f"{stored_tensor.__module__}.{stored_tensor.__qualname__}"
    return dumper.represent_sequence(f"tag:yaml.org,2002:python/object/apply:{name}", arguments)


def _represent_module(dumper: yaml.Dumper, module: nn.Module) -> yaml.Node:
    """Write a network with its layers in their order; PyYAML would sort them by name, so that "10" comes before "2"."""
    made, arguments, state, *more = (*module.__reduce_ex__(2), None, None)[:5]
    cls = type(module)
    if getattr(made, "__name__", "") != "__newobj__" or arguments != (cls,) or not isinstance(state, dict) or any(more):
        return dumper.represent_object(module)
    ordered = {name: OrderedDict(value) if name in ORDERED else value for name, value in state.items()}
    tag = f"tag:yaml.org,2002:python/object:{cls.__module__}.{cls.__qualname__}"
    if not isinstance(dumper, WithoutWeights):
        return dumper.represent_mapping(tag, ordered)
    with dumper.inside(module):
        return dumper.represent_mapping(tag, ordered | (_shapes(state) if dumper.is_in_part else {}))


class WithoutWeights(yaml.Dumper):
    """Writes configs to compare them: of the weights and buffers of a part that is an `nn.Module`, the shapes alone.

    A run that goes on has them from its checkpoint, and a part that is made again begins with other ones.
    """

    is_in_part = False

    @contextmanager
    def inside(self, module: nn.Module) -> Generator[None]:
        """A block that writes what this module holds."""
        outside, self.is_in_part = self.is_in_part, self.is_in_part or isinstance(module, SplatBaseModule)
        try:
            yield
        finally:
            self.is_in_part = outside


def _shapes(state: dict[str, Any]) -> dict[str, Any]:
    """The weights and buffers in the state of a module, each as its type and shape."""
    kinds: dict[str, Any] = {}
    for kind in ("_parameters", "_buffers"):
        found: dict[str, Tensor | None] = state.get(kind, {})
        kinds[kind] = {
            name: value if value is None else f"{value.dtype} {value.shape}" for name, value in found.items()
        }
    return kinds


yaml.add_multi_representer(Tensor, _represent)
yaml.add_multi_representer(nn.Module, _represent_module)
