"""The tiny scene, and a server that ranks are forked from."""

from __future__ import annotations

from collections.abc import Generator
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

from tests.faults import children
from tests.tiny_scene import write_tiny_scene


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert children.PATIENCE > 0  # what the server of these tests imports, ranks need, too
    forkserver.ensure_running()
    return write_tiny_scene(tmp_path_factory.mktemp("scene"), num_views=12)


@pytest.fixture(autouse=True)
def _one_thread() -> Generator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of two ranks on two cores has
    yield
    torch.set_num_threads(threads)
