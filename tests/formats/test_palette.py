"""The palette of SH coefficients in SOG files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from splatkit_ns.formats import _kmeans
from splatkit_ns.formats._kmeans import palette


def rows_in_heaps(num: int, heaps: int, noise: float, seed: int = 0) -> tuple[Any, Any]:
    """Rows (num, 9) around the middles of heaps, and the heap of each."""
    chance = np.random.default_rng(seed)
    heap = chance.integers(0, heaps, num)
    middles = chance.normal(size=(heaps, 9))
    return (middles[heap] + noise * chance.normal(size=(num, 9))).astype(np.float32), heap


def error(rows: Any, entries: Any, labels: Any) -> float:
    return float(np.square(rows - entries[labels]).mean())


def test_a_palette_follows_the_rows() -> None:
    rows, heap = rows_in_heaps(5000, 40, noise=0.01)
    entries, labels = palette(rows, 400, rounds=8)
    assert len(entries) <= 400
    assert labels.min() >= 0
    assert labels.max() < len(entries)
    variance = np.mean([rows[heap == each].var(axis=0).mean() for each in range(40)])
    assert error(rows, entries, labels) < variance, "ten entries for a heap say more than its mean"


@pytest.mark.gpu
def test_the_palette_of_a_gpu_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = rows_in_heaps(60_000, 3000, noise=0.1)
    on_gpu, again = (palette(rows, 8000, rounds=8) for _ in range(2))
    assert all(np.array_equal(one, other) for one, other in zip(on_gpu, again, strict=True)), "equal files"
    monkeypatch.setattr(_kmeans, "_device", lambda num_bytes: "cpu")
    on_cpu = palette(rows, 8000, rounds=8)
    assert error(rows, *on_gpu) == pytest.approx(error(rows, *on_cpu), rel=0.03)
