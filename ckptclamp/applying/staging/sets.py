"""The stage of an apply in place to several files: those that change are replaced where they lie."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckptclamp import system
from ckptclamp.applying.journal import HalfReplacedError, planned, replace_files
from ckptclamp.applying.staging import Stage, check_room, or_not_written
from ckptclamp.applying.staging.files import NewFile

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.errors import Notice
    from ckptclamp.system import Folder


class SetStage(Stage):
    """Files in the directory `path`, which is `folder`; all that were not announced stay as they are."""

    def __init__(self, path: Path, folder: Folder, like: Checkpoint) -> None:
        super().__init__(path, folder, like, None)
        self.directory = path
        self._announced: Collection[str] | None = None
        self._files: dict[str, NewFile] = {}
        self._adopted: dict[str, NewFile] = {}
        self._sealed: set[str] = set()

    def announce(self, changing: Mapping[str, int]) -> None:
        """See `Stage.announce`."""
        made = {name: size for name, size in changing.items() if name not in self._adopted}
        check_room(self.path, sum(made.values()), self.path)
        self._announced = changing.keys()

    def keeps(self, name: str) -> bool:
        """See `Target.keeps`."""
        return self._announced is not None and name not in self._announced

    def create(self, name: str, size: int) -> int:
        """See `Target.create`."""
        if name in self._adopted:
            self._files[name] = self._adopted.pop(name)
            return self._files[name].fd
        with or_not_written(self.path / name):
            self._files[name] = file = NewFile(self.folder, name)
            file.open()
            self.make_room(file.fd, size)
        return file.fd

    def place_of(self, name: str) -> str:
        """See `Stage.place_of`."""
        return self._files[name].hidden

    def seal(self, name: str) -> None:
        """See `Stage.seal`: it gets a hidden name."""
        with or_not_written(self.path / name):
            self._files[name].hide()
        self._sealed.add(name)

    def adopt(self, name: str, where: str, size: int) -> int | None:
        """See `Stage.adopt`."""
        file = NewFile(self.folder, name)
        if not file.reopen(where):
            return None
        if os.fstat(file.fd).st_size != size:
            file.discard()
            return None
        self._adopted[name] = file
        self._sealed.add(name)
        return file.fd

    def leave(self) -> None:
        """See `Stage.leave`."""
        for name, file in (self._files | self._adopted).items():
            if name in self._sealed:
                file.close()
            else:
                file.discard()
        self.close_record()

    def publish(self, changed: Collection[str] | None = None) -> tuple[Notice, ...]:
        """See `Stage.publish`; files that came out as they were are not replaced."""
        for name in [n for n in self._files if changed is not None and n not in changed]:
            self._files.pop(name).discard()
        return super().publish(changed)

    def give_names(self) -> None:
        """See `Stage.give_names`."""
        originals = {source.path.name: source for source in self.like.files}
        for name, file in self._files.items():
            status = os.lstat(self.path / name)
            if self.is_link(name, status):
                system.set_mode(file.fd, self.new_mode(originals[name]))
            else:
                self.keep(file.fd, self.path / name, status)
                self.note_other_names(status)
            os.fsync(file.fd)
        with system.signals_later():
            self._replace()

    def _replace(self) -> None:
        files = list(self._files.values())
        if len(files) < 2:  # one step needs no journal
            for file in files:
                file.replace()
            self.flush_folder()
            return
        moves = [planned(self.folder, file.hide(), file.name) for file in files]
        try:
            subject, begun = self.like.path.name, self.forget
            replace_files(self.folder, moves, subject, self.flush_folder, begun)
        except HalfReplacedError:
            self._files.clear()  # what is left to do needs them
            raise
        for file in files:
            file.temporary = None

    def discard(self) -> None:
        """See `Stage.discard`."""
        for file in (*self._files.values(), *self._adopted.values()):
            file.discard()
        self.forget()
