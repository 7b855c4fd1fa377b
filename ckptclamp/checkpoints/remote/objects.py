"""Remote objects as sources: ranges of the version that was opened first, and of no other."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from contextlib import contextmanager
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ckptclamp.checkpoints.remote.ahead import ReadAhead
from ckptclamp.checkpoints.remote.hub import HubFile
from ckptclamp.checkpoints.remote.limits import retries
from ckptclamp.checkpoints.remote.schemes import BUCKETS, WEB
from ckptclamp.checkpoints.remote.stores import (
    BucketObject,
    WebFile,
    failure,
    library_errors,
    require_extra,
)
from ckptclamp.checkpoints.remote.workers import LOOKING_UP, fetchers
from ckptclamp.checkpoints.source import Identity, Place, Source
from ckptclamp.errors import ChangedError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from ckptclamp.checkpoints.remote.address import Address
    from ckptclamp.checkpoints.remote.stores import Location

PAGE = 64 << 10
"""What is fetched at least: headers, directories and other small things share a request."""
_MOST = 16 << 20
"""What is fetched at most by a request that nobody foresaw."""
_CHUNK = 256 << 10
"""So many bytes of an answer are handed on at once, where they have come."""
_BLOCK, _STREAMED = 1 << 20, 32 << 20
"""Bytes of a block, and those that are fetched ahead, where an object is read from end to end."""
_SMALL = 4 * PAGE
"""Reads below this go through pages, which are kept."""
_PAGES_KEPT = 256

Coming = TypeVar("Coming")


class _Pages:
    """The small parts of all objects that were used last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int], memoryview] = OrderedDict()
        self._lock = Lock()

    def get(self, owner: int, number: int) -> memoryview | None:
        with self._lock:
            page = self._kept.get((owner, number))
            if page is not None:
                self._kept.move_to_end((owner, number))
            return page

    def put(self, owner: int, number: int, page: memoryview) -> None:
        with self._lock:
            self._kept[owner, number] = page
            while len(self._kept) > _PAGES_KEPT:
                self._kept.popitem(last=False)

    def forget(self, owner: int) -> None:
        with self._lock:
            for key in [key for key in self._kept if key[0] == owner]:
                del self._kept[key]


_pages = _Pages()
_numbers = count()
"""Whose page it is: an address in memory is used again, a number is not."""


