"""The small interface that every format stands behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from ckptclamp.checkpoints.reading import in_file, read_box, spans
from ckptclamp.checkpoints.tensor import (
    Box,
    KerasModel,
    Producer,
    Tensor,
    Unreadable,
)
from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.array import StoredArray
    from ckptclamp.checkpoints.copying import FileCopy
    from ckptclamp.checkpoints.reading import Mark
    from ckptclamp.checkpoints.remote.ahead import ReadAhead
    from ckptclamp.checkpoints.source import Source


Item = TypeVar("Item")
Result = TypeVar("Result")


class TensorReader(Protocol):
    """Whatever weights can be read from: a checkpoint, or a copy that is being made."""

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """Return `box` of `tensor`, in its storage dtype and the shape of the box.

        The array may be a view of `buffer` (at least the box's bytes long), so it is good only
        until the buffer is used again.

        Raises:
            UnreadableError: the bytes are not there, or cannot be decoded.
        """


class RemoteReader(TensorReader, Protocol):
    """Where weights are read from that may be `remote`; only then is `expect` asked."""

    remote: bool

    def expect(self, steps: Iterable[tuple[Mark, Tensor, Box]], memory: int) -> ReadAhead:
        """Fetch what `steps` will read, in their order, in about `memory` bytes; nothing of local files.

        What is returned is a context manager, to be told how far the reader is.
        """


def fetch_ahead(
    sources: Mapping[int, Source], steps: Iterable[tuple[Mark, Tensor, Box]], memory: int
) -> ReadAhead:
    """See `RemoteReader.expect`; `sources` are those that tensors lie in, by their numbers."""
    from ckptclamp.checkpoints.remote.ahead import ReadAhead
    from ckptclamp.checkpoints.remote.objects import RemoteSource

    remote = {n: source for n, source in sources.items() if isinstance(source, RemoteSource)}
    plan = (
        (mark, remote[number], start, stop)
        for mark, tensor, box in steps
        for number, start, stop in spans(tensor, box)
        if number in remote
    )
    return ReadAhead(plan, memory, remote.values())


class Target(Protocol):
    """Where a copy is put while it has no final name yet; `publication.staged` makes one.

    Attributes:
        path: the name that the copy will have, for messages.
        directory: the directory in which `create` makes files, or ``None`` where the target is one
            file (which may have no name at all, only a descriptor).
    """

    path: Path
    directory: Path | None

    def create(self, name: str, size: int) -> int:
        """Return a read-write descriptor of a new file with room for `size` bytes.

        `name` is the file's place inside the checkpoint's directory (``assets/a.txt``; folders are
        made), or anything where the target is one file: it can then be asked for once. The target
        owns the descriptor and closes it.

        Raises:
            NotWrittenError: the file cannot be made, or there is no room for it.
        """

    def keeps(self, name: str) -> bool:
        """Whether the file `name` is there as it is to be, so that no copy of it is made."""


class Copy(TensorReader, Protocol):
    """Weights that are being changed: those of a stored copy, or of a preview of one."""

    def write(self, tensor: Tensor, box: Box, values: NDArray[Any]) -> None:
        """Put `values` (storage dtype, the shape of the box) where `box` of `tensor` lies.

        Raises:
            NotWrittenError: the tensor is stored in a way that cannot be overwritten.
        """


class StoredCopy(Copy, Protocol):
    """A byte-for-byte copy of a checkpoint that is being changed and is not yet published."""

    def finish(self) -> None:
        """Bring the container up to date (checksums, chunks that moved); nothing is written after.

        Raises:
            NotWrittenError: it cannot be written.
        """

    def flush(self) -> None:
        """Wait until everything that was written is on disk.

        Raises:
            NotWrittenError: the system cannot confirm it; that is not tried twice, because a second
                flush may report success for what the first one lost.
        """

    def compare(self, jobs: int) -> None:
        """Compare what was not to change with the original, byte for byte, in `jobs` threads.

        Raises:
            NotWrittenError: the copy differs where it must not.
            ChangedError: the original is no longer what was copied.
        """

    @property
    def files(self) -> Sequence[Source]:
        """Everything that was made, in the order of the checkpoint's own files."""

    @property
    def written(self) -> AbstractSet[int]:
        """The numbers of the sources in whose copies something was overwritten."""

    def reopen(self) -> Checkpoint:
        """Open what was written as a checkpoint of its own, to be audited before it has a name."""


class Checkpoint(ABC):
    """An opened checkpoint: described, but with no weights in memory. A context manager.

    Attributes:
        path: what the user named.
        format: the name of the format, such as ``safetensors`` or ``keras-zip``.
        sources: the regular files that hold the weights; `Contiguous.source` indexes them.
        tensors: every tensor by name, in the order of the file.
        notes: sentences that a reader must know (a name that disagrees with the content, aliases).
        metadata: free text that the file carries about itself, as it stands there.
        keras: what a Keras file says of its model, if it is one.
        quantisation: what the config in a safetensors checkpoint's directory says of quantised
            weights, if anything, or why that cannot be known.
        config: reads the model's own config beside a safetensors checkpoint: a mapping, why it cannot
            be read, or ``None`` where there is none.
        adapter: the ``adapter_config.json`` in the directory of an adapter, or why it cannot be read.
        configs: the sha256 of each config in the directory that was read, by its name.
        unlisted: the tensors that the index of a sharded set leaves out.
        base: the checkpoint that this one was made from, if one was given.
        companions: files that are watched, and closed, with those of this checkpoint.
        merged: whether this is an adapter that is seen together with its base, as one model.
        several_files: whether a copy is a directory of files, so that its target must be one.
        in_steps: whether each of its files can be copied and finished by itself.
        folder: the directory by which the user named it, if that is how: all that lies in it belongs
            to the model.
        isolation: what the parser's sandbox was made of (``landlock``, ``seccomp``, ``rlimits``).
    """

    path: Path
    format: str
    sources: tuple[Source, ...]
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = {}
    keras: KerasModel | None = None
    quantisation: Mapping[str, Any] | Unreadable | None = None
    config: Callable[[], Mapping[str, Any] | Unreadable | None] = staticmethod(lambda: None)
    adapter: Mapping[str, Any] | Unreadable | None = None
    configs: Mapping[str, str] = {}
    unlisted: tuple[str, ...] = ()
    base: Checkpoint | None = None
    companions: tuple[Source, ...] = ()
    merged: bool = False
    several_files: bool = False
    in_steps: bool = False
    folder: Path | None = None
    isolation: tuple[str, ...] = ()

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """See `TensorReader.read`. Safe to call from several threads with a buffer each."""
        return read_box(self.sources, tensor, box, buffer)

    def in_file(self, tensor: Tensor) -> tuple[int, int] | None:
        """The descriptor and the offset at which the bytes of `tensor` lie in C order, if kernels may read them.

        ``None`` where reading takes more than that: a network, a checksum, a cache that is left as it is.
        """
        return in_file(self.sources, tensor)

    def expect(self, steps: Iterable[tuple[Mark, Tensor, Box]], memory: int) -> ReadAhead:
        """See `RemoteReader.expect`."""
        return fetch_ahead(dict(enumerate(self.sources)), steps, memory)

    def mapped(self, read: Callable[[Item], Result], items: Iterable[Item]) -> Iterable[Result]:
        """``map(read, items)``, several at a time where each may wait for a network."""
        if not self.remote:
            return map(read, items)
        from ckptclamp.checkpoints.remote.workers import readers

        return readers().map(read, items)

    def __getitem__(self, name: str) -> StoredArray:
        """The tensor called `name`, to be read by indexing; see `stored_array`."""
        from ckptclamp.checkpoints.array import stored_array

        return stored_array(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __repr__(self) -> str:
        return f"<Checkpoint {str(self.path)!r}: {self.format}, {len(self.tensors):,} tensors>"

    def check_copyable(self) -> None:  # noqa: B027 - of most containers a copy can be made
        """Raise `NotWrittenError` where `copy_to` would, whatever were to be changed."""

    @abstractmethod
    def copy_to(self, target: Target) -> StoredCopy:
        """Copy every byte of every file to `target` and return the copy for changes.

        Formats hand their files to `copying.FileCopy`, or to a subclass of it where writing takes
        more than bytes at an offset.

        Raises:
            NotWrittenError: the copy cannot be made, for want of space or otherwise.
            ChangedError: a source changed while it was copied.
        """

    def copy_in_steps(self, target: Target) -> FileCopy:
        """Make an empty copy that is filled, written and compared file by file; raises as `copy_to`.

        Only where the checkpoint is `in_steps`.
        """
        raise NotImplementedError

    @property
    def files(self) -> tuple[Source, ...]:
        """The files that the user would call the checkpoint; by default the sources."""
        return self.sources

    @property
    def remote(self) -> bool:
        """Whether any weight is read over a network."""
        return any(source.remote for source in self.sources)

    @property
    def producer(self) -> Producer | None:
        """Who wrote it, as far as it says."""
        if self.keras is None:
            return None
        return Producer("keras", self.keras.version, self.keras.backend)

    def assume_config(self, config: Mapping[str, Any]) -> None:
        """Take `config` for the model config that a weights-only Keras file lacks.

        Raises:
            UsageError: the file has a config of its own, or is no Keras file.
        """
        if self.keras is None:
            raise UsageError("only a Keras file takes a model config", path=self.path)
        if self.keras.config is not None:
            raise UsageError("has a model config of its own", path=self.path)
        self.keras = replace(self.keras, config=config, config_given=True)

    def verify_integrity(self) -> None:  # noqa: B027 - most containers promise nothing
        """Check what the container itself promises of its bytes (a zip's checksums).

        Raises:
            UnreadableError: the bytes are not what the container says.
        """

    def verify_unchanged(self) -> None:
        """Raise `ChangedError` if a file is no longer the one that was opened."""
        for _ in self.mapped(methodcaller("verify_unchanged"), self._every_file()):
            pass

    def leave_cache(self) -> None:
        """Read without filling the page cache, or note that this system cannot."""
        able = [source.leave_cache() for source in self.sources]
        if not all(able):
            self.notes += ("this system cannot read without filling the page cache",)

    def close(self) -> None:
        """Close every file."""
        for source in self._every_file():
            source.close()

    def _every_file(self) -> Iterable[Source]:
        return dict.fromkeys((*self.files, *self.sources, *self.companions))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
