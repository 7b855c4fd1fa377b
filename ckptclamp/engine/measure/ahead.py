"""Telling a reader what will be read, so that what lies elsewhere is on its way before it is wanted."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ckptclamp.checkpoints.checkpoint import RemoteReader, TensorReader
    from ckptclamp.checkpoints.reading import Mark
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.engine.measure.requests import Answer, Group, Item

    Results = Iterable[tuple[Item, list[Answer]]]

_SHARE = 2
"""The part of the memory that is fetched ahead is one in so many."""


def room_ahead(reader: TensorReader, memory: int) -> int:
    """The part of `memory` that is for what is fetched ahead: nothing where all is on this machine."""
    return memory // _SHARE if getattr(reader, "remote", False) else 0


@contextmanager
def reading_ahead(
    reader: TensorReader, groups: Sequence[Group], memory: int
) -> Iterator[Callable[[Results], Results]]:
    """Give what passes results on while it says which blocks of `groups` are done.

    A reader that reads of local files expects nothing, and results pass as they are.
    """
    room = room_ahead(reader, memory)
    if not room:
        yield lambda results: results
        return
    ahead = cast("RemoteReader", reader).expect(_steps(groups), room)
    places = {id(group): place for place, group in enumerate(groups)}

    def followed(results: Results) -> Results:
        for item, answers in results:
            yield item, answers
            ahead.passed((places[id(item[-1].group)], item[-1].first))

    with ahead:
        yield followed


def _steps(groups: Iterable[Group]) -> Iterator[tuple[Mark, Tensor, Box]]:
    """Every block in the order in which it is read, marked with the segment that it belongs to."""
    for place, group in enumerate(groups):
        boxes = len(group.grid)
        for start in range(0, boxes, group.grid.segment):
            for number in range(start, min(start + group.grid.segment, boxes)):
                yield (place, start), group.tensor, group.grid.box(number)
