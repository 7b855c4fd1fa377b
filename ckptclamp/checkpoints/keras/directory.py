"""A Keras model saved as a directory: what a ``.keras`` archive holds, as files."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.documents import (
    CONFIG,
    MAX_BYTES,
    METADATA,
    WEIGHTS,
    join_documents,
    parse_document,
)
from ckptclamp.checkpoints.hdf5.copying import Hdf5Copy
from ckptclamp.checkpoints.hdf5.file import describe_hdf5, producer
from ckptclamp.checkpoints.reading import read_box
from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import NotWrittenError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy, Target
    from ckptclamp.checkpoints.tensor import Box, Tensor

_MAX_FILES = 400
"""Files in one directory; each takes a descriptor while it is copied."""


def open_keras_directory(path: Path, *, follow_symlinks: bool = False) -> Checkpoint:
    """Open a directory with ``config.json``, ``model.weights.h5`` and perhaps ``metadata.json``.

    Raises:
        RefusedError: a file is a symbolic link (unless those are followed), or has two readings.
        UnreadableError: a file is missing or damaged.
    """
    names = [WEIGHTS, CONFIG]
    names += [METADATA] if os.path.lexists(path / METADATA) else []
    with ExitStack() as opened:
        files = [opened.enter_context(closing(_open(path, n, follow_symlinks))) for n in names]
        checkpoint = KerasDirectory(path, files, follow_symlinks=follow_symlinks)
        opened.pop_all()
    return checkpoint


def _open(directory: Path, name: str, follow_symlinks: bool) -> Source:
    return Source.open(directory / name, follow_symlinks=follow_symlinks)


class KerasDirectory(Checkpoint):
    """A directory.

    `files` are the weights, the config and, where there is one, the metadata; others (assets, or
    what a user keeps there) are only looked at to be copied.
    """

    format = "keras-directory"
    several_files = True

    def __init__(
        self, path: Path, files: Sequence[Source], *, follow_symlinks: bool = False
    ) -> None:
        self.path = path
        self.sources = (files[0],)
        self._documents = tuple(files[1:])
        self._follow_symlinks = follow_symlinks
        documents = [
            _document(file, name)
            for name, file in zip((CONFIG, METADATA), self._documents, strict=False)
        ]
        description = describe_hdf5(files[0])
        self.keras = join_documents(path, description.keras, documents[0], _second(documents))
        self.producer = producer(self.keras)
        self.tensors = description.tensors
        self.notes = description.notes
        self.isolation = description.isolation

    @property
    def files(self) -> tuple[Source, ...]:
        """The weights, the config and the metadata."""
        return (*self.sources, *self._documents)

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """See `Checkpoint.read`."""
        return read_box(self.sources, tensor, box, buffer)

    def copy_to(self, target: Target) -> Copy:
        """Copy every file of the directory; see `Checkpoint.copy_to`."""
        known = list(zip((WEIGHTS, CONFIG, METADATA), self.files, strict=False))
        with ExitStack() as opened:
            others = [
                (name, opened.enter_context(closing(_open(self.path, name, self._follow_symlinks))))
                for name in self._other_names({name for name, _ in known})
            ]
            return Hdf5Copy(
                [*known, *others],
                target,
                reopen=lambda copies: KerasDirectory(target.path, copies[: len(known)]),
                describe=lambda copies: describe_hdf5(copies[0]).tensors,
            )

    def _other_names(self, known: set[str]) -> list[str]:
        """Return the places of all other files in the directory.

        Raises:
            NotWrittenError: there are too many to be a model's, or a folder cannot be read.
        """
        names: list[str] = []
        for folder, folders, files in os.walk(self.path, onerror=_refuse_unread):
            here = Path(folder).relative_to(self.path)
            links = [name for name in folders if (self.path / here / name).is_symlink()]
            if links:
                raise NotWrittenError("is a symbolic link to a directory", path=here / links[0])
            names += [(here / name).as_posix() for name in files]
            if len(names) > _MAX_FILES:
                raise NotWrittenError(
                    f"holds more than {_MAX_FILES} files",
                    path=self.path,
                    hint="move what is not the model's out of it",
                )
        return sorted(set(names) - known)


def _refuse_unread(error: OSError) -> NoReturn:
    raise NotWrittenError(f"cannot be copied: {error.strerror}", path=error.filename) from error


def _document(file: Source, name: str) -> dict[str, Any]:
    if file.size > MAX_BYTES:
        raise RefusedError(f"is {file.size} bytes long, too much for a {name}", path=file.path)
    return parse_document(file.read_at(0, file.size), name, file.path)


def _second(documents: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    return documents[1] if len(documents) > 1 else None
