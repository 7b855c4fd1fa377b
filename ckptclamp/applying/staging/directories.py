"""The stage of a copy that is a directory: made under a hidden name, published whole."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NoReturn

from ckptclamp import system
from ckptclamp.applying.journal import HalfReplacedError, replace_directory
from ckptclamp.applying.staging import Stage, check_room, inherited, or_not_written, umask
from ckptclamp.applying.staging.files import open_left
from ckptclamp.applying.staging.links import Link, clone, hard_link
from ckptclamp.checkpoints.directories.unfinished import hidden_name
from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.errors import NotWrittenError
from ckptclamp.system import Folder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.source import Source


class DirectoryStage(Stage):
    """A directory of files; `left` is the hidden name of the one that an earlier run began.

    Files that nothing changes get a `link`, if one is asked for and can be made.
    """

    directory: Path

    def __init__(
        self,
        path: Path,
        folder: Folder,
        like: Checkpoint,
        replaced: os.stat_result | None,
        *,
        left: str | None = None,
        link: Link | None = None,
    ) -> None:
        super().__init__(path, folder, like, replaced)
        self._modes = {source.path.name: self.new_mode(source) for source in like.files}
        self._open: dict[str, int] = {}
        self._adopted: dict[str, int] = {}
        self._places: set[str] = set()
        self._inside: Folder | None = None
        self._temporary: str | None = left or hidden_name(path.name)
        self._left = left is not None
        self._link = link
        self._linked: set[str] = set()
        self.directory = path.parent / self._temporary
        with or_not_written(path):
            origin = like.files[0].path.parent
            mode = 0o777 if isinstance(origin, RemotePath) else origin.stat().st_mode & 0o777
            self._folder_mode = mode | 0o700

    def begin(self) -> None:
        """See `Stage.begin`."""
        with or_not_written(self.path):
            if not self._left:
                self.directory.mkdir(0o700)
            self._inside = Folder(self.directory)
            # So that nobody takes it for the leftover of a killed run.
            if self._inside.lock() is False:
                raise NotWrittenError("another run is at work on it", path=self.path)

    @property
    def hidden(self) -> str | None:
        """See `Stage.hidden`."""
        return self._temporary

    def place_of(self, name: str) -> str:
        """See `Stage.place_of`: it has its name in the directory."""
        return name

    def seal(self, name: str) -> None:
        """See `Stage.seal`: there is nothing to do."""

    def adopt(self, name: str, where: str, size: int) -> int | None:
        """See `Stage.adopt`."""
        assert self._inside is not None
        fd = open_left(self._inside, where)
        if fd is None or os.fstat(fd).st_size != size:
            return None
        self._adopted[name] = fd
        return fd

    def clear(self) -> None:
        """Remove whatever an earlier run left that was not adopted; raises `NotWrittenError`."""
        with or_not_written(self.path):
            for folder, folders, files in os.walk(self.directory, topdown=False):
                for name in files:
                    place = Path(folder, name)
                    if place.relative_to(self.directory).as_posix() not in self._adopted:
                        place.unlink()
                for name in folders:
                    Path(folder, name).rmdir()

    def announce(self, changing: Mapping[str, int]) -> None:
        """See `Stage.announce`; the others are linked, if they are to be."""
        if self._left:
            self.clear()
        missed = []
        for source in self.like.files if self._link else ():
            name = source.path.name
            if name not in changing and name not in self._adopted:
                if self._linked_to(source, name):
                    self._linked.add(name)
                    self._places.add(name)
                else:
                    missed.append(name)
        if missed:
            said = f"{missed[0]}" + (f" (and {len(missed) - 1} more)" if len(missed) > 1 else "")
            self._note(
                "not-linked",
                f"{said} was copied: a {self._link} link to it cannot be made there",
                informational=True,
            )
        made = [
            s for s in self.like.files if s.path.name not in self._linked | self._adopted.keys()
        ]
        check_room(self.directory, sum(source.size for source in made), self.path)

    def _linked_to(self, source: Source, name: str) -> bool:
        assert self._inside is not None
        if self._link is Link.HARD:
            return hard_link(source, self._inside, name)
        fd = self._inside.create(name)
        if clone(source, fd):
            self._open[name] = fd
            return True
        os.close(fd)
        self._inside.remove(name)
        return False

    def keeps(self, name: str) -> bool:
        """See `Target.keeps`: what is linked is there."""
        return name in self._linked

    def create(self, name: str, size: int) -> int:
        """See `Target.create`."""
        place = PurePosixPath(name)
        if place.is_absolute() or not place.parts or ".." in place.parts:
            raise ValueError(f"{name!r} is no place inside a directory")
        assert self._inside is not None
        if name in self._adopted:
            self._open[name] = fd = self._adopted.pop(name)
            self._places.add(name)
            return fd
        with or_not_written(self.directory / place):
            self.make_folder(place.parent.as_posix())
            fd = self._inside.create(place.as_posix())
            self._open[place.as_posix()] = fd
            self._places.add(place.as_posix())
            self.make_room(fd, size)
        return fd

    def make_folder(self, place: str) -> None:
        """Make a folder inside the directory; raises `OSError`."""
        (self.directory / place).mkdir(0o700, parents=True, exist_ok=True)

    def complete(self, place: str, mode: int) -> None:
        """Give a file that was created its permissions, flush and close it."""
        fd = self._open.pop(place)
        try:
            with or_not_written(self.directory / place):
                self._finish(fd, place, stat.S_ISREG, mode & ~umask())
        finally:
            os.close(fd)

    def give_names(self) -> None:
        """See `Stage.give_names`."""
        for place, fd in self._open.items():
            self._finish(fd, place, stat.S_ISREG, self._modes.get(place, 0o666 & ~umask()))
        for folder, _, _ in os.walk(self.directory, topdown=False):
            place = Path(folder).relative_to(self.directory).as_posix()
            self._finish_folder(Folder(Path(folder)), place)
        if not system.moves_open_files():
            self._close()
        with system.signals_later():
            self._appear()

    def _appear(self) -> None:
        assert self._temporary is not None
        if self.replaced is None:
            # This fails unless the name is free, or an empty directory has it.
            self.folder.move(self._temporary, self.path.name)
            self._temporary = None
            self.flush_folder()
        else:
            self._replace(self._temporary)

    def _finish_folder(self, folder: Folder, place: str) -> None:
        try:
            if folder.fd >= 0:
                mode = self._folder_mode & ~umask()
                self._finish(folder.fd, place, stat.S_ISDIR, mode)
        finally:
            folder.close()

    def _finish(self, fd: int, place: str, same_kind: Callable[[int], bool], mode: int) -> None:
        """Give a file or a folder its permissions, of what it replaces if it does; flush it."""
        former = self.path / place
        status = os.lstat(former) if self.replaced and os.path.lexists(former) else None
        if status is not None and same_kind(status.st_mode):
            self.keep(fd, former, status)
        else:
            system.set_mode(fd, mode | inherited(os.fstat(fd)))
        os.fsync(fd)

    def _replace(self, temporary: str) -> None:
        """Take the place of the directory at the target, and remove that one."""
        refuse_loss(self.path, self._places)
        former = temporary
        if not self.folder.exchange(temporary, self.path.name):
            try:
                former = replace_directory(
                    self.folder, temporary, self.path.name, self.flush_folder
                )
            except HalfReplacedError:
                self._temporary = None  # it is needed to finish that
                raise
        self._temporary = former
        # Until the exchange is on disk, the old directory may be what survives; and somebody may
        # have put a file there meanwhile.
        self.directory = self.path.parent / former
        if not self.flush_folder() or would_be_lost(self.directory, self._places) is not None:
            self._temporary = None
            self._note("leftover", f"the former content was kept as {former}")

    def _close(self) -> None:
        for fd in (*self._open.values(), *self._adopted.values()):
            os.close(fd)
        self._open.clear()
        self._adopted.clear()
        if self._inside is not None:
            self._inside.close()

    def leave(self) -> None:
        """See `Stage.leave`."""
        self._close()
        self._temporary = None
        self.close_record()

    def discard(self) -> None:
        """See `Stage.discard`."""
        self._close()
        if self._temporary is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
        self.forget()


def refuse_loss(directory: Path, places: Collection[str]) -> None:
    """Raise `NotWrittenError` if `directory` holds more than `places`; raises `OSError`."""
    lost = would_be_lost(directory, places)
    if lost is not None:
        raise NotWrittenError(
            f"the directory also holds {lost}, which would be lost",
            path=directory,
            hint="write to a new directory",
        )


def would_be_lost(directory: Path, places: Collection[str]) -> str | None:
    """The place of something in `directory` that a copy of `places` lacks; raises `OSError`."""
    for folder, folders, files in os.walk(directory, onerror=_raise):
        here = Path(folder)
        links = (name for name in folders if (here / name).is_symlink())
        for name in (*files, *links):
            place = (here / name).relative_to(directory).as_posix()
            if place not in places:
                return place
    return None


def _raise(error: OSError) -> NoReturn:
    raise error
