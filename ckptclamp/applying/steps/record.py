"""What an apply has done so far, on disk, so that another run can go on where it was killed.

A line of JSON says what the work is bound to: the release, every file that is read, the spec, the options
and the plan. One line more for each step says which files are done, and what has changed in them. A line is
written after its files are on disk, so it never says too much. The record is read as untrusted: what it
names is looked at again, and used only if its digest is the one that stands here.
"""

from __future__ import annotations

import json
import os
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptclamp import system
from ckptclamp.auditing.results import TensorChange
from ckptclamp.checkpoints.directories.unfinished import (
    RESUME,
    TEMPORARY,
    hidden_name,
    is_hidden,
    journals,
    made_for,
)
from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import CkptclampError, NotWrittenError, UsageError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_BYTES = 256 << 20
_DEPTH = 6
_FIELDS: Mapping[str, tuple[type, ...]] = {
    "tensor": (str,),
    "units": (int,),
    "changed": (int,),
    "largest_change": (float,),
    "rules": (list,),
    "label": (str, type(None)),
}

Bound = dict[str, dict[str, str]]
"""What the work is bound to: for each kind of thing what it is, by names that a reader knows, if any."""


@frozen
class Made:
    """One file of a copy that is done: its name, where it lies until then, its bytes and their sha256."""

    name: str
    where: str
    size: int
    sha256: str


@frozen
class Step:
    """Files that are done, what was to be projected in them (a digest), and what that came to."""

    todo: str
    files: tuple[Made, ...]
    written: tuple[str, ...]
    changes: tuple[TensorChange, ...]


class Record:
    """The record of a run that is at work, at `path`; it is locked for as long as the run is.

    `steps` is how many it tells of.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.steps = 0
        self._fd = fd

    @classmethod
    def begin(cls, folder: Path, name: str, hidden: str | None, bound: Bound) -> Record:
        """Begin one for what will be called `name`; `hidden` is the directory in which it is made.

        Raises:
            NotWrittenError: the system cannot write it.
        """
        path = folder / hidden_name(name, RESUME)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        except OSError as error:
            raise NotWrittenError(error.strerror or str(error), path=path) from error
        system.lock(fd)
        record = cls(path, fd)
        record._write({"version": 1, "directory": hidden, "bound": bound})
        return record

    def add(self, step: Step) -> None:
        """Say that a step is done: its files are on disk; raises `NotWrittenError`."""
        self._write(asdict(step))
        self.steps += 1

    def _write(self, line: Mapping[str, Any]) -> None:
        data = json.dumps(line).encode("ascii") + b"\n"
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise NotWrittenError(error.strerror or str(error), path=self.path) from error

    def close(self) -> None:
        """Leave it for another run."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        """Remove it: what it tells of is published, or gone."""
        if self._fd >= 0:
            with suppress(OSError):
                self.path.unlink()
            self.close()


@frozen
class Found:
    """The record that an earlier run left, and what it says; `directory` as in `Record.begin`."""

    record: Record
    bound: Bound
    directory: str | None
    steps: tuple[Step, ...]

    @property
    def names(self) -> set[str]:
        """The hidden names that belong to it."""
        made = {made.where for step in self.steps for made in step.files}
        return {self.record.path.name, self.directory or "", *made}

    def check(self, bound: Bound) -> None:
        """Refuse to go on with other work than the one that was begun.

        Raises:
            UsageError: that is so; it tells what differs.
        """
        for kind, ours in bound.items():
            theirs = self.bound.get(kind, {})
            names = [n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)]
            if names:
                self.record.close()
                which = f": {names[0]}" if names[0] else ""
                more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
                raise UsageError(
                    f"what was begun there cannot be resumed: {kind} differs{which}{more}",
                    path=self.record.path,
                    hint="leave out --resume to begin anew; `ckptclamp clean` removes what is there",
                )


def find_record(folder: Path, name: str) -> Found | None:
    """The newest record that was left in `folder` of an apply to `name`, locked; ``None`` if there is none.

    Raises:
        NotWrittenError: another run is at work on it.
    """
    left = [path for path in journals(folder, RESUME) if made_for(path.name, name)]
    for path in sorted(left, key=lambda path: path.lstat().st_mtime_ns, reverse=True):
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            continue
        record = Record(path, fd)
        if not system.is_mine(os.fstat(fd)):
            record.close()
            continue
        if system.lock(fd) is False:
            record.close()
            raise NotWrittenError("another run is at work on it", path=folder / name)
        found = _read(record, name)
        if found is not None and _is_there(folder, found.directory):
            return found
        if found is not None:
            record.discard()  # it tells of nothing
        record.close()
    return None


def _is_there(folder: Path, directory: str | None) -> bool:
    """Whether what a record tells of still lies there."""
    if directory is None:
        return True
    path = folder / directory
    return path.is_dir() and not path.is_symlink() and system.is_mine(path.lstat())


def _read(record: Record, name: str) -> Found | None:
    """What a record says, up to the first line that is not whole; ``None`` if that is nothing."""
    try:
        with closing(Source.open(record.path, follow_symlinks=False)) as source:
            if source.size > _MOST_BYTES:
                return None
            lines = source.read_at(0, source.size).split(b"\n")[:-1]
        rows = [
            parse_strict(
                line, max_depth=_DEPTH, max_bytes=_MOST_BYTES, what="record", allow_infinity=True
            )
            for line in lines
        ]
    except CkptclampError:
        return None
    head = rows[0] if rows and isinstance(rows[0], dict) else {}
    bound, directory = head.get("bound"), head.get("directory")
    ours = directory is None or (
        isinstance(directory, str)
        and is_hidden(directory, TEMPORARY)
        and "/" not in directory
        and made_for(directory, name)
    )
    if head.get("version") != 1 or not isinstance(bound, dict) or not ours:
        return None
    if not all(isinstance(names, dict) for names in bound.values()):
        return None
    steps = tuple(step for step in map(_step, rows[1:]) if step is not None)
    record.steps = len(steps)
    return Found(record, bound, directory, steps)


def _step(row: Any) -> Step | None:  # noqa: ANN401 - untrusted JSON
    """One step, or nothing where the line is none."""
    try:
        files = tuple(Made(**file) for file in row["files"])
        changes = tuple(_change(change) for change in row["changes"])
        step = Step(row["todo"], files, tuple(row["written"]), changes)
    except (TypeError, KeyError, ValueError):
        return None
    plain = all(
        isinstance(text, str) and text not in ("", ".", "..") and not set(text) & {"/", "\\", "\0"}
        for file in files
        for text in (file.name, file.where)
    )
    sizes = all(type(file.size) is int and isinstance(file.sha256, str) for file in files)
    texts = all(isinstance(text, str) for text in (step.todo, *step.written))
    return step if plain and sizes and texts else None


def _change(row: Mapping[str, Any]) -> TensorChange:
    if row.keys() != _FIELDS.keys() or not all(type(row[k]) in v for k, v in _FIELDS.items()):
        raise ValueError
    return TensorChange(**{**row, "rules": tuple(map(str, row["rules"]))})
