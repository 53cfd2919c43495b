"""The messages that the machines of a run exchange, and checks of them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from splatkit_ns.errors import SplatkitError, listed
from splatkit_ns.plugin.run.processes.rank_failures import Failure

SHOWN = 5
"""The number of different options that a message names."""


@dataclass(frozen=True)
class Machine:
    """The description of a machine."""

    number: int
    """The rank of the machine, from 0."""
    host: str
    folder: Path
    """The folder of the run; only that of machine 0 is written."""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    """The versions by package."""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    """The options that have to be the same on all machines, by their names for messages."""

    @property
    def name(self) -> str:
        """The machine, as the beginning of a sentence."""
        return f"Machine {self.number} ({self.host})"

    def __str__(self) -> str:
        return f"machine {self.number} ({self.host})"


@dataclass(frozen=True)
class MachineFailure:
    """The failure of a machine, or of one of its ranks."""

    who: str
    """The machine or rank that failed, as the beginning of a sentence; "" if the failure names it."""
    failure: Failure


class NamesMachines(SplatkitError):
    """An error that says which machine it is about."""


def lost(machine: Machine) -> MachineFailure:
    """The failure of a machine that is not heard of any more."""
    return MachineFailure("", Failure(f"{machine.name} has ended, or the network between the machines is cut."))


def address_of(url: object) -> tuple[str, int] | None:
    """Host and port of ``tcp://HOST:PORT``; None if it is anything else."""
    try:
        found = urlsplit(str(url))
        return (found.hostname, found.port) if found.scheme == "tcp" and found.hostname and found.port else None
    except ValueError:
        return None


def packed(fault: MachineFailure) -> bytes:
    """A failure for `unpacked` on another machine, where the class of its exception may not exist."""
    bare = replace(fault, failure=replace(fault.failure, error=None))
    return pickle.dumps((pickle.dumps(fault), pickle.dumps(bare)))


def unpacked(content: bytes) -> MachineFailure:
    """The failure of another machine, without its exception if that cannot be made here."""
    whole, bare = pickle.loads(content)
    with suppress(Exception):  # of a class that is not known here
        return pickle.loads(whole)
    return pickle.loads(bare)


def check_alike(this: Machine, first: Machine) -> None:
    """Check that a machine has the versions and options of machine 0.

    Raises:
        NamesMachines: it has others, which the message names.
    """
    for theirs, ours, what in (
        (first.versions, this.versions, "other versions"),
        (first.options, this.options, "other options"),
    ):
        found = _differences(theirs, ours)
        if found:
            raise NamesMachines(f"{this.name} has {what} than {first}: {found}.")


def _differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """The differences, for a message; "" if there are none."""
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    shown = [f"{name} is {ours.get(name, 'missing')}, not {theirs.get(name, 'there')}" for name in names]
    return listed(shown, SHOWN, separator="; ")
