"""Fetching ahead of those who read in a known order, so that the link is full and memory is bounded."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Self

from ckptclamp.checkpoints.remote.objects import PIECE, RemoteSource
from ckptclamp.checkpoints.remote.workers import fetchers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    from ckptclamp.checkpoints.reading import Mark
    from ckptclamp.checkpoints.source import Source

_GAP = 64 << 10
"""So many bytes for nothing cost less than one more request."""


@dataclass(slots=True)
class _Piece:
    """Bytes that one request fetches, and the last step of the work that wants them."""

    source: RemoteSource
    start: int
    stop: int
    last: Mark

    @property
    def size(self) -> int:
        return self.stop - self.start


class ReadAhead:
    """Fetches what `plan` says will be read, in at most `memory` bytes; a context manager.

    `plan` yields a mark, which never becomes smaller, and a range of a source. Who reads tells by
    `passed` up to which mark he is done. What he asks for and is not there, he fetches himself.
    """

    def __init__(self, plan: Iterable[tuple[Mark, RemoteSource, int, int]], memory: int) -> None:
        self._pieces = _pieces(plan)
        self._memory = max(memory, PIECE)
        self._held: deque[tuple[_Piece, Future[memoryview]]] = deque()
        self._next: _Piece | None = next(self._pieces, None)
        self._sources: set[RemoteSource] = set()
        self._lock = Lock()

    def __enter__(self) -> Self:
        with self._lock:
            self._fill_up()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lock:
            self._next = None
            for held in self._held:
                held[1].cancel()
            self._held.clear()
        for source in self._sources:
            source.ahead = None
            if kind in (KeyboardInterrupt, SystemExit):
                source.leave()

    def passed(self, mark: Mark) -> None:
        """Let go of what no step after `mark` wants, and fetch on."""
        with self._lock:
            self._held = deque(one for one in self._held if one[0].last > mark)
            while self._next is not None and self._next.last <= mark:
                self._next = next(self._pieces, None)
            self._fill_up()

    def take(self, source: RemoteSource, buffer: memoryview, offset: int) -> int:
        """Fill the start of `buffer` from `offset` of `source` on; return how many bytes of it.

        None where they are not fetched ahead. Raises as `RemoteSource.fetch` does.
        """
        with self._lock:
            found = next(
                (
                    one
                    for one in self._held
                    if one[0].source is source and one[0].start <= offset < one[0].stop
                ),
                None,
            )
        if found is None:
            return 0
        piece, future = found
        skipped = offset - piece.start
        data = source.waited(future)[skipped : skipped + len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    def _fill_up(self) -> None:
        held = sum(piece.size for piece, _ in self._held)
        while self._next is not None and held + self._next.size <= self._memory:
            piece = self._next
            held += piece.size
            piece.source.ahead = self
            self._sources.add(piece.source)
            future = fetchers().submit(piece.source.fetch_here, piece.start, piece.stop)
            self._held.append((piece, future))
            self._next = next(self._pieces, None)


def _pieces(plan: Iterable[tuple[Mark, RemoteSource, int, int]]) -> Iterator[_Piece]:
    """Join ranges that nearly touch, and cut what is long."""
    current: _Piece | None = None
    for mark, source, start, stop in plan:
        if start == stop:
            continue
        if (
            current is not None
            and current.source is source
            and current.start <= start <= current.stop + _GAP
        ):
            current.stop, current.last = max(current.stop, stop), mark
        else:
            if current is not None:
                yield current
            current = _Piece(source, start, stop, mark)
        while current.size > PIECE:
            yield _Piece(source, current.start, current.start + PIECE, mark)
            current.start += PIECE
    if current is not None:
        yield current


def read_ahead(plan: Iterable[tuple[Mark, Source, int, int]], memory: int) -> ReadAhead:
    """Fetch what `plan` will read of remote sources; what it reads of others is read when it is."""
    far = ((m, one, a, b) for m, one, a, b in plan if isinstance(one, RemoteSource))
    return ReadAhead(far, memory)
