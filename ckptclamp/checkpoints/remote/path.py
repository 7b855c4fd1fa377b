"""A path to what is no file of this machine."""

from __future__ import annotations

import os
from pathlib import PosixPath
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from ckptclamp.checkpoints.source import Source


class RemotePath(PosixPath):
    """A path to what is no file of this machine: it has names and parents, and opens itself.

    The system finds nothing at it, whatever lies in the working directory.
    """

    def source(self) -> Source:
        """Open what is there; raises as `Source.open` does."""
        raise NotImplementedError

    def files(self) -> AbstractSet[str] | None:
        """Every file in it and below, by its path from there; ``None`` if it is no directory.

        Raises as `Source.open` does.
        """
        raise NotImplementedError

    def __fspath__(self) -> str:
        return f"{os.devnull}/{self}"

    def resolve(self, strict: bool = False) -> Self:
        """Return this: no link is on the way."""
        return self

    def absolute(self) -> Self:
        """Return this: it stands in no working directory."""
        return self
