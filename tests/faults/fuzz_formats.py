"""Fuzzing of the readers of all formats, by chance alone, and so quicker than `atheris_readers`.

    python -m tests.faults.fuzz_formats 100000            # so many inputs of each reader
    python -m tests.faults.fuzz_formats 100000 spz usd    # of these

Files are changed beneath their compression, some of them many times, and read by `formats.read`. USD needs the package
usd-core; OpenUSD runs in forks of one process (see `usd_server`). A wrong success or an unexpected error ends the
command, and the input is kept.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

from splatkit_ns import formats
from splatkit_ns.formats import _usd_reading
from tests.faults import usd_server
from tests.faults.archives import archive_of, entries_of
from tests.faults.atheris_formats import MUTATORS, as_version_4, bytes_changed
from tests.faults.atheris_formats import ROOM as OTHER_ROOM
from tests.faults.reading import read_or_refused
from tests.formats.helpers import make_gaussians

LONGEST, POOL = 20_000, 30
"""Bytes of an input that is changed again, and the number of those."""
ROOM = 50_000
"""The most Gaussians that a byte of a file may stand for: OpenUSD compresses arrays of equal numbers to nothing."""
WORDS = (
    "def", "over", "class", "Xform", "ParticleField3DGaussianSplat", "point3f[]", "quatf[]", "float3[]", "float[]",
    "half[]", "uniform", "int", "-1", "0", "3", "4294967296", "1e39", "nan", "inf", "-inf", "()", "[]", "(1, 2, 3)",
    "None", "{", "}", "@./other.usd@", "</Gaussians>", "references", "payload", "variants", "inherits", "instanceable",
    "timeSamples", '"y"', "xformOp:transform", "matrix4d", "upAxis", "custom", "rel", "connect", "subLayers",
)  # fmt: skip


class Server:
    """Takes the place of `subprocess.run` in the reader."""

    def __init__(self, folder: Path, good: Path) -> None:
        self._output = folder / "output"
        command = [sys.executable, usd_server.__file__, str(good), str(self._output)]
        one_thread = {**os.environ, "PXR_WORK_THREAD_LIMIT": "1"}  # others would be missing in forks
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, text=True, env=one_thread, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
        )
        self.most_kib = 0
        self.endings: Counter[str] = Counter()

    def run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        """Read the file that the command names, in a fork of the server."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command[1:]) + "\n")
        self._process.stdin.flush()
        status, kib = map(int, self._process.stdout.readline().split())
        self.most_kib = max(self.most_kib, kib)
        if status < 0:
            self.endings[signal.Signals(-status).name] += 1
        if -status == signal.SIGALRM:
            raise subprocess.TimeoutExpired(command, usd_server.SECONDS)
        return subprocess.CompletedProcess(command, status, self._output.read_bytes())


def changed(data: bytes, suffix: str, chance: random.Random) -> bytes:
    """A file with a few changes; what was taken apart for them is packed again."""
    name = "compressed.ply" if suffix == ".ply" else suffix[1:]  # its changes fit the header of any PLY file
    if name in MUTATORS:
        try:
            return MUTATORS[name](data, chance) if chance.random() < 0.9 else bytes_changed(data, chance)
        except Exception:  # an earlier change has left nothing to take apart
            return bytes_changed(data, chance)
    if suffix == ".usdz" and chance.random() < 0.8:
        try:
            entries = entries_of(data)
        except Exception:  # an earlier change has left nothing to take apart
            return bytes_changed(data, chance)
        return archive_of([(name, bytes_changed(content, chance, head=100)) for name, content in entries])
    if suffix == ".usda" and chance.random() < 0.8:
        return text_changed(data.decode("utf-8", "replace"), chance).encode()
    return bytes_changed(data, chance, head=100)


def text_changed(text: str, chance: random.Random) -> str:
    """One to four words or lines replaced, taken out, repeated or exchanged."""
    for _ in range(chance.randint(1, 4)):
        by = chance.choice(("\n", " "))
        parts = text.split(by)
        i, j = chance.randrange(len(parts)), chance.randrange(len(parts))
        match chance.randrange(4):
            case 0:
                parts[i] = chance.choice(WORDS)
            case 1:
                parts[i], parts[j] = parts[j], parts[i]
            case 2:
                parts[i:i] = parts[j : j + chance.choice((1, 1, 5))] * chance.choice((1, 1, 100))
            case _:
                del parts[i : i + chance.choice((1, 1, 3))]
        text = by.join(parts)
    return text


def seeds(name: str, folder: Path) -> dict[str, list[bytes]]:
    """Whole files of a format by suffix."""
    suffixes = (".usda", ".usdc", ".usdz") if name == "usd" else (f".{name}",)
    options: list[dict[str, Any]] = [{}]
    if name == "ply":
        options = [{"encoding": encoding} for encoding in ("binary_little_endian", "binary_big_endian", "ascii")]
    if name == "spz":
        options.append({"version": 2})
    found: dict[str, list[bytes]] = {}
    for suffix, (num, degree), chosen in product(suffixes, ((1, 0), (5, 1), (3, 3)), options):
        path = folder / f"seed{suffix}"
        formats.write(path, make_gaussians(num, degree), **chosen)
        found.setdefault(suffix, []).append(path.read_bytes())
    if name == "spz" and importlib.util.find_spec("zstandard") is not None:
        found[".spz"] += [as_version_4(seed) for seed in found[".spz"][::2]]
    return found


def fuzz(name: str, inputs: int, folder: Path) -> str:
    """Read so many inputs of a format; returns a line about them."""
    chance = random.Random(0)
    pool = {suffix: [*files] for suffix, files in seeds(name, folder).items()}
    first = {suffix: [*files] for suffix, files in pool.items()}
    server = Server(folder, folder / "seed.usdc") if name == "usd" else None
    run = server.run if server else subprocess.run
    began, worked, num_read = time.monotonic(), time.process_time(), 0
    with patch.object(_usd_reading.subprocess, "run", run):
        for _ in range(inputs):
            suffix = chance.choice(list(pool))
            data = changed(chance.choice(pool[suffix]), suffix, chance)
            try:
                was_read = read_or_refused(data, folder / f"input{suffix}", room=ROOM if name == "usd" else OTHER_ROOM)
            except BaseException:
                Path(f"fuzz-{name}{suffix}").write_bytes(data)
                raise
            num_read += was_read
            if was_read and len(data) < LONGEST:  # to be changed again, beside files that never were
                pool[suffix] = [*first[suffix], *pool[suffix][-POOL:], data]
    line = (
        f"{name}: {inputs} inputs in {time.monotonic() - began:.0f} s ({time.process_time() - worked:.0f} s of the "
        f"processor), {num_read} read, {inputs - num_read} refused, {peak_mib():.0f} MiB at most"
    )
    if server:
        line += f"; in OpenUSD's processes {server.most_kib / 1024:.0f} MiB at most, ended by signals: "
        line += ", ".join(f"{count} by {signal}" for signal, count in server.endings.items()) or "none"
    return line


def peak_mib() -> float:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    logging.disable()  # of what a format leaves out
    for name in sys.argv[2:] or formats.usable_format_names():
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            sys.stdout.write(fuzz(name, int(sys.argv[1]), Path(folder)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