class RemoteSource(Source):
    """One version of a remote object; see `Source`. `opened` makes one.

    `ahead` is what fetches for it, while it is read in a known order.
    """

    remote = True

    def __init__(self, address: Address, location: Location) -> None:
        self.path = address
        self._number = next(_numbers)
        self.fd = -1
        self.named = False
        self.checksums = None
        self.told = None
        self.ahead: ReadAhead | None = None
        self._address = address
        self._location = location
        self._counting = Lock()
        self._left = False
        self._tag: str | None = None
        self.size = -1
        first = self._first_page()
        if len(first) in (PAGE, self.size):
            _pages.put(self._number, 0, first)

    def _first_page(self) -> memoryview:
        """Fetch the beginning, and know by the answer how long the object is and which version."""
        result, data = self.waited(fetchers().submit(self._whole, 0, PAGE))
        self.size = result.meta["size"]
        tag = result.meta["e_tag"]
        weak = tag is None or tag.startswith("W/")
        if weak and self._location.commit is None:
            raise UnreadableError(
                "the server does not say which version it serves, so that it could change meanwhile",
                path=self.path,
                hint="download it first",
            )
        self._tag = None if weak else tag
        self._known_as = self._location.commit or str(tag)
        name = f"{self._address.url} {self._known_as}".encode()
        number = int.from_bytes(hashlib.sha256(name).digest()[:8], "big")
        self.identity = Identity(-1, number, self.size, 0, 0)
        return data

    @property
    def version(self) -> str:
        """See `Source.version`: the commit, or the entity tag that the server gives it."""
        return self._known_as

    @property
    def place(self) -> Place:
        """See `Source.place`: whoever opens it has access by the environment, as it is had here."""
        return Place(self._address, self.size, self.version)

    def fetch(self, start: int, stop: int) -> memoryview:
        """Return the bytes from `start` to `stop` of the version that was opened first.

        Raises:
            ChangedError: the object is another one by now.
            UnreadableError: the server does not give them, within the limits that `stores` states.
        """
        return self.waited(fetchers().submit(self.fetch_here, start, stop))

    def leave(self) -> None:
        """Let nobody wait any more for bytes of it: what they are for is given up."""
        self._left = True

    def waited(self, coming: Future[Coming]) -> Coming:
        """Wait for what is `coming`; raises what it raises, or `UnreadableError` if it is given up."""
        while True:
            try:
                return coming.result(LOOKING_UP)
            except TimeoutError:
                if coming.done():  # in the meantime, or by an error of this kind
                    return coming.result()
                self.check_wanted()

    def check_wanted(self) -> None:
        """Raise `UnreadableError` where what it is read for was given up."""
        if self._left:
            raise UnreadableError("reading was given up", path=self.path)

    def fetch_here(self, start: int, stop: int) -> memoryview:
        """Fetch as `fetch` does, in the thread that calls."""
        result, data = self._whole(start, stop)
        self._check(result, len(data), stop - start)
        return data

    def streamed(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the same bytes as they come, in the thread that calls."""
        result = self._asked(start, stop)
        self._check(result, stop - start, stop - start)
        chunks, came = iter(result.stream(min_chunk_size=_CHUNK)), 0
        while True:
            with self._explained():
                chunk = next(chunks, None)
            if chunk is None:
                break
            came += len(chunk)
            self._count(len(chunk))
            yield memoryview(chunk)
        self._check(result, came, stop - start)

    def _whole(self, start: int, stop: int) -> tuple[Any, memoryview]:
        result = self._asked(start, stop)
        with self._explained():
            data = memoryview(result.bytes())
        self._count(len(data))
        return result, data

    def _check(self, result: Any, came: int, asked: int) -> None:  # noqa: ANN401 - obstore's
        """Raise where an answer is about another version, or has another length than was asked for."""
        meta = result.meta
        if meta["size"] != self.size or (self._tag and meta["e_tag"] != self._tag):
            raise ChangedError("changed while it was read", path=self.path, hint="run again")
        if came != asked:
            raise UnreadableError(f"the server sends {came} bytes of {asked}", path=self.path)

    def _count(self, fetched: int) -> None:
        with self._counting:
            self.fetched += fetched

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except library_errors() as error:
            raise failure(error, self._address, opened=self.size >= 0) from None

    def _asked(self, start: int, stop: int) -> Any:  # noqa: ANN401 - obstore's
        """Ask for a range until it comes or the limit is reached; renew what has expired once."""
        renewed = False
        for left in reversed(range(retries() + 1)):
            try:
                return self._ask(start, stop)
            except library_errors() as error:
                expired = type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError")
                if expired and not renewed and left and self._location.renew():
                    renewed = True
                    continue
                if not left or "Requested " not in str(error):  # else it was tried often enough
                    raise failure(error, self._address, opened=self.size >= 0) from None
        raise AssertionError("the last try returns or raises")

    def _ask(self, start: int, stop: int) -> Any:  # noqa: ANN401 - obstore's
        import obstore

        reached = self._location.reached()
        with self._counting:
            self.requests += 1
        options: dict[str, Any] = {"range": (start, stop)}
        if self._tag is not None:
            options["if_match"] = self._tag
        return obstore.get(reached.store, reached.key, options=options)

    def _fill(self, buffer: memoryview, offset: int) -> None:
        if offset + len(buffer) > self.size:
            raise UnreadableError(
                f"ends at byte {self.size}, {offset + len(buffer) - self.size} bytes too early",
                path=self.path,
                hint="the file is truncated",
            )
        self._fill_from(self.ahead, buffer, offset)

    def view(self, offset: int, length: int) -> NDArray[np.uint8] | None:
        """So many bytes from `offset` on where they are in memory already; see `ReadAhead.view`."""
        if self.ahead is None or self.checksums is not None:
            return None
        return self.ahead.view(self, offset, length)

    def _fill_from(self, ahead: ReadAhead | None, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with what was fetched `ahead`, or else is fetched now."""
        done = 0
        while done < len(buffer):
            rest = buffer[done:]
            count = ahead.take(self, rest, offset + done) if ahead is not None else 0
            done += count or self._take(rest, offset + done)

    def _take(self, buffer: memoryview, offset: int) -> int:
        """Fill the start of `buffer`, and return how many bytes of it."""
        if len(buffer) >= _SMALL:
            part = buffer[:_MOST]
            self.waited(fetchers().submit(self._stream_into, part, offset))
            return len(part)
        number, skipped = divmod(offset, PAGE)
        page = _pages.get(self._number, number) or self._page(number, offset + len(buffer))
        data = page[skipped : skipped + len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    def _stream_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` as the bytes come, so that they are in memory once."""
        done = 0
        for chunk in self.streamed(offset, offset + len(buffer)):
            buffer[done : done + len(chunk)] = chunk
            done += len(chunk)

    def _page(self, number: int, stop: int) -> memoryview:
        """Fetch the page, with those behind it up to byte `stop`; keep them, and return the first."""
        start, end = number * PAGE, min(-(-stop // PAGE) * PAGE, self.size)
        data = self.fetch(start, end)
        for at in range(0, end - start, PAGE):
            _pages.put(self._number, number + at // PAGE, memoryview(bytes(data[at : at + PAGE])))
        return data[:PAGE]

    def blocks(self, offset: int, length: int) -> Iterator[bytes]:
        """Yield `length` bytes from `offset` on, as `buffered` does."""
        yield from map(bytes, self.buffered(offset, length))

    def buffered(self, offset: int, length: int, size: int = _BLOCK) -> Iterator[memoryview]:
        """See `Source.buffered`; it is fetched ahead."""
        stop = offset + length
        places = range(offset, stop, size)
        plan = (((at,), self, at, min(at + size, stop)) for at in places)
        buffer = memoryview(bytearray(min(size, length)))
        with ReadAhead(plan, _STREAMED) as ahead:
            for at in places:
                block = buffer[: stop - at]
                self._fill_from(ahead, block, at)
                yield block
                ahead.passed((at,))

    def length_now(self) -> int:
        """See `Source.length_now`."""
        return self.size

    def mode(self) -> int:
        """See `Source.mode`: what the system gives new files."""
        return 0o666

    def leave_cache(self) -> bool:
        """See `Source.leave_cache`: nothing of it is in the page cache."""
        return True

    def duplicate(self) -> Self:
        """Return a source of its own for the same object as it is now."""
        return type(self)(self._address, self._location)

    def verify_unchanged(self) -> None:
        """Raise `ChangedError` if the object is no longer the one that was opened."""
        self.fetch(0, 1)

    def close(self) -> None:
        """Forget what was kept of it."""
        _pages.forget(self._number)


def opened(address: Address) -> RemoteSource:
    """Open the object at `address`.

    Raises:
        UsageError: what reads it is not installed.
        UnreadableError: there is no such object, it may not be read, or its server cannot serve it.
    """
    return RemoteSource(address, _location_of(address))


def _location_of(address: Address) -> Location:
    """How the object at `address` is reached; raises `UsageError` where the extra is not installed."""
    scheme, _ = address.scheme_and_host
    require_extra(scheme)
    if scheme in BUCKETS:
        return BucketObject(address)
    if scheme in WEB:
        return WebFile(address)
    return HubFile(address)
