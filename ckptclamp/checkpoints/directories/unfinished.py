"""What is not finished: hidden files of a copy in the making, and journals of files that change places.

Several files cannot be replaced in one step. A `Journal` lists what is to replace what once every new
file is whole and on disk; it is written before the first file is replaced, and removed after the last.
While it lies there, some files may be the old ones and others the new ones; whoever finds it can finish
the work. A journal is read as untrusted: it names plain files beside itself, and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.errors import RefusedError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from pathlib import Path

    from ckptclamp.checkpoints.source import Source

TEMPORARY = ".ckptclamp-tmp"
"""How the hidden names of files and directories in the making end."""
JOURNAL = ".ckptclamp-journal"
"""How the hidden names of journals end."""
RESUME = ".ckptclamp-resume"
"""How the hidden names of records end of what an apply has done so far."""

_SUFFIXES = (TEMPORARY, JOURNAL, RESUME)
_NAME = re.compile(rf"\..+\.[0-9a-f]{{8}}(?:{'|'.join(map(re.escape, _SUFFIXES))})", re.DOTALL)
_LONGEST_STEM = 200
_MOST_BYTES = 16 << 20
_FIELDS = {"temporary": str, "name": str, "new": list, "former": list}


def hidden_name(name: str, suffix: str = TEMPORARY) -> str:
    """Return a new hidden name for what will be called `name`."""
    return f".{_stem(name)}.{secrets.token_hex(4)}{suffix}"


def is_hidden(name: str, suffix: str | None = None) -> bool:
    """Whether it is a name that this program gives to what is not finished, with `suffix` if given."""
    return _NAME.fullmatch(name) is not None and (suffix is None or name.endswith(suffix))


def made_for(hidden: str, name: str) -> bool:
    """Whether a hidden name was made for what will be called `name`."""
    for suffix in _SUFFIXES:
        hidden = hidden.removesuffix(suffix)
    return hidden[1:-9] == _stem(name)


def _stem(name: str) -> str:
    """As much of a name as a hidden one has room for."""
    return os.fsdecode(os.fsencode(name)[:_LONGEST_STEM])


Mark = tuple[int, ...]
"""The size in bytes and the time of the last change, in ns; nothing of what is not there."""


def mark(path: Path) -> Mark:
    """By what a file or directory is known again after it was renamed; raises `OSError`."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return ()
    return (status.st_size, status.st_mtime_ns)


@frozen
class Move:
    """What is to become `name`, and the hidden name that it has until then.

    `new` and `former` are the marks of what is to be there and of what was; see `mark`.
    """

    temporary: str
    name: str
    new: Mark
    former: Mark


@frozen
class Journal:
    """Every move of one apply, in their order."""

    moves: tuple[Move, ...]

    def to_bytes(self) -> bytes:
        """The journal as it is stored."""
        document = {"version": 1, "moves": [asdict(move) for move in self.moves]}
        return json.dumps(document, indent=1).encode("ascii") + b"\n"

    @classmethod
    def read(cls, source: Source) -> Self:
        """Read what `to_bytes` made.

        Raises:
            RefusedError: it is something else, or names what does not lie beside it.
        """
        if source.size > _MOST_BYTES:
            raise RefusedError(
                f"is {source.size} bytes long, too much for a journal", path=source.path
            )
        data = source.read_at(0, source.size)
        document = parse_strict(
            data, max_depth=4, max_bytes=_MOST_BYTES, what="journal", path=source.path
        )
        rows = document.get("moves") if isinstance(document, dict) else None
        if not isinstance(rows, list) or document.get("version") != 1:
            raise RefusedError("is no journal of this program", path=source.path)
        if not all(_is_move(row) for row in rows):
            raise RefusedError("names what does not lie beside it", path=source.path)
        return cls(
            tuple(
                Move(row["temporary"], row["name"], tuple(row["new"]), tuple(row["former"]))
                for row in rows
            )
        )


def _is_move(row: Any) -> bool:  # noqa: ANN401 - untrusted JSON
    if not isinstance(row, dict) or row.keys() != _FIELDS.keys():
        return False
    if not all(type(row[field]) is kind for field, kind in _FIELDS.items()):
        return False
    if not all(type(number) is int for number in (*row["new"], *row["former"])):
        return False
    name = row["name"]
    plain = name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}
    return plain and is_hidden(row["temporary"], TEMPORARY) and "/" not in row["temporary"]


def journals(directory: Path, suffix: str = JOURNAL) -> list[Path]:
    """The journals that lie in `directory`, sorted; none where it cannot be listed."""
    try:
        return sorted(path for path in directory.iterdir() if is_hidden(path.name, suffix))
    except OSError:  # whoever needs the directory says why
        return []
