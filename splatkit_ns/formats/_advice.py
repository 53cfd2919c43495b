"""Advice on a file that cannot be read, from the end of its name and from its first bytes."""

from __future__ import annotations

import zlib
from pathlib import Path

_FIRST_BYTES = 1024
"""Enough for the beginning of gzip's data to be unpacked."""
_OTHER_NAMES = {
    ".ksplat": "PlayCanvas' splat-transform converts files of mkkellogg's viewer.",
    ".lcc": "PlayCanvas' splat-transform converts files of XGRIDS' scanners.",
    ".gltf": "Of glTF, only binary files are read and written, which have their data within them.",
    ".gz": "Unpack what gzip has packed.",
    ".zip": "Unpack an archive; one with a meta.json in it is a SOG bundle, whose name should end in .sog.",
}
"""Ends of the names of files that people have, and that no format reads."""
_BEGINNINGS = {
    b"ply": ("a PLY file", (".ply",)),
    b"NGSP": ("an SPZ file", (".spz",)),
    b"glTF": ("a GLB file", (".glb",)),
    b"PXR-USDC": ("a USD file", (".usd", ".usdc")),
    b"#usda": ("a USD file", (".usd", ".usda")),
    b"PK\x03\x04": ("a ZIP archive, such as a SOG bundle", (".sog", ".usdz")),
}
"""First bytes -> the kind of the file, and the suffixes that fit it; the first is the usual one."""
_BROKEN = {
    b"version https://git-lfs": "It is a pointer of Git LFS in place of the file: git lfs pull fetches that.",
    b"<!doctype": "It is a web page: the download has failed.",
    b"<html": "It is a web page: the download has failed.",
}


def advice_for_name(path: Path) -> str:
    """Say what to do about a file whose suffix is of no format; an empty text if nothing is known of it."""
    return next((text for suffix, text in _OTHER_NAMES.items() if path.name.lower().endswith(suffix)), "")


def advice_for_content(path: Path) -> str:
    """Say what a file is that is not of its suffix's format; an empty text if its first bytes do not tell."""
    try:
        with path.open("rb") as file:
            start = file.read(_FIRST_BYTES)
    except OSError:
        return ""
    if not start:
        return "It is empty: copy or export it again."
    broken = next((text for first, text in _BROKEN.items() if start.lower().startswith(first)), None)
    if broken is not None:
        return broken
    packed = start.startswith(b"\x1f\x8b")
    content = _unpacked(start) if packed else start
    kind, suffixes = next((found for first, found in _BEGINNINGS.items() if content.startswith(first)), ("", (".",)))
    if packed and kind and ".spz" not in suffixes:
        return f"It is {kind} that gzip has packed: unpack it first."
    if not kind or path.suffix.lower() in suffixes:
        return ""
    return f"It begins like {kind}: should its name end in {suffixes[0]}?"


def _unpacked(start: bytes) -> bytes:
    """The first bytes of what gzip has packed; none if they cannot be unpacked."""
    try:
        return zlib.decompressobj(wbits=31).decompress(start, 8)
    except zlib.error:
        return b""
