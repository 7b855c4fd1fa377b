"""The nearest weights that storage holds and a constraint allows; see `docs/numbers.md`.

Rounding a projection to storage moves a norm by about u/√n, so that every other unit lands a little
outside. Among stored weights x the nearest to a projection p, at a given sum of squares, are those
that minimise ``|x - p|² + λ |x|²``: the weights of ``p / (1 + λ)``, each rounded to the nearest. So
the search is for one number for each unit, how far past its projection it aims: its *offset*,
``p (1 + offset)``, or ``p + offset`` where a sum is bounded. What is summed falls, or grows, with it.
Between an offset that stays outside and one that fits, the first weights of a unit take the one and
the others the other, so that the unit just fits.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial as bound
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.constraints.base import Statistic
from ckptclamp.constraints.movement import Transform
from ckptclamp.engine.blocks import BLOCK, PIECE, Broadcast
from ckptclamp.engine.measure.requests import WORKSPACE
from ckptclamp.engine.project.between import Between
from ckptclamp.engine.project.job import as_stored
from ckptclamp.engine.project.transform import compiled, inward, measure_moved, moved
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.base import ExactSums, UnitStatistics
    from ckptclamp.engine.measure.statistics import Partial
    from ckptclamp.engine.project.job import Make, Units

_LARGE = 1024
"""Weights in a unit from which on it aims a little inside its bound at once."""

_MARGIN, _DEAREST = 2.2, 1.25 / 32
"""How far, in u/√n, so that one unit of normal weights in a thousand needs another pass over them; and in u
at most: the distance squared grows by some 6 times the square of that, relative, which is 1 %."""

_COARSE = 2.0**-6
"""A unit roundoff from which on many weights of a unit step at once, and a margin may be dear."""

_REACH = 40
"""Trials for an offset that fits; each goes four times as far as the one before."""

_TIGHTEN = 2
"""Trials between an offset that fits and one that does not."""

_SMALL, _TIGHTEN_SMALL = 64, 8
"""Weights in a unit up to which one weight is much, and trials that are taken then."""

_SMALL_COARSE = 256
"""The same where steps are coarse."""

_GIVEN, _SPARED = 4, 2.0**-30
"""Weights of a unit that may get back a step, at most, and what of the room for it is not used."""

_FINEST = 2.0**-60
"""The least change of an offset that is tried."""

_FARTHEST = 2.0**40
"""A factor by which no weight is multiplied: it would have left every dtype's range."""

_WHOLE = np.iinfo(np.intp).max
"""In place of a box: all weights of the unit take the inner offset."""


def nearest(
    units: Units, statistics: UnitStatistics, chosen: NDArray[np.bool_]
) -> tuple[Make, NDArray[np.bool_], NDArray[np.bool_]]:
    """Find the nearest weights inside the constraint for the `chosen` units.

    `statistics` were measured of all units. Returns what makes these weights, which units are the
    better for it, and which still lie outside of the tolerance then.
    """
    search = _Search(units, statistics, chosen)
    outside = search.begin()
    if not outside.any():
        return search.make, chosen, outside
    units.hold(outside)
    fits = search.reach(outside)
    search.tighten(fits)
    search.split(fits)
    conforming, improved = search.outcome(outside, fits)
    return search.make, (chosen & ~outside) | conforming | improved, outside & ~conforming


@frozen
class _Trial:
    """How units lie to their limits, each an array of shape (units,).

    `side` is 1 above, -1 below, 0 inside; `gap` tells how far off, in offsets; `excess` by how much
    at most, in what is summed.
    """

    side: NDArray[np.int8]
    gap: NDArray[np.float64]
    excess: NDArray[np.float64]

    @classmethod
    def of(cls, units: int) -> _Trial:
        """Nothing yet of so many units."""
        return cls(np.zeros(units, np.int8), np.zeros(units), np.zeros(units))


