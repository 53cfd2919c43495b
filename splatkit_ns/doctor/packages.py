"""Checks of Python and its packages."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from importlib.util import cache_from_source, find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from splatkit_ns.doctor.findings import Finding
from splatkit_ns.rasterize.versions import gsplat_version

PACKAGE = "splatkit-ns"
ENTRY_POINTS = "nerfstudio.method_configs"
CHECKED = (PACKAGE, "torchvision")
"""The packages whose requirements are checked. PyPI's builds of torchvision fit one version of torch each."""
SHOWN = ("nerfstudio", "torch", "torchvision", "triton", "gsplat", "numba", "numpy")
LARGE = ("torch", "nerfstudio")
"""Packages whose import takes long."""
TESTED = {"nerfstudio": ((1, 1, 5),), "gsplat": ((1, 4, 0), (1, 5, 3))}
"""The versions that this package is tested with, of packages whose versions differ in what it uses."""

Versions = Callable[[str], str | None]
"""Gives the version of a package; None if it is not installed."""


def installed_version(name: str) -> str | None:
    """The version of the package that an import would find; None if it is not installed.

    Of gsplat it is read from its files, because several gsplats may be on the path.
    """
    try:
        if name == "gsplat":
            return ".".join(map(str, gsplat_version()))
        return metadata.version(name)
    except (metadata.PackageNotFoundError, ModuleNotFoundError):
        return None


def package_version() -> str | None:
    """The version of this package; None if it is not installed."""
    return installed_version(PACKAGE)


def check_python() -> list[Finding]:
    """Check the version of Python against the one that this package requires."""
    version = platform.python_version()
    facts = {"version": version, "executable": sys.executable}
    try:
        required = metadata.metadata(PACKAGE)["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        required = ""
    return [python_finding(version, required, facts)]


def python_finding(version: str, required: str, facts: dict[str, str]) -> Finding:
    """The finding for a version of Python."""
    text = f"{version}, {facts['executable']}"
    if Version(version.rstrip("+")) in SpecifierSet(required):
        return Finding("python", "ok", text, facts=facts)
    return Finding(
        "python", "fault", f"{text}; {PACKAGE} needs {required}",
        "Make an environment with another Python, and install there.", "conda create -n splatkit python=3.11", facts,
    )  # fmt: skip


def check_package() -> list[Finding]:
    """Check that this package is installed, so that ``ns-train`` finds its methods."""
    names = sorted(
        point.name for point in metadata.entry_points(group=ENTRY_POINTS) if point.module.startswith("splatkit_ns")
    )
    version = package_version()
    facts = {"version": version, "methods": names}
    if names and version is not None:
        return [Finding("splatkit", "ok", f"{version}, {len(names)} methods for ns-train", facts=facts)]
    return [
        Finding(
            "splatkit", "fault", "imported, but not installed: ns-train does not find its methods",
            "Install it into this environment; -e . in its checkout.", f"pip install {PACKAGE}", facts,
        )
    ]  # fmt: skip


def check_bytecode() -> list[Finding]:
    """Check that Python finds the bytecode of large packages, or will keep it at their next import."""
    places = [Path(spec.origin) for name in LARGE if (spec := find_spec(name)) is not None and spec.origin is not None]
    missing = [place for place in places if not Path(cache_from_source(str(place))).is_file()]
    if not missing:
        return [Finding("bytecode", "ok", "Python has kept that of the packages", facts={"missing": []})]
    folder = missing[0].parent.parent
    is_kept = not sys.dont_write_bytecode and os.access(missing[0].parent, os.W_OK)
    return [bytecode_finding([place.parent.name for place in missing], folder, is_kept)]


def bytecode_finding(missing: Sequence[str], folder: Path, is_kept: bool) -> Finding:
    """The finding if packages have no bytecode.

    Args:
        missing: their names.
        folder: the folder of packages.
        is_kept: whether Python will keep the bytecode when it imports them.
    """
    facts = {"missing": list(missing)}
    if is_kept:
        return Finding("bytecode", "ok", "Python will keep it at the next start, which takes longer", facts=facts)
    return Finding(
        "bytecode", "note", f"none of {', '.join(missing)}, and Python keeps none: each start takes some 8 s longer",
        "Make it once, or unset PYTHONDONTWRITEBYTECODE.", f"python -m compileall -q -j 0 {shlex.quote(str(folder))}",
        facts,
    )  # fmt: skip


def check_packages(versions: Versions = installed_version) -> list[Finding]:
    """Check the versions of all packages that this one requires."""
    requirements = [
        requirement for name in CHECKED if versions(name) is not None for requirement in _requirements(name)
    ]
    shown = {name: version for name in SHOWN if (version := versions(name)) is not None}
    facts = {"versions": shown}
    text = ", ".join(f"{name} {version}" for name, version in shown.items())
    wrong = wrong_requirements(requirements, versions)
    if wrong:
        problems = "; ".join(
            f"{name} is {versions(name) or 'missing'}, expected {', '.join(map(str, found))}"
            for name, found in wrong.items()
        )
        wanted = " ".join(f'"{name}{",".join(map(str, found))}"' for name, found in wrong.items())
        return [Finding("packages", "fault", f"{text}; {problems}", "", f"pip install {wanted}", facts)]
    for name, tested in TESTED.items():
        version = versions(name)
        if version is not None and Version(version).release[:3] not in tested:
            known = [".".join(map(str, numbers)) for numbers in tested]
            verb = "is" if len(known) == 1 else "are"
            text += f"; {name} {version} is not tested with this package, {' and '.join(known)} {verb}"
            return [Finding("packages", "note", text, "", f"pip install {name}=={known[0]}", facts)]
    return [Finding("packages", "ok", text, facts=facts)]


def _requirements(name: str) -> list[Requirement]:
    try:
        found = [Requirement(text) for text in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:
        return []
    return [each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]


def wrong_requirements(requirements: Iterable[Requirement], versions: Versions) -> dict[str, list[SpecifierSet]]:
    """The packages that are missing or of a wrong version, with what is required of them."""
    wrong: dict[str, list[SpecifierSet]] = {}
    for requirement in requirements:
        version = versions(requirement.name)
        if version is None or not _fits(requirement.specifier, version):
            wrong.setdefault(requirement.name, []).append(requirement.specifier)
    return wrong


def _fits(specifier: SpecifierSet, version: str) -> bool:
    try:
        return specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:  # a build of someone's own
        return True
