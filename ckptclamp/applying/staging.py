"""A copy in the making: written without a name, or under a hidden one, until it is published.

A file is made without a name (``O_TMPFILE``), so that not even a killed run leaves it behind; where
the file system cannot do that, and for directories, it has a hidden name that ends in
``.ckptclamp-tmp``, by which leftovers are known.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import NoReturn

from ckptclamp import system
from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.errors import Notice, NotWrittenError
from ckptclamp.system import Folder

_SUFFIX = ".ckptclamp-tmp"
_LONGEST_STEM = 200
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}" + re.escape(_SUFFIX), re.DOTALL)
"""The hidden names."""


class Stage(ABC):
    """A copy in the making: a `Target`, and the way to publish it.

    `path` is the final name. `directory` is where files are made until then, ``None`` for a single
    file.
    """

    def __init__(
        self, path: Path, parent: Folder, like: Checkpoint, replaced: os.stat_result | None
    ) -> None:
        self.path = path
        self.directory: Path | None = None
        self._parent = parent
        self._replaced = replaced
        self._mode = os.fstat(like.files[0].fd).st_mode & 0o777
        self._temporary: str | None = None
        self._notices: list[Notice] = []

    @abstractmethod
    def create(self, name: str, size: int) -> int:
        """See `Target.create`."""

    @abstractmethod
    def _name(self) -> None:
        """Flush what was written and give it its name; raises `OSError`."""

    @abstractmethod
    def discard(self) -> None:
        """Close every descriptor, and remove what was not published."""

    def publish(self) -> tuple[Notice, ...]:
        """Make the copy appear under its name, and return what could not be kept or confirmed.

        Raises:
            NotWrittenError: it could not be; the target is what it was before.
        """
        with or_not_written(self.path):
            self._check_replaced()
            self._name()
        return tuple(self._notices)

    def _check_replaced(self) -> None:
        """Refuse if what stands at the target is not what stood there at the start."""
        if self._replaced is None:
            return
        now = os.lstat(self.path)
        if not os.path.samestat(now, self._replaced):
            raise NotWrittenError("was replaced by someone else meanwhile", path=self.path)
        if now.st_nlink > 1 and not stat.S_ISDIR(now.st_mode):
            self._note("hard-links", "other hard links of the output keep the old content")

    def _flush_parent(self) -> bool:
        """Flush the directory that holds the new name; a failure cannot be undone, only noted."""
        try:
            self._parent.flush()
        except OSError as error:
            self._note(
                "durability-unconfirmed",
                f"{self.path.name} was written, but the system cannot confirm that it is on disk: "
                f"{error.strerror}",
            )
            return False
        return True

    def _new_mode(self) -> int:
        """Return the mode of a new file: the input's, as far as the user's umask lets it be."""
        return self._mode & ~_umask()

    def _keep(self, fd: int, replaced: Path, status: os.stat_result) -> None:
        """Give `fd` the permissions, owner and attributes of what it replaces, where allowed."""
        system.set_mode(fd, self._keep_owner(fd, status))
        self._keep_attributes(fd, replaced)

    def _keep_owner(self, fd: int, replaced: os.stat_result) -> int:
        """Give `fd` the owner of the replaced file, and return the mode that is then safe."""
        mine = os.fstat(fd)
        mode = replaced.st_mode & 0o777 | _inherited(mine)
        if (mine.st_uid, mine.st_gid) == (replaced.st_uid, replaced.st_gid):
            return mode
        try:
            system.set_owner(fd, replaced.st_uid, replaced.st_gid)
        except OSError as error:
            self._note("owner-not-kept", f"owner and group of the output changed: {error.strerror}")
            # Another group must not get what was for the former one only.
            return mode & (0o707 | (mode & 0o007) << 3)
        return mode

    def _keep_attributes(self, fd: int, replaced: Path) -> None:
        """Copy extended attributes and access control lists."""
        try:
            known = system.copy_attributes(replaced, fd)
        except OSError as error:
            self._note("attributes-not-kept", f"attributes were lost: {error.strerror}")
            return
        if not known:
            said = (
                "extended attributes of what was replaced, if it had any, are lost on this system"
            )
            self._note("attributes-not-kept", said, informational=True)

    def _note(self, code: str, message: str, *, informational: bool = False) -> None:
        """Say what could not be kept; of several files once."""
        if all(notice.code != code for notice in self._notices):
            self._notices.append(Notice(code, message, informational=informational))


class FileStage(Stage):
    """One file."""

    _fd = -1

    def create(self, name: str, size: int) -> int:
        """See `Target.create`; `name` does not matter."""
        if self._fd >= 0:
            raise ValueError("the target is one file, and was made already")
        with or_not_written(self.path):
            self._fd = self._parent.create_unnamed()
            if self._fd < 0:
                self._fd = self._open_named()
            _make_room(self._fd, size, self.path)
        return self._fd

    def _open_named(self) -> int:
        # Noted first: a signal between the two would leave a file that nobody removes.
        self._temporary = _temporary_name(self.path)
        try:
            return self._parent.create(self._temporary)
        except FileExistsError:
            self._temporary = None
            raise

    def _name(self) -> None:
        if self._replaced is None:
            system.set_mode(self._fd, self._new_mode())
        else:
            self._keep(self._fd, self.path, self._replaced)
        # Never tried again: a second fsync may report success for data that the first one lost.
        os.fsync(self._fd)
        if self._replaced is None:
            self._name_new()
        else:
            if self._temporary is None:
                self._temporary = _temporary_name(self.path)
                self._parent.name(self._fd, self._temporary)
            self._release()
            self._parent.move(self._temporary, self.path.name)
            self._temporary = None
        self._flush_parent()

    def _name_new(self) -> None:
        """Take the final name if nobody took it meanwhile."""
        if self._temporary is None:
            self._parent.name(self._fd, self.path.name)
            return
        self._release()
        self._parent.move_new(self._temporary, self.path.name)
        self._temporary = None

    def _release(self) -> None:
        """Close the file where the system does not rename one that is open."""
        if not system.moves_open_files():
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        """See `Stage.discard`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._temporary is not None:
            with suppress(OSError):
                self._parent.remove(self._temporary)


