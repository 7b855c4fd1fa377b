"""Constraints that need a whole tensor at once, and so do not stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.constraints.base import Statistic, UnitStatistics
from ckptclamp.engine.measure.exact import settled
from ckptclamp.engine.measure.requests import Batch, Failed, Measurement
from ckptclamp.errors import Reason, UnreadableError
from ckptclamp.spec.model import Projection

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy, TensorReader
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.constraints.base import ExactSums
    from ckptclamp.constraints.sets.whole import WholeTensorConstraint
    from ckptclamp.engine.project.job import Projected


def measure_whole(
    reader: TensorReader, tensor: Tensor, constraint: WholeTensorConstraint, memory: int
) -> Measurement:
    """Measure how far `constraint` would move `tensor`, which is one unit.

    The batch holds `Statistic.MOVE` and `Statistic.MAX_ABS`. A tensor that cannot be read, does not
    fit into `memory` bytes, or that the callable cannot cope with, is answered by `Failed`.
    """
    try:
        weights, moved = _applied(reader, tensor, constraint.apply, memory)
    except UnreadableError as error:
        return Failed(0, error.reason, error.hint)
    if not weights.size:
        return Batch(0, (), _statistics(0, np.zeros(0), np.zeros(0), np.zeros(0)))
    return Batch(0, (), _measured(weights, moved))


def exact_of_whole(
    reader: TensorReader, tensor: Tensor, constraint: WholeTensorConstraint, tolerance: float
) -> ExactSums:
    """What `constraint` compares of `tensor` with 0 and `tolerance`, exactly.

    Raises:
        UnreadableError: it cannot be read.
    """
    return constraint.exact(reader.read(tensor, _all_of(tensor), None), tolerance)


def _measured(weights: NDArray[Any], moved: NDArray[np.float64]) -> UnitStatistics:
    wide = weights.astype(np.float64)
    with np.errstate(all="ignore"):
        move = np.abs(moved - wide).max(keepdims=True).reshape(1)
        peak = np.abs(wide).max(keepdims=True).reshape(1)
    nonfinite = np.count_nonzero(~np.isfinite(wide))
    return _statistics(weights.size, move, peak, np.array([nonfinite]))


def _violates(
    constraint: WholeTensorConstraint,
    weights: NDArray[Any],
    moved: NDArray[np.float64],
    tolerance: float,
) -> bool:
    """Whether finite weights lie outside, truly."""
    if not weights.size:
        return False
    judgement = settled(
        constraint.judge(_measured(weights, moved)),
        constraint,
        tolerance,
        np.zeros(1, np.bool_),
        lambda places: [constraint.exact(weights, tolerance) for _ in places],
    )
    return bool(judgement.violates(tolerance)[0])


def project_whole(
    copy: Copy,
    tensor: Tensor,
    constraint: WholeTensorConstraint,
    memory: int,
    tolerance: float = 0.0,
    *,
    projection: Projection = Projection.EXACT,
    spare_zero: bool = False,
) -> Projected:
    """Write what `constraint` makes of `tensor`, rounded to its dtype, if it moves a weight.

    A tensor that moves by no more than `tolerance` (relative to its largest magnitude) is left as it
    is, and so are the bytes of weights that do not move. A tensor with non-finite weights is left, and
    with `spare_zero` one of zeros alone.
    With `Projection.KERAS` every tensor becomes what Keras' formula makes of it.

    Raises:
        UnreadableError: as `measure_whole` answers `Failed`.
    """
    from ckptclamp.engine.project.job import Projected
    from ckptclamp.engine.project.transform import Rounding, rounded

    keras = projection is Projection.KERAS
    project = constraint.apply_keras if keras else constraint.apply
    weights, moved = _applied(copy, tensor, project, memory)
    wide = weights.astype(np.float64)
    if not np.isfinite(wide).all():
        return Projected(1, 0, 0.0, 1)
    peak = np.abs(wide).max(initial=0.0)
    if spare_zero and not peak:
        return Projected(1, 0, 0.0, 0)
    if not keras and not _violates(constraint, weights, moved, tolerance):
        return Projected(1, 0, 0.0, 0)
    stored = np.where(moved == wide, weights, rounded(moved, weights.dtype, Rounding.NEAREST))
    change = float(np.abs(stored.astype(np.float64) - wide).max())
    if change == 0:
        return Projected(1, 0, 0.0, 0)
    copy.write(tensor, _all_of(tensor), stored)
    return Projected(1, 1, change / peak if peak else np.inf, 0)


def _applied(
    reader: TensorReader,
    tensor: Tensor,
    project: Callable[[NDArray[Any]], NDArray[np.float64]],
    memory: int,
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the weights, and what `project` makes of them."""
    needed = needed_bytes(tensor)
    if needed > memory:
        raise UnreadableError(
            Reason("memory", f"needs {needed} bytes at once, over the budget of {memory}"),
            tensor=tensor.name,
            hint="raise --memory",
        )
    weights = reader.read(tensor, _all_of(tensor), None)
    moved = project(weights.astype(_working_dtype(weights.dtype)))
    finite = np.isfinite(weights.astype(np.float64)).all()
    if finite and not np.isfinite(moved).all():
        raise UnreadableError(
            Reason("undecided", "its projection is not finite"), tensor=tensor.name
        )
    return weights, moved


def needed_bytes(tensor: Tensor) -> int:
    """Bytes: the weights, the callable's input and output, and three arrays of float64."""
    return tensor.nbytes + tensor.size * (8 + 8 + 3 * 8)


def _working_dtype(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """What the callable computes in: float32 as Keras would, or more where storage holds more."""
    return np.float64 if dtype.itemsize == 8 or dtype.kind in "iu" else np.float32


def _all_of(tensor: Tensor) -> Box:
    return tuple((0, extent) for extent in tensor.shape)


def _statistics(
    size: int, move: NDArray[np.float64], peak: NDArray[np.float64], nonfinite: NDArray[Any]
) -> UnitStatistics:
    values = {Statistic.MOVE: move, Statistic.MAX_ABS: peak}
    return UnitStatistics(size, values, nonfinite.astype(np.int64))
