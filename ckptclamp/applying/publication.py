"""Durable publication: a file or a directory appears under its name whole, flushed, or not at all.

What is to be published is written by a `Stage` in the directory of its final name, flushed, and
gets its name in one step. A power cut at any moment leaves what was there before, or the new file,
whole. Several files that are replaced where they lie take several steps, of which a journal is kept.
What goes to a bucket is made and verified on this machine and then sent, the index of a set last.
"""

from __future__ import annotations

import os
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from ckptclamp import system
from ckptclamp.applying.staging import Stage, check_room, or_not_written
from ckptclamp.applying.staging.directories import DirectoryStage, refuse_loss
from ckptclamp.applying.staging.files import FileStage
from ckptclamp.applying.staging.links import Link
from ckptclamp.applying.staging.sets import SetStage
from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.directories.huggingface import is_blob
from ckptclamp.checkpoints.directories.unfinished import journals, made_for
from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.errors import NotWrittenError, UsageError
from ckptclamp.frozen import frozen
from ckptclamp.system import Folder

if TYPE_CHECKING:
    from ckptclamp.applying.options import ApplyOptions
    from ckptclamp.applying.steps.record import Bound, Found, Record
    from ckptclamp.auditing.results import ApplyReport, AuditReport
    from ckptclamp.checkpoints.remote.address import Address


@contextmanager
def staged(
    target: str | Path,
    *,
    like: Checkpoint,
    force: bool = False,
    in_place: bool = False,
    found: Found | None = None,
    bound: Bound | None = None,
    resumable: bool = False,
    link: Link | None = None,
) -> Iterator[Stage]:
    """Yield a `Stage` on which a copy of `like` is written, to be published as `target`.

    Whatever ends the block without `Stage.publish` (an error, Ctrl-C, SIGTERM) leaves `target` as
    it was and removes what was written. `force` lets an existing target be replaced, `in_place`
    lets it be `like` itself, no file of which is ever written to: its name moves to a new one.
    `link` is that of `DirectoryStage`. Where the work is `bound`, a record of it is begun, or that
    which was `found` is gone on with. What is `resumable` and has begun is left for a later run where this
    one fails, or is stopped.

    Raises:
        UsageError: the target exists, is an input, a symbolic link, or no name for such a copy.
        NotWrittenError: the target's directory cannot be written to.
    """
    to = check_target(target, like=like, force=force, in_place=in_place)
    with or_not_written(to.path):
        folder = Folder(to.folder)
    try:
        with _signals_as_exceptions():
            stage = _new_stage(to, folder, like, None if found is None else found.directory, link)
            end = stage.discard
            try:
                stage.record = _record(stage, found, bound)
                stage.begin()
                yield stage
            except BaseException:
                if resumable and stage.record is not None and stage.record.steps:
                    end = stage.leave
                raise
            else:
                stage.forget()
            finally:
                with system.signals_later():
                    end()
    finally:
        folder.close()


def _record(stage: Stage, found: Found | None, bound: Bound | None) -> Record | None:
    """The record of what is done: it is there before the directory that it names."""
    if bound is None or found is not None:
        return None if found is None else found.record
    from ckptclamp.applying.steps.record import Record

    return Record.begin(stage.folder.path, stage.path.name, stage.hidden, bound)


def _new_stage(
    to: Destination, folder: Folder, like: Checkpoint, left: str | None, link: Link | None
) -> Stage:
    if to.is_set:
        return SetStage(to.path, folder, like)
    if like.several_files:
        return DirectoryStage(to.path, folder, like, to.replaced, left=left, link=link)
    return FileStage(to.path, folder, like, to.replaced)


@frozen
class Destination:
    """Where a copy goes: its real path, and the status of what it replaces there.

    `is_set` says that it is the directory of the input, in which files are replaced.
    """

    path: Path
    replaced: os.stat_result | None
    is_set: bool

    @property
    def folder(self) -> Path:
        """The directory in which names are given."""
        return self.path if self.is_set else self.path.parent

    def check(self, places: Collection[str], size: int) -> None:
        """Refuse a copy of files at `places`, `size` bytes together, before the first is made.

        Raises:
            NotWrittenError: there is no room for it, or something would be lost.
        """
        check_room(self.folder, size, self.path)
        replaced = self.replaced
        if not self.is_set and replaced is not None and stat.S_ISDIR(replaced.st_mode):
            with or_not_written(self.path):
                refuse_loss(self.path, places)


