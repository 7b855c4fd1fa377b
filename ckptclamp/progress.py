"""How far a long work has come, told to whoever asked."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all), with growing numbers until both are the same."""


class Meter:
    """Adds up the bytes of one pass over `total` bytes, for `progress` (``None``: for nobody)."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def add(self, more: int) -> None:
        """Count `more` bytes as done; work that is done twice counts once."""
        self._done = min(self._done + more, self._total)
        if self._progress is not None:
            self._progress(self._done, self._total)
