"""Telling a reader what will be read, so that what lies elsewhere is on its way before it is wanted."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ckptclamp.checkpoints.checkpoint import TensorReader
    from ckptclamp.checkpoints.reading import Mark
    from ckptclamp.checkpoints.remote.ahead import ReadAhead
    from ckptclamp.checkpoints.tensor import Box, Tensor
    from ckptclamp.engine.measure.requests import Answer, Group, Item

    Results = Iterable[tuple[Item, list[Answer]]]

_SHARE = 4
"""The part of the memory that is fetched ahead is one in so many."""


@contextmanager
def reading_ahead(
    reader: TensorReader, groups: Sequence[Group], memory: int
) -> Iterator[Callable[[Results], Results]]:
    """Give what passes results on while it says which blocks of `groups` are done.

    A reader that reads of local files expects nothing, and results pass as they are.
    """
    expect = getattr(reader, "expect", None)
    ahead: ReadAhead | None = expect(_steps(groups), memory // _SHARE) if expect else None
    if ahead is None:
        yield lambda results: results
        return
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
