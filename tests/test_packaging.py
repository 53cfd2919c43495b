"""The wheel that users install: what is in it and what it says about itself."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy of what git knows, or the checkout's own `build/` could slip in."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for folder in ("splatkit_ns", "tests", "examples", "benchmarks", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                target = source / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    out = tmp_path_factory.mktemp("dist")
    # The environment's own setuptools builds it, so that the test needs no network.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return Parser().parsestr(read(wheel, "METADATA"))


def read(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_wheel_holds_the_whole_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    package = {path for path in wheel.namelist() if ".dist-info/" not in path}
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "splatkit_ns").rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert package == expected
    assert "splatkit_ns/py.typed" in package


def test_every_folder_with_modules_is_a_package() -> None:
    """setuptools leaves a folder without `__init__.py` out of the wheel, and an editable install hides it."""
    folders = {path.parent for path in (ROOT / "splatkit_ns").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_entry_points_name_the_methods(wheel: zipfile.ZipFile) -> None:
    entry_points = configparser.ConfigParser()
    entry_points.read_string(read(wheel, "entry_points.txt"))
    names = ("2dgs", "3dgs", "3dgs-adc", "3dgs-big", "3dgs-fast", "3dgs-mcmc", "3dgs-small")
    assert dict(entry_points["nerfstudio.method_configs"]) == {
        f"splatkit-{name}": f"splatkit_ns.methods:splatkit_{name.replace('-', '_')}" for name in names
    }


def test_the_command_is_installed(wheel: zipfile.ZipFile) -> None:
    entry_points = configparser.ConfigParser()
    entry_points.read_string(read(wheel, "entry_points.txt"))
    assert dict(entry_points["console_scripts"]) == {"splatkit": "splatkit_ns.cli:main"}
    assert dict(entry_points["nerfbaselines.specs"]) == {"splatkit": "splatkit_ns.nerfbaselines.spec"}


def test_licence_is_named_and_included(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Apache License" in read(wheel, "licenses/LICENSE")


def test_metadata_is_what_pyproject_says(metadata: Message, project: dict[str, Any]) -> None:
    assert metadata["Name"] == "splatkit-ns"
    assert metadata["Version"] == project["version"]
    needed = {Requirement(text) for text in metadata.get_all("Requires-Dist", []) if "extra ==" not in text}
    assert needed == {Requirement(text) for text in project["dependencies"]}
    assert metadata.get_all("Provides-Extra") == ["nerfbaselines", "poses", "usd"]


def test_classifiers_and_python_range_agree(metadata: Message) -> None:
    python = SpecifierSet(metadata["Requires-Python"])
    listed = {text.rsplit(" ", 1)[1] for text in metadata.get_all("Classifier", []) if " :: Python :: 3." in text}
    assert listed == {f"3.{minor}" for minor in range(6, 20) if f"3.{minor}.0" in python}


def test_pip_names_python_if_it_is_too_new(project: dict[str, Any]) -> None:
    """pip complains of a dependency that a newer Python cannot install before it looks at the range of Python."""
    newer = {"python_version": project["requires-python"].rpartition("<")[2]}
    capped = [r for r in map(Requirement, project["dependencies"]) if any(s.operator == "<" for s in r.specifier)]
    assert {r.name for r in capped} >= {"open3d", "fpsample"}
    assert [r.name for r in capped if r.marker is None or r.marker.evaluate(newer)] == []


def test_changelog_knows_this_version(project: dict[str, Any]) -> None:
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert project["version"] in versions


def test_wheel_and_lock_name_no_path_of_this_machine(wheel: zipfile.ZipFile) -> None:
    places = {str(ROOT), sys.prefix, sys.base_prefix, os.path.expanduser("~")} - {"/", "/usr", "/usr/local"}
    texts = {path: wheel.read(path).decode() for path in wheel.namelist()}
    texts["requirements.lock"] = (ROOT / "requirements.lock").read_text()
    found = [(path, place) for path, text in texts.items() for place in places if place in text]
    assert found == []


def test_lock_has_a_hash_for_everything_and_names_no_registry() -> None:
    lock = "".join(path.read_text() for path in sorted(ROOT.glob("requirements*.lock")))
    assert "://" not in lock
    assert not re.search(r"^--?(index|extra|find|trusted|i |f )", lock, re.MULTILINE)
    entries = re.split(r"^(?=[a-z])", lock, flags=re.MULTILINE)[1:]
    assert len(entries) > 100
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry or "==" not in entry] == []


def test_lock_satisfies_the_dependencies(project: dict[str, Any]) -> None:
    pinned: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.M):
        pinned.setdefault(name, []).append(version)
    for requirement in map(Requirement, project["dependencies"]):
        assert all(version in requirement.specifier for version in pinned[requirement.name]), requirement
