"""Checks of compilers."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from splatkit_ns.doctor.findings import Finding


def c_compiler() -> str | None:
    """The C compiler that Triton would use; None if there is none."""
    chosen = os.environ.get("CC")
    if chosen:
        return shutil.which(chosen.split()[0])
    return shutil.which("gcc") or shutil.which("clang")


def cxx_compiler() -> str | None:
    """The C++ compiler with which gsplat would be compiled; None if there is none."""
    chosen = os.environ.get("CXX")
    if chosen:
        return shutil.which(chosen.split()[0])
    return shutil.which("g++") or shutil.which("c++")


def has_python_headers() -> bool:
    """Whether ``Python.h`` is installed."""
    return (Path(sysconfig.get_path("include")) / "Python.h").is_file()


def compiler_command() -> str:
    """The command that installs a C and C++ compiler."""
    return "sudo apt install build-essential" if shutil.which("apt") else "conda install -c conda-forge gxx"


def check_compiler(*, has_gpu: bool) -> list[Finding]:
    """Check for compilers and Python's headers, with which Triton builds the launchers of its kernels.

    Args:
        has_gpu: whether there is a GPU; without one, nothing needs them.
    """
    compiler, cxx, headers = c_compiler(), cxx_compiler(), has_python_headers()
    facts = {"c_compiler": compiler, "cxx_compiler": cxx, "python_headers": headers, "needed": has_gpu}
    text = f"C: {compiler or 'none'}, C++: {cxx or 'none'}, Python.h: {'found' if headers else 'none'}"
    if not has_gpu:
        return [Finding("compiler", "ok", f"{text}; not needed on a CPU", facts=facts)]
    if compiler is None or not headers:
        text += "; Triton needs a C compiler and Python.h for kernels that are not in its cache"
        return [Finding("compiler", "note", text, "", compiler_command() if headers else headers_command(), facts)]
    return [Finding("compiler", "ok", text, facts=facts)]


def headers_command() -> str:
    """The command that installs Python's header files."""
    return f"sudo apt install python{sys.version_info.major}.{sys.version_info.minor}-dev"
