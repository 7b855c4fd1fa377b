"""One regular file that weights are read from: opened once, read by `pread`, watched for changes."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

from ckptclamp.errors import ChangedError, NotACheckpointError, RefusedError, UnreadableError

if TYPE_CHECKING:
    from os import stat_result


_RWF_DONTCACHE = 0x80
"""Linux 6.14 and later: pages that a read has to bring into the page cache leave it afterwards."""


@dataclass(frozen=True, slots=True)
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


class Source:
    """A file descriptor and what it was when it was opened.

    `path` is shown to the user, and must go on leading to the same file if `named`; `fd` stays open
    until `close`. `size` is in bytes.
    """

    def __init__(self, path: Path, fd: int, status: stat_result, *, named: bool = True) -> None:
        self.path = path
        self.fd = fd
        self.named = named
        self.identity = Identity.of(status)
        self.size = status.st_size
        self._flags = 0

    @classmethod
    def open(cls, path: Path, *, follow_symlinks: bool = True) -> Self:
        """Open a regular file for reading, never blocking on a FIFO or a device.

        Raises:
            UnreadableError: it does not exist or may not be read.
            NotACheckpointError: it is no regular file.
            RefusedError: it is a symbolic link, and those are not to be followed.
        """
        nofollow = 0 if follow_symlinks else os.O_NOFOLLOW
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | nofollow)
        except OSError as error:
            if error.errno == errno.ELOOP and not follow_symlinks:
                raise RefusedError(
                    "is a symbolic link", path=path, hint="pass --follow-symlinks if it is meant"
                ) from error
            raise UnreadableError(error.strerror or str(error), path=path) from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise NotACheckpointError("not a regular file", path=path)
        return cls(path, fd, status)

    @classmethod
    def from_fd(cls, fd: int, path: Path) -> Self:
        """Take over `fd`, a regular file that need not have a name; `path` is only shown."""
        return cls(path, fd, os.fstat(fd), named=False)

    def duplicate(self) -> Self:
        """Return a source of its own for the same file as it is now."""
        fd = os.dup(self.fd)
        return type(self)(self.path, fd, os.fstat(fd), named=self.named)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: in another process the number of `fd` may be any file's.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{self.path} is open in this process alone; open it again in the other")

    def leave_cache(self) -> bool:
        """Leave the page cache as it is in all reads from now on; false where the system cannot."""
        try:
            os.preadv(self.fd, [bytearray(1)], 0, _RWF_DONTCACHE)
        except (OSError, NotImplementedError):
            return False
        self._flags = _RWF_DONTCACHE
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
        done = 0
        while done < len(buffer):
            try:
                rest = buffer[done:] if done else buffer
                count = os.preadv(self.fd, [rest], offset + done, self._flags)
            except OSError as error:
                raise UnreadableError(error.strerror or str(error), path=self.path) from error
            if count == 0:
                raise UnreadableError(
                    f"ends at byte {offset + done}, {len(buffer) - done} bytes too early",
                    path=self.path,
                    hint="the file is truncated",
                )
            done += count

    def verify_unchanged(self) -> None:
        """Raise `ChangedError` if the file, or what its name points at, is not what was opened."""
        try:
            current = [os.fstat(self.fd), *([self.path.stat()] if self.named else [])]
        except OSError as error:
            raise ChangedError(
                f"is gone: {error.strerror}", path=self.path, hint="run again"
            ) from error
        if any(Identity.of(status) != self.identity for status in current):
            raise ChangedError("changed while it was being read", path=self.path, hint="run again")

    def close(self) -> None:
        """Close the descriptor; closing twice does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            with suppress(OSError):  # nothing was written through it
                os.close(fd)
