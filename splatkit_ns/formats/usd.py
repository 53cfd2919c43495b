"""OpenUSD files with prims of the type ParticleField3DGaussianSplat, which OpenUSD has had since 26.03.

A prim has arrays of floats: positions, orientations, scales (standard deviations), opacities (0 to 1) and
radiance:sphericalHarmonicsCoefficients, in which the coefficients of a Gaussian follow each other. The file says which
axis is up.
https://openusd.org/release/user_guides/schemas/usdVol/ParticleField3DGaussianSplat.html
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
from packaging.version import Version

from splatkit_ns.files import atomic_write
from splatkit_ns.formats._quantise import XYZW, deviations_of, sigmoid, unit_quats
from splatkit_ns.formats._usd_reading import MODE_KEY, read_usd
from splatkit_ns.formats.frames import UpAxis
from splatkit_ns.formats.gaussians import FormatError, Gaussians
from splatkit_ns.formats.registry import SplatFormat, register

_SUFFIXES = (".usd", ".usdc", ".usda", ".usdz")
_ENCODINGS = {b"PXR-": "crate", b"#usd": "text", b"PK\x03\x04": "package"}
_SIGMAS = 3.0
_LEAST = Version("26.3")
"""The first version of OpenUSD that has the prim."""


@dataclass(frozen=True)
class UsdOptions:
    """The options for writing USD files."""

    up_axis: UpAxis = "z"
    """The upward axis of the Gaussians, which the file tells. USD knows z and y: for -y the prim is turned."""


def why_unavailable() -> str | None:
    """The reason why USD files can be neither read nor written here; None if they can.

    The package is looked up, not imported, which takes half a second, unless OpenUSD was built from source.
    """
    if importlib.util.find_spec("pxr") is None:
        return 'USD files need the package usd-core, which is not installed: pip install "splatkit-ns[usd]"'
    try:
        is_new = Version(version("usd-core")) >= _LEAST
    except PackageNotFoundError:
        try:
            is_new = hasattr(_module("UsdVol"), "ParticleField3DGaussianSplat")
        except FormatError as error:
            return str(error)
    if not is_new:
        return f'USD files need the package usd-core of at least {_LEAST}: pip install --upgrade "splatkit-ns[usd]"'
    return None


def write_usd(path: Path, gaussians: Gaussians, options: UsdOptions) -> None:
    """Write Gaussians atomically; see `SplatFormat.write`."""
    if options.up_axis not in get_args(UpAxis):
        expected = ", ".join(get_args(UpAxis))
        raise FormatError(f"{path}: up_axis must be one of {expected}, found {options.up_axis!r}.")
    reason = why_unavailable()
    if reason is not None:
        raise FormatError(f"{path}: {reason}.")
    suffix = path.suffix.lower() if path.suffix.lower() in _SUFFIXES else ".usdc"
    with tempfile.TemporaryDirectory() as folder:  # OpenUSD goes by names, some of which it takes for more than a name
        made = Path(folder) / f"scene{suffix}"
        try:
            _export(made, gaussians, options)
        except Exception as error:  # OpenUSD has one class of error for all reasons
            raise OSError(f"cannot write the file: {str(error).strip()}") from error

        def write(file: BinaryIO) -> None:
            with made.open("rb") as source:
                shutil.copyfileobj(source, file)

        atomic_write(path, write)


def _export(path: Path, gaussians: Gaussians, options: UsdOptions) -> None:
    """Write a file with OpenUSD."""
    usd, geom, vol, vt, gf = map(_module, ("Usd", "UsdGeom", "UsdVol", "Vt", "Gf"))
    packed = path.suffix == ".usdz"
    layer = path.with_suffix(".usdc") if packed else path
    stage: Any = usd.Stage.CreateNew(str(layer))
    geom.SetStageUpAxis(stage, geom.Tokens.z if options.up_axis == "z" else geom.Tokens.y)
    geom.SetStageMetersPerUnit(stage, 1.0)
    field: Any = vol.ParticleField3DGaussianSplat.Define(stage, "/Gaussians")
    stage.SetDefaultPrim(field.GetPrim())
    if options.up_axis == "-y":
        field.AddRotateXOp().Set(180.0)
    scales = deviations_of(gaussians.scales)
    reach = _SIGMAS * scales.max(axis=1, keepdims=True)
    extent = np.stack([(gaussians.means - reach).min(axis=0), (gaussians.means + reach).max(axis=0)])
    coefficients = np.concatenate([gaussians.sh0, gaussians.shN], axis=1).reshape(-1, 3)
    field.CreateExtentAttr([gf.Vec3f(*map(float, corner)) for corner in extent])
    field.CreatePositionsAttr(vt.Vec3fArray.FromNumpy(_contiguous(gaussians.means)))
    field.CreateOrientationsAttr(vt.QuatfArray.FromNumpy(_contiguous(unit_quats(gaussians.quats)[:, XYZW])))
    field.CreateScalesAttr(vt.Vec3fArray.FromNumpy(_contiguous(scales)))
    field.CreateOpacitiesAttr(vt.FloatArray.FromNumpy(_contiguous(sigmoid(gaussians.opacities))))
    field.CreateRadianceSphericalHarmonicsDegreeAttr(gaussians.sh_degree)
    field.CreateRadianceSphericalHarmonicsCoefficientsAttr(vt.Vec3fArray.FromNumpy(_contiguous(coefficients)))
    if gaussians.render_mode != "default":
        field.GetPrim().SetCustomDataByKey(MODE_KEY, gaussians.render_mode)
    stage.Save()
    if packed and not _module("UsdUtils").CreateNewUsdzPackage(str(layer), str(path)):
        raise OSError("OpenUSD could not pack it")


def _module(name: str) -> Any:
    """A module of OpenUSD.

    Raises:
        FormatError: it cannot be imported.
    """
    try:
        return importlib.import_module(f"pxr.{name}")
    except ImportError as error:
        raise FormatError(f"USD files need the package usd-core, which cannot be imported: {error}") from error


def _contiguous(values: Any) -> Any:
    return np.ascontiguousarray(values, np.float32)


def _read(path: Path) -> Gaussians:
    reason = why_unavailable()
    if reason is not None:
        raise FormatError(f"{path}: {reason}.")
    return read_usd(path)


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        return _ENCODINGS.get(file.read(4), "")


FORMAT = register(
    SplatFormat(
        name="usd",
        suffixes=_SUFFIXES,
        about="Omniverse, Isaac Sim and Houdini, with the package usd-core. Nothing is lost; as large as a PLY file.",
        read=_read,
        write=write_usd,
        options=UsdOptions,
        version=_encoding,
        why_unavailable=why_unavailable,
    )
)
