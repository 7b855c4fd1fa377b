"""A set of shards under one index: safetensors files, or weights of Keras.

``model.safetensors.index.json`` maps each tensor to its shard, Keras' ``model.weights.json`` each
group of variables to the shard, or the shards, that hold them. The index is untrusted as the shards
are: a shard is a plain file name beside the index, and what the index says of each shard must be what
the shard says of itself.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NoReturn

from ckptclamp.checkpoints.checkpoint import Checkpoint, StoredCopy, Target
from ckptclamp.checkpoints.directories.huggingface import blob_of
from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.checkpoints.source import Source, open_all
from ckptclamp.checkpoints.tensor import KerasLayout, KerasModel, Tensor
from ckptclamp.errors import NotACheckpointError, RefusedError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ckptclamp.checkpoints.copying import FileCopy
    from ckptclamp.checkpoints.formats.hdf5.file import Hdf5Description


_INDEX_BYTES = 64 << 20
_INDEX_DEPTH = 8
_SAFETENSORS, _KERAS = ".safetensors", ".weights.h5"
_STEMS = {
    _SAFETENSORS: re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,250}"),
    _KERAS: re.compile(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,240}"),
}
"""What a plain name may have before its suffix."""
_MOST = {_SAFETENSORS: 10_000, _KERAS: 400}
"""How many shards a set may have; one of Keras takes a process to describe it."""

WeightMap = dict[str, frozenset[str]]
"""For each tensor, or group of variables (``layers/dense/vars``), the names of its shards."""


def open_index(source: Source, *, follow_symlinks: bool, header_limit: int) -> Checkpoint:
    """Open the set whose index is `source`: the names of its shards tell of which format.

    `header_limit` bounds the header of each safetensors file in bytes.

    Raises:
        NotACheckpointError: it is JSON, but no index.
        RefusedError: a shard is named outside of the directory, is a symbolic link (unless those
            are followed), or index and shards disagree.
        UnreadableError: a shard is missing or cannot be read.
    """
    index, shards = _index(source)
    if shards and all(name.endswith(_SAFETENSORS) for name in shards):
        weight_map = _safetensors_map(index, source)
        with open_all(_paths(weight_map, source), follow_symlinks=follow_symlinks) as files:
            checkpoint = ShardedSafetensors(source, weight_map, files, header_limit)
            checkpoint.notes += _size_note(index, checkpoint)
            return checkpoint
    if shards and all(name.endswith(_KERAS) for name in shards):
        weight_map = _keras_map(index, source)
        with open_all(_paths(weight_map, source), follow_symlinks=follow_symlinks) as files:
            return ShardedKeras(source, weight_map, files)
    raise NotACheckpointError(
        "not a checkpoint: JSON without a weight_map of shards",
        path=source.path,
        hint="name the checkpoint, or the index of its shards",
    )


def _index(source: Source) -> tuple[Any, set[str]]:
    """Return the parsed index and the names in its ``weight_map``, of which nothing is checked."""
    if source.size > _INDEX_BYTES:
        raise RefusedError(
            f"is {source.size} bytes of JSON; an index has at most {_INDEX_BYTES}",
            path=source.path,
        )
    data = source.read_at(0, source.size)
    index = parse_strict(
        data, max_depth=_INDEX_DEPTH, max_bytes=_INDEX_BYTES, what="index", path=source.path
    )
    entries = index.get("weight_map") if isinstance(index, dict) else None
    values = [_as_list(v) for v in entries.values()] if isinstance(entries, dict) else []
    return index, {name for value in values for name in value if isinstance(name, str)}


def _as_list(value: Any) -> list[Any]:  # noqa: ANN401 - JSON
    return value if isinstance(value, list) else [value]


class _Shards(Checkpoint):
    """What both kinds have in common; `sources` are the shards in the order of their names."""

    several_files = True
    _unlisted_allowed = False

    def __init__(self, index: Source, weight_map: WeightMap, shards: Sequence[Source]) -> None:
        self.path = index.path
        self.sources = tuple(shards)
        self._index = index
        self._weight_map = weight_map
        self._names = _shard_names(weight_map)
        links = [s.path for s in shards if s.named and s.path.is_symlink()]
        if links := [link for link in links if blob_of(link) is None]:
            first = links[0].resolve()
            self.notes = (f"{len(links)} shards are symbolic links, the first to {first}",)

    @property
    def files(self) -> tuple[Source, ...]:
        """The index, then the shards."""
        return (self._index, *self.sources)

    @property
    def _copied(self) -> list[tuple[str, Source]]:
        """What a copy is made of: the shards, then the index."""
        shards = zip(self._names, self.sources, strict=True)
        return [*shards, (self.path.name, self._index)]

    @staticmethod
    @abstractmethod
    def _entry(name: str) -> str:
        """The entry of the index that a tensor belongs to."""

    def _joined(self, described: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Join the shards' tensors, each of which must be where the index says, and only there.

        Tensors that the index leaves out belong to the set where `_unlisted_allowed`.
        """
        tensors: dict[str, Tensor] = {}
        there: dict[str, set[str]] = {}
        for shard, described_there in zip(self._names, described, strict=True):
            there[shard] = set(map(self._entry, described_there))
            for name, tensor in described_there.items():
                stated = self._weight_map.get(self._entry(name), frozenset())
                if not stated and self._unlisted_allowed:
                    self.unlisted += (name,)
                elif shard not in stated:
                    says = ", ".join(sorted(stated)) or "no shard"
                    self._refuse(f"lies in {shard}, but the index says {says}", name)
                if name in tensors:
                    self._refuse("lies in two shards", name)
                tensors[name] = tensor
        missing = (
            (entry, shard)
            for entry, shards in self._weight_map.items()
            for shard in shards
            if entry not in there[shard]
        )
        if (first := min(missing, default=None)) is not None:
            name, shard = first
            self._refuse(f"is not in {shard}, where the index says it is", name)
        return tensors

    def _refuse(self, reason: str, name: str | None = None) -> NoReturn:
        raise RefusedError(reason, path=self.path, tensor=name)