def check_target(
    target: str | Path, *, like: Checkpoint, force: bool = False, in_place: bool = False
) -> Destination:
    """Return where the target really is, and what is to be replaced there.

    Raises:
        UsageError: as `staged` does.
        NotWrittenError: its directory may not be written to, or an apply to it was interrupted.
    """
    path = _target_path(Path(target), like, in_place)
    replaced = _existing(path, Path(target), like, force, in_place)
    itself = replaced is not None and in_place and is_input(path, like)
    to = Destination(path, replaced, is_set=itself and like.several_files)
    for journal in journals(to.folder):
        if to.is_set or made_for(journal.name, path.name):
            raise NotWrittenError(
                "an apply that replaced files here was interrupted",
                path=target,
                hint=f"`ckptclamp clean {path}` finishes it",
            )
    if not os.access(to.folder, os.W_OK | os.X_OK):
        raise NotWrittenError("its directory may not be written to", path=target)
    return to


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
        path = target.parent.resolve(strict=True) / target.name
    except OSError as error:
        raise UsageError(f"its directory cannot be found: {error.strerror}", path=target) from error
    if is_blob(path):
        raise UsageError(
            "lies in a cache of Hugging Face, where files are named by their content",
            path=target,
            hint="name the file in the snapshot, or write somewhere else",
        )
    if like.folder is not None and like.folder.resolve() in path.parents:
        raise UsageError(
            "lies inside the directory that is copied", path=target, hint="write beside it"
        )
    return path


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
    itself = is_input(path, like)
    if stat.S_ISLNK(status.st_mode) and not (itself and in_place and not like.several_files):
        raise UsageError(
            "is a symbolic link",
            path=target,
            hint="name what it points to, or pass --follow-symlinks",
        )
    _check_kind(status, target, like)
    if itself and not in_place:
        raise UsageError("is the input itself", path=target, hint="--in-place replaces it")
    if not itself and _holds_base(path, like):
        raise UsageError(
            "is the base that is read, or holds it",
            path=target,
            hint="write the copy somewhere else",
        )
    if itself and not system.moves_open_files():
        raise UsageError(
            "cannot be replaced on this system while it is read",
            path=target,
            hint="-o OUT copies it",
        )
    if not (force or itself):
        raise UsageError("exists already", path=target, hint="--force replaces it")
    return status


def _check_kind(status: os.stat_result, target: Path, like: Checkpoint) -> None:
    """Refuse to let a file take the place of a directory, and the other way round."""
    mode = status.st_mode
    if like.several_files and not stat.S_ISDIR(mode):
        raise UsageError("exists, and is not a directory, as the copy will be", path=target)
    if not like.several_files and not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise UsageError("exists, and is not a file, as the copy will be", path=target)


def _holds_base(path: Path, like: Checkpoint) -> bool:
    """Tell whether `path` leads to a file of the input's base, or is a directory around one."""
    files = () if like.base is None else (*like.base.files, *like.base.sources)
    around = [place for file in files for place in (file.path, *file.path.resolve().parents)]
    return any(place.exists() and path.samefile(place) for place in around)


def is_input(path: Path, like: Checkpoint) -> bool:
    """Tell whether `path` leads to one of the input's files, or is the directory of one."""
    try:
        status = path.stat()
    except OSError:  # a link that leads nowhere
        return False
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


def as_output(output: RemotePath, options: ApplyOptions) -> Address:
    """Return `output` as the address that it is; raises `UsageError` if that cannot be written as asked."""
    from ckptclamp.checkpoints.remote.address import Address

    if options.resume or options.link is not None:
        raise UsageError(
            "what goes there is made on this machine first, and whole: without --resume and --link",
            path=output,
        )
    if options.in_place or not isinstance(output, Address):
        raise UsageError("is not changed in place", path=output, hint="-o OUT copies it")
    return output


def write_elsewhere(
    output: Address, write: Callable[[Path], ApplyReport], like: Checkpoint, *, force: bool
) -> ApplyReport:
    """Let `write` make the copy in a folder of the system's for such things, and send it to `output`.

    Raises as `check_elsewhere` does, and:
        NotWrittenError: it cannot be sent; what was sent of it is removed.
    """
    from ckptclamp.checkpoints.remote.writing import send

    check_elsewhere(output, like, force=force)
    with tempfile.TemporaryDirectory(prefix="ckptclamp-") as folder:
        copy = Path(folder) / output.name
        report = write(copy)
        places = dict.fromkeys([copy], output)
        if copy.is_dir():
            names = [source.path.name for source in like.files]
            places = {path: _in(output, path, copy) for path in _files(copy, last=names[0])}
        send(places, replace=force)
    return _placed(report, str(copy), output)


def _files(folder: Path, last: str) -> list[Path]:
    """Every file below `folder`, the one that is called `last` behind all others."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return sorted(files, key=lambda path: path == folder / last)


def _in(output: Address, path: Path, folder: Path) -> Address:
    place = output
    for part in path.relative_to(folder).parts:
        place /= part
    return place


def _placed(report: ApplyReport, made: str, output: RemotePath) -> ApplyReport:
    """The report about the copy where it is now."""
    return replace(report, output=str(output), after=_moved(report.after, made, str(output)))


def _moved(after: AuditReport | None, made: str, output: str) -> AuditReport | None:
    if after is None:
        return None
    known = after.checkpoint
    files = tuple(replace(f, path=f.path.replace(made, output, 1)) for f in known.files)
    return replace(after, checkpoint=replace(known, path=output, files=files))


def check_elsewhere(output: Address, like: Checkpoint, *, force: bool) -> None:
    """Refuse what cannot be written to `output`; see `writing.check_free`."""
    from ckptclamp.checkpoints.remote.writing import check_free

    check_free(output, like.files, several_files=like.several_files, replace=force)
