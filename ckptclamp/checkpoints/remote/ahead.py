"""Fetching ahead of those who read in a known order, so that the link is full and memory is bounded.

A request is as long as the memory allows. Its answer is kept in slices, and goes on only while there is
room, which belongs to what comes next in the plan.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import takewhile
from threading import Condition, local
from typing import TYPE_CHECKING, Self

import numpy as np

from ckptclamp.checkpoints.remote.workers import AT_ONCE, LOOKING_UP, fetchers
from ckptclamp.errors import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.reading import Mark
    from ckptclamp.checkpoints.remote.objects import RemoteSource

    Plan = Iterable[tuple[Mark, RemoteSource, int, int]]

_GAP = 64 << 10
"""So many bytes for nothing cost less than one more request."""
_SLICE = 4 << 20
"""Bytes that are let go of at once."""
_BEGUN = AT_ONCE - 4
"""Requests at once; who asks for what nobody foresaw finds a thread all the same."""
_KEPT = 1024
"""Slices that are kept at most, however small they are."""
_CUT = 4
"""A request of the longest range that is one is so much longer than those of a longer one."""
_IDLE = 2
"""So many looks at nothing that moves, and who waits fetches for himself."""


@dataclass(slots=True, eq=False)
class _Slice:
    """Bytes that are kept together, and the last step of the work that wants them.

    So many are `unread` still; the first `filled` have come to the `room` for them. Where it is `done`
    nobody will ask for it any more, but `readers` may have it.
    """

    source: RemoteSource
    start: int
    stop: int
    last: Mark
    unread: int = 0
    filled: int = 0
    readers: int = 0
    done: bool = False
    room: NDArray[np.uint8] | None = None
    error: BaseException | None = None

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def complete(self) -> bool:
        return self.filled == self.size


@dataclass(slots=True, eq=False)
class _Request:
    """Slices of one object that follow each other; `missing` are those that have not come."""

    missing: deque[_Slice]
    last: Mark
    coming: Iterator[memoryview]


class ReadAhead:
    """Fetches what `plan` says will be read, in about `memory` bytes; a context manager.

    `plan` yields a mark, which never becomes smaller, and a range of a source. Who reads tells by
    `passed` up to which mark he is done. What he asks for and is not there, he fetches himself. The
    sources `lent_to` ask here first, for as long as the block runs.
    """

    def __init__(self, plan: Plan, memory: int, lent_to: Collection[RemoteSource] = ()) -> None:
        self._memory = max(memory, 2 * _SLICE)
        self._lent_to = lent_to
        self._requests = _requests(_slices(plan, self._memory // 2), self._memory // 2)
        self._next = next(self._requests, None)
        self._mark: Mark = ()
        self._begun = 0
        self._held: deque[_Slice] = deque()
        self._paused: list[_Request] = []
        self._spare: list[NDArray[np.uint8]] = []
        self._changed = Condition()
        self._reading = local()
        self._over = False

    def __enter__(self) -> Self:
        for source in self._lent_to:
            source.ahead = self
        with self._changed:
            self._fill_up()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._changed:
            self._over = True
            self._held.clear()
            self._paused.clear()
            self._changed.notify_all()
        for source in self._lent_to:
            source.ahead = None
            if kind in (KeyboardInterrupt, SystemExit):
                source.leave()

    def passed(self, mark: Mark) -> None:
        """Let go of what no step after `mark` wants, and fetch on."""
        with self._changed:
            self._mark = mark
            while self._held and self._held[0].last <= mark:
                self._let_go(self._held[0])
            while self._next is not None and self._next.last <= mark:
                self._next = next(self._requests, None)
            self._fill_up()

    def take(self, source: RemoteSource, buffer: memoryview, offset: int) -> int:
        """Fill the start of `buffer` from `offset` of `source` on; return how many bytes of it.

        0 where they are not fetched ahead. Raises as `RemoteSource.fetch` does.
        """
        data = self._lent(source, offset, len(buffer), part=True)
        if data is None:
            return 0
        np.copyto(np.frombuffer(buffer[: len(data)], np.uint8), data)
        return len(data)

    def view(self, source: RemoteSource, offset: int, length: int) -> NDArray[np.uint8] | None:
        """So many bytes from `offset` of `source` on, good until this thread asks again.

        ``None`` where they are not fetched ahead in one piece. Raises as `RemoteSource.fetch` does.
        """
        return self._lent(source, offset, length, part=False)

    def _lent(
        self, source: RemoteSource, offset: int, length: int, *, part: bool
    ) -> NDArray[np.uint8] | None:
        """These bytes, or the first of them, as soon as they are there; this thread has them until then."""
        with self._changed:
            self._give_back()
            one = self._found(source, offset, 1 if part else length)
            if one is None:
                return None
            one.readers += 1
            self._reading.slice, self._reading.length = one, 0
            if not self._awaited(one):
                self._give_back()
                return None
            assert one.room is not None
            data = one.room[offset - one.start : one.size][:length]
            data.flags.writeable = False  # others may read the same bytes
            self._reading.length = len(data)
            return data

    def _give_back(self) -> None:
        """Let go of what this thread had, if all of it was read."""
        one: _Slice | None = getattr(self._reading, "slice", None)
        if one is None:
            return
        self._reading.slice = None
        one.readers -= 1
        one.unread -= self._reading.length
        if one.unread <= 0 and not one.done:
            self._let_go(one)
            self._fill_up()
        self._use_again(one)

    def _found(self, source: RemoteSource, offset: int, length: int) -> _Slice | None:
        for one in self._held:
            if one.source is source and one.start <= offset and offset + length <= one.stop:
                return one
        return None

    def _awaited(self, one: _Slice) -> bool:
        """Wait until a slice is there; false if there is no room for it and nobody makes any."""
        idle = 0
        while not one.complete and one.error is None and idle < _IDLE:
            one.source.check_wanted()
            if self._over:
                raise UnreadableError("reading was given up", path=one.source.path)
            moved = self._changed.wait(LOOKING_UP)
            idle = 0 if moved or self._begun > len(self._paused) else idle + 1
        if one.error is not None:
            raise one.error
        return one.complete

    def _let_go(self, one: _Slice) -> None:
        one.done = True
        self._held.remove(one)
        self._use_again(one)

    def _use_again(self, one: _Slice) -> None:
        """Keep the memory of a slice that is done for another one, unless somebody is at it."""
        if one.done and one.complete and not one.readers and one.room is not None:
            if len(one.room) == _SLICE:
                self._spare.append(one.room)
            one.room = None

    def _has_room(self, next_one: _Slice) -> bool:
        """Whether what is held for those before a slice leaves room for it; what is begun has some."""
        if next_one.filled or next_one.done:
            return True
        before = takewhile(lambda one: one is not next_one, self._held)
        return sum(one.size for one in before) < self._memory

    def _fill_up(self) -> None:
        """Go on with the requests, and begin those, for which there is room."""
        for request in [one for one in self._paused if self._has_room(one.missing[0])]:
            self._paused.remove(request)
            fetchers().submit(self._fetch, request)
        while self._next is not None and not self._over and self._may_begin():
            self._begin(self._next)
            self._next = next(self._requests, None)

    def _may_begin(self) -> bool:
        few = self._begun < _BEGUN and len(self._held) < _KEPT
        return few and sum(one.size for one in self._held) < self._memory

    def _begin(self, request: _Request) -> None:
        self._begun += 1
        self._held += request.missing
        fetchers().submit(self._fetch, request)

    def _fetch(self, request: _Request) -> None:
        """Keep what comes as long as there is room; called again when there is."""
        try:
            while self._goes_on(request):
                self._keep(request, next(request.coming))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            with self._changed:
                for one in request.missing:
                    one.error = error
                self._end(request)

    def _goes_on(self, request: _Request) -> bool:
        """Whether more of a request is wanted now; one for which there is no room pauses."""
        with self._changed:
            if not request.missing or self._over or request.last <= self._mark:
                self._end(request)
                return False
            if self._has_room(request.missing[0]):
                return True
            self._paused.append(request)
            return False

    def _end(self, request: _Request) -> None:
        request.missing.clear()
        self._begun -= 1
        self._changed.notify_all()
        self._fill_up()

    def _keep(self, request: _Request, data: memoryview) -> None:
        while data:
            one = request.missing[0]
            if one.room is None:
                one.room = self._room_for(one.size)
            part = data[: one.size - one.filled]
            np.copyto(one.room[one.filled : one.filled + len(part)], np.frombuffer(part, np.uint8))
            data = data[len(part) :]
            with self._changed:
                one.filled += len(part)
                if one.complete:
                    request.missing.popleft()
                    self._changed.notify_all()

    def _room_for(self, size: int) -> NDArray[np.uint8]:
        """Memory for a slice: large ones are all of one length, so that one can take another's."""
        if size <= _SLICE // 2:
            return np.empty(size, np.uint8)
        with self._changed:
            return self._spare.pop() if self._spare else np.empty(_SLICE, np.uint8)


