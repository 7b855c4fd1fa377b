"""Replacing several files or a directory so that a run that is killed half-way can be finished.

Everything new is whole and on disk under hidden names before the journal is written, and the journal is on
disk before the first name moves. So at any moment each name leads to what was there or to what is new,
whole; where the journal is found, `finish` does what is left. What fails while the program lives is undone.
"""

from __future__ import annotations

import os
import stat
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from ckptclamp import system
from ckptclamp.applying.staging.files import NewFile
from ckptclamp.checkpoints.directories.unfinished import JOURNAL, Journal, Move, hidden_name, mark
from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import NotWrittenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ckptclamp.system import Folder


class HalfReplacedError(NotWrittenError):
    """Some files are replaced and others not, and it could not be undone; the journal tells which."""


def planned(folder: Folder, temporary: str, name: str) -> Move:
    """The move that makes `name` of what is now called `temporary`; raises `OSError`."""
    return Move(temporary, name, mark(folder.path / temporary), mark(folder.path / name))


def replace_files(
    folder: Folder,
    moves: Sequence[Move],
    subject: str,
    confirm: Callable[[], object],
    begun: Callable[[], object] = lambda: None,
) -> None:
    """Replace files, all of them or none; `subject` is the name of what they are parts of.

    `begun` is called once the journal is on disk, by which the rest can be done whatever happens.
    `confirm` flushes `folder` once they are replaced, and notes it where that fails: from there on
    the new files are what is there.

    Raises:
        OSError: one cannot be replaced, and none was.
        HalfReplacedError: one cannot be replaced, and others were.
    """
    folder.flush()
    former = _second_names(folder, moves)
    done: list[Move] = []
    try:
        with _journaled(folder, moves, subject, confirm):
            try:
                begun()
                for move in moves:
                    folder.move(move.temporary, move.name)
                    done.append(move)
            except OSError as error:
                _undo(folder, done, former, error, len(moves))
                raise
    except HalfReplacedError:
        former.clear()  # what was there has no other name until the others are replaced, too
        raise
    finally:
        for name in former.values():
            with suppress(OSError):
                folder.remove(name)


def _second_names(folder: Folder, moves: Sequence[Move]) -> dict[str, str]:
    """Give what will be replaced second names, by which it can be had back, where the system can."""
    names: dict[str, str] = {}
    for move in moves:
        hidden = hidden_name(move.name)
        with suppress(OSError, NotImplementedError, AttributeError):
            folder.link(move.name, hidden)
            names[move.name] = hidden
    return names


def _undo(
    folder: Folder, done: Sequence[Move], former: dict[str, str], error: OSError, count: int
) -> None:
    """Put back what was replaced, all of it, or as little as leaves a journal that can be finished."""
    left = list(done)
    try:
        while left and all(move.name in former for move in left):
            _put_back(folder, left[-1], former[left[-1].name])
            del former[left.pop().name]
    except OSError:
        pass  # what is left says so
    if left:
        raise HalfReplacedError(
            f"{len(left)} of {count} files were replaced, the next cannot be: {error.strerror}",
            path=folder.path,
            hint="mend that, then `ckptclamp clean` on the directory replaces the others",
        ) from error


def _put_back(folder: Folder, move: Move, former: str) -> None:
    """Undo one move: what is new gets its hidden name again first, so that it is not lost."""
    folder.link(move.name, move.temporary)
    try:
        folder.move(former, move.name)
    except OSError:
        folder.remove(move.temporary)
        raise


def replace_directory(
    folder: Folder, temporary: str, name: str, confirm: Callable[[], object]
) -> str:
    """Put a directory in the place of another, which gets the hidden name that is returned.

    `confirm` is that of `replace_files`.

    Raises:
        OSError: it cannot be done, and was not.
        HalfReplacedError: there is no directory of the name now.
    """
    hidden = hidden_name(name)
    with _journaled(folder, [planned(folder, temporary, name)], name, confirm):
        folder.move(name, hidden)
        try:
            folder.move(temporary, name)
        except OSError as error:
            try:
                folder.move(hidden, name)
            except OSError:
                raise HalfReplacedError(
                    f"was moved to {hidden}, and could not be replaced: {error.strerror}",
                    path=folder.path / name,
                    hint="`ckptclamp clean` on it finishes that",
                ) from error
            raise
    return hidden


@contextmanager
def _journaled(
    folder: Folder, moves: Sequence[Move], subject: str, confirm: Callable[[], object]
) -> Iterator[None]:
    """Keep a journal of `moves` on disk for as long as the block runs, and where it is half done."""
    data = Journal(tuple(moves)).to_bytes()
    file = NewFile(folder, hidden_name(subject, JOURNAL))
    try:
        file.open()
        system.write_at(file.fd, memoryview(data), 0)
        os.fsync(file.fd)
        file.appear()
        try:
            folder.flush()
            yield
        except HalfReplacedError:
            raise
        except BaseException:
            folder.remove(file.name)
            raise
        confirm()
        with suppress(OSError):  # it says then what is true already, and `clean` removes it
            folder.remove(file.name)
        confirm()
    finally:
        file.discard()


def finish(folder: Folder, journal: Path) -> int:
    """Do what the run that wrote `journal` left to do; return how many names moved.

    The caller has made sure that this run is no more.

    Raises:
        RefusedError: it is no journal.
        NotWrittenError: something lies there that is neither old nor new, or the system cannot move it.
    """
    with closing(Source.open(journal, follow_symlinks=False)) as source:
        moves = Journal.read(source).moves
    try:
        pending = _pending(folder.path, moves)
        for move in pending:
            _put(folder, move)
        folder.flush()
        folder.remove(journal.name)
        folder.flush()
    except OSError as error:
        reason = f"cannot be finished: {error.strerror or error}"
        raise NotWrittenError(reason, path=journal) from error
    return len(pending)


def _pending(directory: Path, moves: Sequence[Move]) -> list[Move]:
    """The moves that are still to be made; none where what was to be is gone, and all is as it was.

    Raises:
        NotWrittenError: there is what the journal does not know.
    """
    done, pending, gone = [], [], []
    for move in moves:
        waiting, there = mark(directory / move.temporary), mark(directory / move.name)
        # A directory is out of the way for the moment between two steps.
        if waiting == move.new and there in (move.former, ()):
            pending.append(move)
        elif not waiting and there == move.new:
            done.append(move)
        else:
            gone.append(move)
            if waiting or there != move.former:
                _refuse_unknown(directory / move.name)
    if gone and done:
        _refuse_unknown(directory / gone[0].name)
    return [] if gone else pending


def _refuse_unknown(path: Path) -> NoReturn:
    raise NotWrittenError(
        "is neither what was there before the apply that was interrupted, nor what was to be",
        path=path,
        hint="look at both; if it is to stay, remove the hidden .ckptclamp-journal",
    )


def _put(folder: Folder, move: Move) -> None:
    """Make one move; what a directory replaces goes to a hidden name, and is then a leftover."""
    there = folder.path / move.name
    if os.path.lexists(there) and stat.S_ISDIR(there.lstat().st_mode):
        folder.move(move.name, hidden_name(move.name))
    folder.move(move.temporary, move.name)
