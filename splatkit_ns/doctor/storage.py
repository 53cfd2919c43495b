"""Checks of folders, disks and memory."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from splatkit_ns.doctor.findings import Finding, Status
from splatkit_ns.doctor.gsplat_code import extensions_folder
from splatkit_ns.files import folder_problem, nearest_existing, quoted
from splatkit_ns.memory import GIB, free_host_memory

LEAST_DISK, LITTLE_DISK = GIB, 5 * GIB
"""Bytes for runs: a checkpoint of a million Gaussians, with the optimizers' state, has 0.7 GiB."""
LITTLE_CACHE = GIB
"""Bytes for caches: gsplat's build takes some hundred MB."""
LEAST_MEMORY, LITTLE_MEMORY = 2 * GIB, 6 * GIB
"""Bytes of main memory: nerfstudio and PyTorch alone take 1 to 2 GiB."""


def free_disk(folder: Path) -> int:
    """The bytes that this user may still write into a folder, or into a new one of this name."""
    existing = nearest_existing(folder)
    system = os.statvfs(existing if existing.exists() else existing.parent)  # a link may lead nowhere
    return system.f_bavail * system.f_frsize


def check_outputs(folder: Path) -> list[Finding]:
    """Check that runs can be written into a folder, and that its disk has room for them."""
    folder = folder.expanduser().absolute()
    problem, existing = folder_problem(folder), nearest_existing(folder)
    facts = {"folder": str(folder), "writable": problem is None}
    if problem is None:
        new = "" if folder.exists() else ", will be made"
        outputs = Finding("outputs", "ok", f"{folder} can be written{new}", facts=facts)
    elif existing.is_dir():
        outputs = Finding(
            "outputs", "fault", problem, "Name another folder with --output-dir of ns-train, or take this one over:",
            f'sudo chown -R "$USER" {quoted(existing)}', facts,
        )  # fmt: skip
    else:
        outputs = Finding("outputs", "fault", problem, "Name another folder with --output-dir of ns-train.", "", facts)
    free = free_disk(folder)
    status: Status = "fault" if free < LEAST_DISK else "note" if free < LITTLE_DISK else "ok"
    text = f"{free / GIB:.3g} GiB free for {folder}"
    known = {"folder": str(folder), "free_bytes": free}
    if status == "ok":
        return [outputs, Finding("disk", "ok", text, facts=known)]
    advice = "A checkpoint takes up to 0.7 GiB for each million Gaussians. Find what can be deleted:"
    return [outputs, Finding("disk", status, text, advice, f"du -sh {quoted(existing)}/*", known)]


def cache_folders(numba: Path | None) -> dict[str, Path]:
    """The cache folders that training uses: name -> folder.

    Args:
        numba: that of the CPU kernels, if it is known.
    """
    home = Path(os.environ.get("TRITON_HOME") or Path.home())
    folders = {
        "triton": Path(os.environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache"),
        "torch_extensions": extensions_folder(),
        "torch_hub": Path(torch.hub.get_dir()),
    }
    return folders if numba is None else {"numba": numba, **folders}


VARIABLES = {
    "numba": "NUMBA_CACHE_DIR",
    "triton": "TRITON_CACHE_DIR",
    "torch_extensions": "TORCH_EXTENSIONS_DIR",
    "torch_hub": "TORCH_HOME",
}
"""The environment variable that moves each cache."""


def check_caches(folders: dict[str, Path]) -> list[Finding]:
    """Check that caches can be written, and that their disks have room."""
    problems = {name: problem for name, folder in folders.items() if (problem := folder_problem(folder)) is not None}
    free = {name: free_disk(folder) for name, folder in folders.items()}
    facts = {
        name: {"folder": str(folder), "free_bytes": free[name], "writable": name not in problems}
        for name, folder in folders.items()
    }
    little = {name: count for name, count in free.items() if count < LITTLE_CACHE}
    if not problems and not little:
        text = f"{', '.join(folders)}: can be written, {min(free.values()) / GIB:.3g} GiB free"
        return [Finding("caches", "ok", text, facts=facts)]
    wrong = [f"{name}: {problem}" for name, problem in problems.items()]
    wrong += [f"{name}: {folders[name]} has {count / 1e6:.0f} MB free" for name, count in little.items()]
    moved = " ".join(f"{VARIABLES[name]}=FOLDER/{name}" for name in {**problems, **little})
    return [
        Finding(
            "caches", "note", f"{'; '.join(wrong)}: what is compiled or downloaded is not kept",
            "Name folders that can be written, on a disk with room:", f"export {moved}", facts,
        )
    ]  # fmt: skip


def check_memory() -> list[Finding]:
    """Check the main memory that is free."""
    free = free_host_memory()
    status: Status = "fault" if free < LEAST_MEMORY else "note" if free < LITTLE_MEMORY else "ok"
    facts = {"free_bytes": free}
    text = f"{free / GIB:.3g} GiB free"
    if status == "ok":
        return [Finding("memory", "ok", text, facts=facts)]
    return [
        Finding(
            "memory", status, f"{text}: PyTorch and nerfstudio alone take 1 to 2 GiB",
            "End other programs, or train on smaller images:",
            "ns-train splatkit-3dgs --data FOLDER --pipeline.datamanager.camera-res-scale-factor 0.5", facts,
        )
    ]  # fmt: skip
