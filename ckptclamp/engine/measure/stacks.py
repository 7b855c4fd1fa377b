"""Small tensors of one kind, seen as one: what is done once for each would be most of the work.

A stack has the shape of its members with an axis before it, one index for each. The units of its members
are its units, measured from the same numbers in the same order, so that they have the same bits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptclamp.checkpoints.tensor import Computed, Contiguous, Tensor
from ckptclamp.engine.blocks import contiguous
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.tensor import Box, Read

SMALL = 1 << 14
"""Elements up to which a tensor is worth stacking: beyond it arithmetic takes most of the time."""

HEIGHT = 256
"""How many members a stack has at most, and so how many wait for one answer."""


@frozen
class Stacked(Computed):
    """The storage of a stack: tensors of one shape and dtype, each in C order in a file."""

    members: tuple[Tensor, ...]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """See `Computed.parts`."""
        return self.members

    @property
    def stored_as(self) -> str:
        """See `Computed.stored_as`."""
        return f"{len(self.members)} members"

    def compute(self, read: Read, tensor: Tensor, box: Box, out: NDArray[Any]) -> None:
        """See `Computed.compute`: read what lies at equal distances in one file at once."""
        del tensor
        (first, last), *rest = box
        done = 0
        for run in _runs(self.members[first:last]):
            whole, count = _run(run), len(run)
            part = read(whole, ((0, count), (0, run[0].size)))
            out[done : done + count] = part.reshape(count, *run[0].shape)[
                (slice(None), *(slice(*span) for span in rest))
            ]
            done += count


def stackable(tensor: Tensor) -> bool:
    """Whether `tensor` may be a member of a stack."""
    return isinstance(tensor.storage, Contiguous) and 0 < tensor.size <= SMALL


def stack(
    members: Sequence[Tensor], axes: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]] | None:
    """Return `members` as one tensor, and the `axes` of their units there.

    ``None`` where the engine would cut members into parts, as it does with none that is `stackable`.
    """
    first = members[0]
    shape = (len(members), *first.shape)
    axes = tuple(axis + 1 for axis in axes)
    if contiguous(shape, axes).tile[1:] != first.shape:
        return None
    return replace(first, shape=shape, storage=Stacked(tuple(members))), axes


def _runs(members: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """Cut `members` where they change files, or the distances between them."""
    start, step = 0, 0
    for at in range(1, len(members)):
        distance = _distance(members[at - 1], members[at])
        if distance == 0 or step not in (0, distance):
            yield members[start:at]
            start, step = at, 0
        else:
            step = distance
    yield members[start:]


def _distance(one: Tensor, other: Tensor) -> int:
    """How many bytes after `one` `other` begins, if rows of that length hold both; else 0."""
    a, b = one.storage, other.storage
    assert isinstance(a, Contiguous)
    assert isinstance(b, Contiguous)
    assert one.dtype is not None
    distance = b.offset - a.offset
    together = a.source == b.source and distance >= one.nbytes
    return distance if together and distance % one.dtype.itemsize == 0 else 0


def _run(run: Sequence[Tensor]) -> Tensor:
    """A table of as many rows as `run` has tensors, each of which begins a row."""
    first = run[0]
    assert first.dtype is not None
    distance = _distance(first, run[1]) if len(run) > 1 else first.nbytes
    return replace(first, shape=(len(run), distance // first.dtype.itemsize))
