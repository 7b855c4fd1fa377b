"""One hostile file: how it is made, and what an audit of it must answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Make = Callable[[Path], Path]
"""Writes files into an empty directory and returns what is to be audited."""

EVERYTHING: Mapping[str, Any] = {
    "version": 1,
    "rules": [{"id": "all", "tensors": "**", "constraint": "Clip", "low": -10, "high": 10}],
}
"""Governs whatever can be governed, so that a tensor that was overlooked is the only way to pass."""

PASSED, VIOLATED, MISUSED, REFUSED, NOTHING = range(5)
"""The exit codes by what they mean here."""


@dataclass(frozen=True)
class Case:
    """One kind of file.

    `word` must be in the message, or in the reason of a result. `spec` is what it is audited under:
    a mapping, ``None`` for what the file itself declares, or the name of a file that `make` wrote.
    """

    name: str
    make: Make
    code: int
    word: str
    spec: Mapping[str, Any] | str | None


def cases(
    group: str,
    rows: Iterable[tuple[str, Make, int, str]],
    spec: Mapping[str, Any] | str | None = EVERYTHING,
) -> tuple[Case, ...]:
    """Name the rows of one module after `group`."""
    return tuple(
        Case(f"{group}-{name.replace(' ', '-')}", make, code, word, spec)
        for name, make, code, word in rows
    )


def file(name: str, content: bytes | Callable[[], bytes]) -> Make:
    """A single file with this content."""

    def make(directory: Path) -> Path:
        path = directory / name
        path.write_bytes(content if isinstance(content, bytes) else content())
        return path

    return make
