"""Findings about GPUs that this machine does not have: made-up facts, and what is said and advised of each."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from splatkit_ns.doctor import compilers, gpu, gsplat_code
from splatkit_ns.doctor.findings import Finding
from splatkit_ns.doctor.gpu import GpuFacts, gpu_findings
from splatkit_ns.doctor.gsplat_code import CompiledGsplat, find_compiled_gsplat, gsplat_findings, loading_failure
from splatkit_ns.doctor.triton_health import TritonFacts, gather_triton_facts, triton_finding
from splatkit_ns.memory import GIB
from splatkit_ns.rasterize.cuda import CudaFacts

H100 = GpuFacts(
    torch_cuda="12.8", name="H100", devices=1, total_bytes=80 * GIB, free_bytes=78 * GIB, capability=(9, 0),
    architectures=("sm_80", "sm_90", "compute_90"), driver="570.1", hardware=True,
)  # fmt: skip
NO_GPU = GpuFacts(torch_cuda="12.8", hardware=False)
CUDA = CudaFacts("2.11.0", "12.8", "H100", "/cuda/bin/nvcc", "12.8", "1.4.0")
COMPILED = CompiledGsplat(Path("/cache/gsplat_cuda.so"))


def statuses(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.status for finding in findings}


@pytest.mark.parametrize(
    ("change", "expected", "words"),
    [
        ({}, {"gpu": "ok", "cuda": "ok"}, ("H100", "80 GiB", "570.1", "CUDA 12.8")),
        ({"devices": 2}, {"gpu": "ok", "cuda": "ok"}, ("H100 and 1 more",)),
        ({"free_bytes": GIB}, {"gpu": "note", "cuda": "ok"}, ("1 GiB free", "max-gaussians")),
        ({"capability": (12, 0), "architectures": ("sm_90",)}, {"gpu": "ok", "cuda": "fault"}, ("sm_120", "sm_90")),
        ({"capability": (12, 0)}, {"gpu": "ok", "cuda": "ok"}, ()),  # PTX of an older one
        ({"capability": (8, 6), "architectures": ("sm_80",)}, {"gpu": "ok", "cuda": "ok"}, ()),
        ({"capability": (8, 0), "architectures": ("sm_86",)}, {"gpu": "ok", "cuda": "fault"}, ()),
        ({"capability": (3, 5)}, {"gpu": "ok", "cuda": "fault"}, ()),
        ({"capability": (10, 0), "architectures": ("sm_100a",)}, {"gpu": "ok", "cuda": "ok"}, ()),
    ],
)
def test_a_gpu_that_torch_finds(change: dict[str, object], expected: dict[str, str], words: tuple[str, ...]) -> None:
    findings = gpu_findings(dataclasses.replace(H100, **change))  # type: ignore[arg-type]
    assert statuses(findings) == expected
    said = " ".join(f"{each.text} {each.advice} {each.command}" for each in findings)
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("change", "expected", "words"),
    [
        ({}, {"gpu": "note"}, ("on the CPU", "splatkit-3dgs-adc")),
        ({"hardware": True}, {"gpu": "fault"}, ("driver is not loaded", "--gpus all")),
        ({"hardware": True, "driver": "450.1", "failure": "The NVIDIA driver on your system is too old"},
         {"gpu": "ok", "cuda": "fault"}, ("too old", "450.1", "CUDA 12.8", "nvidia-smi")),
        ({"hardware": True, "driver": "570.1", "torch_cuda": None}, {"gpu": "ok", "cuda": "fault"},
         ("without CUDA", "pytorch.org")),
        ({"hardware": True, "driver": "570.1", "hidden": ""}, {"gpu": "ok", "cuda": "fault"},
         ("unset CUDA_VISIBLE_DEVICES",)),
    ],
)  # fmt: skip
def test_no_gpu_that_torch_finds(change: dict[str, object], expected: dict[str, str], words: tuple[str, ...]) -> None:
    findings = gpu_findings(dataclasses.replace(NO_GPU, **change))  # type: ignore[arg-type]
    assert statuses(findings) == expected
    said = " ".join(f"{each.text} {each.advice} {each.command}" for each in findings)
    assert all(word in said for word in words), said


def test_hardware_and_driver_are_found_in_the_system_s_files(tmp_path: Path) -> None:
    for name, vendor, kind in (("0", "0x8086", "0x030000"), ("1", "0x10de", "0x040300")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert not gpu._has_nvidia_hardware(tmp_path), "an NVIDIA audio device is no GPU"
    (tmp_path / "1" / "class").write_text("0x030200\n")
    assert gpu._has_nvidia_hardware(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": None}, ("not installed", "pip install triton")),
        ({"compiler": None}, ("no", "C compiler", "Failed to find C compiler")),
        ({"python_headers": False}, ("Python.h", "-dev")),
        ({}, ("--force-reinstall torch==",)),
    ],
)
def test_triton_that_is_broken(change: dict[str, object], words: tuple[str, ...]) -> None:
    facts = TritonFacts("3.5.0", failure="RuntimeError: Failed to find C compiler.", compiler="/usr/bin/gcc")
    finding = triton_finding(dataclasses.replace(facts, **change))  # type: ignore[arg-type]
    assert finding.status == "fault"
    assert triton_finding(dataclasses.replace(facts, **change), gsplat_is_ready=True).status == "note"  # type: ignore[arg-type]
    said = f"{finding.text} {finding.advice} {finding.command}"
    assert all(word in said for word in words), said
    assert finding.command


def test_triton_that_works() -> None:
    finding = triton_finding(TritonFacts("3.5.0", seconds=1.234))
    assert (finding.status, finding.text) == ("ok", "3.5.0, a small kernel compiles and runs in 1.2 s")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernel runs here")
def test_the_probe_s_failure_is_told() -> None:
    pytest.importorskip("triton")
    facts = gather_triton_facts("3.5.0")
    assert facts.seconds is None
    assert facts.failure
    assert triton_finding(facts).status != "ok"


@pytest.mark.gpu
def test_triton_on_this_gpu_and_without_a_compiler() -> None:
    """A cached launcher does not hide that no new one could be built."""
    start = time.perf_counter()
    facts = gather_triton_facts("here")
    assert facts.failure is None
    assert facts.seconds is not None
    assert 0 < facts.seconds < time.perf_counter() - start
    code = (
        "from splatkit_ns.doctor.triton_health import *; f = gather_triton_facts('here'); "
        "print(f.seconds, f.compiler, triton_finding(f).advice)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PATH": "/nowhere"})
    assert done.stdout.startswith("None None Triton needs a C compiler"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "compiled", "expected", "words"),
    [
        ({}, COMPILED, {"gsplat": "ok", "nvcc": "ok"}, "compiled for this torch: /cache/gsplat_cuda.so"),
        ({"nvcc_path": None}, COMPILED, {"gsplat": "ok", "nvcc": "ok"}, "not needed: gsplat is compiled"),
        ({}, CompiledGsplat(None), {"gsplat": "ok", "nvcc": "ok"}, "not compiled; needed for --pipeline.model"),
        ({"nvcc_path": None}, CompiledGsplat(None), {"gsplat": "ok", "nvcc": "ok"}, "gsplat cannot be compiled"),
        ({"nvcc_version": "11.8"}, CompiledGsplat(None), {"gsplat": "ok", "nvcc": "ok"}, "CUDA 12.8; gsplat cannot"),
        ({}, dataclasses.replace(COMPILED, failure="it was compiled for another torch"), {"gsplat": "ok", "nvcc": "ok"},
         "compiled, but it was compiled for another torch"),
        ({"gsplat_version": None}, CompiledGsplat(None), {"gsplat": "fault"}, "pip install gsplat"),
        ({"gpu": None, "nvcc_path": None}, CompiledGsplat(None), {"gsplat": "ok"}, "not needed on a CPU"),
    ],
)  # fmt: skip
def test_gsplat_and_nvcc(
    change: dict[str, object], compiled: CompiledGsplat, expected: dict[str, str], words: str
) -> None:
    findings = gsplat_findings(dataclasses.replace(CUDA, **change), compiled)  # type: ignore[arg-type]
    assert statuses(findings) == expected
    assert words in " ".join(f"{each.text} {each.command}" for each in findings)


def test_where_gsplat_s_compiled_code_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(gsplat_code, "EXTENSION_SUFFIXES", [])  # an installed wheel may have its own
    monkeypatch.setattr(gsplat_code, "LOAD", gsplat_code.LOAD.replace("sys, torch,", "sys,"))  # takes seconds
    assert find_compiled_gsplat() == CompiledGsplat(None)
    library = tmp_path / "gsplat_cuda" / "gsplat_cuda.so"
    library.parent.mkdir()
    library.write_bytes(b"no library")
    found = find_compiled_gsplat()
    assert found.path == library
    assert "too short" in (found.failure or "") or "invalid ELF" in (found.failure or "")
    (library.parent / "build.ninja").write_text("build a.o: compile /elsewhere/gsplat/cuda/csrc/a.cu\n")
    assert find_compiled_gsplat().failure == "it was compiled for another gsplat"


def test_the_folder_is_that_of_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch.utils.cpp_extension import _get_build_directory

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    assert gsplat_code.extensions_folder() / "x" == Path(_get_build_directory("x", verbose=False))


def test_an_extension_that_loads() -> None:
    import _ctypes

    assert loading_failure("_ctypes", Path(_ctypes.__file__)) is None


def test_compilers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compilers.c_compiler() is None
    (finding,) = compilers.check_compiler(has_gpu=True)
    assert finding.status == "note"
    assert "C compiler" in finding.text
    assert finding.command == "conda install -c conda-forge gxx", "there is no apt"
    assert compilers.check_compiler(has_gpu=False)[0].status == "ok"
    (tmp_path / "mycc").write_text("#!/bin/sh\n")
    (tmp_path / "mycc").chmod(0o755)
    monkeypatch.setenv("CC", "mycc -O2")
    assert compilers.c_compiler() == str(tmp_path / "mycc")
    monkeypatch.setattr(compilers, "has_python_headers", lambda: False)
    assert "-dev" in compilers.check_compiler(has_gpu=True)[0].command
