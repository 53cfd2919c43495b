"""Rules for all tests."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

import tests.quick_nerfstudio  # noqa: F401  # before anything imports nerfstudio
from splatkit_ns.rasterize import BackendUnavailableError, check_cuda_backend

# A busy machine is no failure.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped, with this reason, where torch sees no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device; torch.cuda.is_available() is False here")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def compiled_gsplat() -> None:
    """Skips a test that compares with gsplat's kernels, or uses them, where these cannot be had."""
    try:
        check_cuda_backend()
    except BackendUnavailableError as error:
        pytest.skip(f"needs gsplat's compiled code. {error}")


@pytest.fixture(autouse=True)
def _no_writers_of_other_tests() -> Generator[None]:
    """nerfstudio keeps the writers of a run in a global, and the next run would write to them, too."""
    _forget_writers()
    yield
    _forget_writers()


def _forget_writers() -> None:
    if "nerfstudio.utils.writer" in sys.modules:  # many tests do without nerfstudio
        from tests.plugin.helpers import forget_writers

        forget_writers()


@pytest.fixture(scope="session")
def tiny_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny scene in nerfstudio's format; do not change it."""
    from tests.tiny_scene import write_tiny_scene

    return write_tiny_scene(tmp_path_factory.mktemp("tiny_scene"))


@pytest.fixture
def messages(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Generator[pytest.LogCaptureFixture, None, None]:
    """What our logger says; it does not propagate once a trainer was made."""
    logger = logging.getLogger("splatkit_ns")
    monkeypatch.setattr(logger, "propagate", False)
    caplog.set_level(logging.INFO, logger.name)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
