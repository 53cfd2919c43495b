"""The global random number generators as plain values that fit into a checkpoint."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch


def rng_state() -> dict[str, Any]:
    """Return the state of Python's, numpy's, torch's and all CUDA devices' generators, as values for a checkpoint."""
    algorithm, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": {
            "algorithm": str(algorithm),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached_gaussian": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def seed_generators(device: torch.device, *counter: int | str) -> None:
    """Seed PyTorch's default generators of the CPU and of one device from a counter.

    Later random numbers depend on the counter alone: not on numbers drawn before, on whether steps run as CUDA graphs,
    or on whether a run has been resumed.

    Args:
        device: the device to seed, besides the CPU.
        counter: numbers and words that identify a sequence of random numbers, such as seed, step and purpose.
    """
    text = "/".join(map(str, counter))
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def seed_everything(seed: int) -> None:
    """Seed the global random generators of Python, NumPy and PyTorch, as ``ns-train`` does."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the generators into a state that `rng_state` returned.

    CUDA devices keep their state if their number differs from that of the machine that wrote the state.
    """
    random.setstate(state["python"])
    numpy_state = state["numpy"]
    np.random.set_state(  # noqa: NPY002
        (
            numpy_state["algorithm"],
            numpy_state["keys"].cpu().numpy().astype(np.uint32),
            numpy_state["position"],
            numpy_state["has_gauss"],
            numpy_state["cached_gaussian"],
        )
    )
    torch.set_rng_state(state["torch"].cpu())
    cuda_states = [cuda_state.cpu() for cuda_state in state["cuda"]]
    if torch.cuda.is_available() and len(cuda_states) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(cuda_states)
