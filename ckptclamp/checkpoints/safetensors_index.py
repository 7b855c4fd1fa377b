"""A sharded set of safetensors files and its index, ``model.safetensors.index.json``.

The index is untrusted as the shards are: a shard is a plain file name beside the index, and
what the index says of each shard must be what the shard says of itself.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptclamp.checkpoints.checkpoint import Checkpoint, Copy, Target
from ckptclamp.checkpoints.safetensors import Header, read_header
from ckptclamp.checkpoints.source import DEFAULT_HEADER_LIMIT, Source, open_all
from ckptclamp.checkpoints.tensor import Contiguous, Tensor
from ckptclamp.errors import RefusedError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


MAX_SHARDS = 10_000

_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,250}\.safetensors", re.ASCII)


class ShardedSafetensors(Checkpoint):
    """A set of safetensors files under one index; see `Checkpoint`.

    `sources` are the shards in the order of their names.
    """

    format = "safetensors-sharded"
    several_files = True

    def __init__(
        self,
        index_source: Source,
        weight_map: Mapping[str, str],
        shards: Sequence[Source],
        header_limit: int,
    ) -> None:
        self.path = index_source.path
        self.sources = tuple(shards)
        self._index_source = index_source
        self._weight_map = weight_map
        self._header_limit = header_limit
        self._names = _shard_names(weight_map)
        headers = [read_header(shard, header_limit) for shard in shards]
        self.tensors = _joined(headers, self._names, weight_map, index_source)
        self.metadata = {
            key: value for header in reversed(headers) for key, value in header.metadata.items()
        }
        if real := [s.path for s in shards if s.path.is_symlink()]:
            self.notes = (
                f"{len(real)} shards are symbolic links, the first to {real[0].resolve()}",
            )

    @property
    def files(self) -> tuple[Source, ...]:
        """The index, then the shards."""
        return (self._index_source, *self.sources)

    def copy_to(self, target: Target) -> Copy:
        """Copy the shards and the index; see `Checkpoint.copy_to`."""
        from ckptclamp.checkpoints.copying import FileCopy

        shards = list(zip(self._names, self.sources, strict=True))
        return FileCopy(
            [*shards, (self._index_source.path.name, self._index_source)],
            target,
            lambda sources: ShardedSafetensors(
                sources[-1], self._weight_map, sources[:-1], self._header_limit
            ),
        )


def open_safetensors_index(
    source: Source,
    index: object,
    *,
    follow_symlinks: bool = False,
    header_limit: int = DEFAULT_HEADER_LIMIT,
) -> ShardedSafetensors:
    """Open the set whose index file is `source` and whose parsed content is `index`.

    `header_limit` bounds each shard's header in bytes.

    Raises:
        RefusedError: a shard is named outside of the directory, is a symbolic link (unless those
            are followed), or index and shards disagree.
        UnreadableError: a shard is missing or cannot be read.
    """
    weight_map = _weight_map(index, source)
    paths = (_shard(source, name) for name in _shard_names(weight_map))
    with open_all(paths, follow_symlinks=follow_symlinks) as shards:
        checkpoint = ShardedSafetensors(source, weight_map, shards, header_limit)
        checkpoint.notes += _size_note(index, checkpoint)
    return checkpoint


def _shard_names(weight_map: Mapping[str, str]) -> list[str]:
    return sorted(set(weight_map.values()))


def _size_note(index: Any, checkpoint: ShardedSafetensors) -> tuple[str, ...]:  # noqa: ANN401 - JSON
    """Say so if the index gives another size in bytes than the shards have."""
    metadata = index.get("metadata")
    stated = metadata.get("total_size") if isinstance(metadata, dict) else None
    tensors = checkpoint.tensors.values()
    actual = sum(tensor.nbytes for tensor in tensors)
    if stated in (None, actual) or any(tensor.dtype is None for tensor in tensors):
        return ()
    return (f"the index says total_size {stated!r}, the tensors take {actual} bytes",)


def _weight_map(index: object, source: Source) -> dict[str, str]:
    """Return the map from tensor to shard, each name of a shard checked."""
    entries: Any = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(v, str) for v in entries.values()):
        raise RefusedError("weight_map is not an object of file names", path=source.path)
    shards = set(entries.values())
    if len(shards) > MAX_SHARDS:
        raise RefusedError(f"names {len(shards)} shards, over {MAX_SHARDS}", path=source.path)
    for name in shards:
        if not _SHARD_NAME.fullmatch(name):
            raise RefusedError(
                f"the shard {name!r} is not a plain .safetensors file name", path=source.path
            )
    return entries


def _shard(index_source: Source, name: str) -> Path:
    path = index_source.path.parent / name
    if not (path.exists() or path.is_symlink()):
        raise UnreadableError(
            f"the shard {name} is missing",
            path=index_source.path,
            hint="download all files of the set",
        )
    return path


def _joined(
    headers: Sequence[Header],
    names: Sequence[str],
    weight_map: Mapping[str, str],
    index_source: Source,
) -> dict[str, Tensor]:
    """Join the shards' tensors, each of which must be where the index says, and only there."""
    tensors: dict[str, Tensor] = {}
    for number, (name, header) in enumerate(zip(names, headers, strict=True)):
        for tensor in header.tensors.values():
            if weight_map.get(tensor.name) != name:
                where = weight_map.get(tensor.name, "no shard")
                raise RefusedError(
                    f"lies in {name}, but the index says {where}",
                    path=index_source.path,
                    tensor=tensor.name,
                )
            tensors[tensor.name] = _in_shard(tensor, number)
    missing = weight_map.keys() - tensors.keys()
    if missing:
        first = min(missing)
        raise RefusedError(
            f"is not in {weight_map[first]}, where the index says it is",
            path=index_source.path,
            tensor=first,
        )
    return tensors


def _in_shard(tensor: Tensor, number: int) -> Tensor:
    if isinstance(tensor.storage, Contiguous):
        return replace(tensor, storage=Contiguous(number, tensor.storage.offset))
    return tensor
