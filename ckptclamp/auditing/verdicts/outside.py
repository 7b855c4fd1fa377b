"""Violating members of a stack, told of all at once what a `Tally` tells of each by itself."""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.auditing.results import Verdict, WorstUnit
from ckptclamp.auditing.verdicts.excuses import Excuses
from ckptclamp.auditing.verdicts.tally import rank
from ckptclamp.plan.units import kept_axes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ckptclamp.constraints.base import Judgement, UnitStatistics
    from ckptclamp.plan import Assignment


class Outside:
    """Members of which some units violate, and all are finite, no zeros, and beyond doubt.

    Arrays have a row for each of them and a column for each of its units. `keep` is how many of the
    worst units are told.
    """

    def __init__(
        self,
        of: Assignment,
        judgement: Judgement,
        statistics: UnitStatistics,
        rows: NDArray[np.intp],
        *,
        units: int,
        keep: int,
    ) -> None:
        def table(values: NDArray[Any]) -> NDArray[Any]:
            return values.reshape(-1, units)[rows]

        self._of = of
        self._keep = keep
        self._outside = table(judgement.violates(of.tolerance, of.shortfall))
        self._beyond = table(judgement.violates(0.0))
        self._unmendable = table(of.constraint.unmendable(statistics))
        self._measured, self._bound = table(judgement.measured), table(judgement.bound)
        self._distance, self._scale = table(judgement.distance), table(judgement.scale)
        self._rank = table(rank(judgement, statistics))

    def told(self) -> Iterator[dict[str, Any]]:
        """What a `Result` says of each, in their order, beside what was known before."""
        outside = self._outside
        counts = (
            np.count_nonzero(outside, axis=1),
            np.count_nonzero(self._beyond & ~outside, axis=1),
            np.count_nonzero(self._unmendable & outside, axis=1),
            self._measured.min(axis=1),
            self._measured.max(axis=1),
        )
        columns = zip(*(column.tolist() for column in counts), strict=True)
        for numbers, worst, excuses in zip(columns, self._worst(), self._excuses(), strict=True):
            violating, within, unmendable, least, most = numbers
            yield {
                "verdict": Verdict.VIOLATION,
                "violating": violating,
                "within_tolerance": within,
                "unmendable": unmendable,
                "measured_min": least,
                "measured_max": most,
                "worst": worst,
                "epsilon": excuses.epsilon(),
                "hint": excuses.hint(),
            }

    def _worst(self) -> Iterator[tuple[WorstUnit, ...]]:
        ranks = np.where(self._outside, self._rank, -math.inf)
        order = np.argsort(-ranks, axis=1, kind="stable")[:, : self._keep]
        with np.errstate(all="ignore"):
            excess = self._distance / self._scale
        arrays = (self._measured, self._bound, self._distance, excess, self._scale)
        places, outside, *columns = (
            array.tolist()
            for array in (
                order,
                *(np.take_along_axis(a, order, axis=1) for a in (self._outside, *arrays)),
            )
        )
        shape = self._of.tensor.shape
        index = _indices(tuple(shape[axis] for axis in kept_axes(shape, self._of.axes)))
        bounds: dict[str, float] = {}  # few differ, and there may be many units
        for places_, outside_, *row in zip(places, outside, *columns, strict=True):
            yield tuple(
                WorstUnit(
                    index=index[place],
                    measured=measured,
                    bound=bounds.setdefault(repr(bound), bound),
                    distance=distance,
                    excess=over if scale > 0 else None,
                )
                for place, out, measured, bound, distance, over, scale in zip(
                    places_, outside_, *row, strict=True
                )
                if out
            )

    def _excuses(self) -> Iterator[Excuses]:
        outside, distance = self._outside, self._distance
        with np.errstate(all="ignore"):
            relative = np.where(outside, distance / self._scale, 0.0).max(axis=1)
        columns = (
            ((self._measured < self._bound) | ~outside).all(axis=1),
            np.where(outside, distance, math.inf).min(axis=1),
            np.where(outside, distance, 0.0).max(axis=1),
            relative,
        )
        blank = Excuses(self._of)
        for numbers in zip(*(column.tolist() for column in columns), strict=True):
            excuses = copy.copy(blank)
            excuses.take(*numbers)
            yield excuses


@lru_cache(8)
def _indices(extents: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The coordinates of every unit."""
    return list(np.ndindex(extents))
