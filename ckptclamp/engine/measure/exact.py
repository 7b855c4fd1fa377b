"""Exact arithmetic over the few units that float64 cannot decide, so that a verdict is the true one.

Stored weights are dyadic rationals, and so are their sums and the sums of their squares. Weights are
split into terms whose products float64 holds exactly; terms are cut at common powers of two so that
what is cut off adds up without rounding in any order (Rump, Ogita and Oishi, *Accurate
floating-point summation* I, SIAM J. Sci. Comput. 31 (2008), `ExtractVector`); Python's integers hold
the totals.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.constraints.base import ExactSums, Statistic
from ckptclamp.engine.blocks import PIECE, grid_of
from ckptclamp.engine.measure.requests import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import TensorReader
    from ckptclamp.checkpoints.tensor import Box
    from ckptclamp.constraints.base import Constraint, Judgement
    from ckptclamp.engine.measure.requests import Request

_SCALE = 2240
"""Totals are integers in units of 2**-2240: below the square of the least float64, with room for
the trailing zeros of a significand."""

_SAFE = 2.0**400
"""Weights of magnitudes from 1 / `_SAFE` to `_SAFE` have squares, and rests of these, in range."""

_SHIFT = 600
"""The power of two by which others are multiplied or divided beforehand."""


def settled(
    judgement: Judgement,
    constraint: Constraint,
    tolerance: float,
    broken: NDArray[np.bool_],
    sums: Callable[[NDArray[np.intp]], Sequence[ExactSums]],
    *,
    shortfall: float = 0.0,
) -> Judgement:
    """Return `judgement` so that it tells the truth about tolerance 0 and about `tolerance`.

    Below their bound units may lie farther out, by `shortfall`.

    Where its own error reaches a limit, exact sums decide, and what is reported moves to the right
    side, by its last bits. Units with non-finite weights, which are `broken`, stay as they are.
    """
    doubtful = in_doubt(judgement, constraint, tolerance, shortfall)
    places = np.flatnonzero(doubtful & ~broken)
    if not len(places):
        return judgement
    if constraint.exact_measure:
        weights = judgement.measured[places].tolist()
        found: Sequence[ExactSums] = [ExactSums(1, total=Fraction(weight)) for weight in weights]
    else:
        found = sums(places)
    distance, measured = judgement.distance.copy(), judgement.measured.copy()
    decided: dict[tuple[int, float], tuple[Fraction | None, Fraction | None]] = {}
    for place, exact in zip(places.tolist(), found, strict=True):
        is_below = judgement.measured[place] < judgement.bound[place]
        forgiven = tolerance + shortfall if is_below else tolerance
        key = (id(exact), forgiven)
        if key not in decided:  # many units may be the same, such as one-hot ones
            decided[key] = (constraint.overshoot(exact, 0.0), constraint.overshoot(exact, forgiven))
        over, over_tolerance = decided[key]
        limit = forgiven * float(judgement.scale[place])
        if not over:
            if distance[place]:
                distance[place], measured[place] = 0.0, judgement.bound[place]
            continue
        if over_tolerance:
            distance[place] = max(distance[place], np.nextafter(limit, np.inf))
        else:
            least = np.spacing(judgement.scale[place])
            distance[place] = min(max(distance[place], least), limit)
        outward, beyond = (math.inf, max) if over > 0 else (-math.inf, min)
        measured[place] = beyond(measured[place], np.nextafter(judgement.bound[place], outward))
    return replace(judgement, distance=distance, measured=measured)


def in_doubt(
    judgement: Judgement, constraint: Constraint, tolerance: float, shortfall: float = 0.0
) -> NDArray[np.bool_]:
    """Of which units float64 cannot tell on which side of a limit that matters they lie."""
    limits = {0.0, tolerance, tolerance + shortfall}
    if constraint.exact_measure:
        limits.discard(0.0)  # what was measured is exact
    doubtful = np.zeros(len(judgement.distance), np.bool_)
    for limit in limits:
        doubtful |= judgement.doubtful(limit)
    return doubtful


def sums_of_stored(
    reader: TensorReader, request: Request, units: Box, places: NDArray[np.intp]
) -> list[ExactSums]:
    """Read the units at `places` of the box `units` once more, box by box, and sum them exactly.

    Raises:
        UnreadableError: as `TensorReader.read`.
    """
    kept, axes = request.kept, request.axes
    grid = grid_of(request.tensor, axes)
    extents = tuple(stop - start for start, stop in units)
    index = np.array(np.unravel_index(places, extents) if extents else (), np.intp)
    index = index.reshape(len(kept), len(places))
    index += np.array([start for start, _ in units], np.intp).reshape(-1, 1)
    tiles = (index // np.array([grid.tile[axis] for axis in kept], np.intp).reshape(-1, 1)).T
    total = ExactTotals(request.needs, len(places))
    for tile in {tuple(tile): None for tile in tiles.tolist()}:
        here = np.flatnonzero(np.all(tiles == tile, axis=1))
        for part in np.ndindex(*(grid.counts[axis] for axis in axes)):
            box = grid.at(dict(zip((*kept, *axes), (*tile, *part), strict=True)))
            block = read(reader, request.tensor, box).transpose(kept + axes)
            local = tuple(index[i, here] - box[axis][0] for i, axis in enumerate(kept))
            total.add(here, block[local].reshape(len(here), -1))
    return total.sums(request.unit)


class ExactTotals:
    """Exact sums of `units` units, of which weights arrive in any order."""

    def __init__(self, needs: frozenset[Statistic], units: int) -> None:
        self._totals = {need: [0] * units for need in needs & _SUMMED}

    def add(self, places: NDArray[np.intp], rows: NDArray[Any]) -> None:
        """Take in weights, as stored, of the units at `places`: a row for each."""
        height = max(1, PIECE // max(1, rows.shape[1]))
        for top in range(0, len(rows), height):
            for left in range(0, rows.shape[1], PIECE):
                piece = rows[top : top + height, left : left + PIECE]
                self._add_piece(places[top : top + height].tolist(), piece)

    def merge(self, places: NDArray[np.intp], other: ExactTotals) -> None:
        """Take in the totals of `other`, whose units stand at `places` here."""
        for need, totals in self._totals.items():
            for place, more in zip(places.tolist(), other._totals[need], strict=True):
                totals[place] += more

    def sums(self, size: int) -> list[ExactSums]:
        """The sums, of units of `size` weights; of equal ones one object."""
        names = [_SUMMED_AS[need] for need in self._totals]
        made: dict[tuple[int, ...], ExactSums] = {}
        for unit in (units := list(zip(*self._totals.values(), strict=True))):
            if unit not in made:
                exact = map(_fraction, unit)
                made[unit] = ExactSums(size, **dict(zip(names, exact, strict=True)))
        return [made[unit] for unit in units]

    def _add_piece(self, places: list[int], piece: NDArray[Any]) -> None:
        for parts, shift in _parts(piece):
            for need, totals in self._totals.items():
                power = -2 * shift if need is Statistic.NORM else -shift
                for term in _terms(need, parts):
                    for found in _without_rounding(term):
                        _accumulate(totals, places, found, power)


def _fraction(total: int) -> Fraction:
    zeros = min((total & -total).bit_length() - 1, _SCALE) if total else _SCALE
    return Fraction(total >> zeros, 1 << (_SCALE - zeros))


_SUMMED_AS = {
    Statistic.NORM: "squares",
    Statistic.SUM: "total",
    Statistic.SUM_ABS: "magnitudes",
}
_SUMMED = frozenset(_SUMMED_AS)


def _parts(rows: NDArray[Any]) -> Iterator[tuple[list[NDArray[np.float64]], int]]:
    """Write weights as sums of float64 numbers of at most 26 bits; all were multiplied by 2**shift."""
    kind, itemsize = rows.dtype.kind, rows.dtype.itemsize
    if kind in "iu" and itemsize > 2:
        yield [part.astype(np.float64) for part in _digits(rows)], 0
        return
    wide = rows.astype(np.float64)
    if kind != "f" or itemsize < 8:
        yield [wide], 0
        return
    magnitudes = np.abs(wide)
    large, small = magnitudes > _SAFE, (magnitudes < 1 / _SAFE) & (magnitudes > 0)
    for chosen, shift in ((~(large | small), 0), (large, -_SHIFT), (small, _SHIFT)):
        if chosen.any():
            yield _halves(np.ldexp(np.where(chosen, wide, 0.0), shift)), shift


def _digits(rows: NDArray[Any]) -> list[NDArray[Any]]:
    """Cut integers of up to 64 bits into three that add up to them."""
    wide = rows.astype(np.uint64 if rows.dtype.kind == "u" else np.int64)
    mask, bits = wide.dtype.type((1 << 22) - 1), wide.dtype.type(22)
    low, rest = wide & mask, wide >> bits
    middle = rest & mask
    high = rest >> bits
    return [
        low.astype(np.float64),
        middle.astype(np.float64) * 2.0**22,
        high.astype(np.float64) * 2.0**44,
    ]


def _halves(wide: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Cut float64 numbers into the nearest of 26 bits, and the rest, which has no more."""
    high = ((wide.view(np.int64) + (1 << 26)) & ~np.int64((1 << 27) - 1)).view(np.float64)
    return [high, wide - high]


