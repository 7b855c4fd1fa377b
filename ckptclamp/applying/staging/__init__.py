"""A copy in the making: written without a name, or under a hidden one, until it is published.

A file is made without a name (``O_TMPFILE``), so that not even a killed run leaves it behind; where
the file system cannot do that, and for directories, it has a hidden name that ends in
``.ckptclamp-tmp``, by which leftovers are known. What has a name is locked for as long as the run is.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckptclamp import system
from ckptclamp.errors import Notice, NotWrittenError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from ckptclamp.applying.steps.record import Record
    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.source import Source
    from ckptclamp.system import Folder


class Stage(ABC):
    """A copy in the making: a `Target`, and the way to publish it.

    `path` is the final name, in `folder`, and `replaced` the status of what has it now. `directory` is
    where files are made until then, ``None`` for a single file. `like` is the original. `record`
    says what is done, where another run could go on with it.
    """

    def __init__(
        self, path: Path, folder: Folder, like: Checkpoint, replaced: os.stat_result | None
    ) -> None:
        self.path = path
        self.directory: Path | None = None
        self.folder = folder
        self.like = like
        self.replaced = replaced
        self.record: Record | None = None
        self._notices: list[Notice] = []
        self._links: list[str] = []

    @abstractmethod
    def create(self, name: str, size: int) -> int:
        """See `Target.create`."""

    @abstractmethod
    def give_names(self) -> None:
        """Flush what was written and give it its name, or names; raises `OSError`."""

    @abstractmethod
    def discard(self) -> None:
        """Close every descriptor, and remove what was not published."""

    def begin(self) -> None:  # noqa: B027 - most stages make nothing before the first file
        """Make what must be there before the first file; raises `NotWrittenError`."""

    def announce(self, changing: Mapping[str, int]) -> None:  # noqa: B027 - a new copy has all files
        """Say which files of the original may change, and how many bytes each takes.

        Raises:
            NotWrittenError: there is no room for all of them together.
        """

    def keeps(self, name: str) -> bool:
        """See `Target.keeps`: of a new copy every file is made."""
        return False

    @property
    def hidden(self) -> str | None:
        """The hidden name under which everything is made, if it is one directory."""
        return None

    def place_of(self, name: str) -> str:
        """Where the file `name` will lie once it is sealed."""
        raise NotImplementedError

    def seal(self, name: str) -> None:
        """Let the file `name`, which is done and on disk, outlive this run.

        That its name is on disk, too, is not waited for: a file that is not found is made again.

        Raises:
            NotWrittenError: the system cannot do that.
        """
        raise NotImplementedError

    def adopt(self, name: str, where: str, size: int) -> int | None:
        """Take over the file `name` that an earlier run sealed `where`; its descriptor.

        ``None`` if no file of `size` bytes is there. `create` then gives this one.
        """
        raise NotImplementedError

    def forget(self) -> None:
        """Remove the record: nobody needs it any more."""
        if self.record is not None:
            self.record.discard()

    def close_record(self) -> None:
        """Leave the record for a later run."""
        if self.record is not None:
            self.record.close()

    def leave(self) -> None:
        """Close every descriptor, and leave what is sealed, and the record, for a later run."""
        raise NotImplementedError

    def publish(self, changed: Collection[str] | None = None) -> tuple[Notice, ...]:
        """Make the copy appear under its name, and return what could not be kept or confirmed.

        `changed` names the files that came to differ from the original, if that is known.

        Raises:
            NotWrittenError: it could not be; the target is what it was before.
        """
        with or_not_written(self.path):
            self._check_replaced()
            self.give_names()
        if self._links:
            first, *more = self._links
            said = f"{first} (and {len(more)} more)" if more else first
            self._note(
                "link-replaced",
                f"{said} was a symbolic link and is a file of its own now; what it led to is as it was",
                informational=True,
            )
        return tuple(self._notices)

    def _check_replaced(self) -> None:
        """Refuse if what stands at the target is not what stood there at the start."""
        if self.replaced is None:
            return
        now = os.lstat(self.path)
        if not os.path.samestat(now, self.replaced):
            raise NotWrittenError("was replaced by someone else meanwhile", path=self.path)
        self.note_other_names(now)

    def note_other_names(self, status: os.stat_result) -> None:
        """Note that hard links of a file that is replaced stay what they were."""
        if status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
            self._note("hard-links", "other hard links of the output keep the old content")

    def is_link(self, name: str, status: os.stat_result) -> bool:
        """Whether what is replaced is a symbolic link; `publish` says so then."""
        if not stat.S_ISLNK(status.st_mode):
            return False
        self._links.append(name)
        return True

    def flush_folder(self) -> bool:
        """Flush the directory that holds the new name; a failure cannot be undone, only noted."""
        try:
            self.folder.flush()
        except OSError as error:
            self._note(
                "durability-unconfirmed",
                f"{self.path.name} was written, but the system cannot confirm that it is on disk: "
                f"{error.strerror}",
            )
            return False
        return True

    def new_mode(self, original: Source) -> int:
        """Return the mode of a new file: the original's, as far as the user's umask lets it be."""
        return original.mode() & ~umask()

    def make_room(self, fd: int, size: int) -> None:
        """Reserve `size` bytes, so that a full disk is found before hours of work."""
        check_room(self.folder.path, size, self.path)
        system.reserve(fd, size)

    def keep(self, fd: int, replaced: Path, status: os.stat_result) -> None:
        """Give `fd` the permissions, owner and attributes of what it replaces, where allowed."""
        system.set_mode(fd, self._keep_owner(fd, status))
        self._keep_attributes(fd, replaced)

    def _keep_owner(self, fd: int, replaced: os.stat_result) -> int:
        """Give `fd` the owner of the replaced file, and return the mode that is then safe."""
        mine = os.fstat(fd)
        mode = replaced.st_mode & 0o777 | inherited(mine)
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


def check_room(folder: Path, size: int, path: Path) -> None:
    """Raise `NotWrittenError` about `path` if there are no `size` bytes free in `folder`."""
    with or_not_written(path):
        free = system.free_bytes(folder)
    if free < size:
        raise NotWrittenError(f"{size} bytes are needed, {free} are free", path=path)


def inherited(status: os.stat_result) -> int:
    """The bit that lets what is made in a folder belong to the folder's group."""
    return status.st_mode & stat.S_ISGID if stat.S_ISDIR(status.st_mode) else 0


def umask() -> int:
    """The bits of a new file's mode that this process takes away."""
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
