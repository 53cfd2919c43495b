"""Checks of programs and files that some commands need."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import torch

from splatkit_ns.doctor.findings import Finding
from splatkit_ns.doctor.packages import installed_version

LINK_FFMPEG = (
    "pip install imageio-ffmpeg && ln -s \"$(python -c 'import imageio_ffmpeg as i; print(i.get_ffmpeg_exe())')\" "
    '"$(dirname "$(command -v python)")/ffmpeg"'
)
"""imageio-ffmpeg brings the program, under another name and not on PATH."""
ALEXNET = "alexnet-owt-*.pth"
"""The file of the weights that LPIPS uses."""


def check_ffmpeg() -> list[Finding]:
    """Check for the program ``ffmpeg``, without which ``ns-render`` does not start."""
    path = shutil.which("ffmpeg")
    facts = {"path": path, "imageio_ffmpeg": find_spec("imageio_ffmpeg") is not None, "version": None}
    if path is None:
        return [
            Finding(
                "ffmpeg", "note", "not on PATH: ns-render does not start (splatkit render does not need it)",
                "", LINK_FFMPEG, facts,
            )
        ]  # fmt: skip
    try:
        done = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=20, check=False)
        match = re.match(r"ffmpeg version (\S+)", done.stdout)
    except (OSError, subprocess.TimeoutExpired):
        match = None
    if match is None:
        return [Finding("ffmpeg", "note", f"{path} does not run: ns-render writes no videos", "", LINK_FFMPEG, facts)]
    return [Finding("ffmpeg", "ok", f"{match[1]}, {path}", facts={**facts, "version": match[1]})]


def check_colmap() -> list[Finding]:
    """Check for pycolmap, which ``splatkit poses`` needs, or COLMAP's program, which ``ns-process-data`` needs."""
    program = shutil.which("colmap")
    version = installed_version("pycolmap") or installed_version("pycolmap-cuda12")
    facts = {"pycolmap": version, "colmap": program}
    command = 'pip install "splatkit-ns[poses]"'
    if version is None:
        beside = f"colmap is {program}, for ns-process-data; " if program else ""
        text = f"{beside}pycolmap is not installed: splatkit poses does not start"
        return [Finding("colmap", "note", text, "", command, facts)]
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < (4, 2):
        text = f"pycolmap {version}: splatkit poses needs 4.2 or newer"
        return [Finding("colmap", "note", text, "", command, facts)]
    return [Finding("colmap", "ok", f"pycolmap {version}" + (f", {program}" if program else ""), facts=facts)]


def check_lpips() -> list[Finding]:
    """Check that the weights of LPIPS have been downloaded."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    found = sorted(folder.glob(ALEXNET))
    facts = {"path": str(found[0]) if found else None}
    if found:
        return [Finding("lpips", "ok", f"weights in {found[0]}", facts=facts)]
    return [
        Finding(
            "lpips", "note", f"no weights in {folder}: they are downloaded when LPIPS is first measured, or it is "
            "left out of the figures", "To download them now (244 MB):",
            "python -c \"import torchvision; torchvision.models.alexnet(weights='IMAGENET1K_V1')\"", facts,
        )
    ]  # fmt: skip
