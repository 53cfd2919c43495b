"""Findings about packages, folders, disks and programs, with made-up faults."""

from __future__ import annotations

import compileall
import os
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

from splatkit_ns.doctor import cpu_kernels, packages, programs, storage
from splatkit_ns.doctor.findings import Finding, checked, worst
from splatkit_ns.memory import GIB
from splatkit_ns.rasterize import cpu

GOOD = {
    "splatkit-ns": "0.1.0", "nerfstudio": "1.1.5", "torch": "2.11.0+cu128", "gsplat": "1.5.3", "numba": "0.61.0",
    "open3d": "0.19.0",
}  # fmt: skip


def test_worst() -> None:
    assert worst([]) == "ok"
    assert worst([Finding("a", "note", ""), Finding("b", "fault", ""), Finding("c", "ok", "")]) == "fault"


def test_an_exception_becomes_a_fault() -> None:
    def fails() -> list[Finding]:
        raise ValueError("of a damaged\ninstallation")

    (finding,) = checked("gpu", fails)
    assert (finding.name, finding.status) == ("gpu", "fault")
    assert finding.text == "the check failed: ValueError: of a damaged installation"


def test_python() -> None:
    facts = {"executable": "/bin/python"}
    assert packages.python_finding("3.11.4", ">=3.10,<3.13", facts).status == "ok"
    assert packages.python_finding("3.12.0+", ">=3.10,<3.13", facts).status == "ok"
    old = packages.python_finding("3.9.2", ">=3.10,<3.13", facts)
    assert (old.status, old.text) == ("fault", "3.9.2, /bin/python; splatkit-ns needs >=3.10,<3.13")
    assert packages.python_finding("3.13.0", ">=3.10,<3.13", facts).status == "fault"


def test_bytecode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site packages" / "large" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text("")
    monkeypatch.setattr(packages, "find_spec", lambda name: SimpleNamespace(origin=str(package)))
    monkeypatch.setattr(packages, "LARGE", ("large",))
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    (kept,) = packages.check_bytecode()
    assert (kept.status, kept.facts) == ("ok", {"missing": ["large"]})
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    (note,) = packages.check_bytecode()
    assert (note.name, note.status) == ("bytecode", "note")
    assert note.command.endswith(f" '{tmp_path}/site packages'")
    assert compileall.compile_dir(package.parent, quiet=1)
    (found,) = packages.check_bytecode()
    assert (found.status, found.facts) == ("ok", {"missing": []})


def check_with(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> Finding:
    known = {**GOOD, **{name.replace("_", "-"): version for name, version in changes.items()}}
    required = {
        "splatkit-ns": [
            "nerfstudio>=1.1.5",
            "torch>=2.1",
            "gsplat>=1.4.0",
            "open3d<0.20",
            'usd-core; extra == "usd"',
        ],
        "torchvision": ["torch==2.11.0"],
    }
    monkeypatch.setattr(metadata, "requires", lambda name: required.get(name))
    (finding,) = packages.check_packages(known.get)
    return finding


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_with(monkeypatch).status == "ok"
    assert check_with(monkeypatch, torchvision="0.26.0").status == "ok", "a local version fits, too"
    wrong = check_with(monkeypatch, open3d="0.20.1", gsplat=None)
    assert wrong.status == "fault"
    assert "gsplat is missing, expected >=1.4.0; open3d is 0.20.1, expected <0.20" in wrong.text
    assert wrong.command == 'pip install "gsplat>=1.4.0" "open3d<0.20"'
    mismatch = check_with(monkeypatch, torchvision="0.26.0", torch="2.10.0")
    assert "torch is 2.10.0, expected ==2.11.0" in mismatch.text
    untested = check_with(monkeypatch, gsplat="1.6.0")
    assert (untested.status, untested.command) == ("note", "pip install gsplat==1.4.0")
    assert "gsplat 1.6.0 is not tested" in untested.text


def test_a_version_of_someone_s_own_is_let_be() -> None:
    assert packages.wrong_requirements([Requirement("torch>=2.1")], {"torch": "my-build"}.get) == {}


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda group: [])
    (finding,) = packages.check_package()
    assert (finding.status, finding.command) == ("fault", "pip install splatkit-ns")
    assert "not find its methods" in finding.text


