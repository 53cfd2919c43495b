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

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.data.photographs.pictures import read_picture

STDERR = 2


@contextmanager
def printed_words() -> Generator[Callable[[], str]]:
    """A block in which everything that the process prints on its standard error is kept; printed after it.

    Yields:
        Returns what has been printed in the block, once that has ended.
    """
    words = ""
    sys.stderr.flush()
    kept = os.dup(STDERR)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), STDERR)
        try:
            yield lambda: words
        finally:
            sys.stderr.flush()
            os.dup2(kept, STDERR)
            os.close(kept)
            file.seek(0)
            words = file.read().decode(errors="replace")


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
