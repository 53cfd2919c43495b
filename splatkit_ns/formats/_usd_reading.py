"""The reader of Gaussians in USD files. OpenUSD itself runs in a process of its own, with a limit to its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from splatkit_ns.formats import _usd_child
from splatkit_ns.formats._inflate import max_inflated
from splatkit_ns.formats._quantise import WXYZ, as_floats, log_scales_of, logits_of
from splatkit_ns.formats._usd_child import MODE_KEY, TYPE
from splatkit_ns.formats.frames import Similarity, transform
from splatkit_ns.formats.gaussians import (
    OPAQUE_LOGIT,
    FloatArray,
    FormatError,
    Gaussians,
    join_parts,
    render_mode_named,
)

__all__ = ["MODE_KEY", "read_usd"]

_BASE_MEMORY = 512 << 20
"""Address space for a small file, beside that of the process once it has loaded OpenUSD, in bytes."""
_MEMORY_RATIO = 16
_BASE_SECONDS, _BYTES_A_SECOND = 120.0, 1e6


def read_usd(path: Path) -> Gaussians:
    """Read the Gaussians of all prims of a USD file, in the axes of its stage.

    Raises:
        FormatError: the file is of another kind, damaged or forged, refers to other files, or holds no Gaussians.
    """
    header, content = _run_child(path)
    if "error" in header:
        _fail(path, header["error"])
    parts: list[Gaussians] = []
    start = 0
    for prim in header["prims"]:
        arrays: dict[str, FloatArray] = {}
        for name, shape in prim["arrays"].items():
            count = int(np.prod(shape))
            arrays[name] = np.frombuffer(content, "<f4", count, start).reshape(shape)
            start += 4 * count
        if arrays:
            parts.append(_gaussians(path, prim, arrays))
    if not parts:
        _fail(path, f"there are no Gaussians in it: no prim of the type {TYPE} has positions")
    return join_parts(parts, path)


def _fail(path: Path, reason: str) -> NoReturn:
    raise FormatError(f"{path}: {reason}.")


def _run_child(path: Path) -> tuple[dict[str, Any], memoryview]:
    """The header and the arrays that the reading process printed."""
    size = path.stat().st_size
    with path.open("rb"):  # a file that may not be read is told by its own error
        pass
    limits = [str(_BASE_MEMORY + _MEMORY_RATIO * size), str(max_inflated(size))]
    # threads would reserve address space, 64 MiB each
    environment = os.environ | {"PXR_WORK_THREAD_LIMIT": "1", "MALLOC_ARENA_MAX": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    with tempfile.TemporaryDirectory() as folder:  # OpenUSD takes some characters of names for more than a name
        link = Path(folder, f"scene{path.suffix.lower()}")
        link.symlink_to(path.resolve())
        command = [sys.executable, str(Path(_usd_child.__file__)), str(link), *limits]
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=folder,
                timeout=_BASE_SECONDS + size / _BYTES_A_SECOND,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise FormatError(f"{path}: OpenUSD did not come to an end with it; it is damaged or forged.") from error
    line, _, content = done.stdout.partition(b"\n")
    try:
        header: Any = json.loads(line)
    except ValueError:
        header = None
    if done.returncode or not isinstance(header, dict):
        _fail(path, "it is damaged: OpenUSD crashed on it, or took more memory than a file of this size should")
    return header, memoryview(content)


def _gaussians(path: Path, prim: dict[str, Any], arrays: dict[str, FloatArray]) -> Gaussians:
    """The Gaussians of a prim, at the place that its parents give it; missing values are those of the schema."""
    num, size = len(arrays["positions"]), (prim["degree"] + 1) ** 2
    scales = arrays.get("scales", np.ones((num, 3), np.float32))
    opacities = arrays["opacities"][:, 0] if "opacities" in arrays else None
    orientations = arrays.get("orientations", np.tile(np.array([0, 0, 0, 1], np.float32), (num, 1)))
    sh = arrays.get("sh", np.zeros((num, size if "sh" in arrays else 1, 3), np.float32))
    if not ((scales >= 0).all() and (opacities is None or ((opacities >= 0) & (opacities <= 1)).all())):
        _fail(path, "expected scales of at least 0 and opacities from 0 to 1")
    found = Gaussians(
        means=as_floats(arrays["positions"]),
        scales=log_scales_of(scales),
        quats=as_floats(orientations[:, WXYZ]),
        opacities=np.full(num, OPAQUE_LOGIT, np.float32) if opacities is None else logits_of(opacities),
        sh0=np.ascontiguousarray(sh[:, :1]),
        shN=np.ascontiguousarray(sh[:, 1:]),
        render_mode=render_mode_named(prim["mode"]) or "default",
    )
    try:
        return transform(found, Similarity.from_matrix(np.array(prim["matrix"])))
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