def no_space(free: int):
    return lambda path: SimpleNamespace(f_bavail=free // 4096, f_frsize=4096)


def test_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = tmp_path / "a" / "b"
    outputs, disk = storage.check_outputs(new)
    assert outputs.status == "ok"
    assert outputs.text == f"{new} can be written, will be made"
    assert disk.facts["free_bytes"] > 0
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    file = tmp_path / "file"
    file.write_text("")
    outputs, _ = storage.check_outputs(file / "outputs")
    assert outputs.status == "fault"
    assert (outputs.text, outputs.command) == (f"{file} is a file, not a folder", "")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone")
    outputs, _ = storage.check_outputs(link / "outputs")
    assert (outputs.status, outputs.text) == ("fault", f"{link} is a link that leads nowhere, not a folder")
    for free, status in ((GIB // 2, "fault"), (3 * GIB, "note"), (9 * GIB, "ok")):
        monkeypatch.setattr(os, "statvfs", no_space(free))
        _, disk = storage.check_outputs(new)
        assert (disk.status, disk.facts["free_bytes"]) == (status, free)
        assert bool(disk.command) == (status != "ok")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write, Linux's /proc")
def test_a_folder_without_write_access() -> None:
    outputs = storage.check_outputs(Path("/proc/outputs"))[0]
    assert outputs.status == "fault"
    assert outputs.text.startswith("the folder /proc/outputs cannot be written: ")
    assert outputs.command.endswith(" /proc")
    (caches,) = storage.check_caches({"triton": Path("/proc/triton"), "torch_hub": Path("/tmp")})
    assert caches.status == "note"
    assert caches.command == "export TRITON_CACHE_DIR=FOLDER/triton"
    assert caches.facts["triton"]["writable"] is False
    assert caches.facts["torch_hub"]["writable"] is True


def test_caches_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage.check_caches({"numba": tmp_path})[0].status == "ok"
    monkeypatch.setattr(os, "statvfs", no_space(50_000_000))
    (finding,) = storage.check_caches({"numba": tmp_path})
    assert finding.status == "note"
    assert f"numba: {tmp_path} has 50 MB free" in finding.text


def test_the_caches_are_where_variables_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("triton", "torch_extensions"):
        monkeypatch.setenv(storage.VARIABLES[name], str(tmp_path / name))
    folders = storage.cache_folders(tmp_path / "numba")
    assert {name: folders[name] for name in ("numba", "triton", "torch_extensions")} == {
        name: tmp_path / name for name in ("numba", "triton", "torch_extensions")
    }


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, status in ((GIB, "fault"), (3 * GIB, "note"), (9 * GIB, "ok")):
        monkeypatch.setattr(storage, "free_host_memory", lambda free=free: free)
        (finding,) = storage.check_memory()
        assert (finding.status, finding.facts["free_bytes"]) == (status, free)


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{text}'\n")
    (folder / name).chmod(0o755)


def test_ffmpeg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    program(folder, "other", "")
    monkeypatch.setenv("PATH", str(folder))
    (finding,) = programs.check_ffmpeg()
    assert (finding.status, finding.facts["path"]) == ("note", None)
    assert "imageio-ffmpeg" in finding.command
    program(folder, "ffmpeg", "ffmpeg version 7.0.2-static Copyright")
    (finding,) = programs.check_ffmpeg()
    assert (finding.status, finding.facts["version"]) == ("ok", "7.0.2-static")
    program(folder, "ffmpeg", "cannot open shared object file")
    assert programs.check_ffmpeg()[0].status == "note"


def test_colmap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for versions, status in (({}, "note"), ({"pycolmap": "3.11.1"}, "note"), ({"pycolmap-cuda12": "4.2.0"}, "ok")):
        monkeypatch.setattr(programs, "installed_version", versions.get)
        (finding,) = programs.check_colmap()
        assert finding.status == status
        assert bool(finding.command) == (status == "note")
    program(tmp_path, "colmap", "")
    monkeypatch.setattr(programs, "installed_version", {}.get)
    assert f"colmap is {tmp_path / 'colmap'}, for ns-process-data" in programs.check_colmap()[0].text


def test_lpips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert programs.check_lpips()[0].status == "note"
    weights = tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth"
    weights.parent.mkdir()
    weights.write_bytes(b"")
    assert programs.check_lpips()[0].facts["path"] == str(weights)
    assert programs.check_lpips()[0].status == "ok"


def test_cpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    findings, folder = cpu_kernels.check_cpu_kernels()
    assert [each.status for each in findings] == ["ok"]
    assert folder == Path(cpu.CACHE_FOLDER)
    monkeypatch.setattr(cpu, "CACHE_IS_KEPT", False)
    (note,) = cpu_kernels.check_cpu_kernels()[0]
    assert (note.status, note.command) == ("note", "export NUMBA_CACHE_DIR=FOLDER")
    monkeypatch.setattr(cpu_kernels, "rasterization", lambda **_: (torch.zeros(1, 16, 16, 3), None, {}))
    (fault,) = cpu_kernels.check_cpu_kernels()[0]
    assert fault.status == "fault"
    assert "wrong colours" in fault.text
