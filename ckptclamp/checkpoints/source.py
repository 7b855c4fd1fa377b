"""Regular files that weights are read from: opened once, read by `pread`, watched for changes.

`Limits` say how much of them is too much, `Digests` hash them beside other work.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, NoReturn, Self

from ckptclamp import system
from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.checkpoints.tensor import Chunked, Constant
from ckptclamp.errors import ChangedError, NotACheckpointError, RefusedError, UnreadableError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future, ThreadPoolExecutor
    from os import stat_result

    import numpy as np
    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.formats.zip.checksums import Checksums

_BLOCK = 1 << 20
_SMALL = 1 << 20
"""Files up to this size are hashed where the digests are asked for: a thread would cost more."""


@frozen
class Identity:
    """What must stay the same of a file while it is audited."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: stat_result) -> Self:
        """Take the identity from an `os.stat` result."""
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )


@frozen
class Place:
    """Where another process, which may be on another machine, finds a file, and how it knows it.

    `path` is absolute, or an address; `size` is in bytes, `version` what `Source.version` says.
    `uncached` reads past the page cache.
    """

    path: Path
    size: int
    version: str
    uncached: bool = False

    def open(self) -> Source:
        """Open the very file.

        Raises:
            UnreadableError: it is not there, or may not be read.
            ChangedError: what is there is another file.
        """
        source = Source.open(self.path)
        if (source.size, source.version) != (self.size, self.version):
            source.close()
            raise ChangedError("is not the file that was planned for", path=self.path)
        if self.uncached:
            source.leave_cache()
        return source


