"""Check that gsplat's CUDA code can be used, with one clear error if it cannot."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

import torch

from splatkit_ns.errors import SplatkitError, describe_error
from splatkit_ns.triton_kernels import run_apart

from .arguments import Backend
from .versions import gsplat_version


class BackendUnavailableError(SplatkitError, RuntimeError):
    """gsplat's CUDA code cannot be used on this machine; the message says what was found and what to do."""


@dataclass(frozen=True)
class CudaFacts:
    """The facts that decide whether gsplat's CUDA code can be built and run."""

    torch_version: str
    torch_cuda: str | None
    """The CUDA version that torch was built for; None for a CPU-only build."""
    gpu: str | None
    """The name of the first CUDA device; None if there is none."""
    nvcc_path: str | None
    nvcc_version: str | None
    gsplat_version: str | None
    failure: str | None = None
    """The error that was raised when gsplat's CUDA code was loaded or built."""


def explain_unavailable(facts: CudaFacts) -> str:
    """Return the error message for `facts`: the versions found, and the first step to solve the problem."""
    if facts.gsplat_version is None:
        advice = "Install gsplat: `pip install gsplat==1.4.0` (the version that nerfstudio pins)."
    elif facts.torch_cuda is None:
        advice = "This torch is built for the CPU only: install a CUDA build of torch, or train with device cpu."
    elif facts.gpu is None:
        advice = "torch sees no CUDA device: check the driver with `nvidia-smi`, or train with device cpu."
    elif facts.nvcc_path is None:
        advice = (
            f"gsplat compiles its CUDA code at first use and needs nvcc: install the CUDA toolkit {facts.torch_cuda} "
            "and put its bin folder on PATH, or install a gsplat wheel with compiled code for this torch."
        )
    elif facts.nvcc_version and facts.nvcc_version.split(".")[0] != facts.torch_cuda.split(".")[0]:
        advice = (
            f"nvcc {facts.nvcc_version} does not fit a torch built for CUDA {facts.torch_cuda}: put the toolkit "
            f"{facts.torch_cuda} first on PATH and set CUDA_HOME to it."
        )
    else:
        advice = "Building or loading gsplat's CUDA code failed: see the error above and the compiler's output."
    found = [
        f"  torch   {facts.torch_version}, " + (f"CUDA {facts.torch_cuda}" if facts.torch_cuda else "without CUDA"),
        f"  GPU     {facts.gpu or 'not found'}",
        "  nvcc    " + (f"{facts.nvcc_path}, version {facts.nvcc_version}" if facts.nvcc_path else "not found"),
        f"  gsplat  {facts.gsplat_version or 'not found'}",
    ]
    if facts.failure:
        found.append(f"  error   {facts.failure}")
    return "\n".join(["gsplat's CUDA code cannot be used here. Found:", *found, advice])


def gather_facts(failure: str | None = None) -> CudaFacts:
    """Collect the facts about this machine. Imports neither gsplat nor its CUDA code."""
    nvcc = shutil.which("nvcc")
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if nvcc is None and home and os.access(os.path.join(home, "bin", "nvcc"), os.X_OK):
        nvcc = os.path.join(home, "bin", "nvcc")
    try:
        gsplat = ".".join(map(str, gsplat_version()))
    except ModuleNotFoundError:
        gsplat = None
    return CudaFacts(
        torch_version=torch.__version__,
        torch_cuda=torch.version.cuda,
        gpu=torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        nvcc_path=nvcc,
        nvcc_version=_nvcc_version(nvcc),
        gsplat_version=gsplat,
        failure=failure,
    )


def _nvcc_version(nvcc: str | None) -> str | None:
    if nvcc is None:
        return None
    try:
        output = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"release (\d+\.\d+)", output)
    return match.group(1) if match else None


def gsplat_need(backend: Backend, packed: bool = False) -> str | None:
    """Return a sentence that says why a renderer with these settings needs gsplat's compiled code, or None.

    It is not noticed here if there is a Triton that does not work.
    """
    if packed:
        return "packed is gsplat's; with packed False nothing of gsplat is needed."
    if backend == "gsplat":
        return "The backend gsplat was chosen; with splatkit nothing of gsplat is needed."
    if find_spec("triton") is None:
        return "There is no Triton beside this PyTorch, so that gsplat would have to render."
    return None


def require_gsplat(reason: str) -> None:
    """Load gsplat's CUDA code, as `check_cuda_backend` does.

    Args:
        reason: a sentence that says why it is needed.

    Raises:
        BackendUnavailableError: it cannot be used; the message begins with the reason.
    """
    try:
        check_cuda_backend()
    except BackendUnavailableError as error:
        raise BackendUnavailableError(f"{reason} {error}") from error


@lru_cache(maxsize=1)
def check_cuda_backend() -> None:
    """Load gsplat's CUDA code; compile it first if that has not been done (minutes, once per machine).

    It is needed only in the cases that `rasterization` names; in these the trainer calls this before it loads data.

    Raises:
        BackendUnavailableError: it cannot be used.
    """
    if not torch.cuda.is_available():
        raise BackendUnavailableError(explain_unavailable(gather_facts()))
    run_apart(_load)


def _load() -> None:
    try:
        compiled = importlib.import_module("gsplat.cuda._backend")._C
    except Exception as error:  # a build raises many kinds: OSError, ImportError, RuntimeError, CalledProcessError
        facts = gather_facts(failure=describe_error(error))
        raise BackendUnavailableError(explain_unavailable(facts)) from error
    if compiled is None:
        raise BackendUnavailableError(explain_unavailable(gather_facts()))
