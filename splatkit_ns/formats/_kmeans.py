"""Codebooks: a few values that stand for many, found by k-means (Lloyd, https://doi.org/10.1109/TIT.1982.1056489)."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatkit_ns.formats.gaussians import DoubleArray, FloatArray

_HISTOGRAM_BINS = 1 << 14
_ROUNDS_1D = 30
_CHUNK = 1 << 14
_NUM_PROBED = 4
_SAMPLE_ROWS = 1 << 16
_FREE_BYTES = 1 << 30


def codebook_1d(values: FloatArray, size: int) -> FloatArray:
    """Find at most `size` values, rising, so that each of `values` has one near it (one-dimensional k-means).

    Lloyd's rounds run on a fine histogram, whose bins keep the mean of what fell into them: values of which there are
    many copies, such as the thickness of discs, are kept as they are.
    """
    flat = values.reshape(-1).astype(np.float64)
    distinct = np.unique(flat[:: max(1, len(flat) // 4096)])
    if len(distinct) <= size:
        distinct = np.unique(flat)
        if len(distinct) <= size:
            return distinct.astype(np.float32)
    means, weights = _histogram(flat)
    total, moment = np.cumsum(weights), np.cumsum(weights * means)
    # half of the entries by density, half evenly, so that rare large values do not all become one
    quantiles = np.interp((np.arange(size // 2) + 0.5) / (size // 2) * total[-1], total, means)
    entries = np.unique(np.concatenate([quantiles, np.linspace(means[0], means[-1], size - size // 2)]))
    for _ in range(_ROUNDS_1D):
        ends = np.searchsorted(means, (entries[1:] + entries[:-1]) / 2)
        bounds = np.concatenate([[0], ends, [len(means)]])
        sums = np.concatenate([[0.0], moment])[bounds]
        counts = np.concatenate([[0.0], total])[bounds]
        filled = np.diff(counts) > 0
        entries = np.diff(sums)[filled] / np.diff(counts)[filled]
    return entries.astype(np.float32)


def _histogram(values: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Means and numbers of the values in each bin that is not empty."""
    low, high = values.min(), values.max()
    bins = ((values - low) * ((_HISTOGRAM_BINS - 1) / max(high - low, 1e-30))).astype(np.intp)
    counts = np.bincount(bins, minlength=_HISTOGRAM_BINS).astype(np.float64)
    sums = np.bincount(bins, weights=values, minlength=_HISTOGRAM_BINS)
    filled = counts > 0
    return sums[filled] / counts[filled], counts[filled]


def nearest_1d(values: FloatArray, codebook: FloatArray) -> NDArray[np.uint8]:
    """Index of the entry of a rising codebook of at most 256 that is nearest to each value, in the same shape."""
    middles = codebook[1:] / 2 + codebook[:-1] / 2  # the sum of two of the largest numbers would be infinite
    return np.searchsorted(middles, values.reshape(-1)).reshape(values.shape).astype(np.uint8)


def palette(rows: FloatArray, size: int, rounds: int, seed: int = 0) -> tuple[FloatArray, NDArray[Any]]:
    """Find at most `size` rows that represent all rows, and for each row the index of its representative (k-means).

    To compare each row with each entry would take hours for a million rows. So rows are first put into about
    sqrt(size) groups, each group gets a share of the entries, and in the end a row is compared with the entries of the
    few groups that are nearest to its own. A GPU does it if there is one with room for it.

    Args:
        rows: (N, D).
        size: of the palette, at least 1.
        rounds: of Lloyd's algorithm, for the groups and within them.
        seed: of the random choice of first entries.

    Returns:
        (P, D) entries and (N,) indices of them, P <= size.
    """
    data = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
    if len(data) <= size:
        return data.numpy(), np.arange(len(data))
    with _one_torch_thread(), ThreadPoolExecutor() as pool:
        return _palette(data.to(_device(data.nbytes)), size, rounds, seed, pool)


def _device(num_bytes: int) -> str:
    """A GPU, unless a training takes most of its memory."""
    has_room = torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > _FREE_BYTES + 4 * num_bytes
    return "cuda" if has_room else "cpu"


