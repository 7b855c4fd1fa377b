"""A few rows of a tensor as a tensor of their own: what others hold is neither read nor looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.tensor import Contiguous, box_shape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.constraints.base import Constraint, UnitStatistics

_COST = 16 << 10
"""To read or to write so many bytes costs about as much as the system call."""

_FEW = 4
"""Rows are few where they cost less than one in so many of the tensor's bytes."""


class PickedRows:
    """A `Copy` in which `tensor` has only some of its rows, those with the numbers `rows`, in order."""

    def __init__(self, copy: Copy, whole: Tensor, rows: NDArray[np.intp]) -> None:
        self._copy, self._whole, self._rows = copy, whole, rows
        self.tensor = replace(whole, shape=(len(rows), *whole.shape[1:]))

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """See `TensorReader.read`."""
        assert tensor is self.tensor
        assert tensor.dtype is not None
        out: NDArray[Any] = np.ndarray(box_shape(box), tensor.dtype.numpy, buffer=buffer)
        for place, part in self._runs(box):
            out[place] = self._copy.read(self._whole, part, None)
        return out

    def write(self, tensor: Tensor, box: Box, values: NDArray[Any]) -> None:
        """See `Copy.write`."""
        assert tensor is self.tensor
        for place, part in self._runs(box):
            self._copy.write(self._whole, part, values[place])

    def _runs(self, box: Box) -> Iterator[tuple[slice, Box]]:
        """The rows of a box that follow each other in the tensor: where they lie in it, and in that."""
        (first, last), *rest = box
        rows = self._rows[first:last]
        for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) > 1) + 1):
            start, stop = int(run[0]), int(run[-1]) + 1
            yield slice(start, stop), ((int(rows[start]), int(rows[stop - 1]) + 1), *rest)


def few_rows(
    tensor: Tensor, axes: tuple[int, ...], constraint: Constraint, known: UnitStatistics
) -> NDArray[np.intp] | None:
    """Which units of `tensor` may have to move by what is `known` of all, where these are a few of its rows.

    Those are all that violate the constraint itself, that float64 cannot tell, or that are not finite.
    """
    if not axes or axes != tuple(range(1, len(tensor.shape))):
        return None
    if not isinstance(tensor.storage, Contiguous):
        return None
    with np.errstate(all="ignore"):
        judgement = constraint.judge(known)
        broken = known.nonfinite > 0
        rows = np.flatnonzero(judgement.violates(0.0) | judgement.doubtful(0.0) | broken)
    each = max(_COST, tensor.nbytes // tensor.shape[0])
    return rows if _FEW * each * len(rows) < tensor.nbytes else None
