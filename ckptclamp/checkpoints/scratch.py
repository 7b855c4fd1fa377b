"""A file without a name, for what is too large for memory and is not yet written anywhere."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path


class ScratchFile:
    """An empty file that no directory lists; also a `Target` for a copy that is one file.

    `path` is shown in messages. The file is gone once `close` was called, or nothing uses it.
    """

    directory: Path | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        with tempfile.TemporaryFile(prefix="ckptclamp-") as file:
            self.fd = os.dup(file.fileno())
        self.close = weakref.finalize(self, os.close, self.fd)

    def create(self, name: str, size: int) -> int:
        """See `Target.create`."""
        return self.fd
