"""The other machines of a run, as machine 0 hears of them."""

from __future__ import annotations

import time

from splatkit_ns.plugin.run.processes.machine_store import MachineStore
from splatkit_ns.plugin.run.processes.machine_words import Machine


class OtherMachines:
    """The states of the other machines: not joined yet, running, ended, or lost.

    Args:
        number: of all machines of the run.
        silence: seconds without a beat after which a machine is lost.
    """

    def __init__(self, number: int, silence: float) -> None:
        self._number, self._silence = number, silence
        self._known: dict[int, Machine] = {}
        self._beats: dict[int, tuple[int, float]] = {}
        """The number of heartbeats of each machine that has joined, and the time of the last one."""
        self._ended = set[int]()

    @property
    def missing(self) -> list[int]:
        """The numbers of the machines that have not joined."""
        return [number for number in range(1, self._number) if number not in self._known]

    @property
    def have_ended(self) -> bool:
        """Whether all that have joined have ended, or are lost."""
        return self._ended.issuperset(self._known)

    def hear(self, store: MachineStore) -> list[Machine]:
        """Read the store; returns the machines that have been lost since the last call."""
        now, lost = time.monotonic(), list[Machine]()
        for number in self.missing:
            machine = store.machine(number)
            if machine is not None:
                self._known[number], self._beats[number] = machine, (0, now)
        for number, machine in self._known.items():
            if number in self._ended:
                continue
            beats, (before, at) = store.beats(number), self._beats[number]
            if store.has_ended(number):
                self._ended.add(number)
            elif beats != before:
                self._beats[number] = beats, now
            elif now - at > self._silence:
                self._ended.add(number)
                lost.append(machine)
        return lost
