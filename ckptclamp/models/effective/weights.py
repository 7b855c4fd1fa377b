"""A weight that is computed from parts, and which of these parts may be changed to change it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ckptclamp.checkpoints.dtypes import Kind
from ckptclamp.checkpoints.tensor import Computed
from ckptclamp.frozen import frozen
from ckptclamp.models.effective.numbers import cut, view_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.tensor import Box, Read, Tensor
    from ckptclamp.models.effective.codes import Codes
    from ckptclamp.models.effective.levels import Wanted

PIECE = 1 << 16
"""Elements that are computed at once: what they take beside the result is a few MiB."""


def is_fine(part: Tensor) -> bool:
    """Whether `part` holds floats of 16 bits and more, so that a factor goes into them almost unchanged."""
    dtype = part.dtype
    return dtype is not None and dtype.kind is Kind.FLOAT and dtype.bits >= 16


@frozen
class Rescaling:
    """A stored `part` whose numbers a unit's weights are proportional to.

    `axes` are, for each axis of the part, the axis of the weight that it runs along, or ``None`` where
    every index of it belongs to each unit. No number of the part belongs to two units. Where it `divides`
    the weights are proportional to its inverse.
    """

    part: Tensor
    axes: tuple[int | None, ...]
    divides: bool = False

    def box(self, units: Box, kept: tuple[int, ...]) -> Box:
        """Where the numbers of `units` lie, a box of the weight's `kept` axes."""
        spans = dict(zip(kept, units, strict=True))
        extents = zip(self.axes, self.part.shape, strict=True)
        return tuple((0, n) if axis is None else spans[axis] for axis, n in extents)

    def spread(self, per_unit: NDArray[Any], units: Box, kept: tuple[int, ...]) -> NDArray[Any]:
        """Return what broadcasts with the numbers of `units`: one of `per_unit` (units,) for each."""
        order = [axis for axis in self.axes if axis is not None]
        shaped = per_unit.reshape([stop - start for start, stop in units])
        turned = shaped.transpose([kept.index(axis) for axis in order])
        return turned[tuple(None if axis is None else slice(None) for axis in self.axes)]


class Effective(Computed):
    """A weight that is computed in float64 from parts that are stored beside each other."""

    __slots__ = ()

    words: str

    @property
    def stored_as(self) -> str:
        """See `Computed.stored_as`."""
        return self.words

    @property
    def unprojected(self) -> str:
        """See `Computed.unprojected`."""
        names = ", ".join(part.name for part in self.parts)
        return f"it is computed from {names}, which are not projected"

    def rescaling(self, axes: tuple[int, ...]) -> Rescaling | None:
        """The part that a factor for each unit over `axes` goes into, if there is one; default: none."""
        del axes
        return None

    @property
    def recoded(self) -> Tensor | None:
        """The part that holds an element for each weight and can be written anew; default: none."""
        return None

    def recode(self, read: Read, box: Box, wanted: Wanted) -> tuple[Box, NDArray[Any]]:
        """Return a box of `recoded`, and what it is to hold so that the weights of `box` are as `wanted`.

        Weights whose other parts leave no choice keep their bits, as those that are not chosen.

        Raises:
            UnreadableError: a part cannot be read, or makes no sense.
        """
        raise NotImplementedError

    @property
    def coarse(self) -> bool:
        """Whether it comes in codes, with numbers beside them that are few; default: no."""
        return False

    def in_codes(self, read: Read, box: Box) -> Codes | None:
        """Return `box` of the weight in codes, for kernels that decode to the very bits of `compute`.

        ``None`` where there are none, or only `compute` can tell whether they make sense; default.

        Raises:
            UnreadableError: a part cannot be read, or makes no sense.
        """
        del read, box
        return None

    def compute(self, read: Read, tensor: Tensor, box: Box, out: NDArray[Any]) -> None:
        """See `Computed.compute`."""
        del tensor
        with np.errstate(all="ignore"):
            for part in self.pieces(box):
                self.fill(read, part, view_of(out, box, part))

    def pieces(self, box: Box) -> Iterable[Box]:
        """Cut `box` into what is computed at once."""
        return cut(box, PIECE)

    def fill(self, read: Read, box: Box, out: NDArray[np.float64]) -> None:
        """Put one piece of the weight, `box`, into `out`."""
        out[...] = self.piece(read, box)

    def piece(self, read: Read, box: Box) -> NDArray[np.float64]:
        """Return a small `box` of the weight, where `fill` does not do without it."""
        raise NotImplementedError
