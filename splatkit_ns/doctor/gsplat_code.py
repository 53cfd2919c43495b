"""Checks of gsplat's compiled CUDA code, and of nvcc, which compiles it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import torch

from splatkit_ns.doctor.findings import Finding
from splatkit_ns.rasterize.cuda import CudaFacts
from splatkit_ns.rasterize.versions import parse_version

LOADING_SECONDS = 60
"""The longest that loading the code may take."""
LOAD = (
    "import sys, torch, importlib.util as u; "
    "s = u.spec_from_file_location(*sys.argv[1:]); u.module_from_spec(s).__name__"
)
"""Loads an extension, of this name and file."""
NEEDED_FOR = "--pipeline.model.renderer.backend gsplat and packed renders only"
"""The purposes that gsplat's compiled code has."""


@dataclass(frozen=True)
class CompiledGsplat:
    """gsplat's compiled CUDA code, as far as files tell."""

    path: Path | None
    """The library; None if it has not been compiled."""
    failure: str | None = None
    """The reason why it cannot be loaded with this torch, or is to be compiled anew."""

    @property
    def is_ready(self) -> bool:
        """Whether it can be used."""
        return self.path is not None and self.failure is None


def find_compiled_gsplat() -> CompiledGsplat:
    """Find gsplat's compiled code, in its package or in PyTorch's folder of extensions, and load it in a process."""
    spec = find_spec("gsplat")
    if spec is None or spec.origin is None:
        return CompiledGsplat(None)
    package = Path(spec.origin).parent
    built_in = [package / f"csrc{suffix}" for suffix in EXTENSION_SUFFIXES if (package / f"csrc{suffix}").is_file()]
    if built_in:
        return CompiledGsplat(built_in[0], loading_failure("csrc", built_in[0]))
    library = extensions_folder() / "gsplat_cuda" / "gsplat_cuda.so"
    if not library.is_file():
        return CompiledGsplat(None)
    if stale := _why_compiled_anew(library, package):
        return CompiledGsplat(library, stale)
    return CompiledGsplat(library, loading_failure("gsplat_cuda", library))


def extensions_folder() -> Path:
    """The folder in which this torch and this Python keep extensions that are compiled at first use."""
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    if chosen:
        return Path(chosen)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    cuda = "cpu" if torch.version.cuda is None else f"cu{torch.version.cuda.replace('.', '')}"
    python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    return cache / "torch_extensions" / f"{python}_{cuda}"


def _why_compiled_anew(library: Path, package: Path) -> str | None:
    """The reason why PyTorch's build would compile a library again: its rules are those of ninja."""
    try:
        rules = library.with_name("build.ninja").read_text()
    except OSError:
        return None
    sources = [source for source in (package / "cuda" / "csrc").glob("*.c*") if source.is_file()]
    if not all(str(source) in rules for source in sources):
        return "it was compiled for another gsplat"
    if str(Path(torch.__file__).parent) not in rules:
        return "it was compiled for another torch"
    if any(source.stat().st_mtime > library.stat().st_mtime for source in sources):
        return "gsplat's sources are newer"
    return None


def loading_failure(name: str, library: Path) -> str | None:
    """Load an extension in a process of its own: one for another torch may end it. None if that succeeds."""
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", LOAD, name, str(library)],
            capture_output=True, text=True, timeout=LOADING_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"loading it takes more than {LOADING_SECONDS} seconds"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1][:300] if lines else f"loading it ends the process with status {done.returncode}"


def gsplat_findings(facts: CudaFacts, compiled: CompiledGsplat) -> list[Finding]:
    """The findings ``gsplat`` and ``nvcc``.

    Args:
        facts: those of `rasterize.cuda.gather_facts`.
        compiled: see `find_compiled_gsplat`; looked at only if there is a GPU.
    """
    path = None if compiled.path is None else str(compiled.path)
    known = {
        "version": facts.gsplat_version, "compiled": path, "failure": compiled.failure, "needed_for": NEEDED_FOR,
    }  # fmt: skip
    if facts.gsplat_version is None:
        return [Finding("gsplat", "fault", "not installed", "", "pip install gsplat==1.4.0", known)]
    text = facts.gsplat_version
    if facts.gpu is None:
        return [Finding("gsplat", "ok", f"{text}; its compiled code is not needed on a CPU", facts=known)]
    if compiled.is_ready:
        text += f", compiled for this torch: {compiled.path}"
        return [Finding("gsplat", "ok", text, facts=known), _nvcc(facts, "not needed: gsplat is compiled")]
    why = "not compiled" if compiled.path is None else f"compiled, but {compiled.failure}"
    text += f", {why}; needed for {NEEDED_FOR}"
    nvcc = _nvcc(facts, f"gsplat cannot be compiled, needed for {NEEDED_FOR}")
    return [Finding("gsplat", "ok", text, facts=known), nvcc]


def _nvcc(facts: CudaFacts, effect: str) -> Finding:
    """The finding ``nvcc``, with what follows if it is missing or does not fit."""
    known = {"path": facts.nvcc_path, "version": facts.nvcc_version, "torch_cuda": facts.torch_cuda}
    text, wanted = f"{facts.nvcc_version or 'version unknown'}, {facts.nvcc_path}", facts.torch_cuda or ""
    if facts.nvcc_path is None:
        text = f"not found; {effect}"
    elif facts.nvcc_version and parse_version(facts.nvcc_version)[0] != parse_version(wanted)[0]:
        text += f", does not fit a PyTorch for CUDA {wanted}; {effect}"
    return Finding("nvcc", "ok", text, facts=known)
