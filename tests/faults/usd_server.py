"""A program for `fuzz_usd`: forks of it read one file each, as the reading process of `formats/_usd_reading.py` does.

It has loaded OpenUSD, on one thread, so that a file takes milliseconds and not a second. A line of its input is the
command line of that process, in JSON; a line of its output is the exit status and the most memory that it took, in KiB.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "splatkit_ns" / "formats"))
import _usd_child  # type: ignore[import-not-found]  # without the package, as the reader starts it

SECONDS = 20


def main() -> None:
    good, output = sys.argv[1], sys.argv[2]
    _usd_child.read(good, 1 << 30)  # loads the rest of OpenUSD
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.alarm(SECONDS)
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            sys.argv = json.loads(line)
            try:
                _usd_child.main()
                sys.stdout.flush()
            finally:
                os._exit(1 if sys.exc_info()[0] else 0)
        _, status, usage = os.wait4(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)} {usage.ru_maxrss}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
