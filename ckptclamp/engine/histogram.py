"""A histogram of any number of values in bounded memory, the same for any order of arrival.

A float64's bits, read as an integer, are in the order of the values (after a flip for negative
ones). Dropping low bits gives bins that are fine everywhere, from 1e-300 to 1e300; where there
would be too many, one more bit is dropped. Every count is exact.
"""

from __future__ import annotations

import math
from operator import gt
from typing import TYPE_CHECKING

import numpy as np

from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray


@frozen
class Histogram:
    """Counts of units by measured value: bin i spans ``edges[i] <= value < edges[i + 1]``.

    No edge lies beyond the largest float64, which the last bin then includes.

    Raises:
        ValueError: the edges are not finite, not in order, or not those of as many bins.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + bool(self.counts):
            raise ValueError("has one edge more than counts")
        if not all(map(math.isfinite, self.edges)) or any(map(gt, self.edges, self.edges[1:])):
            raise ValueError("has finite edges in order")


_FINE = 2048
"""Bins kept while values arrive."""

_BINS = 8, 32
"""Bins of the result: as many as values, but no fewer than these and no more."""

_FIRST_SHIFT = 52 - 10
"""Low bits dropped at first: 1,024 bins from one power of two to the next."""

_WIDE_RANGE = 100.0
"""Positive values over more than this ratio are binned in equal ratios, not in equal steps."""


class UnitHistogram:
    """Counts measured values; non-finite ones are left out."""

    def __init__(self) -> None:
        self._shift = _FIRST_SHIFT
        self._keys = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)

    def add(self, values: NDArray[np.float64]) -> None:
        """Count some values."""
        keys = _ordered(values[np.isfinite(values)]) >> self._shift
        self._take(keys, np.ones(len(keys), np.int64))

    def merge(self, other: UnitHistogram) -> None:
        """Count what `other` counted."""
        while self._shift < other._shift:
            self._coarsen()
        self._take(other._keys >> (self._shift - other._shift), other._counts)

    def result(self) -> Histogram:
        """Return bins from the smallest value to the largest, no edges if none came.

        There are at most 32, and no more than values, or 8.
        """
        if not len(self._keys):
            return Histogram((), ())
        keys = np.unique(_edges(self._keys, int(self._counts.sum()), self._shift))
        places = np.searchsorted(keys, self._keys, side="right") - 1
        counts = np.bincount(places, self._counts, len(keys) - 1).astype(np.int64)
        return Histogram(tuple(_values(keys, self._shift).tolist()), tuple(counts.tolist()))

    def _take(self, keys: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        self._keys, places = np.unique(np.concatenate([self._keys, keys]), return_inverse=True)
        total = np.zeros(len(self._keys), np.int64)
        np.add.at(total, places, np.concatenate([self._counts, counts]))
        self._counts = total
        while len(self._keys) > _FINE:
            self._coarsen()

    def _coarsen(self) -> None:
        self._shift += 1
        keys, counts = self._keys >> 1, self._counts
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
        self._keys = keys[starts]
        self._counts = np.add.reduceat(counts, starts) if len(keys) else counts


def histograms_of(rows: NDArray[np.float64]) -> list[Histogram]:
    """The histogram that a `UnitHistogram` makes of each row of finite values."""
    values = rows.shape[1]
    if not values:
        return [Histogram((), ())] * len(rows)
    if values > _FINE:
        return [_histogram_of(row) for row in rows]
    keys = np.sort(_ordered(rows) >> _FIRST_SHIFT, axis=1)
    edges = np.sort(_edges(keys, values, _FIRST_SHIFT), axis=1)
    before = np.count_nonzero(keys[:, None, :] < edges[:, :, None], axis=2)
    wide = edges[:, 1:] > edges[:, :-1]
    first = np.ones((len(rows), 1), np.bool_)
    told = zip(
        *(_values(edges, _FIRST_SHIFT), np.concatenate([first, wide], axis=1)),
        *(np.diff(before, axis=1), wide),
        strict=True,
    )
    return [
        Histogram(tuple(at[kept].tolist()), tuple(counts[some].tolist()))
        for at, kept, counts, some in told
    ]


def _histogram_of(values: NDArray[np.float64]) -> Histogram:
    counted = UnitHistogram()
    counted.add(values)
    return counted.result()


def _edges(keys: NDArray[np.int64], values: int, shift: int) -> NDArray[np.int64]:
    """Where bins for so many `values` begin and end, of which `keys` (the last axis) are in order."""
    low, high = keys[..., :1], keys[..., -1:] + 1
    fewest, most = _BINS
    bins = min(most, max(fewest, values))
    targets = _spaced(_values(low, shift), _values(high, shift), bins)
    inner = (_ordered(targets) >> shift) + 1
    return np.asarray(np.clip(np.concatenate([low, inner, high], axis=-1), low, high))


def _ordered(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integers in the order of the values; both zeros are 0."""
    bits = (np.asarray(values, np.float64) + 0.0).view(np.int64)
    return np.where(bits < 0, np.int64(-1) - (bits & np.int64(2**63 - 1)), bits)


_LARGEST = 0x7FEF_FFFF_FFFF_FFFF
"""The largest float64, as `_ordered` has it; its negative is ``-1 - _LARGEST``."""


def _values(keys: NDArray[np.int64], shift: int) -> NDArray[np.float64]:
    """The least values that `_ordered`, less `shift` bits, makes `keys` of; none beyond the largest."""
    ordered = np.maximum(keys << shift, -1 - _LARGEST)
    ordered = np.where(keys > _LARGEST >> shift, _LARGEST, ordered)
    sign = np.int64(-(2**63))
    return np.where(ordered < 0, (np.int64(-1) - ordered) | sign, ordered).view(np.float64)


def _spaced(low: NDArray[np.float64], high: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Where inner edges would best be: in equal ratios over a wide positive range, or equal steps."""
    steps = np.arange(1, bins) / bins
    with np.errstate(all="ignore"):
        ratio = np.where(low > 0, high / low, 1.0)
        wide = low * np.exp(steps * np.log(ratio))
        return np.where(ratio > _WIDE_RANGE, wide, low * (1 - steps) + high * steps)
