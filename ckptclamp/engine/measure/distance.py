"""Distances to a base checkpoint: both are read box by box, and no more of either than a box.

The difference is a tensor that computes itself, so everything that measures weights measures it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.tensor import Computed
from ckptclamp.constraints.base import ExactSums, Statistic, UnitStatistics
from ckptclamp.engine.measure import measure
from ckptclamp.engine.measure.exact import sums_of_stored
from ckptclamp.engine.measure.requests import Batch, Failed, Measurement, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import TensorReader
    from ckptclamp.checkpoints.tensor import Box, Read, Tensor
    from ckptclamp.constraints.sets.distance import Distance

_NORM = frozenset({Statistic.NORM})


@dataclass(frozen=True, slots=True, eq=False)
class Difference(Computed):
    """Weights less those of a `base`, in float64."""

    tensor: Tensor
    base: Tensor

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See `Computed.parts`."""
        return (self.tensor, self.base)

    @property
    def stored_as(self) -> str:
        """See `Computed.stored_as`."""
        return "weights and those of the base"

    def compute(self, read: Read, tensor: Tensor, box: Box, out: NDArray[Any]) -> None:
        """See `Computed.compute`."""
        del tensor
        out[...] = read(self.base, box)
        with np.errstate(invalid="ignore"):
            np.subtract(read(self.tensor, box).astype(np.float64), out, out=out)


def difference(tensor: Tensor, base: Tensor) -> Tensor:
    """Return `tensor` less `base`, which has its shape and is read by whoever reads `tensor`."""
    storage = Difference(tensor, base)
    return replace(tensor, dtype=DTYPES["float64"], dtype_name="float64", storage=storage)


def measure_distance(
    reader: TensorReader,
    tensor: Tensor,
    base: Tensor,
    axes: tuple[int, ...],
    constraint: Distance,
    *,
    memory: int,
    jobs: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Measurement]:
    """Measure how far the units of `tensor`, which span `axes`, lie from those of `base`.

    Units come as `measure` yields them; what cannot be read is answered by `Failed`. With a relative
    constraint, both checkpoints' units are measured side by side.
    """
    tensors = [difference(tensor, base), *([base] if constraint.relative else [])]
    streams = [
        measure(
            reader,
            [Request(one, axes, _NORM)],
            memory=memory // len(tensors),
            jobs=jobs,
            progress=progress if one is tensors[0] else None,
        )
        for one in tensors
    ]
    for found in zip(*streams, strict=False):  # the same units in each, or the last word of one
        failed = next((answer for answer in found if isinstance(answer, Failed)), None)
        if failed is not None:
            yield failed
            return
        yield _together([answer for answer in found if isinstance(answer, Batch)])


def _together(batches: Sequence[Batch]) -> Batch:
    """What was measured of the same units of a difference and, if it was, of the base."""
    first, *rest = batches
    for other in rest:
        assert other.units == first.units
        first = replace(first, statistics=relative_to(first.statistics, other.statistics))
    return first


def relative_to(apart: UnitStatistics, base: UnitStatistics) -> UnitStatistics:
    """Statistics of differences, with the norms of the same units of the base."""
    values = {**apart.values, Statistic.BASE_NORM: base[Statistic.NORM]}
    return replace(apart, values=values, nonfinite=apart.nonfinite + base.nonfinite)


def exact_distances(
    reader: TensorReader,
    tensor: Tensor,
    base: Tensor,
    axes: tuple[int, ...],
    *,
    relative: bool,
    units: Box,
    places: NDArray[np.intp],
) -> list[ExactSums]:
    """Sum the squares of differences, and of the base, exactly: see `exact.sums_of_stored`."""
    apart = Request(difference(tensor, base), axes, _NORM)
    sums = sums_of_stored(reader, apart, units, places)
    if not relative:
        return sums
    of_base = sums_of_stored(reader, Request(base, axes, _NORM), units, places)
    return [
        replace(one, base_squares=other.squares) for one, other in zip(sums, of_base, strict=True)
    ]
