"""The tiny scene that runs of this folder train on."""

from __future__ import annotations

import logging
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.tiny_scene import write_tiny_scene


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_scene(tmp_path_factory.mktemp("scene"), num_views=12)


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
