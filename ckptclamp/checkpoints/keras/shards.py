"""Weights that Keras split over several HDF5 files, and their index, ``model.weights.json``.

The index maps each group of variables to the file, or the files, that hold them. It comes from a
stranger as the shards do: a shard is a plain file name beside the index, and what the index says of
the shards must be what they say of themselves.
"""

from __future__ import annotations

import re
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.documents import MAX_BYTES, parse_document
from ckptclamp.checkpoints.hdf5.answer import Extent
from ckptclamp.checkpoints.hdf5.copying import Hdf5Copy
from ckptclamp.checkpoints.hdf5.file import Hdf5Description, describe_hdf5, producer
from ckptclamp.checkpoints.reading import read_box
from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.tensor import KerasLayout, KerasModel
from ckptclamp.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy, Target
    from ckptclamp.checkpoints.tensor import Box, Tensor

_MAX_SHARDS = 400
_SHARD_NAME = re.compile(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,240}\.weights\.h5")

WeightMap = dict[str, frozenset[str]]
"""For each group of variables (``layers/dense/vars``) the names of the files that hold them."""


def open_keras_shards(source: Source, *, follow_symlinks: bool = False) -> Checkpoint:
    """Open the sharded weights whose index is `source`.

    Raises:
        RefusedError: a shard is named outside of the directory, is a symbolic link (unless those
            are followed), or index and shards disagree.
        UnreadableError: a shard is missing or cannot be read.
    """
    weight_map = _weight_map(source)
    names = sorted(set().union(*weight_map.values()))
    with ExitStack() as opened:
        shards = [
            opened.enter_context(
                closing(Source.open(source.path.with_name(name), follow_symlinks=follow_symlinks))
            )
            for name in names
        ]
        checkpoint = KerasShards(source, weight_map, shards)
        opened.pop_all()
    return checkpoint


class KerasShards(Checkpoint):
    """Sharded weights; `sources` are the shards in the order of their names."""

    format = "keras-weights-shards"
    several_files = True

    def __init__(self, index: Source, weight_map: WeightMap, shards: Sequence[Source]) -> None:
        self.path = index.path
        self.sources = tuple(shards)
        self._index = index
        self._weight_map = weight_map
        self._names = sorted(set().union(*weight_map.values()))
        described = _describe(shards)
        self.tensors = _joined(described, self._names, weight_map, index.path)
        self.keras = KerasModel(KerasLayout.V3, group_names=_group_names(described, index.path))
        self.producer = producer(self.keras)
        self.notes = tuple(note for one in described for note in one.notes)
        self.isolation = tuple(
            wall for wall in described[0].isolation if all(wall in d.isolation for d in described)
        )

    @property
    def files(self) -> tuple[Source, ...]:
        """The index, then the shards."""
        return (self._index, *self.sources)

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """See `Checkpoint.read`."""
        return read_box(self.sources, tensor, box, buffer)

    def copy_to(self, target: Target) -> Copy:
        """Copy the shards and the index; see `Checkpoint.copy_to`."""
        count = len(self.sources)
        return Hdf5Copy(
            [*zip(self._names, self.sources, strict=True), (self.path.name, self._index)],
            target,
            reopen=lambda copies: KerasShards(copies[count], self._weight_map, copies[:count]),
            describe=lambda copies: {
                name: tensor
                for described in _describe(copies[:count])
                for name, tensor in described.tensors.items()
            },
        )


def _weight_map(source: Source) -> WeightMap:
    """Return the map of the index, each name in it checked."""
    if source.size > MAX_BYTES:
        raise RefusedError(f"is {source.size} bytes long, too much for an index", path=source.path)
    index = parse_document(source.read_at(0, source.size), "index", source.path)
    entries = index.get("weight_map")
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
    if len(shards) > _MAX_SHARDS:
        raise RefusedError(f"names {len(shards)} shards, over {_MAX_SHARDS}", path=source.path)
    return weight_map


def _describe(shards: Sequence[Source]) -> list[Hdf5Description]:
    return [
        describe_hdf5(shard, Extent(number, 0, shard.size)) for number, shard in enumerate(shards)
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