class DirectoryStage(Stage):
    """A directory of files."""

    directory: Path

    def __init__(
        self, path: Path, parent: Folder, like: Checkpoint, replaced: os.stat_result | None
    ) -> None:
        super().__init__(path, parent, like, replaced)
        self._fds: dict[str, int] = {}
        self._temporary = _temporary_name(path)
        self.directory = path.parent / self._temporary
        with or_not_written(path):
            self._folder_mode = like.files[0].path.parent.stat().st_mode & 0o777 | 0o700
            self.directory.mkdir(0o700)

    def create(self, name: str, size: int) -> int:
        """See `Target.create`."""
        place = PurePosixPath(name)
        if place.is_absolute() or not place.parts or ".." in place.parts:
            raise ValueError(f"{name!r} is no place inside a directory")
        path = self.directory / place
        with or_not_written(path):
            path.parent.mkdir(0o700, parents=True, exist_ok=True)
            self._fds[place.as_posix()] = fd = os.open(path, _CREATE, 0o600)
            _make_room(fd, size, path)
        return fd

    def _name(self) -> None:
        for place, fd in self._fds.items():
            self._finish(fd, place, stat.S_ISREG, self._new_mode())
        for folder, _, _ in os.walk(self.directory, topdown=False):
            with _opened_folder(folder) as fd:
                place = Path(folder).relative_to(self.directory).as_posix()
                self._finish(fd, place, stat.S_ISDIR, self._folder_mode & ~_umask())
        assert self._temporary is not None
        if self._replaced is None:
            # This fails unless the name is free, or an empty directory has it.
            self._parent.move(self._temporary, self.path.name)
            self._temporary = None
            self._flush_parent()
        else:
            self._exchange(self._temporary)

    def _finish(self, fd: int, place: str, same_kind: Callable[[int], bool], mode: int) -> None:
        """Give a file or a folder its permissions, of what it replaces if it does; flush it."""
        former = self.path / place
        status = os.lstat(former) if self._replaced and os.path.lexists(former) else None
        if status is not None and same_kind(status.st_mode):
            self._keep(fd, former, status)
        else:
            system.set_mode(fd, mode | _inherited(os.fstat(fd)))
        os.fsync(fd)

    def _exchange(self, temporary: str) -> None:
        """Change places with the directory at the target, and remove that one."""
        lost = self._would_be_lost(self.path)
        if lost is not None:
            raise NotWrittenError(
                f"the directory also holds {lost}, which would be lost",
                path=self.path,
                hint="write to a new directory",
            )
        self._parent.exchange(temporary, self.path.name)
        # Until the exchange is on disk, the old directory may be what survives; and somebody may
        # have put a file there meanwhile.
        if not self._flush_parent() or self._would_be_lost(self.directory) is not None:
            self._temporary = None
            self._note("leftover", f"the former content was kept as {temporary}")

    def _would_be_lost(self, directory: Path) -> str | None:
        """The place of something in `directory` that the copy does not have; raises `OSError`."""
        for folder, folders, files in os.walk(directory, onerror=_raise):
            here = Path(folder)
            links = (name for name in folders if (here / name).is_symlink())
            for name in (*files, *links):
                place = (here / name).relative_to(directory).as_posix()
                if place not in self._fds:
                    return place
        return None

    def discard(self) -> None:
        """See `Stage.discard`."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        if self._temporary is not None:
            shutil.rmtree(self.directory, ignore_errors=True)


def _temporary_name(path: Path) -> str:
    stem = os.fsdecode(os.fsencode(path.name)[:_LONGEST_STEM])
    return f".{stem}.{secrets.token_hex(4)}{_SUFFIX}"


def _make_room(fd: int, size: int, path: Path) -> None:
    """Reserve `size` bytes, so that a full disk is found before hours of work."""
    free = system.free_bytes(path.parent)
    if free < size:
        raise NotWrittenError(f"{size} bytes are needed, {free} are free", path=path)
    system.reserve(fd, size)


def _raise(error: OSError) -> NoReturn:
    raise error


def _inherited(status: os.stat_result) -> int:
    """The bit that lets what is made in a folder belong to the folder's group."""
    return status.st_mode & stat.S_ISGID if stat.S_ISDIR(status.st_mode) else 0


@contextmanager
def _opened_folder(folder: str) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextmanager
def or_not_written(path: Path) -> Iterator[None]:
    """Turn the system's refusals into `NotWrittenError`."""
    try:
        yield
    except FileExistsError as error:
        raise NotWrittenError("was made by someone else meanwhile", path=path) from error
    except OSError as error:
        reason = f"cannot be written: {error.strerror or error}"
        raise NotWrittenError(reason, path=path) from error
