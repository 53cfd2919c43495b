"""The machines that train one run together: they find each other, tell each other of failures, and notice an end."""

from __future__ import annotations

import pickle
import select
import signal
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from nerfstudio.utils.rich_utils import CONSOLE
from rich.markup import escape

from splatkit_ns import ranks
from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.run.machine_words import (
    Machine,
    MachineFailure,
    NamesMachines,
    address_of,
    differences,
    lost,
    packed,
    unpacked,
)
from splatkit_ns.plugin.run.rank_failures import Failure, failure_of, raise_cause

PATIENCE = 300.0
"""Seconds in which all machines have to come."""
SILENCE = 20.0
"""Seconds without a word after which a machine is lost."""
FAREWELL = 5.0
"""Seconds for what a machine has to say before it ends."""
NOTE_AFTER = 3.0
"""Seconds after which a machine says that it waits."""
BEAT = 0.5
"""Seconds between two words."""


class Machines:
    """The machines of a run, as the process that starts the ranks of one of them knows them.

    Machine 0 keeps the store at which the ranks meet, too. Each machine says every half a second that it is there.

    Args:
        this: what this machine says of itself.
        number: of machines.
        url: ``tcp://HOST:PORT`` of machine 0.
    """

    def __init__(self, this: Machine, number: int, url: str) -> None:
        address = address_of(url)
        assert address is not None
        self.this, self.number, self._url = this, number, url
        self.first = this
        """What machine 0 says of itself, once this machine has found it."""
        self.host, self.port = ("127.0.0.1" if self.is_first else address[0]), address[1]
        """Where the ranks of this machine find the others."""
        self._fault: MachineFailure | None = None
        self._others: dict[int, Machine] = {}
        self._heard: dict[int, tuple[int, float]] = {}
        """The number of words of each other machine, and when the last one came."""
        self._ended, self._number_lost = set[int](), 0
        self._store: Any = None
        self._line: socket.socket | None = None
        """A connection to machine 0 that carries nothing, and closes when it ends."""
        self._answered = 0.0
        self._to_tell: bytes | None = None
        self._is_registered = self._is_complete = self._has_told = self._leaves = self._has_noted = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)

    @property
    def is_first(self) -> bool:
        """Whether this is machine 0."""
        return self.this.number == 0

    @property
    def fault(self) -> MachineFailure | None:
        """The first failure of the run, unless it is that of this machine."""
        if self._fault is None and self._thread.is_alive() and time.monotonic() - self._answered > SILENCE:
            self._fault = lost(self.first)
        return self._fault

    # ------------------------------------------------------------------ meeting

    def meet(self) -> None:
        """Wait for all machines, and compare what they are to do.

        Raises:
            SplatkitError: they do not all come, are not alike, or one of them has failed.
            StoppedBySignal: another machine was stopped.
        """
        with self.telling():
            began = time.monotonic()
            if self.is_first:
                self._serve()
            else:
                self._connect(began)
            self._answered = time.monotonic()
            self._thread.start()
            if not self.is_first:
                self._register()
            self._is_registered = True
            while not self._is_complete:
                self.raise_fault()
                self._note_waiting(self._missing(), began)
                if self.is_first and time.monotonic() > began + PATIENCE:
                    raise NamesMachines(
                        f"{self._missing().capitalize()} did not come within {PATIENCE:.0f} s to {self._url}: start "
                        "the same command there, with its own --machine.machine-rank, and check that this address can "
                        "be reached from there."
                    )
                time.sleep(0.02)
        if not self.is_first:
            CONSOLE.print(
                f"Machine {self.this.number} of {self.number} (the first is 0) takes part in the run of {self.first}, "
                f"where results are: {escape(str(self.first.folder))}",
                highlight=False,
                soft_wrap=True,
            )

    def _note_waiting(self, what: str, began: float) -> None:
        if not self._has_noted and time.monotonic() > began + NOTE_AFTER:
            self._has_noted = True
            CONSOLE.print(f"Waiting for {what} at {self._url}.", highlight=False, soft_wrap=True)

    def _missing(self) -> str:
        numbers = [str(i) for i in range(1, self.number) if i not in self._others]
        if not self.is_first or not numbers:
            return "the other machines"
        names = " and ".join(filter(None, (", ".join(numbers[:-1]), numbers[-1])))
        return f"machine{'s' if len(numbers) > 1 else ''} {names} of {self.number} (the first is 0)"

    def _serve(self) -> None:
        try:
            self._store = ranks.serve(self.port)
        except OSError as error:
            told = f"--machine.dist-url is {self._url}, but {error}. Name another on all machines."
            raise SplatkitError(told) from error
        self._store.set("machine/0", pickle.dumps(self.this))

    def _connect(self, began: float) -> None:
        """Find machine 0."""
        while self._line is None:
            try:
                self._line = socket.create_connection((self.host, self.port), timeout=2)
            except OSError as error:
                is_unknown = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
                if is_unknown or time.monotonic() > began + PATIENCE:
                    waited = "" if is_unknown else f" within {PATIENCE:.0f} s"
                    raise SplatkitError(
                        f"Machine 0 does not answer at {self._url}{waited} ({error}): start the same command there, "
                        "with --machine.machine-rank 0, and check that this is its address and no firewall is between."
                    ) from error
                self._note_waiting("machine 0", began)
                time.sleep(0.2)
        found: list[Any] = []

        def connect() -> None:
            try:
                store = ranks.connect(self.host, self.port)
                found.extend([store, pickle.loads(store.get("machine/0"))])
            except Exception as error:  # another program may answer anything
                found.append(error)

        thread = threading.Thread(target=connect, daemon=True)  # in a program that is no run, it may never end
        thread.start()
        limit = time.monotonic() + SILENCE
        while thread.is_alive() and time.monotonic() < limit:
            thread.join(0.1)
        if len(found) < 2:
            raise SplatkitError(
                f"What answers at {self._url} is no run of several machines: is the port in use there? Name another on "
                "all machines."
            )
        self._store, self.first = found
        if self._store.check(["complete"]):
            raise SplatkitError(f"At {self._url} is another run, whose machines are all there. Name another port.")
        self._store.add("come", 1)

    def _register(self) -> None:
        """Tell machine 0 that this machine is here, and what it is to do."""
        store, this = self._store, self.this
        if store.add(f"taken/{this.number}", 1) > 1:
            place = f"machine/{this.number}"
            other = pickle.loads(store.get(place)).host if store.check([place]) else "another machine"
            raise NamesMachines(f"--machine.machine-rank {this.number} is given twice: on {other} and on {this.host}.")
        for theirs, ours, what in (
            (self.first.versions, this.versions, "other versions"),
            (self.first.options, this.options, "other options"),
        ):
            found = differences(theirs, ours)
            if found:
                raise NamesMachines(f"{this.name} has {what} than {self.first}: {found}.")
        store.set(f"machine/{this.number}", pickle.dumps(this))

    # ------------------------------------------------------------------ failures

    @contextmanager
    def telling(self) -> Generator[None]:
        """A block whose exceptions the other machines are told, before this one leaves them."""
        try:
            yield
        except BaseException as error:
            failure = failure_of(error)
            if failure.kind in ("error", "early"):
                self.tell("" if isinstance(error, NamesMachines) else self.this.name, failure)
            self.leave()
            raise

    def tell(self, who: str, failure: Failure) -> None:
        """Tell the others of a failure on this machine, unless they have been told of one.

        Args:
            who: has failed, for the begin of a sentence.
            failure: how.
        """
        if self._to_tell is None and self._fault is None:
            if failure.kind == "early":
                text = f"was stopped by {signal.Signals(failure.code).name} before training began."
                failure = replace(failure, text=text)
            self._to_tell = packed(MachineFailure(who, failure))
            self._wake.set()

    def raise_fault(self) -> None:
        """Raise the failure of another machine, if there is one."""
        fault = self.fault
        if fault is None:
            return
        if fault.failure.kind == "early":
            CONSOLE.print(f"{fault.who} {fault.failure.text}", highlight=False)
        raise_cause([(fault.who, fault.failure)], 2, [], "")

    def await_cause(self) -> None:
        """Wait until the failure is known that has ended ranks of this machine, or all other machines have ended."""
        limit = time.monotonic() + SILENCE + FAREWELL
        while self.fault is None and time.monotonic() < limit and self._thread.is_alive():
            if self.is_first and self._ended.issuperset(self._others):
                return
            time.sleep(0.05)

    def leave(self) -> None:
        """Tell the others that this machine has ended; machine 0 waits for those that have not."""
        if self._thread.is_alive():
            self._leaves = True
            self._wake.set()
            self._thread.join(2 * SILENCE if self.is_first else FAREWELL)

    # ------------------------------------------------------------------ the thread

    def _talk(self) -> None:
        """Speak to the store until this machine leaves."""
        try:
            while not self._say():
                self._answered = time.monotonic()
                self._wake.wait(BEAT)
                self._wake.clear()
        except (RuntimeError, OSError):  # machine 0 keeps the store
            if self._fault is None and self._to_tell is None and not self._leaves:
                self._fault = lost(self.first)

    def _say(self) -> bool:
        """Say and hear what there is; whether this machine has left."""
        store, number = self._store, self.this.number
        if self._line is not None and select.select([self._line], [], [], 0)[0]:
            raise ConnectionError("closed")
        leaves = self._leaves
        if self._to_tell is not None and not self._has_told:
            store.set(f"failure/{number}", self._to_tell)
            store.compare_set("failed", "", str(number))
            self._has_told = True
        self._hear_failure()
        if not self.is_first and (leaves or self._fault is not None or self._has_told):
            if self._is_registered:
                store.set(f"ended/{number}", "1")
            store.add("gone", 1)  # machine 0, which keeps the store, may leave when all that have come have gone
            return True
        if self._is_registered:
            store.add(f"word/{number}", 1)
        if self.is_first:
            self._hear_others()
        elif not self._is_complete:
            self._is_complete = store.check(["complete"])
        return leaves and store.add("gone", 0) + self._number_lost >= store.add("come", 0)

    def _hear_failure(self) -> None:
        if self._fault is None and self._store.check(["failed"]):
            number = int(self._store.get("failed"))
            if number != self.this.number or not self._has_told:
                self._fault = unpacked(self._store.get(f"failure/{number}"))

    def _hear_others(self) -> None:
        store, now = self._store, time.monotonic()
        for number in range(1, self.number):
            if number not in self._others:
                if store.check([f"machine/{number}"]):
                    self._others[number] = pickle.loads(store.get(f"machine/{number}"))
                    self._heard[number] = 0, now
                continue
            words, at = store.add(f"word/{number}", 0), self._heard[number][1]
            if store.check([f"ended/{number}"]):
                self._ended.add(number)
            if words != self._heard[number][0]:
                self._heard[number] = words, now
            elif number not in self._ended and now - at > SILENCE:
                self._ended.add(number)
                self._number_lost += 1
                if self._to_tell is None and self._fault is None:
                    self._fault = lost(self._others[number])
                    store.set("failure/0", packed(self._fault))
                    store.compare_set("failed", "", "0")
        if len(self._others) == self.number - 1 and not self._is_complete:
            store.set("complete", "1")
            self._is_complete = True
