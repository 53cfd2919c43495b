"""Standard output and error that never fail: a run goes on if its terminal, pipe or log file takes no more text, or
lacks characters of it."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any, BinaryIO, cast

ERRORS = 2
"""The descriptor of standard error."""


def make_output_last() -> None:
    """Let this process lose what it prints, from now on, instead of failing if standard output or error is broken.

    Hours of work must not end because the `tee` or `ssh` that reads the output is gone, or the disk with the log
    file is full. A stream that another program has put in place of the system's, as notebooks do, stays as it is.
    """
    make_all_text_printable()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before Python started, as by `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):
                stream.flush()
            with suppress(OSError):  # it has no descriptor
                setattr(sys, name, _lasting(stream))


def make_all_text_printable() -> None:
    """Let standard output and error print ``?`` for characters that their encoding lacks, instead of failing.

    A terminal or log may take ASCII or Latin-1 alone, and tables have lines and sizes a ``×``. The bytes of a file's
    name that are no text in UTF-8 are printed as they are.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="surrogateescape" if stream.encoding.lower() == "utf-8" else "replace")


def _lasting(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    file = _LastingFile(stream.fileno())
    return io.TextIOWrapper(
        cast("BinaryIO", file) if stream.write_through else io.BufferedWriter(file),  # PYTHONUNBUFFERED, or python -u
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _LastingFile(io.RawIOBase):
    """A descriptor, of which every write succeeds; the first text that is lost is told on standard error."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._fails = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, text: Any, /) -> int:
        content = memoryview(text)
        written = 0
        try:
            while written < content.nbytes:  # a pipe may take a part
                written += os.write(self._descriptor, content[written:])
        except OSError as error:
            if not self._fails and self._descriptor != ERRORS:
                note = f"Standard output takes no more ({error.strerror}): the work goes on without it.\n"
                with suppress(OSError):
                    os.write(ERRORS, note.encode())
            self._fails = True
        return content.nbytes
