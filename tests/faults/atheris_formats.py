"""The targets of `atheris_readers` for the formats other than PLY; inputs are changed beneath their compression."""

from __future__ import annotations

import gzip
import importlib
import importlib.util
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from splatkit_ns import formats
from splatkit_ns.formats._spz_reading import HEADER, HEADER_4, MAGIC
from splatkit_ns.formats._webp import encode_webp
from tests.faults.archives import archive_of, entries_of
from tests.faults.reading import read_or_refused
from tests.formats.helpers import make_gaussians

Mutator = Callable[[bytes, random.Random], bytes]
"""Changes an input; what it cannot take apart, it refuses with an exception."""

WORDS = (
    "element vertex",
    "element chunk",
    "element sh",
    "property uchar",
    "property uint",
    "property float",
    "comment",
)
NUMBERS = (0, -1, 1, 2, 3, 4, 5, 255, 256, 257, 65535, 2**31, 2**32 - 1, 2**63, 10**12, 0.5, -1e30, 1e300, 10**400)
ROOM = 400
"""The most Gaussians that a byte of a file may stand for: a reader refuses 100 times what the file has bytes for, and
compressed files are smaller than their Gaussians."""


def target_of(name: str, folder: Path) -> Any:
    """The target of one format, as `atheris_readers` takes it."""
    import atheris

    path = folder / f"input.{name}"
    seeds: list[bytes] = []
    for num, degree in ((1, 0), (5, 1), (3, 3)):
        formats.write(path, make_gaussians(num, degree))
        seeds.append(path.read_bytes())
    if name == "spz":
        if importlib.util.find_spec("zstandard") is not None:
            seeds += [as_version_4(seed) for seed in seeds]
        formats.write(path, make_gaussians(3, 1), version=2)
        seeds.append(path.read_bytes())
    mutator = MUTATORS[name]

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.1:
            return atheris.Mutate(data, max_size)
        try:
            made = mutator(data, chance)
        except Exception:  # an earlier change has left nothing to take apart
            return atheris.Mutate(data, max_size)
        return made if len(made) <= max_size else atheris.Mutate(data, max_size)

    return lambda data: read_or_refused(data, path, room=ROOM), mutate, seeds