class ShardedSafetensors(_Shards):
    """A set of safetensors files; see `Checkpoint`. `header_limit` is that of `open_index`."""

    format = "safetensors-sharded"
    in_steps = True
    _unlisted_allowed = True

    def __init__(
        self, index: Source, weight_map: WeightMap, shards: Sequence[Source], header_limit: int
    ) -> None:
        from ckptclamp.checkpoints.formats.safetensors import read_header

        super().__init__(index, weight_map, shards)
        self._header_limit = header_limit
        described: list[Mapping[str, Tensor]] = []
        self.metadata = {}
        for number, shard in enumerate(shards):
            header = read_header(shard, header_limit, number)
            described.append(header.tensors)
            self.metadata = {**header.metadata, **self.metadata}
        self.tensors = self._joined(described)
        # The names as the shards have them, so that not each is held twice.
        self._weight_map = {n: weight_map[n] for n in self.tensors if n in weight_map}

    @staticmethod
    def _entry(name: str) -> str:
        return name

    def copy_to(self, target: Target) -> StoredCopy:
        """Copy the shards and the index; see `Checkpoint.copy_to`."""
        copy = self.copy_in_steps(target)
        copy.fill(range(len(copy.originals)))
        return copy

    def copy_in_steps(self, target: Target) -> FileCopy:
        """See `Checkpoint.copy_in_steps`: shards know nothing of each other."""
        from ckptclamp.checkpoints.copying import FileCopy

        return FileCopy(
            self._copied,
            target,
            lambda files: ShardedSafetensors(
                files[-1], self._weight_map, files[:-1], self._header_limit
            ),
            empty=True,
        )


