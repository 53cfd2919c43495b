"""Checks of Python and its packages."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable
from importlib import metadata

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
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None


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
            known = " and ".join(".".join(map(str, numbers)) for numbers in tested)
            return [
                Finding(
                    "packages", "note", f"{text}; {name} {version} is not tested with this package, {known} are"
                    if len(tested) > 1 else f"{text}; {name} {version} is not tested with this package, {known} is",
                    "", f"pip install {name}=={'.'.join(map(str, tested[0]))}", facts,
                )
            ]  # fmt: skip
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
