"""The words between an audit and the streaming engine: what to measure, and what came back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.tensor import Box, Tensor
from ckptclamp.constraints.base import Statistic, UnitStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptclamp.checkpoints.tensor import Tensor


@dataclass(frozen=True, slots=True)
class Request:
    """What to measure of one tensor.

    `axes` are the reduced axes, sorted and non-negative. Empty means that every weight is a unit of
    its own; `bounds` may then hold the closed interval to screen blocks with, so that only blocks
    with a weight outside of it come back weight by weight.
    """

    tensor: Tensor
    axes: tuple[int, ...]
    needs: frozenset[Statistic]
    bounds: tuple[float, float] | None = None

    @property
    def kept(self) -> tuple[int, ...]:
        """The axes along which units are counted."""
        return tuple(i for i in range(len(self.tensor.shape)) if i not in self.axes)


@dataclass(frozen=True, slots=True)
class Batch:
    """Statistics of some units of one request, in C order of `units`.

    `request` is the request's place in the sequence that was asked for; `units` is the box of kept
    axes that the units fill.
    """

    request: int
    units: Box
    statistics: UnitStatistics


@dataclass(frozen=True, slots=True)
class Screened:
    """Units that are single weights, all finite and all inside the bounds: only their extremes."""

    request: int
    count: int
    minimum: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A request whose tensor could not be read; the others go on."""

    request: int
    reason: str
    hint: str | None = None


Measurement = Batch | Screened | Failed
"""What the engine answers, piece by piece."""


@dataclass(frozen=True, slots=True)
class Projected:
    """What a projection did to one tensor.

    `changed` counts units of which a byte is another; `largest_change` is the largest change of a
    weight, relative to the largest magnitude in its unit; `left` counts units that still lie
    outside the tolerance: that no projection can mend, or that the dtype cannot hold.
    """

    units: int
    changed: int
    largest_change: float
    left: int

    def __add__(self, other: Projected) -> Projected:
        return Projected(
            self.units + other.units,
            self.changed + other.changed,
            max(self.largest_change, other.largest_change),
            self.left + other.left,
        )


Key = tuple[str, str]
"""The names of a tensor and of a rule."""


class Kept:
    """What `measure` answered, up to `memory` bytes.

    A tensor of which one piece does not fit is forgotten, and so is one that was not answered unit
    by unit.
    """

    def __init__(self, memory: int) -> None:
        self._room = memory
        self._batches: dict[Key, list[Batch]] = {}
        self._forgotten: set[Key] = set()

    def add(self, tensor: Tensor, rule: str, answer: Measurement) -> None:
        """Keep `answer` about `tensor` under `rule`, if it may be of use."""
        key = (tensor.name, rule)
        if key in self._forgotten:
            return
        if not isinstance(answer, Batch):
            self._forget(key)
            return
        self._room -= _bytes(answer)
        self._batches.setdefault(key, []).append(answer)
        if self._room < 0:
            self._forget(key)

    def take(self, tensor: Tensor, rule: str) -> Sequence[Batch]:
        """Return everything that was answered for a tensor and a rule, or nothing; once."""
        return self._remove((tensor.name, rule))

    def _remove(self, key: Key) -> list[Batch]:
        batches = self._batches.pop(key, [])
        self._room += sum(map(_bytes, batches))
        return batches

    def _forget(self, key: Key) -> None:
        self._forgotten.add(key)
        self._remove(key)


def _bytes(batch: Batch) -> int:
    statistics = batch.statistics
    return statistics.nonfinite.nbytes + sum(value.nbytes for value in statistics.values.values())
