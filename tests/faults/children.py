"""Processes for tests to kill: forks of a server that has imported everything, and has started no work on a thread."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from splatkit_ns.errors import SplatkitError

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([
    "tests.quick_nerfstudio", "tests.faults.runs", "open3d", "torch.utils.tensorboard",
    "splatkit_ns.rasterize.cpu.rasterization",
])  # fmt: skip

PATIENCE = 1200.0
"""Seconds after which a child counts as hung; a busy machine may slow it down tenfold."""


class Child:
    """A process that calls ``function(**arguments)`` as a command would: what nobody catches ends in `sys.excepthook`.

    Args:
        function: of a module that can be imported.
        log: file for what it prints.
        arguments: can be pickled.
    """

    def __init__(self, function: Callable[..., Any], log: Path, **arguments: Any) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process = _context.Process(target=_main, args=(function, log, arguments), daemon=True)
        self._process.start()

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit status; minus the signal's number where one ended it.

        Raises:
            TimeoutError: it still ran after `timeout` seconds, and was killed.
        """
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            self._process.kill()
            self._process.join()
            raise TimeoutError(f"the child ran longer than {timeout} s: {self.text()[-2000:]}")
        return status

    def wait_for(self, condition: Callable[[], bool], timeout: float = PATIENCE) -> None:
        """Wait until something that the child does has happened.

        Raises:
            TimeoutError: it has not, and the child was killed; or the child has ended without it.
        """
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end or self._process.exitcode is not None:
                self._process.kill()
                raise TimeoutError(f"it did not happen: {self.text()[-2000:]}")
            time.sleep(0.005)

    @property
    def pid(self) -> int:
        """Of the process."""
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.is_alive()

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(self.pid, signum)

    def text(self) -> str:
        """What it has printed so far, as one line."""
        return " ".join(self.log.read_text().split()) if self.log.exists() else ""


def _main(function: Callable[..., Any], log: Path, arguments: dict[str, Any]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ["COLUMNS"] = "10000"  # lines are not wrapped
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import numba
    import torch

    torch.set_num_threads(1)
    numba.set_num_threads(1)
    status = 1
    try:
        function(**arguments)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
        if isinstance(error.code, str):
            sys.stderr.write(error.code)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def read_limited(read: Callable[[Path], Any], path: Path, extra: int, good: Path | None = None) -> None:
    """Read a file while the process may grow by `extra` bytes only; a refusal ends it as it ends a command.

    Args:
        read: called with the path.
        path: of the file that must be refused.
        extra: bytes of address space. glibc reserves 64 MiB of it at once when its heap cannot grow where it is.
        good: a file that `read` reads before the limit is set, so that what it imports does not count.
    """
    if good is not None:
        read(good)
    with open("/proc/self/status") as status:
        virtual = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (virtual + extra, virtual + extra))
    try:
        read(path)
    except SplatkitError as error:
        sys.exit(f"Error: {error}")
