"""A program that reads a USD file with OpenUSD, in a process of its own, and writes what it found to standard output.

OpenUSD is C++ that trusts its input: a damaged file may crash it, or take any amount of memory and time. This program
imports nothing of the package, so that it starts quickly.

    python _usd_child.py FILE MAX_BYTES_OF_FURTHER_MEMORY MAX_BYTES_OF_ARRAYS

The output is a line of JSON, either ``{"error": …}`` or ``{"prims": [{"matrix", "degree", "mode", "arrays"}, …]}`` with
names and shapes of arrays of float32, whose bytes follow in that order. Local arrays are in the prim's own space;
"matrix" leads to that of the stage.
"""

from __future__ import annotations

import json
import resource
import sys
from importlib import import_module
from typing import Any

import numpy as np

TYPE = "ParticleField3DGaussianSplat"
MODE_KEY = "SplatRenderMode"
_MAX_PRIMS = 10_000
_WIDTHS = {"positions": 3, "orientations": 4, "scales": 3, "opacities": 1}
_COEFFICIENTS = "radiance:sphericalHarmonicsCoefficients"


class Refused(Exception):
    """The file cannot be used; the message says why."""


def main() -> None:
    """Read the file that the command line names."""
    path, max_memory, max_arrays = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for name in ("Sdf", "Usd", "UsdGeom"):
        import_module(f"pxr.{name}")
    limit = address_space() + max_memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    arrays: list[Any] = []
    try:
        prims, arrays = read(path, max_arrays)
        header: dict[str, Any] = {"prims": prims}
    except Refused as error:
        header = {"error": str(error)}
    except MemoryError:
        header = {"error": "it takes more memory than a file of this size should"}
    except Exception as error:  # OpenUSD has one class of error for all reasons
        header = {"error": f"OpenUSD cannot read it ({told(str(error))})"}
    output = sys.stdout.buffer
    output.write(json.dumps(header).encode("ascii") + b"\n")
    for values in arrays:
        output.write(values.tobytes())


def address_space() -> int:
    """Bytes that this process has reserved so far; a guess where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 4 << 30


def told(text: str) -> str:
    """The message in an error of OpenUSD's, which has the line of its source before it."""
    lines = [line for line in text.splitlines() if line.strip()]
    message = lines[-1].partition("' at line ")[2].partition(" : ")[2].strip(" '") if lines else ""
    return " ".join((message or text).split())[:200]


def read(path: str, max_arrays: int) -> tuple[list[dict[str, Any]], list[Any]]:
    """All prims with Gaussians, and their arrays in turn."""
    sdf: Any = import_module("pxr.Sdf")
    usd: Any = import_module("pxr.Usd")
    geom: Any = import_module("pxr.UsdGeom")
    layer: Any = sdf.Layer.FindOrOpen(path)
    if not layer:
        raise Refused("OpenUSD cannot open it")
    others = [name for name in layer.GetCompositionAssetDependencies() if name]  # none: a reference within the file
    if others:
        raise Refused(f"it refers to other files ({others[0]:.80}); make one file of them with usdcat --flatten")
    stage: Any = usd.Stage.Open(layer)
    places: Any = geom.XformCache(usd.TimeCode.EarliestTime())
    prims: list[dict[str, Any]] = []
    arrays: list[Any] = []
    total = 0
    for prim in stage.Traverse(usd.TraverseInstanceProxies()):
        if prim.GetTypeName() != TYPE:
            continue
        if len(prims) == _MAX_PRIMS:
            raise Refused(f"it has more than {_MAX_PRIMS} prims of the type {TYPE}")
        degree, found = read_prim(prim)
        total += sum(values.nbytes for values in found.values())
        if total > max_arrays:
            raise Refused(f"its arrays take {total} bytes, out of all proportion to the file's size")
        arrays += found.values()
        prims.append(
            {
                "matrix": np.array(places.GetLocalToWorldTransform(prim)).T.tolist(),
                "degree": degree,
                "mode": prim.GetCustomDataByKey(MODE_KEY),
                "arrays": {name: list(values.shape) for name, values in found.items()},
            }
        )
    return prims, arrays


def read_prim(prim: Any) -> tuple[int, dict[str, Any]]:
    """The SH degree and the arrays of a prim; the schema says that those that are too short do not count."""
    found = {name: attribute(prim, name, width) for name, width in _WIDTHS.items()}
    positions = found["positions"]
    num = 0 if positions is None else len(positions)
    degree = value_of(prim, "radiance:sphericalHarmonicsDegree")
    degree = 3 if degree is None else int(degree)
    if not 0 <= degree <= 3:
        raise Refused(f"expected SH degree from 0 to 3, found {degree}")
    size = (degree + 1) ** 2
    coefficients = attribute(prim, _COEFFICIENTS, 3)
    if coefficients is not None and len(coefficients) >= num * size:
        found["sh"] = coefficients[: num * size].reshape(num, size, 3)
    kept = {name: values[:num] for name, values in found.items() if values is not None and len(values) >= num}
    return degree, kept if num else {}


def attribute(prim: Any, name: str, width: int) -> Any:
    """Values (N, width) of an attribute, of which there is a version of floats and one of halves; None without."""
    for full_name in (name, f"{name}h"):
        value = value_of(prim, full_name)
        if value is None or len(value) == 0:
            continue
        values = np.asarray(value, np.float32).reshape(len(value), -1)
        if values.shape[1] != width:
            raise Refused(f"expected {width} numbers in each value of {full_name}, found {values.shape[1]}")
        return values
    return None


def value_of(prim: Any, name: str) -> Any:
    """The value of an attribute at the earliest time; None if it has none."""
    usd: Any = import_module("pxr.Usd")
    found = prim.GetAttribute(name)
    return found.Get(usd.TimeCode.EarliestTime()) if found else None


if __name__ == "__main__":
    main()
