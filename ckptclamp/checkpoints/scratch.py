"""A file without a name, for what is too large for memory and is not yet written anywhere."""

from __future__ import annotations

import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

from ckptclamp.checkpoints.copying import write_at
from ckptclamp.errors import NotWrittenError

ROOM_HINT = "set TMPDIR to a directory with room"


class ScratchFile:
    """An empty file that no directory lists; also a `Target` for a copy that is one file.

    `path` is shown in messages. The file is gone once `close` was called, or nothing uses it.

    Raises:
        NotWrittenError: the system has no place for it.
    """

    directory: Path | None = None
    abandoned = False

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with tempfile.TemporaryFile(prefix="ckptclamp-") as file:
                self.fd = os.dup(file.fileno())
        except OSError as error:
            raise self._no_room(error) from error
        self.close = weakref.finalize(self, _close, self.fd)

    def create(self, name: str, size: int) -> int:
        """See `Target.create`."""
        return self.fd

    def put(self, data: bytes, offset: int) -> None:
        """Write `data` at `offset`; raises `NotWrittenError`."""
        try:
            write_at(self.fd, memoryview(data), offset)
        except OSError as error:
            raise self._no_room(error) from error

    def _no_room(self, error: OSError) -> NotWrittenError:
        reason = error.strerror or error
        return NotWrittenError(f"no scratch file: {reason}", path=self.path, hint=ROOM_HINT)


def _close(fd: int) -> None:
    with suppress(OSError):  # whatever could not be written, nobody will read
        os.close(fd)