def bytes_changed(data: bytes, chance: random.Random, head: int = 0) -> bytes:
    """One to four changes, half of them in the first `head` bytes: another number, or bytes cut out or repeated."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        end = min(head, len(made)) if head and chance.random() < 0.5 else len(made)
        place = chance.randrange(end + 1)
        match chance.randrange(6):
            case 0:
                made[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                made[place : place + 4] = struct.pack("<I", chance.choice((0, 1, 2, 255, 2**16, 2**31, 2**32 - 1)))
            case 2:
                made[place : place + 8] = struct.pack("<Q", chance.choice((0, 1, 2**32, 2**60, 2**64 - 1)))
            case 3:
                made[place : place + 4] = struct.pack("<f", chance.choice((np.nan, np.inf, -np.inf, -1.0, 1e-45, 3e38)))
            case 4:
                del made[place : place + chance.choice((1, 1, 4, 32, 1000))]
            case _:
                made[place:place] = made[place : place + chance.choice((1, 4, 32, 300))] * chance.choice((1, 2, 20))
    return bytes(made)


def json_changed(text: bytes, chance: random.Random) -> bytes:
    """A document with one to three values replaced, taken out or exchanged for others in it."""
    document = json.loads(text)
    for _ in range(chance.randint(1, 3)):
        places: list[tuple[Any, Any]] = []
        waiting: list[Any] = [document]
        while waiting:
            item = waiting.pop()
            keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else []
            # of a long list a few: a codebook's 256 numbers are all alike
            places += [(item, key) for key in (keys if len(keys) < 20 else chance.sample(list(keys), 3))]
            waiting += [item[key] for key in keys]
        if not places:
            break
        item, key = chance.choice(places)
        other, other_key = chance.choice(places)
        match chance.randrange(4):
            case 0:
                item[key] = chance.choice(NUMBERS)
            case 1:
                item[key] = chance.choice((None, True, "", "a", [], {}, [0] * 300, {"a": 1}, [[[[]]]]))
            case 2:
                item[key] = json.loads(json.dumps(other[other_key]))
            case _:
                del item[key]
    return json.dumps(document).encode()


def compressed_ply(data: bytes, chance: random.Random) -> bytes:
    head, end, body = data.partition(b"end_header\n")
    if chance.random() < 0.3:
        return head + end + bytes_changed(body, chance)
    lines = head.split(b"\n")
    for _ in range(chance.randint(1, 3)):
        i, j = chance.randrange(len(lines)), chance.randrange(len(lines))
        words = lines[i].split(b" ")
        match chance.randrange(4):
            case 0:
                words[-1] = str(chance.choice(NUMBERS)).encode()
                lines[i] = b" ".join(words)
            case 1:
                lines[i] = f"{chance.choice(WORDS)} {chance.choice(['x', 'packed_scale', 'f_rest_0', 5])}".encode()
            case 2:
                lines[i], lines[j] = lines[j], lines[i]
            case _:
                del lines[i : i + chance.choice((1, 1, 3))]
                lines.append(b"")
    return b"\n".join(lines) + end + body


def glb(data: bytes, chance: random.Random) -> bytes:
    length = struct.unpack_from("<I", data, 12)[0]
    text, rest = data[20 : 20 + length], data[20 + length :]
    if chance.random() < 0.2:
        rest = bytes_changed(rest, chance, head=8)
    else:
        text = json_changed(text, chance)
    text += b" " * (-len(text) % 4)
    head = data[:8] + struct.pack("<I", 20 + len(text) + len(rest)) if chance.random() < 0.9 else data[:12]
    return head + struct.pack("<II", len(text), 0x4E4F534A) + text + rest


def spz_glb(data: bytes, chance: random.Random) -> bytes:
    """As `glb`, or with other data in the SPZ file."""
    length = struct.unpack_from("<I", data, 12)[0]
    if chance.random() < 0.5:
        return glb(data, chance)
    inner = spz(data[28 + length :], chance)
    document = json.loads(data[20 : 20 + length])
    document["bufferViews"][0]["byteLength"] = len(inner)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    inner += bytes(-len(inner) % 4)
    head = data[:8] + struct.pack("<III", 28 + len(text) + len(inner), len(text), 0x4E4F534A)
    return head + text + struct.pack("<II", len(inner), 0x004E4942) + inner


def sog(data: bytes, chance: random.Random) -> bytes:
    entries = dict(entries_of(data))
    images = [name for name in entries if name.endswith(".webp")]
    match chance.randrange(6):
        case 0:
            name = chance.choice(images)
            entries[name] = bytes_changed(entries[name], chance, head=30)
        case 1:
            shape = chance.choice(((1, 1), (1, 4), (4, 4), (4, 1), (2, 960), (300, 1), (1, 45)))
            pixels = np.random.default_rng(chance.randrange(2**32)).integers(0, 256, (*shape, 4), np.uint8)
            entries[chance.choice(images)] = encode_webp(pixels)
        case 2:
            entries[chance.choice(images)] = entries[chance.choice(images)]
        case _:
            entries["meta.json"] = json_changed(entries["meta.json"], chance)
    made = archive_of(list(entries.items()))
    return made if chance.random() < 0.95 else bytes_changed(made, chance)


def splat(data: bytes, chance: random.Random) -> bytes:
    return bytes_changed(data, chance)


def spz(data: bytes, chance: random.Random) -> bytes:
    if data[:4] != b"NGSP":
        return gzip.compress(bytes_changed(gzip.decompress(data), chance, head=16), 1, mtime=0)
    if chance.random() < 0.5:
        return bytes_changed(data, chance, head=112)
    streams = streams_of(data)
    i = chance.randrange(len(streams))
    streams[i] = bytes_changed(streams[i], chance)
    return version_4(data[:32], streams)


def version_4(head: bytes, streams: list[bytes]) -> bytes:
    """An SPZ file of version 4 with these streams, which are not compressed yet."""
    zstandard = importlib.import_module("zstandard")
    packed = [zstandard.compress(stream) for stream in streams]
    table = [struct.pack("<QQ", len(small), len(whole)) for small, whole in zip(packed, streams, strict=True)]
    return b"".join([head, *table, *packed])


def streams_of(data: bytes) -> list[bytes]:
    """The streams of a file of version 4."""
    zstandard = importlib.import_module("zstandard")
    num = data[15]
    sizes = struct.unpack_from(f"<{2 * num}Q", data, 32)
    place, found = 32 + 16 * num, list[bytes]()
    for packed, whole in zip(sizes[::2], sizes[1::2], strict=True):
        found.append(zstandard.decompress(data[place : place + packed], max_output_size=min(whole, 2**20)))
        place += packed
    return found


def as_version_4(data: bytes) -> bytes:
    """A file of version 3 as one of version 4."""
    contents = gzip.decompress(data)
    _, _, num, degree, bits, flags, _ = HEADER.unpack(contents[: HEADER.size])
    streams, place = list[bytes](), HEADER.size
    for size in (9, 1, 3, 3, 4, 3 * ((degree + 1) ** 2 - 1)):
        if size:
            streams.append(contents[place : place + num * size])
            place += num * size
    return version_4(HEADER_4.pack(MAGIC, 4, num, degree, bits, flags, len(streams), HEADER_4.size), streams)


MUTATORS: dict[str, Mutator] = {
    "compressed.ply": compressed_ply,
    "glb": glb,
    "sog": sog,
    "splat": splat,
    "spz": spz,
    "spz.glb": spz_glb,
}
