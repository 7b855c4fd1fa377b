"""What killed runs left: hidden files and directories, and journals of work that is to be finished.

It is ours by its name and its owner. It is nobody's now if its lock is free: a run holds one on all that
it has under a hidden name, and the system lets go of it when the run ends, however it ends.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from ckptclamp import system
from ckptclamp.applying.journal import finish
from ckptclamp.checkpoints.directories.unfinished import JOURNAL, RESUME, is_hidden, made_for
from ckptclamp.checkpoints.remote import as_path
from ckptclamp.errors import CkptclampError, Notice, UnreadableError
from ckptclamp.frozen import frozen
from ckptclamp.system import Folder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


class Outcome(StrEnum):
    """What became of a leftover."""

    REMOVED = "removed"
    FINISHED = "finished"
    KEPT = "kept"
    FAILED = "failed"


@frozen
class Cleaned:
    """A leftover, what became of it, how many bytes it took, and what there is to say of it."""

    path: Path
    outcome: Outcome
    size: int = 0
    reason: str = ""


def find_leftovers(path: Path) -> list[Path]:
    """The hidden names that runs gave in the directory `path`, and beside `path` for its sake, sorted.

    A run that is at work owns some, too.

    Raises:
        UnreadableError: a directory cannot be listed.
    """
    inside = _hidden(path) if path.is_dir() else []
    name, beside = path.resolve().name, path.resolve().parent
    there = [p for p in _hidden(beside) if made_for(p.name, name)]
    return sorted({p.resolve() if p.parent != path else p for p in (*inside, *there)})


def _hidden(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if is_hidden(path.name)]
    except OSError as error:
        raise UnreadableError(error.strerror or str(error), path=directory) from error


def clean(path: str | Path, *, dry_run: bool = False) -> list[Cleaned]:
    """Finish what interrupted runs began to replace at `path`, then remove what they left.

    Journals come first, since their files are no leftovers before they are finished. With `dry_run`
    it is only said what would be done.

    Raises:
        UnreadableError: `path` is not there, or its directory cannot be listed.
    """
    path = as_path(path)
    if not os.path.lexists(path) and not path.resolve().parent.is_dir():
        raise UnreadableError("is not there", path=path)
    found = find_leftovers(path)
    done = [_settle(p, dry_run) for p in found if is_hidden(p.name, JOURNAL)]
    needed = {p.parent for p in found if is_hidden(p.name, JOURNAL)}
    if any(cleaned.outcome is not Outcome.FINISHED for cleaned in done):
        return done  # what is left belongs to a journal that is not finished
    if not dry_run:
        found = find_leftovers(path)
    rest = [p for p in found if not is_hidden(p.name, JOURNAL)]
    return done + [_settle(p, dry_run) for p in rest if not (dry_run and p.parent in needed)]


def _settle(path: Path, dry_run: bool) -> Cleaned:
    """Finish or remove one leftover that is ours and nobody's."""
    try:
        with _held(path) as (reason, status):
            if reason is not None:
                return Cleaned(path, Outcome.KEPT, reason=reason)
            if is_hidden(path.name, JOURNAL):
                return _finished(path, dry_run)
            size = _size(path)
            if not dry_run:
                _remove(path, status)
            return Cleaned(path, Outcome.REMOVED, size)
    except CkptclampError as error:
        return Cleaned(path, Outcome.FAILED, reason=str(error))
    except OSError as error:
        return Cleaned(path, Outcome.FAILED, reason=error.strerror or str(error))


def _finished(path: Path, dry_run: bool) -> Cleaned:
    if dry_run:
        return Cleaned(path, Outcome.FINISHED, reason="what it lists would be put in place")
    folder = Folder(path.parent)
    try:
        count = finish(folder, path)
    finally:
        folder.close()
    return Cleaned(path, Outcome.FINISHED, reason=f"{count} put in place")


@contextmanager
def _held(path: Path) -> Iterator[tuple[str | None, os.stat_result]]:
    """Lock a leftover while the block runs; gives why it is not to be touched, if it is not."""
    status = path.lstat()
    folder = stat.S_ISDIR(status.st_mode)
    if not (folder or stat.S_ISREG(status.st_mode)):
        yield "it is no file of this program", status
        return
    if not system.is_mine(status):
        yield "it belongs to another user", status
        return
    opened = Folder(path) if folder else None
    fd = opened.fd if opened else system.open_to_read(path, follow_symlinks=False)
    try:
        free = system.lock(fd) if fd >= 0 else None
        if not os.path.samestat(path.lstat(), status):
            yield "it was replaced meanwhile", status
        elif free is None:
            yield "this system cannot tell whether a run is at work on it", status
        else:
            yield (None if free else "a run is at work on it"), status
    finally:
        if opened:
            opened.close()
        else:
            os.close(fd)


def _size(path: Path) -> int:
    """The bytes that the files at `path` hold."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.lstat().st_size for p in files)


def _remove(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        shutil.rmtree(path)
    else:
        path.unlink()


def leftover_notices(output: Path, taken: Collection[str] = ()) -> tuple[Notice, ...]:
    """Note what killed runs left where the output goes; it is never removed unasked.

    Names that are `taken` over are no leftovers.
    """
    leftovers = find_leftovers(output) if output.parent.is_dir() else []
    leftovers = [path for path in leftovers if path.name not in taken]
    resumed = any(is_hidden(path.name, RESUME) for path in leftovers)
    hint = "--resume goes on with it; " if resumed and not taken else ""
    return tuple(
        Notice(
            "leftover",
            f"{path} was left by a run that was killed, or belongs to one that is at work",
            hint=f"{hint}`ckptclamp clean {output}` removes it if no run is at work on it",
            informational=True,
        )
        for path in leftovers
    )
