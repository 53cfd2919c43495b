"""What the tests of hooks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.plugin.helpers import forget_writers


@pytest.fixture(autouse=True)
def _only_own_writers() -> Iterator[None]:
    """nerfstudio keeps the writers of a run in a global: one of an earlier test that fails would keep the log from ours."""
    forget_writers()
    yield
    forget_writers()
