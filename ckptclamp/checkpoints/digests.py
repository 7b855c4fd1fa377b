"""The sha256 of files, taken while the same files are read for another reason.

A digest takes a file from its first byte to its last; an audit reads what is governed, in whichever
order, in several threads. So that nothing waits for a second read, both go on at once: whichever
comes first brings a byte from the disk, the other finds it in the page cache. Neither reading nor
hashing holds the interpreter's lock.
"""

from __future__ import annotations

import os
from threading import Event
from typing import TYPE_CHECKING, Self

from ckptclamp.processors import default_jobs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Future, ThreadPoolExecutor
    from pathlib import Path

    from ckptclamp.checkpoints.source import Source

_BLOCK = 1 << 20
_SMALL = 1 << 20
"""Files up to this size are hashed where the digests are asked for: a thread would cost more."""


class Digests:
    """The digests of `files`, each begun in a thread when the block is entered.

    `jobs` is how many files are hashed at once; by default as many as there are processors. However
    the block is left, its threads end with it, each after the block of bytes that it is at.
    """

    def __init__(self, files: Iterable[Source], jobs: int | None = None) -> None:
        self._files = tuple(files)
        self._jobs = jobs or default_jobs()
        self._stop = Event()
        self._begun: dict[Source, Future[str]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        large = [source for source in self._files if os.fstat(source.fd).st_size > _SMALL]
        if large:
            from concurrent.futures import ThreadPoolExecutor

            threads = min(len(large), self._jobs)
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="sha256")
            self._begun = {s: self._pool.submit(sha256, s, self._stop) for s in large}
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def result(self) -> Mapping[Path, str]:
        """Wait for the digests and return them, hexadecimal, by the paths of the files.

        Raises:
            UnreadableError: a file is shorter than it was, or the system cannot read it.
        """
        return {
            source.path: self._begun[source].result() if source in self._begun else sha256(source)
            for source in self._files
        }


def sha256(source: Source, stop: Event | None = None) -> str:
    """Return the hexadecimal digest of the whole file, as long as it is now.

    Where `stop` is set meanwhile, nobody wants the answer any more, and it is that of a part.

    Raises:
        UnreadableError: the file becomes shorter, or the system cannot read it.
    """
    import hashlib  # starts OpenSSL, and large files are not hashed unasked

    digest = hashlib.sha256()
    size = os.fstat(source.fd).st_size
    buffer = memoryview(bytearray(min(_BLOCK, size)))
    for offset in range(0, size, _BLOCK):
        if stop is not None and stop.is_set():
            break
        block = buffer[: size - offset]
        source.read_into(block, offset)
        digest.update(block)
    return digest.hexdigest()
