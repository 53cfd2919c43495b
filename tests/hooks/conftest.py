"""What the tests of hooks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.plugin.helpers import forget_writers


@pytest.fixture(autouse=True)
def _only_own_writers() -> Iterator[None]:
    """nerfstudio keeps the writers of a run in a global, where those of an earlier test could stop ours."""
    forget_writers()
    yield
    forget_writers()
