"""The store, kept by machine 0, through which the machines of a run exchange messages."""

from __future__ import annotations

import pickle
import select
import socket
import threading
from contextlib import suppress
from typing import Any

from splatkit_ns import ranks
from splatkit_ns.plugin.run.processes.machine_words import Machine, MachineFailure, packed, unpacked


class MachineStore:
    """The store of a run; every method raises `RuntimeError` or `OSError` if machine 0 has ended.

    Args:
        store: of `ranks`.
        line: a connection to machine 0 that carries nothing, and closes when it ends; None on machine 0.
    """

    def __init__(self, store: Any, line: socket.socket | None = None) -> None:
        self._store, self._line = store, line

    @classmethod
    def serve(cls, port: int) -> MachineStore:
        """A new store, on machine 0.

        Raises:
            OSError: the port is in use.
        """
        return cls(ranks.serve(port))

    @classmethod
    def connect(cls, host: str, port: int, line: socket.socket, timeout: float) -> MachineStore | None:
        """The store of machine 0; None if another program listens there.

        Args:
            host: machine 0.
            port: where it listens.
            line: a connection to it.
            timeout: seconds to wait for an answer.
        """
        found: list[MachineStore] = []

        def connect() -> None:
            with suppress(Exception):  # another program may answer anything
                store = cls(ranks.connect(host, port), line)
                _ = store.first
                found.append(store)

        thread = threading.Thread(target=connect, daemon=True)  # in a program that is no run, it may never end
        thread.start()
        thread.join(timeout)
        return found[0] if found else None

    @property
    def is_closed(self) -> bool:
        """Whether machine 0 is known to have ended."""
        return self._line is not None and bool(select.select([self._line], [], [], 0)[0])

    # ------------------------------------------------------------------ the machines

    @property
    def first(self) -> Machine:
        """The description of machine 0; waits for it."""
        return pickle.loads(self._store.get("machine/0"))

    def machine(self, number: int) -> Machine | None:
        """The description of a machine; None if it is not there yet."""
        place = f"machine/{number}"
        return pickle.loads(self._store.get(place)) if self._store.check([place]) else None

    def introduce(self, machine: Machine) -> None:
        """Store the description of a machine for the others."""
        self._store.set(f"machine/{machine.number}", pickle.dumps(machine))

    def take(self, number: int) -> bool:
        """Take the number of a machine; whether it was free."""
        return self._store.add(f"taken/{number}", 1) == 1

    @property
    def is_complete(self) -> bool:
        """Whether machine 0 knows all machines."""
        return self._store.check(["complete"])

    def complete(self) -> None:
        """Mark all machines as known to machine 0."""
        self._store.set("complete", "1")

    # ------------------------------------------------------------------ heartbeats and failures

    def beat(self, number: int) -> None:
        """Count a heartbeat of a machine."""
        self._store.add(f"beat/{number}", 1)

    def beats(self, number: int) -> int:
        """The number of heartbeats of a machine."""
        return self._store.add(f"beat/{number}", 0)

    def end(self, number: int) -> None:
        """Mark a machine as ended: it needs the store no more."""
        self._store.set(f"ended/{number}", "1")

    def has_ended(self, number: int) -> bool:
        """Whether a machine is marked as ended."""
        return self._store.check([f"ended/{number}"])

    def fail(self, number: int, fault: MachineFailure) -> None:
        """Store the failure of a machine; machine 0 also stores those of machines that it has lost."""
        self._store.set(f"failure/{number}", packed(fault))
        self._store.compare_set("failed", "", str(number))

    def first_failure(self) -> tuple[int, MachineFailure] | None:
        """The first failure, and the number of the machine that has told it; None if there is none."""
        if not self._store.check(["failed"]):
            return None
        number = int(self._store.get("failed"))
        return number, unpacked(self._store.get(f"failure/{number}"))
