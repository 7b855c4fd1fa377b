"""Statistics of parts of units, and how they become statistics of whole units.

Inside a segment the sums of squares are added; between segments norms merge by `hypot`, in the
order of the segments. Both are the same for any number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.constraints.base import Statistic, UnitStatistics
from ckptclamp.engine import kernels
from ckptclamp.engine.blocks import Broadcast
from ckptclamp.engine.kernels import widen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.engine.blocks import Workspace
    from ckptclamp.engine.kernels import Block
    from ckptclamp.engine.kernels.native.runs import FileRun
    from ckptclamp.models.effective.codes import Codes

_TINY, _HUGE = 1e-280, 1e300
"""Between these a float64 sum of squares has lost nothing to underflow or overflow."""

SQUARES = "squares"
"""Key of a sum of squares that is not yet a norm."""

_MERGE: Mapping[str, np.ufunc] = {
    SQUARES: np.add,
    Statistic.NORM: np.hypot,
    Statistic.SUM: np.add,
    Statistic.SUM_ABS: np.add,
    Statistic.MIN: np.minimum,
    Statistic.MAX: np.maximum,
    Statistic.NONZERO: np.add,
}

_MERGE_START: Mapping[str, float] = {Statistic.MIN: np.inf, Statistic.MAX: -np.inf}

_NAMES: Mapping[Statistic, str] = {
    Statistic.NORM: SQUARES,
    **{s: s.value for s in Statistic if s not in (Statistic.NORM, Statistic.MAX_ABS)},
}
"""What the kernels call what is measured."""

EXTREMES = frozenset({Statistic.MIN, Statistic.MAX})

Values = dict[str, "NDArray[np.float64]"]


@dataclass(slots=True)
class Partial:
    """What is known so far of some units: float64 values by key, each of shape (units,).

    `nonfinite` counts non-finite weights (int64); ``None`` means that there are none.
    """

    values: Values
    nonfinite: NDArray[np.int64] | None = None

    def merge(self, other: Partial) -> None:
        """Take in statistics of the same units, of weights that come after."""
        for key, value in other.values.items():
            mine = self.values.get(key)
            self.values[key] = value if mine is None else _MERGE[key](mine, value)
        if other.nonfinite is not None:
            mine_count = 0 if self.nonfinite is None else self.nonfinite
            self.nonfinite = mine_count + other.nonfinite

    def only(self, needs: frozenset[Statistic]) -> Partial:
        """Of what was measured, what `needs` names; it comes from `measured`."""
        return Partial(
            {key: self.values[key] for key in map(_NAMES.__getitem__, needs)}, self.nonfinite
        )

    def split(self, parts: int) -> Iterator[Partial]:
        """Split statistics of so many parts that have as many units each."""
        units = len(self) // parts
        for start in range(0, len(self), units):
            part = slice(start, start + units)
            values = {key: value[part] for key, value in self.values.items()}
            yield Partial(values, None if self.nonfinite is None else self.nonfinite[part])

    def take(self, places: NDArray[np.intp], found: Partial, units: int) -> None:
        """Merge into statistics of `units` units what was `found` of the weights of some of them."""
        for key, value in found.values.items():
            if key not in self.values:
                self.values[key] = np.full(units, _MERGE_START.get(key, 0.0))
            self.values[key][places] = _MERGE[key](self.values[key][places], value)
        if found.nonfinite is not None:
            if self.nonfinite is None:
                self.nonfinite = np.zeros(units, np.int64)
            self.nonfinite[places] += found.nonfinite

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    @classmethod
    def joined(cls, parts: Sequence[Partial]) -> Partial:
        """Join statistics of whole units that follow each other."""
        if len(parts) == 1:
            return parts[0]
        for part in parts:
            part.close()
        keys = parts[0].values
        values = {key: np.concatenate([part.values[key] for part in parts]) for key in keys}
        if all(part.nonfinite is None for part in parts):
            return cls(values)
        counts = [
            np.zeros(len(part), np.int64) if part.nonfinite is None else part.nonfinite
            for part in parts
        ]
        return cls(values, np.concatenate(counts))

    @classmethod
    def side_by_side(cls, parts: Sequence[Partial]) -> Partial:
        """Return what is known so far of units that follow each other; the same if it is one part."""
        if len(parts) == 1:
            return parts[0]
        whole, units, first = cls({}), sum(map(len, parts)), 0
        for part in parts:
            whole.take(np.arange(first, first := first + len(part)), part, units)
        return whole

    def close(self) -> None:
        """Turn sums of squares into norms."""
        squares = self.values.pop(SQUARES, None)
        if squares is None:
            return
        norm = np.sqrt(squares)
        apart = self.values.get(Statistic.NORM)
        self.values[Statistic.NORM] = norm if apart is None else np.hypot(norm, apart)

    def statistics(self, needs: frozenset[Statistic], size: int) -> UnitStatistics:
        """Return the statistics that were asked for, of whole units with `size` weights each."""
        self.close()
        if Statistic.MAX_ABS in needs:
            low, high = self.values[Statistic.MIN], self.values[Statistic.MAX]
            self.values[Statistic.MAX_ABS] = np.maximum(-low, high)
        return UnitStatistics(
            size=size,
            values={key: self.values[key] for key in sorted(needs)},
            nonfinite=np.zeros(len(self), np.int64) if self.nonfinite is None else self.nonfinite,
        )


def measured(needs: frozenset[Statistic]) -> frozenset[Statistic]:
    """What is measured to know `needs` and to notice non-finite weights."""
    wanted = needs - {Statistic.MAX_ABS}
    sums = {Statistic.NORM, Statistic.SUM, Statistic.SUM_ABS}
    if Statistic.MAX_ABS in needs or not wanted & sums:
        wanted |= {Statistic.MIN, Statistic.MAX}
    return wanted


def kernel_names(needs: frozenset[Statistic]) -> list[str]:
    """What the kernels call what `needs`, which comes from `measured`, names; extremes go together."""
    return sorted(map(_NAMES.__getitem__, needs | EXTREMES if needs & EXTREMES else needs))


def measure_units(
    block: NDArray[Any], axes: tuple[int, ...], needs: frozenset[Statistic], workspace: Workspace
) -> UnitStatistics:
    """Measure what `needs` names of a block that holds whole units."""
    size = math.prod(block.shape[axis] for axis in axes)
    return measure_box(block, axes, measured(needs), workspace).statistics(needs, size)


def measure_box(
    block: Block, axes: tuple[int, ...], needs: frozenset[Statistic], workspace: Workspace
) -> Partial:
    """Measure the parts of units in a C-contiguous `block` (storage dtype, the shape of a box).

    `needs` comes from `measured`. NumPy's floating-point warnings should be off.
    """
    if not axes:
        return _single_weights(block, needs, workspace)
    values: Values = dict(kernels.measure(block, axes, map(_NAMES.__getitem__, needs), workspace))
    if SQUARES in values and _may_leave_range(block.dtype):
        _rescue_squares(values, block, axes, workspace)
    return Partial(values, _count_nonfinite(values, block, axes, workspace))


def measure_run(run: FileRun, needs: frozenset[Statistic], workspace: Workspace) -> Partial | None:
    """Measure the parts of units in boxes that lie in a file, one after another.

    ``None`` where the kernels do not (`kernels.measure_in_file`), or where the square of a float64 leaves
    the range: then each box is to be looked at.
    """
    values = kernels.measure_in_file(run, map(_NAMES.__getitem__, needs), workspace)
    if values is None:
        return None
    if SQUARES in values and _may_leave_range(run.dtype) and _out_of_range(values[SQUARES]).any():
        return None
    if all(map(kernels.all_finite, values.values())):
        return Partial(dict(values))
    counts = kernels.measure_in_file(run, ["nonfinite"], workspace)
    return None if counts is None else Partial(dict(values), counts["nonfinite"].astype(np.int64))


def measure_in_codes(
    block: Codes, axes: tuple[int, ...], needs: frozenset[Statistic], workspace: Workspace
) -> Partial | None:
    """Measure as `measure_box` does, but ``None`` where the weights themselves would have to be looked at."""
    values: Values = dict(kernels.measure(block, axes, map(_NAMES.__getitem__, needs), workspace))
    if SQUARES in values and _lost_squares(values[SQUARES], block, axes, workspace)[0].any():
        return None
    return Partial(values) if all(map(kernels.all_finite, values.values())) else None


def extremes_inside(
    block: Block, bounds: tuple[float, float], workspace: Workspace
) -> tuple[float, float] | None:
    """The extremes of a block, or ``None`` if a weight is not finite or lies outside `bounds`."""
    found = measure_box(block, tuple(range(block.ndim)), EXTREMES, workspace)
    low, high = float(found.values[Statistic.MIN][0]), float(found.values[Statistic.MAX][0])
    inside = found.nonfinite is None and bounds[0] <= low and high <= bounds[1]
    return (low, high) if inside else None


def _may_leave_range(dtype: np.dtype[Any]) -> bool:
    """Whether squares of weights may overflow or vanish in float64."""
    return dtype.kind == "f" and dtype.itemsize == 8


def _out_of_range(squares: NDArray[np.float64]) -> NDArray[np.bool_]:
    return ~((squares > _TINY) & (squares < _HUGE))


def _single_weights(block: Block, needs: frozenset[Statistic], workspace: Workspace) -> Partial:
    """Statistics of units of one weight each: the weight itself, or its magnitude."""
    weights = widen(block, workspace).reshape(-1).copy()
    magnitudes = np.abs(weights) if needs & {Statistic.NORM, Statistic.SUM_ABS} else weights
    signed = {Statistic.SUM, Statistic.MIN, Statistic.MAX}
    values: Values = {key: weights if key in signed else magnitudes for key in needs}
    if Statistic.NONZERO in needs:
        values[Statistic.NONZERO] = (weights != 0).astype(np.float64)
    finite = np.isfinite(weights)
    return Partial(values, None if finite.all() else (~finite).astype(np.int64))


def _rescue_squares(
    values: Values, block: Block, axes: tuple[int, ...], workspace: Workspace
) -> None:
    """Where squares left float64's range, measure the norm again with a power of two taken out."""
    squares = values[SQUARES]
    lost, peak = _lost_squares(squares, block, axes, workspace)
    if not lost.any():
        return
    exponent = np.where(lost, np.frexp(peak)[1], 0)
    scaled = np.ldexp(widen(block, workspace), -Broadcast.all_of(block.shape, axes)(exponent))
    norm = np.sqrt(kernels.measure(scaled, axes, [SQUARES], workspace)[SQUARES])
    values[Statistic.NORM] = np.where(lost, np.ldexp(norm, exponent), 0.0)
    values[SQUARES] = np.where(lost, 0.0, squares)


def _lost_squares(
    squares: NDArray[np.float64], block: Block, axes: tuple[int, ...], workspace: Workspace
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Tell of which units squares left float64's range, and the largest magnitude of these."""
    lost = _out_of_range(squares)
    if not lost.any():
        return lost, squares
    found = kernels.measure(block, axes, [Statistic.MIN, Statistic.MAX], workspace)
    peak = np.maximum(-found[Statistic.MIN], found[Statistic.MAX])
    return lost & (peak > 0) & np.isfinite(peak), peak


def _count_nonfinite(
    values: Values, block: Block, axes: tuple[int, ...], workspace: Workspace
) -> NDArray[np.int64] | None:
    """Count non-finite weights, but only where a statistic shows that there may be one."""
    if all(map(kernels.all_finite, values.values())):
        return None
    return kernels.count_nonfinite(block, axes, workspace)
