"""Tensors that must be copies of one another, compared bit by bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.errors import UnreadableError
from ckptclamp.notices import Notice
from ckptclamp.printable import printable
from ckptclamp.streaming.grid import grid_of
from ckptclamp.streaming.measure import unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckptclamp.checkpoints.checkpoint import TensorReader
    from ckptclamp.checkpoints.description import Tensor


def twin_notices(
    reader: TensorReader, twins: Iterable[tuple[Tensor, Tensor]], memory: int
) -> Iterator[Notice]:
    """Warn of every pair that differs, or that cannot be read within `memory` bytes.

    Two boxes are in memory at once.
    """
    for one, other in twins:
        try:
            same = _same(reader, one, other, memory)
        except UnreadableError as error:
            yield _notice(one, other, f"and cannot be compared: {error.message}")
        else:
            if not same:
                yield _notice(one, other, "but hold different weights")


def _notice(one: Tensor, other: Tensor, what: str) -> Notice:
    return Notice(
        "shared-twice",
        f"{printable(one.name)} and {printable(other.name)} are copies of one variable, {what}; the "
        "last of them counts when Keras loads the file into that model",
        hint="save the weights anew from the model that is meant",
        tensor=one.name,
    )


def _same(reader: TensorReader, one: Tensor, other: Tensor, memory: int) -> bool:
    for tensor in (one, other):
        refusal = unreadable(tensor, memory)
        if refusal is not None:
            raise UnreadableError(refusal[0], tensor=tensor.name, hint=refusal[1])
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if one.size == 0:
        return True
    grid = grid_of(one, tuple(range(len(one.shape))))
    boxes = (grid.box(index) for index in range(len(grid)))
    return all(reader.read(one, b).tobytes() == reader.read(other, b).tobytes() for b in boxes)
