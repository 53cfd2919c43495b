"""The machines that train one run together: they find each other, tell each other of failures, and notice an end."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from nerfstudio.utils.rich_utils import CONSOLE
from rich.markup import escape

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.run.processes.machine_store import MachineStore
from splatkit_ns.plugin.run.processes.machine_words import (
    Machine,
    MachineFailure,
    NamesMachines,
    address_of,
    check_alike,
    lost,
)
from splatkit_ns.plugin.run.processes.other_machines import OtherMachines
from splatkit_ns.plugin.run.processes.rank_failures import Failure, failure_of, raise_cause

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


@dataclass
class Waiting:
    """The time that a machine waits for others, of which it says something once."""

    url: str
    """The address of machine 0."""
    began: float = field(default_factory=time.monotonic)
    has_noted: bool = False

    @property
    def is_over(self) -> bool:
        """Whether it has waited as long as machines do."""
        return time.monotonic() > self.began + PATIENCE

    def note(self, what: str) -> None:
        """Print what is waited for, if that takes long."""
        if not self.has_noted and time.monotonic() > self.began + NOTE_AFTER:
            self.has_noted = True
            CONSOLE.print(f"Waiting for {what} at {self.url}.", highlight=False, soft_wrap=True)


class Machines:
    """The machines of a run, as the process that starts the ranks of one of them knows them.

    Machine 0 keeps the store at which the ranks meet, too. A thread says every half second that this machine is there.

    Args:
        this: the description of this machine.
        number: of machines.
        url: ``tcp://HOST:PORT`` of machine 0.
    """

    def __init__(self, this: Machine, number: int, url: str) -> None:
        address = address_of(url)
        assert address is not None
        self.this, self.number, self._url = this, number, url
        self.first = this
        """The description of machine 0, once this machine has found it."""
        self.host, self.port = ("127.0.0.1" if self.is_first else address[0]), address[1]
        """The address at which the ranks of this machine find the others."""
        self._others = OtherMachines(number, SILENCE)
        """The machines that have joined, as machine 0 knows them."""
        self._are_complete = threading.Event()
        self._ours: MachineFailure | None = None
        """The failure of this machine, to be told."""
        self._fault: MachineFailure | None = None
        self._leaves = False
        self._answered = 0.0
        """The time of the last answer of machine 0."""
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
            waiting = Waiting(self._url)
            self._store = self._serve() if self.is_first else self._join(waiting)
            self._answered = time.monotonic()
            self._thread.start()
            while not self._are_complete.wait(0.02):
                self.raise_fault()
                waiting.note(self._missing())
                if self.is_first and waiting.is_over:
                    raise NamesMachines(
                        f"{self._missing().capitalize()} did not come within {PATIENCE:.0f} s to {self._url}: start "
                        "the same command there, with its own --machine.machine-rank, and check that this address can "
                        "be reached from there."
                    )
        if not self.is_first:
            CONSOLE.print(
                f"Machine {self.this.number} of {self.number} (the first is 0) takes part in the run of {self.first}, "
                f"where results are: {escape(str(self.first.folder))}",
                highlight=False,
                soft_wrap=True,
            )

    def refuse(self, error: SplatkitError) -> None:
        """Tell the others, if machine 0 answers at once, that this machine cannot meet them."""
        if self.is_first:
            return
        with suppress(OSError, RuntimeError):
            line = socket.create_connection((self.host, self.port), timeout=2)
            store = MachineStore.connect(self.host, self.port, line, timeout=FAREWELL)
            if store is not None and not store.is_complete:
                store.fail(self.this.number, MachineFailure(self.this.name, failure_of(error)))

    def _missing(self) -> str:
        numbers = [str(number) for number in self._others.missing]
        if not self.is_first or not numbers:
            return "the other machines"
        names = " and ".join(filter(None, (", ".join(numbers[:-1]), numbers[-1])))
        return f"machine{'s' if len(numbers) > 1 else ''} {names} of {self.number} (the first is 0)"

    def _serve(self) -> MachineStore:
        try:
            store = MachineStore.serve(self.port)
        except OSError as error:
            told = f"--machine.dist-url is {self._url}, but {error}. Name another on all machines."
            raise SplatkitError(told) from error
        store.introduce(self.this)
        return store

    def _join(self, waiting: Waiting) -> MachineStore:
        """Find machine 0, compare, and let it know this machine."""
        store = MachineStore.connect(self.host, self.port, self._line_to_first(waiting), timeout=SILENCE)
        if store is None:
            raise SplatkitError(
                f"What answers at {self._url} is no run of several machines: is the port in use there? Name another on "
                "all machines."
            )
        self.first, this = store.first, self.this
        if store.is_complete:
            raise SplatkitError(f"At {self._url} is another run, whose machines are all there. Name another port.")
        try:
            if not store.take(this.number):
                other = store.machine(this.number)
                where = "another machine" if other is None else other.host
                raise NamesMachines(
                    f"--machine.machine-rank {this.number} is given twice: on {where} and on {this.host}."
                )
            check_alike(this, self.first)
        except NamesMachines as error:
            store.fail(this.number, MachineFailure("", failure_of(error)))
            raise
        store.introduce(this)
        return store

    def _line_to_first(self, waiting: Waiting) -> socket.socket:
        while True:
            try:
                return socket.create_connection((self.host, self.port), timeout=2)
            except OSError as error:
                is_unknown = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
                if is_unknown or waiting.is_over:
                    waited = "" if is_unknown else f" within {PATIENCE:.0f} s"
                    raise SplatkitError(
                        f"Machine 0 does not answer at {self._url}{waited} ({error}): start the same command there, "
                        "with --machine.machine-rank 0, and check that this is its address and no firewall is between."
                    ) from error
                waiting.note("machine 0")
                time.sleep(0.2)

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
            who: the machine or rank that failed, as the beginning of a sentence.
            failure: how.
        """
        if self._ours is None and self._fault is None:
            if failure.kind == "early":
                text = f"was stopped by {signal.Signals(failure.code).name} before training began."
                failure = replace(failure, text=text)
            self._ours = MachineFailure(who, failure)
            self._wake.set()

    def raise_fault(self) -> None:
        """Raise the failure of another machine, if there is one."""
        fault = self.fault
        if fault is None:
            return
        if fault.failure.kind == "early":
            CONSOLE.print(f"{escape(fault.who)} {escape(fault.failure.text)}", highlight=False)
        raise_cause([(fault.who, fault.failure)], 2, [], "")

    def await_cause(self) -> None:
        """Wait until the failure is known that has ended ranks of this machine, or all other machines have ended."""
        limit = time.monotonic() + SILENCE + FAREWELL
        while self.fault is None and time.monotonic() < limit and self._thread.is_alive():
            if self.is_first and self._others.have_ended:
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
        """Speak to the others until this machine leaves."""
        try:
            while not (self._lead() if self.is_first else self._follow()):
                self._answered = time.monotonic()
                self._wake.wait(BEAT)
                self._wake.clear()
        except (RuntimeError, OSError):  # machine 0 keeps the store
            if self._fault is None and self._ours is None and not self._leaves:
                self._fault = lost(self.first)

    def _lead(self) -> bool:
        """Say and hear what there is, as machine 0; whether it has left, which it does as the last one."""
        leaves = self._leaves
        self._exchange_failures()
        for machine in self._others.hear(self._store):
            if self._ours is None and self._fault is None:
                self._fault = lost(machine)
                self._store.fail(0, self._fault)
        if not self._others.missing and not self._are_complete.is_set():
            self._store.complete()
            self._are_complete.set()
        return leaves and self._others.have_ended

    def _follow(self) -> bool:
        """Say and hear what there is, as another machine; whether it has left."""
        if self._store.is_closed:
            raise ConnectionError("closed")
        leaves = self._leaves
        if self._exchange_failures() or leaves:
            self._store.end(self.this.number)
            return True
        self._store.beat(self.this.number)
        if not self._are_complete.is_set() and self._store.is_complete:
            self._are_complete.set()
        return False

    def _exchange_failures(self) -> bool:
        """Tell the failure of this machine, and hear the first one; whether there is any."""
        ours, number = self._ours, self.this.number
        if ours is not None:
            self._store.fail(number, ours)
        found = self._store.first_failure()
        if found is None and self._fault is not None:  # machine 0 was silent for a while, and is there again
            self._store.fail(number, self._fault)
        if found is not None and self._fault is None and (ours is None or found[0] != number):
            self._fault = found[1]
        return ours is not None or self._fault is not None
