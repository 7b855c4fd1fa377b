"""The words between an audit and the streaming engine: what to measure, and what came back."""

from __future__ import annotations

from dataclasses import dataclass

from ckptclamp.checkpoints.description import Box, Tensor
from ckptclamp.constraints.base import Statistic, UnitStatistics


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
