"""An HDF5 file as the worker sees it: part of an inherited descriptor, never a path."""

from __future__ import annotations

import io
import os
from typing import Any


class Window(io.RawIOBase):
    """The part of a descriptor that holds the HDF5 file, as h5py's file-object driver wants it."""

    def __init__(self, fd: int, offset: int, length: int) -> None:
        super().__init__()
        self.fd = fd
        self.offset = offset
        self.length = length
        self.position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move as `io.RawIOBase.seek` does."""
        start = (0, self.position, self.length)[whence]
        self.position = start + offset
        return self.position

    def tell(self) -> int:
        """Return the position in the window."""
        return self.position

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - as typeshed's Buffer
        """Fill `buffer`; beyond the window there is nothing to read."""
        room = min(len(buffer), max(self.length - self.position, 0))
        count = os.preadv(self.fd, [memoryview(buffer)[:room]], self.offset + self.position)
        self.position += count
        return count

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - as typeshed's Buffer
        """Write `data` at the position; the window grows."""
        done = 0
        while done < len(data):
            done += os.pwrite(self.fd, data[done:], self.offset + self.position + done)
        self.position += done
        self.length = max(self.length, self.position)
        return done

    def truncate(self, size: int | None = None, /) -> int:
        """Make the file `size` bytes long, where it is open for writing."""
        size = self.position if size is None else size
        if size != self.length:
            os.ftruncate(self.fd, self.offset + size)
            self.length = size
        return size

    def flush(self) -> None:
        """Do nothing: there is no buffer here."""
