"""Checkpoint files: written whole or not at all, and read without trusting them."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from splatkit_ns.errors import SplatkitError
from splatkit_ns.files import atomic_write
from splatkit_ns.splat.pickle_scan import check_tuples

SCHEMA_VERSION = 1
"""Version of the "splatkit" entry; raise it if a reader of the previous version would misread the new one."""

NERFSTUDIO_KEYS = ("step", "pipeline", "optimizers")
MOST_PINNED = 1 << 30
"""The most bytes of a copy in page-locked memory: a GPU fills it ten times as fast, but it cannot be swapped out."""
_CHUNK_BYTES = 1 << 20
_MAX_PICKLE_BYTES = 64 << 20
_FOLDER_ATTRIBUTE = 0x10
_ARCHIVE_START = b"PK\x03\x04"
_MAX_STEP = 10**9 - 1  # file names have nine digits
_PLAIN = (type(None), bool, int, float, complex, str, bytes, Tensor, torch.dtype, torch.device)


class CheckpointError(SplatkitError, ValueError):
    """A checkpoint file that cannot be used; the message says why and what to do."""


def write_checkpoint(path: str | PathLike[str], checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically, such that `torch.load(weights_only=True)` reads it.

    Args:
        path: file to write; its folder is made if it is missing.
        checkpoint: nested dicts, lists and tuples of tensors, numbers and strings. numpy values are converted.

    Raises:
        ValueError: a value has another type; the message names its place.
        OSError: the file cannot be written; an old file is then as it was.
    """
    content = plain(checkpoint, "checkpoint")

    def write(file: BinaryIO) -> None:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's own error, raised while it was handling the real one
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise

    atomic_write(path, write)


