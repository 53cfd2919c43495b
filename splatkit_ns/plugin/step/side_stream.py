"""A stream on which the CUDA graphs of one of a step's images run, beside those of the others."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


class SideStream:
    """A stream with random numbers of its own.

    A graph reads seed and offset of its random numbers on the device, where the launch of another graph would write
    those of its own: so each stream has a state of the generator.
    """

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self._random_numbers = _default_generator().clone_state()

    @staticmethod
    def is_possible() -> bool:
        """Whether this version of PyTorch can exchange states of generators in graphs: since 2.4."""
        return hasattr(torch.Generator, "graphsafe_set_state")

    @contextmanager
    def own_random_numbers(self) -> Generator[None]:
        """A block whose random numbers on the device are this stream's: they begin at the seed of the others."""
        default = _default_generator()
        others = default.graphsafe_get_state()
        self._random_numbers.manual_seed(others.initial_seed())
        default.graphsafe_set_state(self._random_numbers)
        try:
            yield
        finally:
            default.graphsafe_set_state(others)

    @contextmanager
    def capturing(self) -> Generator[None]:
        """A block that captures a graph with random numbers, and cuBLAS's scratch memory, of its own.

        PyTorch has that memory once for each stream, and graphs that run at the same time would write into it.
        """
        torch._C._cuda_clearCublasWorkspaces()  # type: ignore[reportPrivateUsage]  # the next product makes it anew
        with self.own_random_numbers():
            yield

    @contextmanager
    def launching(self) -> Generator[None]:
        """A block that launches on this stream what comes after all that has been launched on the present one."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream), self.own_random_numbers():
            yield

    def wait(self) -> None:
        """Let all that will be launched on the present stream come after what has been launched on this one."""
        torch.cuda.current_stream().wait_stream(self.stream)


def _default_generator() -> torch.Generator:
    return torch.cuda.default_generators[torch.cuda.current_device()]
