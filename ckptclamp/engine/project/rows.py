"""A block of weights as rows, one for each of its units, and these in pieces."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.engine.blocks import PIECE
from ckptclamp.engine.kernels import native
from ckptclamp.engine.measure.requests import WORKSPACE
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MOST_PIECES = 1 << 20
"""More than a row has."""


class Rows:
    """A block, seen as one row for each of its units."""

    def __init__(self, block: NDArray[Any], axes: tuple[int, ...], kept: tuple[int, ...]) -> None:
        order = (*kept, *axes)
        self._extents = tuple(block.shape[axis] for axis in kept)
        self._shape = tuple(block.shape[axis] for axis in axes)
        self.count, self.width = math.prod(self._extents), math.prod(self._shape)
        self._view, self._columns = block.transpose(order), None
        if order == tuple(range(block.ndim)):
            self._view = block.reshape(self.count, self.width)
            self._extents, self._shape = (self.count,), (self.width,)
        elif (*axes, *kept) == tuple(range(block.ndim)):
            self._columns = block.reshape(self.width, self.count)

    def take(self, places: NDArray[np.intp], columns: slice) -> NDArray[Any]:
        """Part of the rows at `places`, C-contiguous, in a buffer; no copy where they lie like that."""
        if self._columns is not None and native.loaded() is not None:
            shape = len(places), len(self._columns[columns])
            out = WORKSPACE.array("gathered", self._columns.dtype, shape)
            self.copy(places, columns, out)
            return out
        return np.ascontiguousarray(self._taken(places)[:, columns])

    def copy(self, places: NDArray[np.intp], columns: slice, out: NDArray[Any]) -> None:
        """Put part of the rows at `places` into `out`."""
        if self._columns is not None and (library := native.loaded()) is not None:
            library.gather(self._columns[columns], places, out)
        else:
            np.copyto(out, self._taken(places)[:, columns])

    def _taken(self, places: NDArray[np.intp]) -> NDArray[Any]:
        taken: NDArray[Any] = self._view[self._at(places)].reshape(len(places), self.width)
        return taken

    def put(self, places: NDArray[np.intp], columns: slice, new: NDArray[Any]) -> None:
        """Replace part of the rows at `places`."""
        if self._columns is not None and (library := native.loaded()) is not None:
            library.scatter(self._columns[columns], places, new)
            return
        at = self._at(places)
        rows = new
        if new.shape[1] < self.width:
            rows = self._taken(places)
            rows[:, columns] = new
        self._view[at] = rows.reshape(len(places), *self._shape)

    def _at(self, places: NDArray[np.intp]) -> Any:  # noqa: ANN401 - an index
        if len(self._extents) == 1 and len(places) == places[-1] - places[0] + 1:
            return slice(places[0], places[-1] + 1)  # they follow each other
        return np.unravel_index(places, self._extents)


@frozen
class Held:
    """Some rows of a block, those at `places`."""

    places: NDArray[np.intp]
    rows: NDArray[Any]

    @property
    def width(self) -> int:
        """Weights in a row."""
        return int(self.rows.shape[1])

    def take(self, places: NDArray[np.intp], columns: slice) -> NDArray[Any]:
        """Part of the rows at `places`, C-contiguous."""
        if len(places) == len(self.places):
            return np.ascontiguousarray(self.rows[:, columns])
        at = np.searchsorted(self.places, places)
        assert np.array_equal(self.places[at], places)
        following = at[-1] - at[0] + 1 == len(at)
        some = self.rows[at[0] : at[-1] + 1] if following else self.rows[at]
        return np.ascontiguousarray(some[:, columns])


def pieces_of(
    part: int, places: NDArray[np.intp], width: int, at_once: int
) -> Iterator[tuple[int, NDArray[np.intp], slice]]:
    """Cut rows of box `part` into pieces of `at_once` weights, and number these in the order of weights.

    Long rows are cut at the same places whatever is done at once: what is measured of them is added up.
    """
    height, columns = max(1, at_once // width), min(width, PIECE)
    for top in range(0, len(places), height):
        for number, left in enumerate(range(0, width, columns)):
            yield (
                part * MOST_PIECES + number,
                places[top : top + height],
                slice(left, left + columns),
            )
