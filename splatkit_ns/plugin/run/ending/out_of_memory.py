"""Out-of-memory errors: a message with the memory in use and the options that reduce it."""

from __future__ import annotations

import traceback
from typing import Any

import torch

from splatkit_ns.errors import SplatkitError
from splatkit_ns.memory import GIB
from splatkit_ns.plugin.data.loader.memory import CPU_TRAINING
from splatkit_ns.ranks import Ranks

_WORDS = ("DefaultCPUAllocator", "can't allocate memory", "CUDA error: out of memory")
"""Texts of errors without a class of their own: from the CPU's allocator, and from code that bypasses torch's."""


class OutOfMemory(SplatkitError):
    """The device's memory did not suffice; the message says what was in use and which options reduce it."""


def find(error: BaseException) -> BaseException | None:
    """The out-of-memory error among this exception and its causes, such as that of a failed hook; None if none is."""
    kind = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (kind, MemoryError)):
            return seen
        if isinstance(seen, RuntimeError) and any(words in str(seen) for words in _WORDS):
            return seen
        seen = seen.__cause__
    return None


def free(error: BaseException) -> None:
    """Free the memory of the failed step, so that there is room to save."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # the next call waits for the streams on which graphs were captured, not run
        torch.cuda.empty_cache()


def usage(device: str) -> str:
    """A phrase that says how much memory is in use on the device; call it before memory is freed."""
    if not device.startswith("cuda"):
        return "in main memory"
    used, peak = torch.cuda.memory_allocated(device) / GIB, torch.cuda.max_memory_allocated(device) / GIB
    unused, total = (value / GIB for value in torch.cuda.mem_get_info(device))
    return (
        f"on {device} ({torch.cuda.get_device_name(device)}: {used:.2f} GiB in use by this run, {peak:.2f} GiB at "
        f"most so far, {unused:.2f} of {total:.2f} GiB free)"
    )


def message(
    error: BaseException,
    step: int,
    num_gaussians: int,
    in_use: str,
    checkpoint: str,
    config: Any,
    batch_size: int = 1,
) -> str:
    """The message for the user: what happened, and how to go on.

    Args:
        error: torch's error.
        step: the step in which it happened, 1-based.
        num_gaussians: the number of Gaussians at that step.
        in_use: see `usage`.
        checkpoint: a sentence that says which checkpoint there is.
        config: the config of the trainer; the options that reduce memory are named with their present values.
        batch_size: the number of images that each process renders in a step.
    """
    model, data = config.pipeline.model, config.pipeline.datamanager
    options: list[str] = []
    if hasattr(model.densification, "max_gaussians"):
        largest = max(1, num_gaussians * 3 // 4)
        options.append(
            f"--pipeline.model.densification.max-gaussians {largest} (now {model.densification.max_gaussians})"
        )
    if batch_size > 1:
        options.append(f"--batch-size 1 (now {batch_size})")
    downscale = config.modules.resolution.max_downscale
    options.append(f"--modules.resolution.max-downscale {2 * downscale} (now {downscale})")
    if config.machine.device_type != "cuda":
        gib = CPU_TRAINING / GIB if data.cache_gib is None else data.cache_gib
        at_most = "at most " if data.cache_gib is None else ""
        options.append(f"--pipeline.datamanager.cache-gib {gib / 2:g} (now {at_most}{gib:g})")
    elif data.cache_images != "cpu" and Ranks.current().on_machine == 1:  # several ranks use main memory anyway
        options.append(f"--pipeline.datamanager.cache-images cpu (now {data.cache_images})")
    if config.machine.device_type == "cuda" and not getattr(model.renderer, "packed", True):
        options.append("--pipeline.model.renderer.packed True (now False)")
    if model.sh_degree > 0:
        options.append(f"--pipeline.model.sh-degree {model.sh_degree - 1} (now {model.sh_degree}; for a new run)")
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    lines = "\n".join(f"  {option}" for option in options)
    return (
        f"Out of memory at step {step} with {num_gaussians:,} Gaussians, {in_use}. {checkpoint}\n"
        f"These options need less memory:\n{lines}\n({reason})"
    )