def _slices(plan: Plan, most: int) -> Iterator[_Slice]:
    """Join ranges that nearly touch, as far as a slice goes; what goes further begins the next one.

    Ranges of more than `most` bytes are left to those who want them: parts of rows that are far apart.
    """
    current: _Slice | None = None
    for mark, source, first, stop in plan:
        start = first
        if not 0 < stop - start <= most:
            continue
        if current is not None and current.source is source:
            near = current.start <= start <= current.stop + _GAP
            if near and max(current.stop, stop) - current.start <= _SLICE:
                current.stop, current.last = max(current.stop, stop), mark
                current.unread += stop - start
                continue
            if near and current.size < start - current.start <= _SLICE:
                current.stop = start
        if current is not None:
            yield current
        while stop - start > _SLICE:
            yield _Slice(source, start, start + _SLICE, mark, unread=_SLICE)
            start += _SLICE
        current = _Slice(source, start, stop, mark, unread=stop - start)
    if current is not None:
        yield current


def _requests(slices: Iterable[_Slice], most: int) -> Iterator[_Request]:
    """Join slices that touch, up to `most` bytes; what is longer is cut, so that several come at once."""
    joined: deque[_Slice] = deque()
    cut = max(most // _CUT, _SLICE)
    limit = most
    for one in slices:
        if joined and (joined[-1].source is not one.source or joined[-1].stop != one.start):
            yield _request(joined)
            joined, limit = deque(), most
        elif joined and one.stop - joined[0].start > limit:
            yield from _pieces(joined, cut)
            joined, limit = deque(), cut
        joined.append(one)
    if joined:
        yield _request(joined)


def _pieces(slices: Iterable[_Slice], most: int) -> Iterator[_Request]:
    """Cut slices that touch into requests of at most so many bytes."""
    piece: deque[_Slice] = deque()
    for one in slices:
        if piece and one.stop - piece[0].start > most:
            yield _request(piece)
            piece = deque()
        piece.append(one)
    yield _request(piece)


def _request(slices: deque[_Slice]) -> _Request:
    first, last = slices[0], slices[-1]
    return _Request(slices, last.last, first.source.streamed(first.start, last.stop))
