"""Compressed bytes: read without trusting the size that they claim, and written on several cores."""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from splatkit_ns.formats.gaussians import FormatError

HARMLESS_BYTES = 64 << 20
MAX_RATIO = 100
"""The largest ratio of decompressed to compressed size: that of real files is 3 to 10, that of a bomb 1,000."""
_READ_BYTES = 1 << 18
_BLOCK_BYTES = 1 << 20
_WINDOW_BYTES = 1 << 15
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


def max_inflated(file_bytes: int) -> int:
    """The most bytes that a compressed file of this size is allowed to become."""
    return max(HARMLESS_BYTES, MAX_RATIO * file_bytes)


def check_inflated(path: Path, wanted: int, file_bytes: int) -> None:
    """Check a size that a file claims to have when decompressed, before memory is taken for it.

    Raises:
        FormatError: it is out of all proportion to the file's size.
    """
    if wanted > max_inflated(file_bytes):
        raise FormatError(
            f"{path}: the file has {file_bytes} bytes and claims {wanted} when decompressed, more than {MAX_RATIO} "
            "times as many: it is damaged or made to fill the memory."
        )


class GzipReader:
    """A gzip stream, read in pieces whose sizes the file's reader knows."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._decompress = zlib.decompressobj(wbits=31)

    def read(self, num_bytes: int) -> bytearray:
        """Read exactly this many further bytes of the content. Memory grows with the bytes that really exist.

        Raises:
            FormatError: the stream is damaged or ends before.
        """
        found = bytearray()
        while len(found) < num_bytes:
            data = self._decompress.unconsumed_tail or self._file.read(_READ_BYTES)
            try:
                more = self._decompress.decompress(data, num_bytes - len(found))
            except zlib.error as error:
                raise FormatError(f"{self._path} is damaged: its compressed data cannot be read ({error}).") from error
            if not more and (not data or self._decompress.eof):
                raise FormatError(
                    f"{self._path} is truncated: {num_bytes} bytes were expected in its compressed data, found "
                    f"{len(found)}. Copy or export it again."
                )
            found += more
        return found


def write_gzip(file: BinaryIO, parts: list[bytes], level: int) -> None:
    """Write one gzip stream of all parts, compressed in blocks side by side.

    Each block can refer to the 32 KiB before it and ends on a byte, so that the blocks make up an ordinary stream.
    """
    content = b"".join(parts)
    starts = range(0, len(content), _BLOCK_BYTES)

    def compress(start: int) -> bytes:
        known = content[max(0, start - _WINDOW_BYTES) : start]
        make = (level, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY)
        compressor = zlib.compressobj(*make, known) if known else zlib.compressobj(*make)
        last = start + _BLOCK_BYTES >= len(content)
        data = compressor.compress(memoryview(content)[start : start + _BLOCK_BYTES])
        return data + compressor.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)

    file.write(_GZIP_HEADER)
    with ThreadPoolExecutor() as pool:
        for block in pool.map(compress, starts):
            file.write(block)
    file.write(struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF))
