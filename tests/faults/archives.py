"""Zip archives with changed entries, whose checksums are right."""

from __future__ import annotations

import io
import warnings
import zipfile


def entries_of(archive: bytes) -> list[tuple[str, bytes]]:
    """Names and contents of a zip archive's entries."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return [(entry.filename, file.read(entry)) for entry in file.infolist()]


def archive_of(entries: list[tuple[str, bytes]]) -> bytes:
    """An archive of stored entries, as torch.save writes it, with checksums that are right."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in entries:
            file.writestr(name, content)
    return buffer.getvalue()