def _terms(need: Statistic, parts: list[NDArray[np.float64]]) -> Iterator[NDArray[np.float64]]:
    """What adds up to the statistic of weights that are the sum of `parts`, each term exact."""
    if need is Statistic.SUM:
        yield from (part.copy() for part in parts)
    elif need is Statistic.SUM_ABS:
        sign = np.where(sum(parts) < 0, -1.0, 1.0)
        yield from (part * sign for part in parts)
    else:
        for i, part in enumerate(parts):
            yield part * part
            yield from (2 * part * other for other in parts[:i])


def _without_rounding(terms: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Numbers for each row that add up to the sum of its `terms`, which are used up."""
    room = int(terms.shape[1]).bit_length() + 1
    while 0 < (largest := float(np.abs(terms).max(initial=0.0))) < math.inf:
        cut = 2.0 ** (np.frexp(largest)[1] + room)
        heads = (terms + cut) - cut
        yield heads.sum(axis=1)
        terms -= heads


def _accumulate(
    totals: list[int], places: list[int], found: NDArray[np.float64], power: int
) -> None:
    """Add the numbers `found`, times 2**power, to the totals at `places`."""
    fractions, exponents = np.frexp(found)
    significands = np.ldexp(fractions, 53).astype(np.int64).tolist()
    shifts = (exponents + (power + _SCALE - 53)).tolist()
    for place, significand, shift in zip(places, significands, shifts, strict=True):
        totals[place] += significand << shift if significand else 0
