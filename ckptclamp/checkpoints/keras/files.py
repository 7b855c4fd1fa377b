"""Keras models of several files: an unpacked ``.keras`` archive, or weights split into shards.

The index of shards, ``model.weights.json``, maps each group of variables to the file, or the files,
that hold them. It is untrusted as the shards are: a shard is a plain file name beside the index, and
what the index says of the shards must be what they say of themselves.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ckptclamp.checkpoints.checkpoint import Checkpoint, Copy, Target
from ckptclamp.checkpoints.documents import (
    CONFIG,
    MAX_BYTES,
    METADATA,
    WEIGHTS,
    join_documents,
    parse_document,
)
from ckptclamp.checkpoints.hdf5.answer import Place
from ckptclamp.checkpoints.hdf5.file import Hdf5Description, describe_hdf5
from ckptclamp.checkpoints.source import Source, open_all
from ckptclamp.checkpoints.tensor import KerasLayout, KerasModel, Tensor
from ckptclamp.errors import NotWrittenError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_MAX_FILES = 400
"""Files in one directory, or shards; each takes a descriptor."""

_SHARD_NAME = re.compile(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,240}\.weights\.h5")

WeightMap = dict[str, frozenset[str]]
"""For each group of variables (``layers/dense/vars``) the names of the files that hold them."""


def open_keras_directory(path: Path, *, follow_symlinks: bool = False) -> Checkpoint:
    """Open a directory with ``config.json``, ``model.weights.h5`` and perhaps ``metadata.json``.

    Raises:
        RefusedError: a file is a symbolic link (unless those are followed), or has two readings.
        UnreadableError: a file is missing or damaged.
    """
    names = [WEIGHTS, CONFIG]
    names += [METADATA] if os.path.lexists(path / METADATA) else []
    with open_all((path / n for n in names), follow_symlinks=follow_symlinks) as files:
        return KerasDirectory(path, files, follow_symlinks=follow_symlinks)


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
        config = _document(files[1], CONFIG)
        metadata = _document(files[2], METADATA) if len(files) > 2 else None
        description = describe_hdf5(files[0])
        self.keras = join_documents(path, description.keras, config, metadata)
        self.tensors = description.tensors
        self.notes = description.notes
        self.isolation = description.isolation

    @property
    def files(self) -> tuple[Source, ...]:
        """The weights, the config and the metadata."""
        return (*self.sources, *self._documents)

    def copy_to(self, target: Target) -> Copy:
        """Copy every file of the directory; see `Checkpoint.copy_to`."""
        from ckptclamp.checkpoints.hdf5.copying import Hdf5Copy

        known = list(zip((WEIGHTS, CONFIG, METADATA), self.files, strict=False))
        with ExitStack() as opened:
            others = []
            for name in self._other_names({name for name, _ in known}):
                file = Source.open(self.path / name, follow_symlinks=self._follow_symlinks)
                others.append((name, opened.enter_context(closing(file))))
            return Hdf5Copy(
                [*known, *others],
                target,
                reopen=lambda files: KerasDirectory(target.path, files[: len(known)]),
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


def _document(file: Source, name: str, article: str = "a") -> dict[str, Any]:
    if file.size > MAX_BYTES:
        reason = f"is {file.size} bytes long, too much for {article} {name}"
        raise RefusedError(reason, path=file.path)
    return parse_document(file.read_at(0, file.size), name, file.path)


def open_keras_shards(source: Source, *, follow_symlinks: bool = False) -> Checkpoint:
    """Open the sharded weights whose index is `source`.

    Raises:
        RefusedError: a shard is named outside of the directory, is a symbolic link (unless those
            are followed), or index and shards disagree.
        UnreadableError: a shard is missing or cannot be read.
    """
    weight_map = _weight_map(source)
    paths = [source.path.with_name(name) for name in _shard_names(weight_map)]
    with open_all(paths, follow_symlinks=follow_symlinks) as shards:
        return KerasShards(source, weight_map, shards)


def _shard_names(weight_map: WeightMap) -> list[str]:
    return sorted(set().union(*weight_map.values()))


class KerasShards(Checkpoint):
    """Sharded weights; `sources` are the shards in the order of their names."""

    format = "keras-weights-shards"
    several_files = True

    def __init__(self, index: Source, weight_map: WeightMap, shards: Sequence[Source]) -> None:
        self.path = index.path
        self.sources = tuple(shards)
        self._index = index
        self._weight_map = weight_map
        self._names = _shard_names(weight_map)
        described = _describe(shards)
        self.tensors = _joined(described, self._names, weight_map, index.path)
        self.keras = KerasModel(KerasLayout.V3, group_names=_group_names(described, index.path))
        self.notes = tuple(note for one in described for note in one.notes)
        self.isolation = tuple(
            wall for wall in described[0].isolation if all(wall in d.isolation for d in described)
        )

    @property
    def files(self) -> tuple[Source, ...]:
        """The index, then the shards."""
        return (self._index, *self.sources)

    def copy_to(self, target: Target) -> Copy:
        """Copy the shards and the index; see `Checkpoint.copy_to`."""
        from ckptclamp.checkpoints.hdf5.copying import Hdf5Copy

        count = len(self.sources)
        return Hdf5Copy(
            [*zip(self._names, self.sources, strict=True), (self.path.name, self._index)],
            target,
            reopen=lambda files: KerasShards(files[count], self._weight_map, files[:count]),
        )


def _weight_map(source: Source) -> WeightMap:
    """Return the map of the index, each name in it checked."""
    entries = _document(source, "index", "an").get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise RefusedError("its weight_map is no object of file names", path=source.path)
    weight_map: WeightMap = {}
    for group, value in entries.items():
        names = value if isinstance(value, list) else [value]
        for name in names:
            if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
                raise RefusedError(
                    f"the shard {name!r} is no plain .weights.h5 file name", path=source.path
                )
        weight_map[group.strip("/")] = frozenset(names)
    shards = frozenset().union(*weight_map.values())
    if len(weight_map) != len(entries) or not shards:
        raise RefusedError("its weight_map names a group twice, or no file", path=source.path)
    if len(shards) > _MAX_FILES:
        raise RefusedError(f"names {len(shards)} shards, over {_MAX_FILES}", path=source.path)
    return weight_map


def _describe(shards: Sequence[Source]) -> list[Hdf5Description]:
    return [
        describe_hdf5(shard, Place(number, 0, shard.size)) for number, shard in enumerate(shards)
    ]


def _joined(
    described: Sequence[Hdf5Description], names: Sequence[str], weight_map: WeightMap, path: Path
) -> dict[str, Tensor]:
    """Join the shards' tensors, each of which must be where the index says, and only there."""
    tensors: dict[str, Tensor] = {}
    found: set[tuple[str, str]] = set()
    for shard, description in zip(names, described, strict=True):
        for name, tensor in description.tensors.items():
            group = name.rpartition("/")[0]
            if shard not in weight_map.get(group, ()):
                raise RefusedError(
                    f"lies in {shard}, which the index does not say", path=path, tensor=name
                )
            if name in tensors:
                raise RefusedError("lies in two shards", path=path, tensor=name)
            found.add((group, shard))
            tensors[name] = tensor
    for group, shards in weight_map.items():
        for shard in shards:
            if (group, shard) not in found:
                raise RefusedError(
                    f"is not in {shard}, where the index says it is", path=path, tensor=group
                )
    return tensors


def _group_names(described: Sequence[Hdf5Description], path: Path) -> Mapping[str, str | None]:
    """Join the names of groups: a group may have its name in one shard and its data in the next."""
    joined: dict[str, str | None] = {}
    for description in described:
        if description.keras is None:
            continue
        if description.keras.layout is not KerasLayout.V3:
            raise RefusedError("a shard is laid out as a legacy file", path=path)
        for group, name in description.keras.group_names.items():
            known = joined.setdefault(group, name)
            if known is None:
                joined[group] = name
            elif name not in (None, known):
                raise RefusedError("is named differently in two shards", path=path, tensor=group)
    return joined