class Source:
    """A file descriptor and what it was when it was opened.

    `path` is shown to the user, and must go on leading to the same file if `named`; `fd` stays open
    until `close`. `size` is in bytes. `told`, if it is set, is called by those who copy, compare, hash
    or flush the file with the name of what they do and how many more bytes they have done, in any
    thread. Where `checksums` are set, they are taken of what is read. `remote` is whether each read may
    be a request over a network; so many were made, and so many bytes `fetched`.
    """

    remote = False
    requests = fetched = 0

    def __init__(self, path: Path, fd: int, status: stat_result, *, named: bool = True) -> None:
        self.path = path
        self.fd = fd
        self.named = named
        self.identity = Identity.of(status)
        self.size = status.st_size
        self.checksums: Checksums | None = None
        self._uncached = False
        self.told: Callable[[str, int], None] | None = None

    @classmethod
    def open(cls, path: Path, *, follow_symlinks: bool = True) -> Source:
        """Open a regular file for reading, never blocking on a FIFO or a device; a `RemotePath` as it says.

        Raises:
            UnreadableError: it does not exist or may not be read.
            NotACheckpointError: it is no regular file.
            RefusedError: it is a symbolic link, and those are not to be followed (but for one that
                stays in its repository's folder of a cache, see `huggingface`).
        """
        if isinstance(path, RemotePath):
            return path.source()
        try:
            fd = system.open_to_read(path, follow_symlinks=follow_symlinks)
        except OSError as error:
            if error.errno != errno.ELOOP or follow_symlinks:
                raise UnreadableError(error.strerror or str(error), path=path) from error
            fd = _open_blob(path)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise NotACheckpointError("not a regular file", path=path)
        return cls(path, fd, status)

    @property
    def version(self) -> str:
        """What tells this file from what its name may lead to at another time."""
        return f"mtime:{self.identity.mtime_ns}"

    @property
    def plain(self) -> bool:
        """Whether there is no more to reading it than to read from its descriptor."""
        return not self.remote and self.checksums is None and not self._uncached

    @property
    def place(self) -> Place | None:
        """Where another process finds this file; ``None`` if it has no name."""
        if not self.named:
            return None
        path = Path(os.path.realpath(self.path))
        return Place(path, self.size, self.version, self._uncached)

    @classmethod
    def from_fd(cls, fd: int, path: Path) -> Self:
        """Take over `fd`, a regular file that need not have a name; `path` is only shown."""
        return cls(path, fd, os.fstat(fd), named=False)

    def duplicate(self) -> Self:
        """Return a source of its own for the same file as it is now."""
        fd = os.dup(self.fd)
        return type(self)(self.path, fd, os.fstat(fd), named=self.named)

    def length_now(self) -> int:
        """The bytes that the file has now: of one that is being written, other than `size`."""
        return os.fstat(self.fd).st_size

    def mode(self) -> int:
        """The permissions of the file, as far as a mode has them."""
        return os.fstat(self.fd).st_mode & 0o777

    def __reduce__(self) -> NoReturn:
        """Refuse, by `TypeError`, to be pickled: elsewhere the number of `fd` may be any file's."""
        raise TypeError(f"{self.path} is open in this process alone; open it again in the other")

    def tell(self, phase: str, count: int) -> None:
        """Say that `count` more bytes are done in a phase, to whoever wants to know."""
        if self.told is not None:
            self.told(phase, count)

    def leave_cache(self) -> bool:
        """Leave the page cache as it is in all reads from now on; false where the system cannot."""
        try:
            system.read_into(self.fd, memoryview(bytearray(1)), 0, uncached=True)
        except (OSError, NotImplementedError):
            return False
        self._uncached = True
        return True

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset` on.

        Raises:
            UnreadableError: the file ends before that, or the system cannot read it.
        """
        buffer = bytearray(length)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill all of `buffer` (bytes) from `offset` on; raises as `read_at` does."""
        if self.checksums is None:
            self._fill(buffer, offset)
        else:
            self.checksums.taken(self._fill, buffer, offset)

    def view(self, offset: int, length: int) -> NDArray[np.uint8] | None:
        """So many bytes from `offset` on, where they are in memory already; for this thread's next read."""
        return None

    def _fill(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            try:
                rest = buffer[done:] if done else buffer
                count = system.read_into(self.fd, rest, offset + done, uncached=self._uncached)
            except OSError as error:
                raise UnreadableError(error.strerror or str(error), path=self.path) from error
            if count == 0:
                raise UnreadableError(
                    f"ends at byte {offset + done}, {len(buffer) - done} bytes too early",
                    path=self.path,
                    hint="the file is truncated",
                )
            done += count

    def blocks(self, offset: int, length: int) -> Iterator[bytes]:
        """Yield `length` bytes from `offset` on, a MiB at a time; raises as `read_at` does."""
        for at in range(0, length, _BLOCK):
            yield self.read_at(offset + at, min(_BLOCK, length - at))

    def buffered(self, offset: int, length: int, size: int = _BLOCK) -> Iterator[memoryview]:
        """Yield the same in blocks of `size`, each good until the next one is asked for."""
        buffer = memoryview(bytearray(min(size, length)))
        for at in range(0, length, size):
            block = buffer[: length - at]
            self._fill(block, offset + at)
            yield block

    def verify_unchanged(self) -> None:
        """Raise `ChangedError` if the file, or what its name points at, is not what was opened."""
        try:
            current = [os.fstat(self.fd), *([self.path.stat()] if self.named else [])]
        except OSError as error:
            gone = f"is gone: {error.strerror}"
            raise ChangedError(gone, path=self.path, hint="run again") from error
        if any(Identity.of(status) != self.identity for status in current):
            raise ChangedError("changed while it was being read", path=self.path, hint="run again")

    def close(self) -> None:
        """Close the descriptor; closing twice does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            with suppress(OSError):  # nothing was written through it
                os.close(fd)


def _open_blob(link: Path) -> int:
    """Open what a link leads to that stays in its repository's folder of a cache; refuse others."""
    from ckptclamp.checkpoints.directories.huggingface import blob_of

    blob = blob_of(link)
    try:
        if blob is not None:
            return system.open_to_read(blob, follow_symlinks=False)
    except OSError as error:
        raise UnreadableError(error.strerror or str(error), path=link) from error
    hint = "pass --follow-symlinks if it is meant"
    raise RefusedError("is a symbolic link", path=link, hint=hint)


@contextmanager
def open_all(paths: Iterable[Path], *, follow_symlinks: bool) -> Iterator[list[Source]]:
    """Open files as `Source.open` does; they are closed only if that, or the block, fails."""
    with ExitStack() as opened:
        yield [opened.enter_context(closing(s)) for s in _opened(paths, follow_symlinks)]
        opened.pop_all()


def _opened(paths: Iterable[Path], follow_symlinks: bool) -> Iterator[Source]:
    """Open files one by one, or where each takes a request over a network, several at a time."""
    paths = list(paths)
    if not any(isinstance(path, RemotePath) for path in paths):
        for path in paths:
            yield Source.open(path, follow_symlinks=follow_symlinks)
        return
    from ckptclamp.checkpoints.remote.workers import readers

    yield from readers().map(Source.open, paths)


MAX_HEADER_BYTES = 100_000_000
"""The limit that the safetensors format sets itself."""
DEFAULT_HEADER_LIMIT = 16 << 20
DEFAULT_EXPANSION_LIMIT = 1000
"""Deflate packs at most 1032 zeros into a byte."""
DEFAULT_UNPACKED_LIMIT = 1 << 40
_FLOOR = 64 << 20
"""Bytes below which the ratio does not matter: they cost nothing."""


@frozen
class Limits:
    """What is refused beyond them.

    `header` bounds the header of a safetensors file, in bytes. What is compressed, or left out
    because all of it is one fill value, may take `expansion` times its stored bytes (from 64 MiB
    on), and all of it together `unpacked` bytes.
    """

    header: int = DEFAULT_HEADER_LIMIT
    expansion: int = DEFAULT_EXPANSION_LIMIT
    unpacked: int = DEFAULT_UNPACKED_LIMIT

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise `RefusedError` if a tensor of `checkpoint`, or all together, declare too much."""
        total = 0
        for tensor in checkpoint.tensors.values():
            if not isinstance(tensor.storage, Chunked | Constant):
                continue
            stored = sum(stop - start for start, stop in tensor.extents)
            if tensor.nbytes > stored:
                self._check_declared(checkpoint.path, stored, tensor.nbytes, tensor.name)
                total += tensor.nbytes
        files = sum(source.size for source in checkpoint.files)
        self._check_declared(checkpoint.path, files, total)

    def _check_declared(
        self, path: Path, stored: int, size: int, tensor: str | None = None
    ) -> None:
        said = f"declares {size} bytes of weights but stores only {stored}"
        self._check(path, stored, size, tensor, said)

    def check_packed(self, path: Path, stored: int, size: int, member: str | None = None) -> None:
        """Raise `RefusedError` if a member of an archive, or all together, unpack to too much."""
        self._check(path, stored, size, member, f"unpacks from {stored} to {size} bytes")

    def _check(self, path: Path, stored: int, size: int, name: str | None, said: str) -> None:
        if size > _FLOOR and size > self.expansion * stored:
            hint = "--expansion-limit allows a larger ratio, if it is meant"
            raise RefusedError(said, path=path, tensor=name, hint=hint)
        if size > self.unpacked:
            said = f"takes {size} bytes when unpacked; at most {self.unpacked} are read"
            hint = "--unpacked-limit allows more, if it is meant"
            raise RefusedError(said, path=path, tensor=name, hint=hint)


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
        large = [source for source in self._files if source.length_now() > _SMALL]
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
    for block in source.buffered(0, source.length_now()):
        if stop is not None and stop.is_set():
            break
        digest.update(block)
        source.tell("hashing", len(block))
    return digest.hexdigest()


def default_jobs() -> int:
    """As many threads as this process may have processors."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
