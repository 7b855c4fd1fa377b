"""Constraints on matrices: measured and projected part by part, tried as stored before it is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.constraints.base import Statistic, UnitStatistics
from ckptclamp.constraints.sets.whole import SIDE, Derived
from ckptclamp.engine.blocks import kept_axes
from ckptclamp.engine.measure import unreadable
from ckptclamp.engine.measure.exact import settled
from ckptclamp.engine.measure.requests import Batch, Failed, Measurement
from ckptclamp.engine.project.job import NOTHING, Projected
from ckptclamp.engine.project.transform import Rounding, rounded
from ckptclamp.errors import Reason, UnreadableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy, TensorReader
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.constraints.base import ExactSums
    from ckptclamp.constraints.sets.whole import Matrix, MatrixConstraint, Part

_TRIALS = 6
"""How often a projection is tried again, further inside, before a matrix is left."""

_IN_HAND = 12
"""Boxes that are in hand at once, at most, as float64."""


@dataclass(slots=True)
class _Unit:
    """One matrix of a tensor: the one at `index` along the kept axes. Counts what is not finite."""

    reader: TensorReader
    tensor: Tensor
    axes: tuple[int, ...]
    index: tuple[int, ...]
    nonfinite: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = (self.tensor.shape[axis] for axis in self.axes)
        return rows, columns

    def box(self, part: Part) -> Box:
        """Where `part` lies in the tensor."""
        spans = dict(zip(self.axes, ((s.start, s.stop) for s in part), strict=True))
        kept = iter(self.index)
        return tuple(
            spans[axis] if axis in spans else (i := next(kept), i + 1)
            for axis in range(len(self.tensor.shape))
        )

    def stored(self, part: Part) -> NDArray[Any]:
        """The weights of `part` in their storage dtype, shape (rows, columns)."""
        block = self.reader.read(self.tensor, self.box(part), None)
        return block.reshape([piece.stop - piece.start for piece in part])

    def read(self, part: Part) -> NDArray[np.float64]:
        """See `Matrix.read`."""
        with np.errstate(invalid="ignore"):  # a NaN may be a signalling one
            wide = self.stored(part).astype(np.float64)
        finite = np.isfinite(wide)
        if not finite.all():
            self.nonfinite += int(np.count_nonzero(~finite))
            wide[~finite] = 0.0
        return wide


def measure_matrices(
    reader: TensorReader,
    tensor: Tensor,
    axes: tuple[int, ...],
    constraint: MatrixConstraint,
    memory: int,
) -> Iterator[Measurement]:
    """Measure the matrices of `tensor`, which span `axes`.

    A tensor is answered by `Failed` if it cannot be read, or if what must be in memory at once is more
    than `memory` bytes.
    """
    kept = kept_axes(len(tensor.shape), axes)
    try:
        _check(tensor, axes, constraint, memory, projecting=False)
        measured = [_measured(constraint, unit) for unit in _units(reader, tensor, axes)]
        statistics = UnitStatistics.joined(measured)
    except UnreadableError as error:
        yield Failed(0, error.reason, error.hint)
        return
    yield Batch(0, tuple((0, tensor.shape[axis]) for axis in kept), statistics)


def project_matrices(
    copy: Copy,
    tensor: Tensor,
    axes: tuple[int, ...],
    constraint: MatrixConstraint,
    tolerance: float,
    *,
    memory: int,
    progress: Callable[[int], None] | None = None,
) -> Projected:
    """Project the matrices of `tensor` in `copy` that violate `tolerance`; they span `axes`.

    Each becomes the nearest matrix of the set, computed in float64 and rounded to the storage dtype,
    and is measured as it would be stored; where rounding left the set, one further inside is tried.
    It is written if it then conforms. Matrices with a weight that is not finite keep their bytes.

    Raises:
        UnreadableError: as `measure_matrices` answers `Failed`.
        NotWrittenError: it cannot be written.
    """
    _check(tensor, axes, constraint, memory, projecting=True)
    total = NOTHING
    for unit in _units(copy, tensor, axes):
        with _spectra():
            total += _project(copy, unit, constraint, tolerance, memory)
        if progress is not None:
            progress(tensor.nbytes * math.prod(unit.shape) // tensor.size)
    return total


def needed_bytes(
    constraint: MatrixConstraint, shape: tuple[int, ...], axes: tuple[int, ...], *, projecting: bool
) -> int:
    """Bytes that must be in memory at once for a tensor of `shape`, beside a few boxes."""
    rows, columns = (shape[axis] for axis in axes)
    return constraint.needed((rows, columns), projecting=projecting)


def _check(
    tensor: Tensor,
    axes: tuple[int, ...],
    constraint: MatrixConstraint,
    memory: int,
    *,
    projecting: bool,
) -> None:
    refusal = unreadable(tensor, memory)
    if refusal is not None:
        raise UnreadableError(refusal[0], tensor=tensor.name, hint=refusal[1])
    needed = needed_bytes(constraint, tensor.shape, axes, projecting=projecting)
    needed += _boxes(math.prod(tensor.shape[axis] for axis in axes))
    if needed > memory:
        raise UnreadableError(
            Reason("memory", f"needs {needed} bytes at once, over the budget of {memory}"),
            tensor=tensor.name,
            hint="raise --memory",
        )


def _boxes(size: int) -> int:
    """Bytes of the boxes of a matrix of `size` weights that are in hand at once, at most."""
    return 8 * _IN_HAND * min(size, SIDE * SIDE)


def _units(reader: TensorReader, tensor: Tensor, axes: tuple[int, ...]) -> Iterator[_Unit]:
    kept = [tensor.shape[axis] for axis in kept_axes(len(tensor.shape), axes)]
    return (_Unit(reader, tensor, axes, index) for index in np.ndindex(*kept))


def _measured(constraint: MatrixConstraint, unit: _Unit) -> UnitStatistics:
    with _spectra():
        values = constraint.measure(unit)
    return _statistics(math.prod(unit.shape), values, unit.nonfinite)


@contextmanager
def _spectra() -> Iterator[None]:
    """Raise `UnreadableError` where an iteration for singular values does not converge."""
    try:
        yield
    except np.linalg.LinAlgError as error:
        raise UnreadableError(
            Reason("undecided", f"its singular values were not found: {error}")
        ) from error


def _statistics(size: int, values: dict[Statistic, float], nonfinite: int) -> UnitStatistics:
    arrays = {key: np.array([value]) for key, value in values.items()}
    return UnitStatistics(size, arrays, np.array([nonfinite], np.int64))


def exact_of_matrices(
    reader: TensorReader,
    tensor: Tensor,
    axes: tuple[int, ...],
    constraint: MatrixConstraint,
    tolerance: float,
    *,
    places: NDArray[np.intp],
) -> list[ExactSums]:
    """What `constraint` compares of the matrices at `places` with 0 and `tolerance`, exactly.

    Raises:
        UnreadableError: one of them cannot be read, or is not decided.
    """
    units = list(_units(reader, tensor, axes))
    which = " of matrix {}" if len(units) > 1 else ""
    with _spectra():
        return [
            _decided(constraint, units[place], tolerance, which.format(place))
            for place in places.tolist()
        ]


def _decided(
    constraint: MatrixConstraint, matrix: Matrix, tolerance: float, which: str = ""
) -> ExactSums:
    exact = constraint.exact(matrix, tolerance)
    if exact is None:
        measured = constraint.measure(matrix)
        most = measured[Statistic.UPPER]
        least = measured.get(Statistic.LOWER, 0.0)
        raise UnreadableError(
            Reason(
                "undecided",
                f"what is measured{which} lies between {least!r} and {most!r}, and so does the bound",
            ),
            hint="a tolerance, or another one, decides it",
        )
    return exact


def _violates(
    constraint: MatrixConstraint, matrix: Matrix, statistics: UnitStatistics, tolerance: float
) -> bool:
    """Whether a matrix lies outside, truly; one that is not decided does."""
    judgement = constraint.judge(statistics)
    try:
        judgement = settled(
            judgement,
            constraint,
            tolerance,
            statistics.nonfinite > 0,
            lambda places: [_decided(constraint, matrix, tolerance) for _ in places],
        )
    except UnreadableError:
        return True
    return bool(judgement.violates(tolerance)[0])


def _project(
    copy: Copy, unit: _Unit, constraint: MatrixConstraint, tolerance: float, memory: int
) -> Projected:
    """Project one matrix."""
    before = _measured(constraint, unit)
    if before.nonfinite[0] or not _violates(constraint, unit, before, tolerance):
        return Projected(1, 0, 0.0, int(before.nonfinite[0] > 0))
    assert unit.tensor.dtype is not None
    dtype, inner = unit.tensor.dtype.numpy, 1.0
    goal = 0.0 if constraint.one_sided else tolerance
    least = unit.tensor.dtype.unit_roundoff / math.sqrt(math.prod(unit.shape))
    memory -= _boxes(math.prod(unit.shape))
    for trial in range(_TRIALS):
        stored = _rounded(constraint.nearest(unit, inner, memory), dtype)
        after = _statistics(1, constraint.measure(stored), 0)
        if not _violates(constraint, stored, after, goal):
            return _written(copy, unit, constraint, stored)
        if not constraint.one_sided:
            break
        excess = max(float(constraint.judge(after).excess[0]), least)
        inner *= max(0.5, 1 - excess * 1.25 * 2.0**trial)
    return Projected(1, 0, 0.0, 1)


def _rounded(matrix: Matrix, dtype: np.dtype[Any]) -> Matrix:
    """`matrix` as it would be stored."""

    def read(part: Part) -> NDArray[np.float64]:
        return rounded(matrix.read(part), dtype, Rounding.NEAREST).astype(np.float64)

    return Derived(matrix.shape, read)


def _written(copy: Copy, unit: _Unit, constraint: MatrixConstraint, stored: Matrix) -> Projected:
    """Write what differs; weights that do not move keep their bits."""
    change = peak = 0.0
    for parts in constraint.parts(unit.shape):
        # What belongs together is read before any of it is written.
        pairs = [(part, unit.stored(part), stored.read(part)) for part in parts]
        for part, old, new in pairs:
            wide = old.astype(np.float64)
            peak = max(peak, float(np.abs(wide).max(initial=0.0)))
            moves = new != wide
            if not moves.any():
                continue
            change = max(change, float(np.abs(new - wide).max()))
            box = unit.box(part)
            values = np.where(moves, rounded(new, old.dtype, Rounding.NEAREST), old)
            copy.write(unit.tensor, box, values.reshape([stop - start for start, stop in box]))
    return Projected(1, int(change > 0), change / peak if peak else np.inf, 0)
