"""Durable publication: a file or a directory appears under its name whole, flushed, or not at all.

What is to be published is written by a `Stage` in the directory of its final name, flushed, and
gets its name in one step. A power cut at any moment leaves what was there before, or the new file,
whole.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ckptclamp import system
from ckptclamp.applying.staging import LEFTOVER, DirectoryStage, FileStage, Stage, or_not_written
from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.errors import UsageError
from ckptclamp.system import Folder


@contextmanager
def staged(
    target: str | Path, *, like: Checkpoint, force: bool = False, in_place: bool = False
) -> Iterator[Stage]:
    """Yield a `Stage` on which a copy of `like` is written, to be published as `target`.

    Whatever ends the block without `Stage.publish` (an error, Ctrl-C, SIGTERM) leaves `target` as
    it was and removes what was written. `force` lets an existing target be replaced, `in_place`
    lets it be `like` itself, whose file is never written to: its name moves to the new one.

    Raises:
        UsageError: the target exists, is an input, a symbolic link, or no name for such a copy.
        NotWrittenError: the target's directory cannot be written to.
    """
    path, replaced = check_target(target, like=like, force=force, in_place=in_place)
    with or_not_written(path):
        parent = Folder(path.parent)
    try:
        with _signals_as_exceptions():
            kind = DirectoryStage if like.several_files else FileStage
            stage = kind(path, parent, like, replaced)
            try:
                yield stage
            finally:
                with system.signals_later():
                    stage.discard()
    finally:
        parent.close()


def check_target(
    target: str | Path, *, like: Checkpoint, force: bool = False, in_place: bool = False
) -> tuple[Path, os.stat_result | None]:
    """Return the target's real path, and the status of what is to be replaced there.

    Raises:
        UsageError: as `staged` does.
    """
    path = _target_path(Path(target), like, in_place)
    return path, _existing(path, Path(target), like, force, in_place)


def find_stale_files(directory: str | Path) -> list[Path]:
    """Return what killed runs left in `directory`, sorted; a run that is at work owns some, too."""
    return sorted(path for path in Path(directory).iterdir() if LEFTOVER.fullmatch(path.name))


def _target_path(target: Path, like: Checkpoint, in_place: bool) -> Path:
    """Return the target under the real path of its directory."""
    if in_place and like.several_files and target == like.path and not target.is_dir():
        target = target.parent
    if target.name in ("", ".."):
        target = target.resolve()
    if not target.name:
        raise UsageError("is no name for a copy", path=target)
    if like.several_files and target.suffix == ".json" and not target.is_dir():
        raise UsageError(
            "names a file, and a copy of several files is a directory",
            path=target,
            hint="name the directory",
        )
    try:
        return target.parent.resolve(strict=True) / target.name
    except OSError as error:
        raise UsageError(f"its directory cannot be found: {error.strerror}", path=target) from error


def _existing(
    path: Path, target: Path, like: Checkpoint, force: bool, in_place: bool
) -> os.stat_result | None:
    """Return the status of what the copy will replace, ``None`` if nothing; refuse the rest.

    `target` is the path as the caller wrote it, for messages.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(error.strerror or str(error), path=target) from error
    if stat.S_ISLNK(status.st_mode):
        raise UsageError(
            "is a symbolic link",
            path=target,
            hint="name what it points to, or pass --follow-symlinks",
        )
    expected, what = (
        (stat.S_ISDIR, "a directory") if like.several_files else (stat.S_ISREG, "a file")
    )
    if not expected(status.st_mode):
        raise UsageError(f"exists, and is not {what}, as the copy will be", path=target)
    is_input = _is_input(path, status, like)
    if is_input and not in_place:
        raise UsageError("is the input itself", path=target, hint="--in-place replaces it")
    if not (force or is_input):
        raise UsageError("exists already", path=target, hint="--force replaces it")
    return status


def _is_input(path: Path, status: os.stat_result, like: Checkpoint) -> bool:
    """Tell whether `path` is one of the input's files, or the directory of one."""
    if like.several_files:
        return any(path.samefile(source.path.parent) for source in like.files)
    inputs = {(source.identity.device, source.identity.inode) for source in like.files}
    return (status.st_dev, status.st_ino) in inputs


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, unless someone handles them."""
    handled: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        wanted = system.stopping_signals()
        handled = [number for number in wanted if signal.getsignal(number) is signal.SIG_DFL]
    for number in handled:
        signal.signal(number, _exit_by_signal)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def _exit_by_signal(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
