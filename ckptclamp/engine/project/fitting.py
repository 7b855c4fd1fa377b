"""Rounding units to storage so that the magnitudes of each add up to what a set asks, exactly.

Rounding every weight to the nearest number leaves a sum a little off. Weights are then moved by one
step of storage each, those first that this costs least: squared distance, for each bit of the sum.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.constraints.base import ROUNDOFF, Statistic
from ckptclamp.engine.measure.exact import ExactTotals
from ckptclamp.engine.project.transform import Rounding, one_step, rounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROUNDS = 4
"""Steps that one weight may take: the projection itself fits but for its own rounding."""

_FINEST = 8
"""Weights that may take what is left of an exact sum."""


def fitted(
    near: NDArray[np.float64], dtype: np.dtype[Any], sums: tuple[float, float]
) -> NDArray[Any]:
    """Round units, shape (units, ...), to `dtype`, so that the magnitudes of each sum to one of `sums`.

    Where both ends of that interval are the same number, the sum comes as near to it as such steps
    take it; in dtypes of fine steps that is the number itself. A weight that is 0 stays 0.
    """
    stored = rounded(near, dtype, Rounding.NEAREST)
    rows, magnitudes = stored.reshape(len(near), -1), np.abs(near.reshape(len(near), -1))
    size, low, high = rows.shape[1], *sums
    total = np.abs(rows.astype(np.float64)).sum(axis=1)
    error = (2 * size + 16) * ROUNDOFF * total
    for place in np.flatnonzero((total - error < low) | (total + error > high)).tolist():
        rows[place] = _fitted_row(magnitudes[place], rows[place], low, high)
    return stored


def _fitted_row(
    magnitudes: NDArray[np.float64], row: NDArray[Any], low: float, high: float
) -> NDArray[Any]:
    for _ in range(_ROUNDS):
        surplus = _surplus(row, low, high)
        if not surplus:
            break
        row, again = _stepped(magnitudes, row, surplus, exactly=low == high)
        if not again:
            return row
    return _given(row, _surplus(row, low, high)) if low == high else row


def _given(row: NDArray[Any], surplus: Fraction) -> NDArray[Any]:
    """Take `surplus`, which is less than most weights' steps, off one of the finest, if that holds it."""
    sizes = np.abs(row.astype(np.float64))
    out = row.copy()
    for place in np.argsort(np.where(sizes > 0, sizes, np.inf), kind="stable")[:_FINEST].tolist():
        exact = Fraction(float(sizes[place])) - surplus
        taken = np.copysign([float(exact)], float(row[place]))
        out[place] = rounded(taken, row.dtype, Rounding.NEAREST)[0]
        if exact >= 0 and abs(Fraction(float(out[place]))) == exact:
            return out
        out[place] = row[place]
    return row


def _surplus(row: NDArray[Any], low: float, high: float) -> Fraction:
    """How much the magnitudes add up to too much, or (negative) too little."""
    totals = ExactTotals(frozenset({Statistic.SUM_ABS}), 1)
    totals.add(np.zeros(1, np.intp), row[None])
    (sums,) = totals.sums(len(row))
    if high < np.inf and sums.magnitudes > high:
        return sums.magnitudes - Fraction(high)
    return min(sums.magnitudes - Fraction(low), Fraction(0)) if low > -np.inf else Fraction(0)


def _stepped(
    magnitudes: NDArray[np.float64], row: NDArray[Any], surplus: Fraction, *, exactly: bool
) -> tuple[NDArray[Any], bool]:
    """Move weights of `row` by one step each so that `surplus` is gone; also, whether some is left.

    With `exactly` it is taken off as nearly as steps can; otherwise wholly.
    """
    down = surplus > 0
    target = one_step(row, Rounding.TOWARD_ZERO if down else Rounding.AWAY_FROM_ZERO)
    now, then = (np.abs(array.astype(np.float64)) for array in (row, target))
    step = np.where(magnitudes > 0, np.abs(now - then), 0.0)
    cost = (2 * magnitudes - now - then) * (1 if down else -1)
    order = np.flatnonzero((step > 0) & np.isfinite(step))
    order = order[np.argsort(cost[order], kind="stable")]
    rest, taken = abs(surplus), np.cumsum(step[order])
    count = int(np.searchsorted(taken, float(rest), side="right"))
    rest -= _sum(step[order[:count]])
    more, left = _completed(step[order[count:]], rest, exactly=exactly)
    following = order[count:]
    dearer = step * cost  # in squared distance
    if not exactly and len(following) and dearer[following[0]] < dearer[following[more]].sum():
        more, left = np.zeros(1, np.intp), rest - Fraction(float(step[following[0]]))
    moved = np.concatenate([order[:count], following[more]])
    out = row.copy()
    out[moved] = target[moved]
    return out, (left > 0 or (exactly and left < 0)) and bool(len(moved))


def _completed(
    step: NDArray[np.float64], rest: Fraction, *, exactly: bool
) -> tuple[NDArray[np.intp], Fraction]:
    """Choose steps for what remains, the last one beyond it where that is nearer, or must be."""
    chosen, rest = _filled(step, rest)
    others = np.delete(np.arange(len(step)), chosen)
    if rest > 0 and len(others):
        least = others[np.argmin(step[others])]
        size = Fraction(float(step[least]))
        if not exactly or size < 2 * rest:
            return np.append(chosen, least), rest - size
    return chosen, rest


def _filled(step: NDArray[np.float64], rest: Fraction) -> tuple[NDArray[np.intp], Fraction]:
    """Choose steps that add up to `rest`, or less, the largest first; return also what remains."""
    chosen: list[NDArray[np.intp]] = [np.zeros(0, np.intp)]
    for size in np.unique(step)[::-1].tolist():
        if rest <= 0:
            break
        exact = Fraction(size)
        here = np.flatnonzero(step == size)[: rest // exact]
        chosen.append(here)
        rest -= len(here) * exact
    return np.concatenate(chosen), rest


def _sum(steps: NDArray[np.float64]) -> Fraction:
    """Their exact sum: there are few different ones."""
    sizes, counts = np.unique(steps, return_counts=True)
    pairs = zip(sizes.tolist(), counts.tolist(), strict=True)
    return sum((Fraction(size) * count for size, count in pairs), Fraction(0))
