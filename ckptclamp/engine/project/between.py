"""Units between two offsets: the first of their weights take the inner one, the others the outer one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.engine.kernels import measure, native, widen
from ckptclamp.engine.kernels.native.moving import Offsets
from ckptclamp.engine.project.transform import moved, moves, row_movement
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.movement import Movement, Transform
    from ckptclamp.engine.blocks import Workspace


@frozen
class Between:
    """Some units that move, each with two offsets.

    What a weight *gains* with the inner one is what its unit's sum (of squares, or where it `adds`: of
    weights) then has less, or more where `sign` is -1, than with the outer one. `power` is a power of
    two that weights are multiplied by before they are squared. All have the shape (units,).
    """

    movement: Movement
    outer: NDArray[np.float64]
    inner: NDArray[np.float64]
    sign: NDArray[np.float64]
    power: NDArray[np.float64]
    adds: bool

    def part(self, places: NDArray[np.intp]) -> Between:
        """Some of these units."""
        return Between(
            self.movement.part(places),
            self.outer[places],
            self.inner[places],
            self.sign[places],
            self.power[places],
            self.adds,
        )

    def gains(
        self, more: NDArray[Any], less: NDArray[Any], workspace: Workspace
    ) -> NDArray[np.float64]:
        """What each weight gains that is stored as one of `less` instead of `more`, shape (units, length)."""
        power = self.power[:, None]
        outer, inner = widen(more, workspace, "outer"), widen(less, workspace, "inner")
        gains = (outer - inner) * power
        if not self.adds:
            gains *= (outer + inner) * power
        return np.asarray(gains * self.sign[:, None])

    def gained(self, rows: NDArray[Any], workspace: Workspace) -> NDArray[np.float64]:
        """What all of each unit, one of `rows`, gains."""
        library = native.loaded()
        if library is not None and moves(self.movement, rows):
            return library.gained(rows, _offsets(self, self.movement, rows.dtype))
        outer, inner = self.stored(rows, workspace)
        gains = self.gains(outer, inner, workspace)
        return measure(gains, (1,), ("sum",), workspace)["sum"]

    def fitted(
        self, rows: NDArray[Any], rest: NDArray[np.float64], workspace: Workspace
    ) -> NDArray[Any]:
        """Return `rows` as they move with the inner offset up to a gain of `rest`, with the outer one after it.

        The result lies in a buffer of the workspace.
        """
        library = native.loaded()
        if library is not None and moves(self.movement, rows):
            out = workspace.array("fitted", rows.dtype, rows.shape)
            library.fit(rows, _offsets(self, self.movement, rows.dtype), rest, out)
            return out
        outer, inner = self.stored(rows, workspace)
        first = self.first(self.gains(outer, inner, workspace), rest)
        np.copyto(inner, outer, where=~first)
        return inner

    def first(self, gains: NDArray[np.float64], rest: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which weights take the inner offset so that what they gain comes to `rest`."""
        before = np.zeros_like(gains)
        np.cumsum(gains[:, :-1], axis=1, out=before[:, 1:])
        return before < rest[:, None]

    def stored(self, rows: NDArray[Any], workspace: Workspace) -> tuple[NDArray[Any], NDArray[Any]]:
        """The rows with the outer and with the inner offset."""
        by, adds = self.movement, self.adds
        outer = moved(by, rows, self.outer, workspace, adds=adds, into="stored outer")
        return outer, moved(by, rows, self.inner, workspace, adds=adds, into="stored inner")


def _offsets(between: Between, movement: Transform, dtype: np.dtype[Any]) -> Offsets:
    outer = row_movement(movement, between.outer, dtype, adds=between.adds)
    return Offsets(outer, between.inner, between.sign, between.power)
