"""Programs and libraries that read files of Gaussians, and hand them on as PLY files: tested against our readers."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splatkit_ns import formats
from splatkit_ns.formats import Gaussians
from tests.browser.npm import MissingPackages, node_modules
from tests.formats.helpers import rotations


class ReaderError(Exception):
    """A reader does not read a file; the message is the reader's."""


def splat_transform(source: Path, target: Path, *options: str) -> None:
    """Convert a file with PlayCanvas' command of that name.

    Raises:
        ReaderError: it fails.
        MissingPackages: Node.js is missing; see also `node_modules`.
    """
    node = shutil.which("node")
    if node is None:
        raise MissingPackages("Node.js is not installed")
    program = node_modules() / "@playcanvas" / "splat-transform" / "bin" / "cli.mjs"
    command = [node, program, "--quiet", "--overwrite", source, *options, target]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if run.returncode != 0 or not target.is_file():
        raise ReaderError((run.stderr or run.stdout).strip()[-500:])


def gaussforge(source: Path, target: Path) -> None:
    """Convert a file to PLY with the library gaussforge."""
    from gaussforge import GaussForge

    try:
        found = GaussForge().convert(source.read_bytes(), format_of(source), "ply")
        target.write_bytes(bytes(found["data"]))
    except Exception as error:
        raise ReaderError(str(error)) from error


def gsply(source: Path, target: Path) -> None:
    """Convert a file to PLY with the library gsply."""
    import gsply as library

    try:
        read = {"spz": "read_spz", "sog": "sogread"}.get(format_of(source), "plyread")
        library.plywrite(str(target), getattr(library, read)(str(source)))
    except Exception as error:
        raise ReaderError(str(error)) from error


def format_of(path: Path) -> str:
    return formats.find_format(path).name


@dataclass(frozen=True)
class Reader:
    """A program or library, and the formats that it claims to read."""

    convert: Callable[[Path, Path], None]
    formats: tuple[str, ...]
    module: str | None = None
    """The Python module that it needs."""

    def missing(self) -> str:
        """The reason why it cannot be tried; an empty text if it can."""
        if self.module is not None:
            return "" if importlib.util.find_spec(self.module) else f"pip install {self.module}"
        try:
            node_modules()
        except MissingPackages as error:
            return str(error)
        return "" if shutil.which("node") else "Node.js is not installed"

    def read(self, path: Path, folder: Path) -> Gaussians:
        """The Gaussians that it finds in a file.

        Raises:
            ReaderError: it cannot read the file.
        """
        target = folder / f"{path.name}.read.ply"
        self.convert(path, target)
        return formats.read(target)


READERS = {
    "splat-transform": Reader(splat_transform, ("ply", "compressed.ply", "sog", "splat", "spz")),
    "gaussforge": Reader(gaussforge, ("ply", "compressed.ply", "sog", "splat", "spz"), "gaussforge"),
    "gsply": Reader(gsply, ("ply", "compressed.ply", "sog", "spz"), "gsply"),
}


def differences(found: Gaussians, ours: Gaussians) -> dict[str, float]:
    """The largest differences of two readings of a file, which have the same order.

    Centres in units of the 99th percentile of their distances from the middle, log scales, angles in degrees,
    opacities from 0 to 1, and SH coefficients. A degree that one of them lacks is zero there.
    """
    assert len(found) == len(ours)
    middle = np.median(ours.means, axis=0)
    extent = np.percentile(np.linalg.norm(ours.means - middle, axis=1), 99)
    turns = np.einsum("nij,nik->njk", rotations(found.quats), rotations(ours.quats))
    cosines = (np.trace(turns, axis1=1, axis2=2) - 1) / 2

    def opacity(logits: Any) -> Any:
        return 1 / (1 + np.exp(-logits.astype(np.float64)))

    sh = np.zeros((2, len(ours), 15, 3))
    sh[0, :, : found.shN.shape[1]], sh[1, :, : ours.shN.shape[1]] = found.shN, ours.shN
    return {
        "means": float(np.abs(found.means - ours.means).max() / extent),
        "scales": float(np.abs(found.scales - ours.scales).max()),
        "degrees": float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max()),
        "opacities": float(np.abs(opacity(found.opacities) - opacity(ours.opacities)).max()),
        "sh0": float(np.abs(found.sh0 - ours.sh0).max()),
        "shN": float(np.abs(sh[0] - sh[1]).max()),
    }