class _Search:
    """Where each unit stands.

    Attributes:
        outer, inner: offsets, the one outside and the one that fits.
        side: of a unit that the first trial left outside: 1 above its limit, -1 below.
    """

    def __init__(self, units: Units, statistics: UnitStatistics, chosen: NDArray[np.bool_]) -> None:
        dtype = units.job.tensor.dtype
        assert dtype is not None
        self.units, self.statistics, self.chosen = units, statistics, chosen
        self.constraint = units.job.constraint
        narrow = bound(inward, dtype=dtype.numpy)
        self.movement = self.constraint.project(statistics).narrowed(narrow)
        if compiled(self.movement, dtype.numpy):
            units.at_once = BLOCK
        self.level = 0.0 if self.constraint.one_sided else units.job.tolerance
        self._before = self.constraint.judge(statistics)
        self._u, self._size = dtype.unit_roundoff, statistics.size
        self._adds = Statistic.SUM in self.constraint.needs
        self._precise = dtype.kind is Kind.FLOAT and dtype.itemsize == 8
        self._first = self._first_offsets()
        self.outer = self._first.copy()
        self.inner = self.outer.copy()
        self.side = np.zeros(units.count, np.int8)
        self._outside = self._inside = _Trial.of(units.count)
        self._power = self._powers()
        self._cut, self._rest = np.full(units.count, _WHOLE), np.zeros(units.count)

    def begin(self) -> NDArray[np.bool_]:
        """Try the first offsets; return which units they leave outside."""
        self._outside = self._tried(self.outer, self.chosen)
        self.side = self._outside.side
        return np.asarray(self.side != 0)

    def reach(self, outside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Go further until units fit; return which do. Of the others the first offset remains."""
        first, fits, still = self.outer.copy(), np.zeros_like(outside), outside
        for trial in range(_REACH):
            if not still.any():
                break
            further = np.maximum(2 * self._outside.gap, self._least) * 4.0**trial
            offsets = self.outer - self.side * further
            self.inner = np.where(
                still, offsets if self._adds else np.maximum(offsets, -1), self.inner
            )
            good = self._narrow(self.inner, still)
            fits, still = fits | good, still & ~good
            still &= self._adds | ((self.inner > -1) & (self.inner < _FARTHEST))
        still = outside & ~fits
        for offsets in (self.outer, self.inner):
            offsets[still] = first[still]
        return fits

    def tighten(self, fits: NDArray[np.bool_]) -> None:
        """Try offsets in between, where the limit should lie if sums grew evenly."""
        small = self._size <= (_SMALL_COARSE if self._u >= _COARSE else _SMALL)
        for _ in range(_TIGHTEN_SMALL if small else _TIGHTEN):
            apart = fits & (np.abs(self.outer - self.inner) > self._least)
            if not apart.any():
                break
            with np.errstate(invalid="ignore"):
                share = self._outside.gap / (self._outside.gap + self._inside.gap)
            share = np.clip(np.nan_to_num(share, nan=0.5), 0.1, 0.9)
            self._narrow(self.outer + (self.inner - self.outer) * share, apart)

    def split(self, fits: NDArray[np.bool_]) -> None:
        """Let as few weights as it takes, from the first on, have the inner offset."""
        if self._before.error is None:
            return  # what adds up to the constraint's measure is not known
        excess, only = self._excess(fits), self.units.only_pieces
        if only is not None:
            some = fits & np.isfinite(excess)
            self._cut[some], self._rest[some] = only[some], excess[some]
            return
        before = np.zeros(self.units.count)
        for part, here, gained in self.units.run(self._gained, fits, alike=True):
            after = before[here] + gained
            cut = here[(before[here] < excess[here]) & (after >= excess[here])]
            self._cut[cut], self._rest[cut] = part, excess[cut] - before[cut]
            before[here] = after

    def outcome(
        self, outside: NDArray[np.bool_], fits: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Tell which units conform now, and which come far nearer at least."""
        conforming = outside & fits & self.constraint.one_sided
        improved = np.zeros_like(outside)
        places = np.flatnonzero(outside & ~conforming)
        if len(places):
            stored = self.units.measure(self.make, outside & ~conforming).part(places)
            judgement = self.units.job.judged(
                stored, lambda some: self.units.exact(self.make, places[some])
            )
            conforming[places] = ~judgement.violates(self.units.job.tolerance)
            nearer = judgement.distance < 0.5 * self._before.distance[places]
            improved[places] = nearer & ~self.constraint.unmendable(stored)
        return conforming, improved

    def make(self, part: int, places: NDArray[np.intp], rows: NDArray[Any]) -> NDArray[Any]:
        """Make what was found, of rows of the units at `places` in box `part`."""
        cut = self._cut[places]
        rest = np.where(cut == part, self._rest[places], np.where(cut > part, np.inf, 0.0))
        late = np.flatnonzero(np.isfinite(rest))
        if len(late) and not (self._spares and rows.shape[1] == self._size):
            return self._between(places).fitted(rows, rest, WORKSPACE)
        new = self._stored(self.inner, part, places, rows)
        step = max(1, PIECE // rows.shape[1])
        for some in (late[first : first + step] for first in range(0, len(late), step)):
            new[some] = self._spared(places[some], rows[some], rest[some])
        return new

    def _between(self, places: NDArray[np.intp]) -> Between:
        side, power = self.side.astype(np.float64), self._power
        every = Between(self.movement, self.outer, self.inner, side, power, self._adds)
        return every.part(places)

    @property
    def _spares(self) -> bool:
        """Whether what one weight's step is too much is worth giving back to others."""
        if self._adds or self._precise:
            return False
        return self._size <= _SMALL or (self._u >= _COARSE and self._size < _LARGE)

    def _spared(
        self, places: NDArray[np.intp], rows: NDArray[Any], rest: NDArray[np.float64]
    ) -> NDArray[Any]:
        """Fit whole units, and let some of their weights be what rounding alone would make them.

        Those first that come nearer by most, as far as what was gained too much allows it.
        """
        between = self._between(places)
        outer, inner = between.stored(rows, WORKSPACE)
        gains = between.gains(outer, inner, WORKSPACE)
        first = between.first(gains, rest)
        new = np.where(first, inner, outer)
        room = (np.where(first, gains, 0.0).sum(axis=1) - rest) * (1 - _SPARED)
        movement, projected = self.movement.part(places), rows.astype(np.float64)
        every = Broadcast.all_of(rows.shape, (1,))
        movement.apply(projected, every, projected)
        first_tried = self._first[places]
        plain = moved(movement, rows, first_tried, WORKSPACE, adds=self._adds, into="stored plain")
        gains = between.gains(plain, new, WORKSPACE)
        before, after = (array.astype(np.float64) - projected for array in (new, plain))
        nearer = np.where(gains > 0, before * before - after * after, 0.0)
        each = np.arange(len(rows))
        for _ in range(_GIVEN):
            best = np.where(gains <= room[:, None], nearer, 0.0).argmax(axis=1)
            good = (gains[each, best] <= room) & (nearer[each, best] > 0)
            if not good.any():
                break
            at = each[good], best[good]
            new[at], nearer[at] = plain[at], 0.0
            room[good] -= gains[at]
        return new

    @property
    def _least(self) -> NDArray[np.float64]:
        """Less than lies between one weight's step and the next one's, mostly."""
        least = max(self._u / (2 * self._size), _FINEST)
        return least * (self._before.scale if self._adds else np.ones(self.units.count))

    def _first_offsets(self) -> NDArray[np.float64]:
        """Aim at the projection itself, at a little less in large units."""
        offsets = np.zeros(self.units.count)
        if self._adds:
            return offsets
        normed = Statistic.NORM in self.constraint.needs
        if self._precise and normed and isinstance(self.movement, Transform):
            self._correct(offsets, np.broadcast_to(self.movement.scale, self.units.count))
        if self.constraint.one_sided and self._size >= _LARGE and self._u < _COARSE:
            with np.errstate(invalid="ignore"):
                inwards = -np.sign(self._before.measured - self._before.bound)
            offsets += inwards * self._u * min(_MARGIN / math.sqrt(self._size), _DEAREST)
        return offsets

    def _correct(self, offsets: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        """Put what the rounding of its factor takes from a projection, relative, into `offsets`."""
        places = np.flatnonzero(self.chosen)
        for place, exact in zip(places.tolist(), self.units.exact(as_stored, places), strict=True):
            over = self.constraint.overshoot(exact, 0.0)
            if over is None:
                return
            if got := exact.squares * Fraction(float(scale[place])) ** 2:
                offsets[place] = float((exact.squares - over) / got - 1) / 2

    def _tried(self, offsets: NDArray[np.float64], active: NDArray[np.bool_]) -> _Trial:
        """Tell how the active units would be stored with these offsets."""
        make, places = bound(self._stored, offsets), np.flatnonzero(active)
        if self.units.job.axes:
            stored = self.units.gather(bound(self._measured, offsets), active, alike=True).part(
                places
            )
        else:
            stored = self.units.measure(make, active).part(places)
        with np.errstate(all="ignore"):
            judged = self.constraint.judge(stored)
            apart = judged.measured - judged.bound
            sign = np.where(apart < 0, -1, 1) * judged.violates(self.level)
            gap = np.abs(np.abs(apart) - self.level * judged.scale)
            most = gap + (0.0 if judged.error is None else judged.error)
            if self._adds:
                excess = most * self._size
            else:
                excess = most * (2 * judged.measured - sign * gap + most - gap)
                gap /= np.maximum(judged.measured, judged.bound)
        doubtful = np.flatnonzero(judged.doubtful(self.level) & (not self.constraint.exact_measure))
        sums = self.units.exact(make, places[doubtful]) if len(doubtful) else []
        for place, exact in zip(doubtful.tolist(), sums, strict=True):
            over = self.constraint.overshoot(exact, self.level) or Fraction(0)
            sign[place] = (over > 0) - (over < 0)
            gap[place] = self._in_offsets(exact, over) if over else gap[place]
        trial = _Trial.of(self.units.count)
        trial.side[places], trial.excess[places] = sign, excess
        trial.gap[places] = np.nan_to_num(gap, nan=1.0, posinf=1.0)
        return trial

    def _in_offsets(self, exact: ExactSums, over: Fraction) -> float:
        if self._adds:
            return float(abs(over) / exact.size)
        return float(abs(over) / (2 * max(exact.squares, exact.squares - over)))

    def _narrow(self, offsets: NDArray[np.float64], active: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Try `offsets`, and let them take the place of the outer or the inner ones."""
        trial = self._tried(offsets, active)
        good = active & (trial.side != self.side)
        bad = active & ~good
        self.inner[good], self._inside.gap[good] = offsets[good], trial.gap[good]
        self.outer[bad], self._outside.gap[bad] = offsets[bad], trial.gap[bad]
        self._outside.excess[bad] = trial.excess[bad]
        return np.asarray(good)

    def _excess(self, fits: NDArray[np.bool_]) -> NDArray[np.float64]:
        """What the sums of units with the outer offset have too much, or too little.

        A bit more, by what float64 may lose; exactly, where that would be more than a weight's step.
        """
        excess = self._outside.excess
        step = self._u / (2 * self._size)
        if 4 * self.statistics.error > step:
            places = np.flatnonzero(fits)
            sums = self.units.exact(bound(self._stored, self.outer), places)
            for place, exact in zip(places.tolist(), sums, strict=True):
                over = self.constraint.overshoot(exact, self.level) or Fraction(0)
                power = Fraction(float(self._power[place])) ** (1 if self._adds else 2)
                excess[place] = float(abs(over) * power)
        return np.asarray(np.nextafter(excess * (1 + 4 * self.statistics.error), np.inf))

    def _powers(self) -> NDArray[np.float64]:
        """For each unit a power of two that brings its bound near 1, so that no square is lost.

        Only float64 has weights that need one.
        """
        if not self._precise:
            return np.ones(self.units.count)
        exponent = np.clip(np.frexp(self._before.scale)[1], -1000, 1000)
        return np.asarray(np.ldexp(1.0, -exponent))

    def _gained(
        self, part: int, places: NDArray[np.intp], rows: NDArray[Any]
    ) -> NDArray[np.float64]:
        """What each unit gains in one box by the inner offset."""
        del part
        return self._between(places).gained(rows, WORKSPACE)

    def _measured(
        self,
        offsets: NDArray[np.float64],
        part: int,
        places: NDArray[np.intp],
        rows: NDArray[Any],
    ) -> Partial:
        """Measure what `_stored` makes."""
        del part
        movement, needs = self.movement.part(places), self.units.needed
        return measure_moved(movement, rows, offsets[places], needs, WORKSPACE, adds=self._adds)

    def _stored(
        self,
        offsets: NDArray[np.float64],
        part: int,
        places: NDArray[np.intp],
        rows: NDArray[Any],
    ) -> NDArray[Any]:
        """Move rows past their projection by the `offsets` of their units, and round them."""
        del part
        movement = self.movement.part(places)
        return moved(movement, rows, offsets[places], WORKSPACE, adds=self._adds)
