"""Opening a checkpoint: its bytes, never its name, say which format module gets it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptclamp.checkpoints.file_names import KERAS_DIRECTORY, SHARDS
from ckptclamp.checkpoints.limits import Limits
from ckptclamp.checkpoints.sniffing import Kind, name_note, sniff
from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.strict_json import parse_strict
from ckptclamp.errors import NotACheckpointError, RefusedError, UnreadableError

if TYPE_CHECKING:
    from ckptclamp.checkpoints.checkpoint import Checkpoint

_INDEX_BYTES = 64 << 20
_INDEX_DEPTH = 8


def open_checkpoint(
    path: str | Path, *, follow_symlinks: bool = False, limits: Limits | None = None
) -> Checkpoint:
    """Open the checkpoint at `path`: a file, the index of a sharded set, or a directory.

    `path` itself may be a symbolic link; files that it leads to may be only with `follow_symlinks`.
    `limits` say what is too much to be read.

    Raises:
        UnreadableError: it cannot be read; `NotACheckpointError` where it is something else, and
            `RefusedError` where it would be unsafe, or has two meanings.
    """
    path = Path(path)
    if path.is_dir():
        checkpoint = _open_directory(path, follow_symlinks, limits or Limits())
    else:
        source = Source.open(path)
        checkpoint = open_source(source, follow_symlinks=follow_symlinks, limits=limits)
    if checkpoint.format.startswith("safetensors"):
        from ckptclamp.checkpoints.model_config import stated_quantisation

        checkpoint.quantisation = stated_quantisation(checkpoint, follow_symlinks=follow_symlinks)
    return checkpoint


def open_source(
    source: Source, *, follow_symlinks: bool = False, limits: Limits | None = None
) -> Checkpoint:
    """Open an opened file, which need not have a name; the checkpoint then owns `source`.

    Raises as `open_checkpoint` does, and then closes `source`.
    """
    limits = limits or Limits()
    try:
        kind = sniff(source)
        checkpoint = _open_kind(kind, source, follow_symlinks, limits)
    except BaseException:
        source.close()
        raise
    _check_limits(checkpoint, limits)
    if note := name_note(source, kind):
        checkpoint.notes = (*checkpoint.notes, note)
    return checkpoint


def _check_limits(checkpoint: Checkpoint, limits: Limits) -> None:
    try:
        limits.check(checkpoint)
    except RefusedError:
        checkpoint.close()
        raise


def _open_kind(kind: Kind, source: Source, follow_symlinks: bool, limits: Limits) -> Checkpoint:
    match kind:
        case Kind.SAFETENSORS:
            from ckptclamp.checkpoints.safetensors import open_safetensors

            return open_safetensors(source, header_limit=limits.header)
        case Kind.HDF5:
            from ckptclamp.checkpoints.hdf5 import open_hdf5

            return open_hdf5(source)
        case Kind.ZIP:
            from ckptclamp.checkpoints.keras_archive import open_keras_archive

            return open_keras_archive(source, limits)
        case Kind.JSON:
            return _open_index(source, follow_symlinks, limits.header)


def _open_index(source: Source, follow_symlinks: bool, header_limit: int) -> Checkpoint:
    """Open a sharded set by its index: the names of its shards tell of which format."""
    if source.size > _INDEX_BYTES:
        raise RefusedError(
            f"is {source.size} bytes of JSON; an index has at most {_INDEX_BYTES}",
            path=source.path,
        )
    data = source.read_at(0, source.size)
    index: Any = parse_strict(
        data, max_depth=_INDEX_DEPTH, max_bytes=_INDEX_BYTES, what="index", path=source.path
    )
    shards = _shard_names(index)
    if shards and all(name.endswith(".safetensors") for name in shards):
        from ckptclamp.checkpoints.safetensors_index import open_safetensors_index

        return open_safetensors_index(
            source, index, follow_symlinks=follow_symlinks, header_limit=header_limit
        )
    if shards and all(name.endswith(".weights.h5") for name in shards):
        from ckptclamp.checkpoints.keras_shards import open_keras_shards

        return open_keras_shards(source, follow_symlinks=follow_symlinks)
    raise NotACheckpointError(
        "no checkpoint, but JSON without a weight_map of shards",
        path=source.path,
        hint="name the checkpoint, or the index of its shards",
    )


def _shard_names(index: object) -> set[str]:
    """Return the names of files in a ``weight_map``; each value is a name or a list of names."""
    entries = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(entries, dict):
        return set()
    values = [
        v for entry in entries.values() for v in (entry if isinstance(entry, list) else [entry])
    ]
    return {value for value in values if isinstance(value, str)}


def _open_directory(path: Path, follow_symlinks: bool, limits: Limits) -> Checkpoint:
    """Open a Keras directory, or the one checkpoint that a directory holds."""
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError as error:
        raise UnreadableError(error.strerror or str(error), path=path) from error
    if names >= KERAS_DIRECTORY:
        from ckptclamp.checkpoints.keras_directory import open_keras_directory

        directory = open_keras_directory(path, follow_symlinks=follow_symlinks)
        _check_limits(directory, limits)
        return directory
    indexes = {name for name in names if name.endswith(tuple(SHARDS))}
    singles = {name for name in names if name.endswith(".safetensors")}
    found = sorted(indexes or singles)
    if len(found) != 1:
        raise NotACheckpointError(
            f"a directory with {len(found)} checkpoints"
            if found
            else "a directory without weights",
            path=path,
            hint=f"name one of them: {', '.join(found[:3])}" if found else "name a checkpoint",
        )
    source = Source.open(path / found[0], follow_symlinks=follow_symlinks)
    checkpoint = open_source(source, follow_symlinks=follow_symlinks, limits=limits)
    others = sorted(singles - {file.path.name for file in checkpoint.files})
    if others:
        checkpoint.close()
        raise RefusedError(
            f"the directory holds {others[0]} beside {found[0]}; which one is loaded is not said",
            path=path,
            hint="name the file or the index",
        )
    return checkpoint