@contextmanager
def _one_torch_thread() -> Generator[None]:
    """Our own threads, each with a group, share the cores; torch's would wait for each other a thousand times."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _palette(
    data: Tensor, size: int, rounds: int, seed: int, pool: ThreadPoolExecutor
) -> tuple[FloatArray, NDArray[Any]]:
    generator = torch.Generator().manual_seed(seed)
    sample = data[_some(len(data), _SAMPLE_ROWS, generator).to(data.device)]
    groups = _lloyd(sample, max(1, round(size**0.5)), rounds, generator)
    group_of = _nearest(data, groups)
    order = torch.argsort(group_of, stable=True)
    members = torch.split(order, torch.bincount(group_of, minlength=len(groups)).tolist())
    shares = _shares(data, groups, group_of, size)

    def entries_of(group: int) -> Tensor:
        return _lloyd(data[members[group]], shares[group], rounds, torch.Generator().manual_seed(seed + group))

    entries = list(pool.map(entries_of, range(len(groups))))
    starts: list[int] = np.cumsum([0, *(len(found) for found in entries)]).tolist()
    distances = torch.cdist(groups, groups)
    empty = torch.tensor([not len(found) for found in entries], device=data.device)
    distances[:, empty] = torch.inf  # many groups are empty if most rows are alike
    probed = distances.topk(min(_NUM_PROBED, len(groups)), largest=False).indices.tolist()
    centres = torch.cat(entries)
    labels = torch.zeros(len(data), dtype=torch.int64, device=data.device)

    def assign(group: int) -> None:
        if len(members[group]):
            spans = [torch.arange(starts[near], starts[near + 1], device=data.device) for near in probed[group]]
            candidates = torch.cat(spans)
            labels[members[group]] = candidates[_nearest(data[members[group]], centres[candidates])]

    list(pool.map(assign, range(len(groups))))
    centres = _means(data.cpu(), labels.cpu(), centres.cpu()).to(data.device)
    list(pool.map(assign, range(len(groups))))
    return centres.cpu().numpy(), labels.cpu().numpy()


def _shares(data: Tensor, groups: Tensor, group_of: Tensor, size: int) -> list[int]:
    """The number of entries of each group, by the sum of its rows' distances from its middle; 0 for an empty group."""
    distances = (data - groups[group_of]).norm(dim=1).double()
    need = torch.bincount(group_of.cpu(), distances.cpu(), minlength=len(groups))
    filled = torch.bincount(group_of.cpu(), minlength=len(groups)) > 0
    spare = max(0, size - int(filled.sum()))
    shares = filled.long() + (need / need.sum().clamp(min=1e-30) * spare).long()
    return shares.tolist()


def _lloyd(data: Tensor, size: int, rounds: int, generator: torch.Generator) -> Tensor:
    """Find at most `size` cluster centres, starting from random rows."""
    if len(data) <= size:
        return data
    centres = data[_some(len(data), size, generator).to(data.device)]
    for _ in range(rounds):
        centres = _means(data, _nearest(data, centres), centres)
    return centres


def _some(num: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw at most `count` different numbers below `num`."""
    return torch.randperm(num, generator=generator)[:count]


def _nearest(data: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre of each row."""
    squares = centres.square().sum(dim=1)
    chunks = [torch.addmm(squares, rows, centres.T, alpha=-2).argmin(dim=1) for rows in torch.split(data, _CHUNK)]
    return torch.cat(chunks)


def _means(data: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """The mean of the rows of each label; a centre without rows stays where it is."""
    if data.is_cuda:  # index_add_ and bincount would add in another order each time there
        chosen = (torch.arange(len(centres), device=data.device)[:, None] == labels).to(data.dtype)
        sums, counts = chosen @ data, chosen.sum(dim=1, keepdim=True)
    else:
        sums = torch.zeros_like(centres).index_add_(0, labels, data)
        counts = torch.bincount(labels, minlength=len(centres))[:, None]
    return torch.where(counts > 0, sums / counts.clamp(min=1), centres)
