"""The other files of a model's directory: config, tokenizer, licence; they come along as they are."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ckptclamp.checkpoints.copying import compare_bytes, copy_bytes, writing
from ckptclamp.checkpoints.directories.unfinished import is_hidden
from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import Notice, NotWrittenError, RefusedError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ckptclamp.applying.staging.directories import DirectoryStage
    from ckptclamp.checkpoints.checkpoint import Checkpoint

_MOST = 100_000


@frozen
class Companion:
    """A file, or a folder that is empty, at `place` inside a directory; `size` in bytes."""

    place: str
    path: Path
    size: int
    folder: bool = False


def companions_in(
    directory: Path, known: Collection[str], *, follow_symlinks: bool
) -> list[Companion]:
    """Everything in `directory` but the files called `known`, in the order of the places.

    Raises:
        NotWrittenError: there are too many to be a model's, or something cannot be copied.
    """
    if isinstance(directory, RemotePath):
        return _elsewhere(directory, known)
    found: list[Companion] = []
    for folder, folders, files in os.walk(directory, onerror=_refuse_unread):
        here = Path(folder)
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in folders:
            if (here / name).is_symlink():
                raise NotWrittenError("is a symbolic link to a directory", path=here / name)
        inside = here.relative_to(directory)
        places = [(inside / name).as_posix() for name in files if not is_hidden(name)]
        found += [
            _file(directory, place, follow_symlinks) for place in places if place not in known
        ]
        if not (files or folders or here == directory):
            found.append(Companion(inside.as_posix(), here, 0, folder=True))
        if len(found) > _MOST:
            raise NotWrittenError(
                f"holds more than {_MOST:,} files",
                path=directory,
                hint="move what is not the model's out of it",
            )
    return sorted(found, key=lambda companion: companion.place)


def _elsewhere(directory: RemotePath, known: Collection[str]) -> list[Companion]:
    """The same of a directory that is no folder of this machine."""
    found: list[Companion] = []
    for place in sorted((directory.files() or set()) - set(known)):
        path = directory
        for part in place.split("/"):
            path = path / part
        with closing(path.source()) as source:
            found.append(Companion(place, path, source.size))
    return found


def _file(directory: Path, place: str, follow_symlinks: bool) -> Companion:
    path = directory / place
    try:
        status = path.stat()
    except OSError as error:
        _refuse_unread(error)
    if not stat.S_ISREG(status.st_mode):
        raise NotWrittenError("is no regular file, and cannot be copied", path=path)
    if path.is_symlink():  # refuse now what would be refused when its turn comes
        _opened(path, follow_symlinks).close()
    return Companion(place, path, status.st_size)


def _opened(path: Path, follow_symlinks: bool) -> Source:
    try:
        return Source.open(path, follow_symlinks=follow_symlinks)
    except RefusedError as error:
        raise NotWrittenError(error.message, path=path, hint=error.hint) from error


def _refuse_unread(error: OSError) -> NoReturn:
    raise NotWrittenError(f"cannot be copied: {error.strerror}", path=error.filename) from error


def bring(stage: DirectoryStage, companions: Sequence[Companion], *, follow_symlinks: bool) -> None:
    """Copy each of `companions` to the stage, byte for byte, and compare it.

    Raises:
        NotWrittenError: one cannot be written, or came out differently.
        UnreadableError: one is gone, or changed meanwhile.
    """
    for companion in companions:
        if companion.folder:
            with writing(companion.path):
                stage.make_folder(companion.place)
            continue
        with closing(_opened(companion.path, follow_symlinks)) as source:
            fd = stage.create(companion.place, source.size)
            with writing(stage.path / companion.place):
                copy_bytes(source, fd)
            compare_bytes(source, Source.from_fd(fd, stage.path / companion.place), ())
            source.verify_unchanged()
            stage.complete(companion.place, source.mode())


def left_behind(checkpoint: Checkpoint, files: Collection[str]) -> tuple[Notice, ...]:
    """What a reader must know of files beside an index that do not come along."""
    if checkpoint.folder is not None or not checkpoint.several_files:
        return ()
    beside = checkpoint.files[0].path.parent
    if isinstance(beside, RemotePath):  # not every server tells what else there is
        return ()
    left = sorted(p.name for p in beside.iterdir() if p.name not in files and not is_hidden(p.name))
    if not left:
        return ()
    more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
    said = f"{left[0]}{more} beside the index is not in the copy"
    hint = "name the directory, not the index, to copy all of it"
    return (Notice("not-copied", said, hint=hint, informational=True),)
