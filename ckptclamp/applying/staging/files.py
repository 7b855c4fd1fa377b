"""One file in the making, and the stage on which a copy is made that is one file."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from ckptclamp import system
from ckptclamp.applying.staging import Stage, or_not_written
from ckptclamp.checkpoints.directories.unfinished import hidden_name

if TYPE_CHECKING:
    from ckptclamp.system import Folder


def open_left(folder: Folder, name: str) -> int | None:
    """Open for writing what an earlier run left as `name`; ``None`` if no file of this user is there."""
    flags = (getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY", "O_NONBLOCK"))
    try:
        fd = os.open(folder.path / name, os.O_RDWR | sum(flags))
    except OSError:
        return None
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and system.is_mine(status):
        return fd
    os.close(fd)
    return None


class NewFile:
    """A file that will be called `name` in `folder`; it has no name until then, or a hidden one.

    `hidden` is the hidden one. It is made by `open`, so that whoever is to remove it knows it before. Its
    methods raise `OSError` as the system does.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder = folder
        self.name = name
        self.hidden = hidden_name(name)
        self.temporary: str | None = None
        self.fd = -1

    def open(self) -> None:
        """Make it."""
        self.fd = self.folder.create_unnamed()
        if self.fd < 0:
            # Noted first: a signal between the two would leave a file that nobody removes.
            self.temporary = self.hidden
            try:
                self.fd = self.folder.create(self.temporary)
            except FileExistsError:
                self.temporary = None
                raise
        system.lock(self.fd)  # so that nobody takes it for the leftover of a killed run

    def reopen(self, hidden: str) -> bool:
        """Take the file that an earlier run left under a `hidden` name; false if none is there."""
        fd = open_left(self.folder, hidden)
        if fd is None:
            return False
        self.fd, self.hidden, self.temporary = fd, hidden, hidden
        system.lock(self.fd)
        return True

    def hide(self) -> str:
        """Give it a hidden name, if it has none; return that."""
        if self.temporary is None:
            self.temporary = self.hidden
            self.folder.name(self.fd, self.temporary)
        return self.temporary

    def appear(self) -> None:
        """Take the name, which must be free."""
        if self.temporary is None:
            self.folder.name(self.fd, self.name)
            return
        self._release()
        self.folder.move_new(self.temporary, self.name)
        self.temporary = None

    def replace(self) -> None:
        """Take the name from what has it, in one step."""
        hidden = self.hide()
        self._release()
        self.folder.move(hidden, self.name)
        self.temporary = None

    def _release(self) -> None:
        """Close the file where the system does not rename one that is open."""
        if not system.moves_open_files():
            self.close()

    def close(self) -> None:
        """Close it, and leave it where it is."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def discard(self) -> None:
        """Close it, and remove what has no name of its own."""
        self.close()
        if self.temporary is not None:
            with suppress(OSError):
                self.folder.remove(self.temporary)


class FileStage(Stage):
    """One file."""

    _file: NewFile | None = None

    def create(self, name: str, size: int) -> int:
        """See `Target.create`; `name` does not matter."""
        if self._file is not None:
            raise ValueError("the target is one file, and was made already")
        with or_not_written(self.path):
            self._file = NewFile(self.folder, self.path.name)
            self._file.open()
            self.make_room(self._file.fd, size)
        return self._file.fd

    def give_names(self) -> None:
        """See `Stage.give_names`."""
        file, replaced = self._file, self.replaced
        assert file is not None
        if replaced is None or self.is_link(self.path.name, replaced):
            system.set_mode(file.fd, self.new_mode(self.like.files[0]))
        else:
            self.keep(file.fd, self.path, replaced)
        # Never tried again: a second fsync may report success for data that the first one lost.
        os.fsync(file.fd)
        if replaced is None:
            file.appear()
        else:
            file.replace()
        self.flush_folder()

    def discard(self) -> None:
        """See `Stage.discard`."""
        if self._file is not None:
            self._file.discard()
