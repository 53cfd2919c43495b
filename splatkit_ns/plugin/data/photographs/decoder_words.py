"""Messages that image decoders print about damaged files, which they decode all the same, with wrong pixels.

libjpeg tells of bytes that are no JPEG only by a line on the process's standard error, without the file's name.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

from splatkit_ns.errors import SplatkitError, listed
from splatkit_ns.plugin.data.photographs.pictures import read_picture
from splatkit_ns.plugin.reporting.console import report_once

STDERR = 2
SHOWN = 3
"""The most files that a note names."""


@contextmanager
def damaged_pictures_named(names: Iterable[Path]) -> Generator[None]:
    """A block that decodes pictures; after it, a note names those of which their decoder says that they are damaged.

    Args:
        names: their files. If libjpeg has printed anything, these are decoded again.
    """
    with printed_words(passed_on=True) as printed:
        yield
    if "JPEG" in printed():
        found = decoder_complaints(map(str, names))
        if found:
            shown = [f"{name} ({text})" for name, text in found.items()]
            report_once(
                f"Photographs that are decoded with errors, and may be grey or wrong from some row on: "
                f"{listed(shown, SHOWN)}. Restore them, or take them out of the data set."
            )


@contextmanager
def printed_words(passed_on: bool = False) -> Generator[Callable[[], str]]:
    """A block in which everything that the process prints on its standard error is kept.

    Args:
        passed_on: whether it is printed after the block, however that ends; otherwise it never is.

    Yields:
        Returns what has been printed in the block, once that has ended; nothing if standard error was closed when the
        process began, or there is no room to keep it.
    """
    words = ""
    try:
        file = None if sys.__stderr__ is None else tempfile.TemporaryFile()  # noqa: SIM115
    except OSError:  # the disk is full
        file = None
    if file is None:
        yield lambda: words
        return
    sys.stderr.flush()
    kept = os.dup(STDERR)
    with file:
        os.dup2(file.fileno(), STDERR)
        try:
            yield lambda: words
        finally:
            sys.stderr.flush()
            os.dup2(kept, STDERR)
            os.close(kept)
            file.seek(0)
            words = file.read().decode(errors="replace")
            if passed_on:
                with suppress(OSError):  # standard error is broken
                    sys.stderr.write(words)


def decoder_complaints(names: Iterable[str]) -> dict[str, str]:
    """Decode pictures again, one by one, to find those about which the decoder prints something.

    Args:
        names: their files.

    Returns:
        A file's name -> what was printed, in one line.
    """
    found: dict[str, str] = {}
    for name in names:
        with printed_words() as printed, suppress(SplatkitError, OSError):  # told of already
            read_picture(Path(name), turned=False)
        if text := "; ".join(printed().split("\n")).strip("; "):
            found[name] = text
    return found