class ShardedKeras(_Shards):
    """Weights that Keras split into HDF5 files; see `Checkpoint`."""

    format = "keras-weights-shards"

    def __init__(self, index: Source, weight_map: WeightMap, shards: Sequence[Source]) -> None:
        from ckptclamp.checkpoints.formats.hdf5.file import Place, describe_hdf5

        super().__init__(index, weight_map, shards)
        described = [
            describe_hdf5(shard, Place(number, 0, shard.size))
            for number, shard in enumerate(shards)
        ]
        self.tensors = self._joined([description.tensors for description in described])
        self.keras = KerasModel(KerasLayout.V3, group_names=self._group_names(described))
        self.notes += tuple(note for one in described for note in one.notes)
        self.isolation = tuple(
            wall for wall in described[0].isolation if all(wall in d.isolation for d in described)
        )

    @staticmethod
    def _entry(name: str) -> str:
        return name.rpartition("/")[0]

    def _group_names(self, described: Sequence[Hdf5Description]) -> dict[str, str | None]:
        """Join the names of groups: one may have its name in one shard and its data in the next."""
        joined: dict[str, str | None] = {}
        for keras in (description.keras for description in described):
            if keras is None:
                continue
            if keras.layout is not KerasLayout.V3:
                self._refuse("a shard is laid out as a legacy file")
            for group, name in keras.group_names.items():
                known = joined.setdefault(group, name)
                if known is None:
                    joined[group] = name
                elif name not in (None, known):
                    self._refuse("is named differently in two shards", group)
        return joined

    def copy_to(self, target: Target) -> StoredCopy:
        """Copy the shards and the index; see `Checkpoint.copy_to`."""
        from ckptclamp.checkpoints.formats.hdf5.copying import Hdf5Copy

        count = len(self.sources)
        return Hdf5Copy(
            self._copied,
            target,
            lambda files: ShardedKeras(files[count], self._weight_map, files[:count]),
        )


def _shard_names(weight_map: WeightMap) -> list[str]:
    return sorted(frozenset[str]().union(*set(weight_map.values())))


def _safetensors_map(index: Any, source: Source) -> WeightMap:  # noqa: ANN401 - JSON
    """Return the shard of each tensor."""
    entries = index["weight_map"]
    if not all(isinstance(name, str) for name in entries.values()):
        raise RefusedError("weight_map is not an object of file names", path=source.path)
    alone = {shard: frozenset((shard,)) for shard in entries.values()}
    weight_map = {tensor: alone[shard] for tensor, shard in entries.items()}
    _check_names(weight_map, _SAFETENSORS, source)
    return weight_map


def _keras_map(index: Any, source: Source) -> WeightMap:  # noqa: ANN401 - JSON
    """Return the shards of each group of variables, of which Keras writes one as a name alone."""
    entries = {group: _as_list(names) for group, names in index["weight_map"].items()}
    if not all(isinstance(name, str) for names in entries.values() for name in names):
        raise RefusedError("weight_map is not an object of file names", path=source.path)
    weight_map = {group.strip("/"): frozenset(names) for group, names in entries.items()}
    if len(weight_map) != len(entries):
        raise RefusedError("its weight_map names a group twice", path=source.path)
    _check_names(weight_map, _KERAS, source)
    return weight_map


def _check_names(weight_map: WeightMap, suffix: str, source: Source) -> None:
    """Refuse names of shards that could lead elsewhere, and too many of them."""
    shards = _shard_names(weight_map)
    if len(shards) > _MOST[suffix]:
        raise RefusedError(f"names {len(shards)} shards, over {_MOST[suffix]}", path=source.path)
    for name in shards:
        if not _STEMS[suffix].fullmatch(name.removesuffix(suffix)):
            raise RefusedError(
                f"the shard {name!r} is not a plain {suffix} file name", path=source.path
            )


def _paths(weight_map: WeightMap, index: Source) -> list[Path]:
    """Return where the shards lie: beside the index."""
    paths = [index.path.with_name(name) for name in _shard_names(weight_map)]
    for path in paths:
        if not (isinstance(path, RemotePath) or path.exists() or path.is_symlink()):
            raise UnreadableError(
                f"the shard {path.name} is missing",
                path=index.path,
                hint="download all files of the set",
            )
    return paths


def _size_note(index: Any, checkpoint: ShardedSafetensors) -> tuple[str, ...]:  # noqa: ANN401 - JSON
    """Say so if the index gives another size in bytes than the shards have, or than it lists."""
    metadata = index.get("metadata")
    stated = metadata.get("total_size") if isinstance(metadata, dict) else None
    tensors = checkpoint.tensors.values()
    actual = sum(tensor.nbytes for tensor in tensors)
    unlisted = sum(checkpoint.tensors[name].nbytes for name in checkpoint.unlisted)
    known = stated in (None, actual, actual - unlisted)
    if known or any(tensor.dtype is None for tensor in tensors):
        return ()
    return (f"the index says total_size {stated!r}, the tensors take {actual} bytes",)
