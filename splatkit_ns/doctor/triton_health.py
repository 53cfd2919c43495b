"""A check of Triton."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from splatkit_ns.doctor.compilers import c_compiler, compiler_command, has_python_headers, headers_command
from splatkit_ns.doctor.findings import Finding
from splatkit_ns.errors import describe_error


@dataclass(frozen=True)
class TritonFacts:
    """The facts about Triton."""

    version: str | None
    """None if it is not installed."""
    seconds: float | None = None
    """The time that a small kernel took from its source to its result, in an empty cache; None if it failed."""
    failure: str | None = None
    compiler: str | None = None
    """The C compiler, with which Triton builds the launchers of its kernels."""
    python_headers: bool = True


def gather_triton_facts(version: str | None) -> TritonFacts:
    """Compile and run a small kernel on the GPU.

    Args:
        version: of Triton; None if it is not installed.
    """
    compiler, headers = c_compiler(), has_python_headers()
    if version is None:
        return TritonFacts(None, compiler=compiler, python_headers=headers)
    try:
        from splatkit_ns.doctor._triton_probe import probe

        return TritonFacts(version, probe(), compiler=compiler, python_headers=headers)
    except Exception as error:  # of the compiler, the linker, the driver: many kinds
        return TritonFacts(version, failure=describe_error(error), compiler=compiler, python_headers=headers)


def triton_finding(facts: TritonFacts, gsplat_is_ready: bool = False) -> Finding:
    """The finding ``triton``, on a machine with a GPU.

    Args:
        facts: see `gather_triton_facts`.
        gsplat_is_ready: whether gsplat's compiled code can be used instead.
    """
    known = asdict(facts)
    if facts.seconds is not None:
        text = f"{facts.version}, a small kernel compiles and runs in {facts.seconds:.2g} s"
        return Finding("triton", "ok", text, facts=known)
    status = "note" if gsplat_is_ready else "fault"
    effect = "training on the GPU is much slower" if gsplat_is_ready else "training on the GPU fails"
    if facts.version is None:
        return Finding("triton", status, f"not installed: {effect}", "", "pip install triton", known)
    text = f"{facts.version} cannot compile or run a kernel: {effect}"
    if facts.compiler is None:
        advice = "Triton needs a C compiler, and none is on PATH (gcc, clang, or the variable CC)."
        return Finding("triton", status, f"{text}. {facts.failure}", advice, compiler_command(), known)
    if not facts.python_headers:
        advice = "Triton needs Python's header files (Python.h), which are not installed."
        return Finding("triton", status, f"{text}. {facts.failure}", advice, headers_command(), known)
    advice = "Its cache may be damaged, or its version may not fit PyTorch, which names the one that it needs:"
    return Finding(
        "triton", status, f"{text}. {facts.failure}", advice, f"pip install --force-reinstall torch=={_torch()}", known
    )


def _torch() -> str:
    return torch.__version__.partition("+")[0]
