"""Connections among the ranks of one machine, for a few numbers at every step, for which gloo takes much longer."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

PATIENCE = 300.0
"""Seconds to wait for all ranks to connect."""
LARGEST = 1 << 16
"""The most bytes that are received at a time."""
NUMBER = struct.calcsize("<q")


class LineClosed(RuntimeError):
    """Another rank has ended."""


class RankLines:
    """Lets ranks tell each other numbers without waiting right away.

    Args:
        rank: the number of this process.
        lines: a connection to each other rank.
    """

    def __init__(self, rank: int, lines: Mapping[int, socket.socket]) -> None:
        self._rank, self._lines = rank, lines
        self._sent = 0
        self._buffers = {other: bytearray() for other in lines}
        self._come: dict[int, dict[int, list[int]]] = {other: {} for other in lines}
        """Messages that have been received but not read yet, by rank and number."""

    @classmethod
    def connect(cls, rank: int, size: int, store: Any) -> RankLines:
        """Connect all ranks; each calls this.

        Args:
            rank: the number of this process.
            size: the number of processes.
            store: a store of `torch.distributed` that they have in common.

        Raises:
            OSError: not all have come.
        """
        with socket.create_server(("127.0.0.1", 0), backlog=size) as listener:
            listener.settimeout(PATIENCE)
            store.set(f"line of rank {rank}", str(listener.getsockname()[1]))
            lines: dict[int, socket.socket] = {}
            for other in range(rank):
                port = int(store.get(f"line of rank {other}"))
                lines[other] = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
                lines[other].sendall(struct.pack("<q", rank))
            while len(lines) < size - 1:
                line, _ = listener.accept()
                (other,) = struct.unpack("<q", line.recv(NUMBER, socket.MSG_WAITALL))
                lines[other] = line
        for line in lines.values():
            line.settimeout(None)
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(rank, lines)

    def gather_later(self, numbers: Sequence[int]) -> Callable[[], list[list[int]]]:
        """Tell the others numbers; the function that is returned waits for theirs.

        All ranks call this in the same order; what is told need not be waited for.

        Returns:
            A function that returns the numbers of each rank, in the order of the ranks.

        Raises:
            LineClosed: another rank has ended; also raised by the function.
        """
        number, self._sent = self._sent, self._sent + 1
        message = struct.pack(f"<{len(numbers) + 2}q", number, len(numbers), *numbers)
        for line in self._lines.values():
            try:
                line.sendall(message)
            except OSError as error:
                raise LineClosed("the connection to another rank has closed") from error
        ours = list(numbers)
        return lambda: [
            ours if rank == self._rank else self._message(rank, number) for rank in range(len(self._lines) + 1)
        ]

    def is_closed(self) -> bool:
        """Whether another rank has ended, as far as all that it has said is known."""
        return any(map(_is_closed, self._lines.values()))

    def _message(self, rank: int, number: int) -> list[int]:
        """The message with this number of a rank; waits for it."""
        come = self._come[rank]
        while number not in come:
            try:
                received = self._lines[rank].recv(LARGEST)
            except OSError as error:
                raise LineClosed("the connection to another rank has closed") from error
            if not received:
                raise LineClosed("the connection to another rank has closed")
            self._buffers[rank] += received
            self._take_whole_messages(rank)
        return come.pop(number)

    def _take_whole_messages(self, rank: int) -> None:
        buffer, come = self._buffers[rank], self._come[rank]
        while len(buffer) >= 2 * NUMBER:
            number, length = struct.unpack_from("<2q", buffer)
            end = (2 + length) * NUMBER
            if len(buffer) < end:
                return
            come[number] = list(struct.unpack_from(f"<{length}q", buffer, 2 * NUMBER))
            del buffer[:end]


def _is_closed(line: socket.socket) -> bool:
    try:
        return not line.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:  # nothing has come
        return False
    except OSError:
        return True