def host_copy(checkpoint: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A copy in main memory, which `write_checkpoint` can write while training changes the tensors of the original.

    Args:
        checkpoint: see `write_checkpoint`.
        earlier: an earlier copy that is not needed any more. Its tensors are written to where shapes are the same: new
            memory takes several times as long as copying.

    Raises:
        ValueError: see `write_checkpoint`.
    """
    content = plain(checkpoint, "checkpoint")
    on_gpu = [tensor for tensor in _tensors(content) if tensor.is_cuda]
    copied = _copied(content, earlier, pins=sum(tensor.nbytes for tensor in on_gpu) <= MOST_PINNED)
    if on_gpu:
        torch.cuda.current_stream(on_gpu[0].device).synchronize()
    return copied


def _copied(value: Any, earlier: Any, pins: bool) -> Any:
    """A copy of a value; those of tensors on a GPU may be under way when this returns."""
    if isinstance(value, Tensor):
        fits = isinstance(earlier, Tensor) and (earlier.shape, earlier.dtype) == (value.shape, value.dtype)
        place = cast(Tensor, earlier) if fits else _place_for(value, pins)
        return place.copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        before = cast(dict[Any, Any], earlier if isinstance(earlier, dict) else {})
        return {key: _copied(entry, before.get(key), pins) for key, entry in cast(dict[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        before = cast(Sequence[Any], earlier if isinstance(earlier, list | tuple) else ())
        entries = [_copied(entry, former, pins) for entry, former in zip_longest(cast(Sequence[Any], value), before)]
        return type(value)(entries[: len(value)])
    return value


def _place_for(value: Tensor, pins: bool) -> Tensor:
    """Main memory for a copy of a tensor, page-locked if it is on a GPU and if the system has such memory to give."""
    if value.is_cuda and pins:
        with suppress(RuntimeError):
            return torch.empty_like(value, device="cpu", pin_memory=True)
    return torch.empty_like(value, device="cpu")


def read_checkpoint(path: str | PathLike[str], map_location: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint of splatkit or nerfstudio without running anything from it.

    The file's checksums are verified first, as a stream. Refusing a bad file takes no more memory than a small
    multiple of the file's size.

    Args:
        path: the file.
        map_location: device for the tensors.

    Raises:
        CheckpointError: the file is missing, damaged, refused, no checkpoint, or from a newer version.
    """
    file = Path(path)
    if not file.is_file():
        reason = "is a folder, not a file" if file.is_dir() else "does not exist"
        raise CheckpointError(f"checkpoint {file} {reason}. Give the path of a .ckpt file.")
    record_sizes = _check_archive(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about odd pickles; the error below reports a refusal once
            loaded: Any = torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"checkpoint {file} was refused, and nothing in it was run: it holds something other than tensors, numbers "
            f"and strings ({_first_line(error)}). A file of splatkit never does that: get it from a source you trust, "
            "and if nerfstudio's own trainer wrote it, train with a splatkit method instead."
        ) from error
    except Exception as error:  # damage inside a valid archive can surface as nearly any exception
        raise _damaged(file, f"torch.load failed with {type(error).__name__}: {_first_line(error)}") from error
    _check_content(file, loaded)
    _check_storages(file, cast(dict[str, Any], loaded), record_sizes)
    return loaded


def _check_archive(file: Path) -> list[int]:
    """Check the zip archive that torch.save writes: sizes, no compression, the checksum of each entry, the pickle.

    Returns:
        The number of bytes of each entry.
    """
    file_size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            if stream.read(4) != _ARCHIVE_START:  # zipfile would look further, torch would not
                raise _damaged(file, "it does not begin as an archive does")
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            names = {entry.filename.lower() for entry in entries}  # torch ignores case when it looks for an entry
            if len(names) != len(entries):
                raise _damaged(file, "its archive has an entry twice")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise CheckpointError(f"checkpoint {file} was refused: its archive is compressed; torch.save's is not.")
            if any(entry.is_dir() or entry.external_attr & _FOLDER_ATTRIBUTE for entry in entries):
                raise _damaged(file, "an entry of its archive is marked as a folder")  # torch would not read its bytes
            declared = sum(entry.file_size for entry in entries)
            if declared > file_size:
                raise _damaged(file, f"its archive declares {declared} bytes, but the file has {file_size}")
            for entry in entries:
                name = entry.filename.lower()
                if name.endswith("data.pkl") and entry.file_size > _MAX_PICKLE_BYTES:
                    raise CheckpointError(
                        f"checkpoint {file} was refused: {entry.file_size} bytes of structure besides tensors, but "
                        f"{_MAX_PICKLE_BYTES} are the most."
                    )
                if name.endswith("/constants.pkl"):  # torch.load of PyTorch before 2.6 would run it
                    raise CheckpointError(f"checkpoint {file} was refused: it is a TorchScript program.")
                with archive.open(entry) as stream:  # reading to the end verifies the entry's CRC-32
                    if name.endswith("data.pkl"):
                        check_tuples(stream.read())
                    while stream.read(_CHUNK_BYTES):
                        pass
            return [entry.file_size for entry in entries]
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"checkpoint {file} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # zipfile raises BadZipFile, but also struct.error, NotImplementedError, ...
        raise _damaged(file, _first_line(error)) from error


def _check_content(file: Path, loaded: Any) -> None:
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{file} is no checkpoint: it holds a {type(loaded).__name__}, expected a dict.")
    missing = [key for key in NERFSTUDIO_KEYS if key not in loaded]
    if missing:
        found = sorted(key for key in cast(dict[Any, Any], loaded) if isinstance(key, str))[:10]
        raise CheckpointError(f"{file} is no checkpoint of splatkit or nerfstudio: {missing} missing; found {found}.")
    splatkit: Any = loaded.get("splatkit", {"schema_version": SCHEMA_VERSION})
    version: Any = splatkit.get("schema_version") if isinstance(splatkit, dict) else None
    if not isinstance(version, int) or version < 1:
        raise CheckpointError(
            f"{file} is no checkpoint: its splatkit schema_version is {_shown(version)}, expected 1 or up."
        )
    if version > SCHEMA_VERSION:
        raise CheckpointError(
            f"checkpoint {file} has schema version {version}, and this splatkit-ns reads up to {SCHEMA_VERSION}: "
            "upgrade splatkit-ns."
        )
    step: Any = loaded["step"]
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= _MAX_STEP:
        raise CheckpointError(f"{file} is no checkpoint: its step is {_shown(step)}, expected a number from 0 up.")
    for key in ("pipeline", "optimizers", "schedulers", "splatkit"):
        if not isinstance(loaded.get(key, {}), Mapping):
            found = type(loaded[key]).__name__
            raise CheckpointError(f"{file} is no checkpoint: its {key!r} is a {found}, expected a dict.")


def _check_storages(file: Path, loaded: dict[str, Any], record_sizes: Sequence[int]) -> None:
    """Check that tensors lie within the file's bytes: a forged one can be a huge view of few, or reach beyond them."""
    storages: dict[int, int] = {}
    for tensor in _tensors(loaded):
        if tensor.layout != torch.strided:
            raise _damaged(file, f"a tensor has the layout {tensor.layout}")
        storage = tensor.untyped_storage()
        if storage.nbytes():
            storages[storage.data_ptr()] = storage.nbytes()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise _damaged(file, f"a tensor of shape {tuple(tensor.shape)} has only {storage.nbytes()} bytes")
    if Counter(storages.values()) - Counter(record_sizes):
        raise _damaged(file, "a tensor has another size than its entry in the archive")


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested containers, which may hold themselves."""
    pending: list[Any] = [value]
    seen: set[int] = set()
    while pending:
        item: Any = pending.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (Mapping, Sequence, set)) and not isinstance(item, (str, bytes, bytearray)):
            if id(item) in seen:
                continue
            seen.add(id(item))
            pending.extend(item.values() if isinstance(item, Mapping) else item)


def plain(value: Any, where: str) -> Any:
    """Copy nested containers with numpy values converted, so that weights_only accepts them.

    Args:
        value: anything.
        where: the value's place, for messages.

    Raises:
        ValueError: a value in it is neither a container nor a tensor, number or string.
    """
    if isinstance(value, np.generic):  # before float: numpy.float64 is a float, and weights_only refuses it
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, torch.nn.Parameter):
        return value.detach()
    if isinstance(value, torch.Size):
        return tuple(value)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Mapping):
        items = cast(Mapping[Any, Any], value).items()
        return {plain(key, f"key of {where}"): plain(entry, f"{where}[{key!r}]") for key, entry in items}
    if isinstance(value, (list, tuple)):
        entries = [plain(entry, f"{where}[{i}]") for i, entry in enumerate(cast(Sequence[Any], value))]
        return tuple(entries) if isinstance(value, tuple) else entries
    raise ValueError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint holds only dicts, lists, "
        "tuples, tensors, numbers and strings. Convert it in the state_dict that returns it."
    )


def _damaged(file: Path, detail: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {file} is truncated or damaged ({detail}). Resume from an earlier checkpoint, or copy it again."
    )


def _shown(value: Any) -> str:
    """Format a number or string, or the type of another value, which can be too long or too deep to show."""
    return f"{value!r:.40}" if value is None or isinstance(value, (int, float, str)) else f"a {type(value).__name__}"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200]
