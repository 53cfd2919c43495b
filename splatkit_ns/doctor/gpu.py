"""Checks of the GPU, its driver, and PyTorch's build for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from splatkit_ns.doctor.findings import Finding
from splatkit_ns.errors import describe_error
from splatkit_ns.memory import GIB

NVIDIA_VENDOR = "0x10de"
SMALL_GPU = 4 * GIB
"""Bytes; with less memory, larger scenes need a limit of Gaussians."""


@dataclass(frozen=True)
class GpuFacts:
    """The facts about the GPU and its driver."""

    torch_cuda: str | None
    """The CUDA version that torch was built for; None for a CPU-only build."""
    name: str | None = None
    """The first CUDA device that torch can use; None if there is none."""
    devices: int = 0
    total_bytes: int = 0
    free_bytes: int = 0
    capability: tuple[int, int] = (0, 0)
    architectures: tuple[str, ...] = ()
    """The architectures that torch was compiled for, such as ``sm_90`` or ``compute_90``."""
    driver: str | None = None
    """The version of NVIDIA's driver; None if none is loaded."""
    hardware: bool = False
    """Whether the machine has a graphics device of NVIDIA's."""
    hidden: str | None = None
    """The value of CUDA_VISIBLE_DEVICES, if it is set."""
    failure: str | None = None
    """The error of CUDA's start, if torch is built for it."""


def gather_gpu_facts() -> GpuFacts:
    """Collect the facts about this machine's GPU."""
    driver, hidden = _driver_version(), os.environ.get("CUDA_VISIBLE_DEVICES")
    hardware = driver is not None or _has_nvidia_hardware()
    found = GpuFacts(torch.version.cuda, driver=driver, hardware=hardware, hidden=hidden)
    if not torch.cuda.is_available():
        return replace(found, failure=_start_failure())
    free, total = torch.cuda.mem_get_info(0)
    return replace(
        found,
        name=torch.cuda.get_device_name(0),
        devices=torch.cuda.device_count(),
        total_bytes=total,
        free_bytes=free,
        capability=torch.cuda.get_device_capability(0),
        architectures=tuple(torch.cuda.get_arch_list()),
    )


def _driver_version() -> str | None:
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        text = ""
    match = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+[\d.]+)", text)
    if match:
        return match[1]
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else None


def _has_nvidia_hardware(devices: Path = Path("/sys/bus/pci/devices")) -> bool:
    for vendor in devices.glob("*/vendor"):
        try:
            graphics = vendor.with_name("class").read_text().startswith("0x03")
            if graphics and vendor.read_text().strip() == NVIDIA_VENDOR:
                return True
        except OSError:
            continue
    return False


def _start_failure() -> str | None:
    if torch.version.cuda is None:
        return None
    try:
        torch.cuda.init()
    except Exception as error:  # RuntimeError, AssertionError, and what extensions raise
        return describe_error(error)
    return None


def gpu_findings(facts: GpuFacts) -> list[Finding]:
    """The findings ``gpu`` (a device and its driver) and ``cuda`` (PyTorch's build for it)."""
    known = asdict(facts)
    if facts.name is not None:
        return [_usable_gpu(facts, known), _architecture(facts)]
    if not facts.hardware:
        return [
            Finding(
                "gpu", "note", "no NVIDIA GPU: training runs on the CPU, tens to hundreds of times slower",
                "Train small scenes: some dozens of images of a few hundred pixels a side.",
                "ns-train splatkit-3dgs-adc --max-num-iterations 3000 --data FOLDER", known,
            )
        ]  # fmt: skip
    if facts.driver is None:
        return [
            Finding(
                "gpu", "fault", "there is an NVIDIA GPU, but its driver is not loaded",
                "Install NVIDIA's driver, and restart; in a container, start it with its GPUs (docker: --gpus all). "
                "On Ubuntu:", "sudo ubuntu-drivers install", known,
            )
        ]  # fmt: skip
    gpu = Finding("gpu", "ok", f"an NVIDIA GPU with driver {facts.driver}", facts=known)
    if facts.torch_cuda is None:
        return [
            gpu,
            Finding(
                "cuda", "fault", f"PyTorch {torch.__version__} is built without CUDA, so training runs on the CPU",
                "Install a PyTorch with CUDA, with the torchvision that fits it: pytorch.org tells the command for "
                "each CUDA version.", "pip install --force-reinstall torch torchvision", known,
            ),
        ]  # fmt: skip
    if facts.hidden is not None:
        return [
            gpu,
            Finding(
                "cuda", "fault", f"CUDA_VISIBLE_DEVICES is {facts.hidden!r}, and PyTorch finds no GPU with it",
                "", "unset CUDA_VISIBLE_DEVICES", known,
            ),
        ]  # fmt: skip
    return [
        gpu,
        Finding(
            "cuda", "fault",
            f"PyTorch {torch.__version__}, built for CUDA {facts.torch_cuda}, cannot use the GPU with driver "
            f"{facts.driver}: {facts.failure or 'no reason given'}",
            "If the driver is too old for this CUDA version, update it, or install a PyTorch for an older CUDA "
            "(pytorch.org tells the command). This shows what the driver supports:", "nvidia-smi", known,
        ),
    ]  # fmt: skip


def _usable_gpu(facts: GpuFacts, known: dict[str, object]) -> Finding:
    others = f" and {facts.devices - 1} more" if facts.devices > 1 else ""
    text = (
        f"{facts.name}{others}, {facts.total_bytes / GIB:.3g} GiB of memory, {facts.free_bytes / GIB:.3g} GiB free, "
        f"driver {facts.driver or 'unknown'}"
    )
    if facts.free_bytes < SMALL_GPU:
        return Finding(
            "gpu", "note", text, "Little memory is free. End other programs on the GPU, or train fewer Gaussians:",
            "ns-train splatkit-3dgs --pipeline.model.densification.max-gaussians 500000 --data FOLDER", known,
        )  # fmt: skip
    return Finding("gpu", "ok", text, facts=known)


def _architecture(facts: GpuFacts) -> Finding:
    """Whether torch has code for this GPU: of its major architecture and not a newer one, or PTX of an older one."""
    major, minor = facts.capability
    text = f"PyTorch {torch.__version__} for CUDA {facts.torch_cuda}"
    known = {"torch": torch.__version__, "torch_cuda": facts.torch_cuda, "architectures": list(facts.architectures)}
    for name in facts.architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name)
        if match is None:
            continue
        its_major, its_minor = int(match[2]), int(match[3])
        if match[1] == "sm" and its_major == major and its_minor <= minor:
            return Finding("cuda", "ok", text, facts=known)
        if match[1] == "compute" and (its_major, its_minor) <= (major, minor):
            return Finding("cuda", "ok", text, facts=known)
    return Finding(
        "cuda", "fault", f"{text} has no code for this GPU (sm_{major}{minor}), only for "
        f"{', '.join(facts.architectures) or 'none'}",
        "Install a PyTorch that has: an older one for an old GPU, the newest for a new one; pytorch.org tells the "
        "command.", "pip install --upgrade torch torchvision", known,
    )  # fmt: skip
