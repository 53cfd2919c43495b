"""The parameters of Gaussians by name, with a clear error for rows that they do not have."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


class MissingRowsError(KeyError):
    """Code has read rows that these Gaussians do not have; the message names those that they have."""

    def __str__(self) -> str:
        return str(self.args[0])


class RowDict(dict[str, nn.Parameter]):
    """Parameters by name."""

    def __missing__(self, name: str) -> nn.Parameter:
        raise _missing(name, self)


class RowParameters(nn.ParameterDict):
    """Parameters by name, as a part of a PyTorch module."""

    def __getitem__(self, key: str) -> nn.Parameter:
        param = self._parameters.get(key)  # ParameterDict's way to the same takes several microseconds
        if param is None:
            raise _missing(key, self.keys())
        return param


def _missing(name: str, known: Iterable[str]) -> MissingRowsError:
    return MissingRowsError(
        f"these Gaussians have no rows {name!r}; they have {', '.join(known)}. A part of the run declares others as a "
        "RowTrainable in its trainables(); of files, only a PLY file that such a run has written holds them."
    )
