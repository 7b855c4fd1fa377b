"""Opening a checkpoint: its bytes, never its name, say which format module gets it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.documents import (
    CONFIG,
    METADATA,
    WEIGHTS,
    document_beside,
    stated_adapter,
    stated_quantisation,
)
from ckptclamp.checkpoints.remote import as_path
from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.checkpoints.source import MAX_HEADER_BYTES, Limits, Source
from ckptclamp.errors import NotACheckpointError, RefusedError, UnreadableError

if TYPE_CHECKING:
    from ckptclamp.checkpoints.checkpoint import Checkpoint


class Kind(StrEnum):
    """The containers that can be opened."""

    SAFETENSORS = "safetensors"
    HDF5 = "HDF5"
    ZIP = "a zip archive"
    NPZ = "a NumPy archive"
    JSON = "JSON"


SHARDS: Mapping[str, str] = {
    ".safetensors.index.json": ".safetensors",
    ".weights.json": ".weights.h5",
}
"""How the names of indexes end, and those of their shards."""

KERAS_DIRECTORY = frozenset({CONFIG, WEIGHTS})
"""The files that make a directory an unzipped Keras archive."""

CHECKPOINTS = (".safetensors", ".h5", ".keras", ".npz", *SHARDS)
"""How the names of files with weights, and of indexes, end."""

PARTS = (CONFIG, METADATA, *CHECKPOINTS)
"""How the names of files end that belong to a directory that is a checkpoint."""

_PREFIX = 4096
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HDF5_USER_BLOCKS = (512, 1024, 2048)

_SUFFIXES = {
    Kind.SAFETENSORS: (".safetensors",),
    Kind.HDF5: (".h5", ".hdf5", ".hdf"),
    Kind.ZIP: (".keras", ".zip"),
    Kind.NPZ: (".npz",),
    Kind.JSON: (".json",),
}

_AGAIN = "download or save it again"

_OF_TENSORFLOW = (
    "load it into its model and save that: "
    "model.load_weights(PREFIX); model.save_weights('model.weights.h5')"
)
_OF_SAVED_MODEL = (
    "convert it with the Keras that wrote it: "
    "tf_keras.models.load_model(DIRECTORY).save('model.keras')"
)
_TENSORFLOW_INDEX = bytes.fromhex("57fb808b247547db")
"""The last bytes of a table file, which the index of a TensorFlow checkpoint is."""

_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (rb"\Z", "an empty file", _AGAIN),
    (rb"\0{64}", "all zeros where a file should begin", _AGAIN),
    (
        rb"version https://git-lfs",
        "a Git LFS pointer, not the file that it points to",
        "run `git lfs pull`",
    ),
    (
        rb"\x80[\x02-\x05]|PK\x03\x04.{26}[^\0]{0,200}?data\.pkl",
        "a Python pickle (PyTorch .pt or .bin), which is never unpickled here",
        "save it as safetensors: "
        "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')",
    ),
    (
        rb"\x93NUMPY",
        "a NumPy array without a name",
        "save it in an archive: numpy.savez('model.npz', weight=numpy.load(FILE))",
    ),
    (rb".{4}TFL3", "a TensorFlow Lite model", "audit the Keras model that it was converted from"),
    (
        rb'\s*\{.{0,1000}?"(?:format"\s*:\s*"(?:layers|graph)-model"|weightsManifest"|modelTopology")',
        "a TensorFlow.js model",
        "convert it: tensorflowjs.converters.load_keras_model(FILE).save('model.keras')",
    ),
    (rb"\s*model_checkpoint_path:", "the state file of a TensorFlow checkpoint", _OF_TENSORFLOW),
    (rb"GGUF", "a GGUF file", "audit the safetensors that it was made from"),
    (rb"\s*<(?:!doctype|html|\?xml)", "a web page or XML", "download the file again"),
    (
        rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|.{257}ustar",
        "a compressed file or a tar archive",
        "unpack it first",
    ),
)
"""What is no checkpoint: how its bytes begin, what it is, what to do."""


def open_checkpoint(
    path: str | Path, *, follow_symlinks: bool = False, limits: Limits | None = None
) -> Checkpoint:
    """Open the checkpoint at `path`: a file, the index of a sharded set, or a directory.

    `path` itself may be a symbolic link; files that it leads to may be only with `follow_symlinks`.
    `limits` say what is too much to be read.

        >>> import ckptclamp
        >>> with ckptclamp.open_checkpoint("model.safetensors") as checkpoint:
        ...     sorted(checkpoint), checkpoint["dense.kernel"][0]
        (['dense.bias', 'dense.kernel'], array([3., 3., 3.], dtype=float32))

    Raises:
        UnreadableError: it cannot be read; `NotACheckpointError` where it is something else, and
            `RefusedError` where it would be unsafe, or has two meanings.
    """
    path = as_path(path)
    names = names_in(path)
    if names is not None:
        checkpoint = _open_directory(path, names, follow_symlinks, limits or Limits())
    else:
        source = Source.open(path)
        checkpoint = open_source(source, follow_symlinks=follow_symlinks, limits=limits)
    if checkpoint.format.startswith("safetensors"):
        checkpoint.quantisation = stated_quantisation(checkpoint, follow_symlinks=follow_symlinks)
        checkpoint.adapter = stated_adapter(checkpoint, follow_symlinks=follow_symlinks)
        checkpoint.config = partial(document_beside, checkpoint, follow_symlinks=follow_symlinks)
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
            from ckptclamp.checkpoints.formats.safetensors import SafetensorsCheckpoint

            return SafetensorsCheckpoint(source, limits.header)
        case Kind.HDF5:
            from ckptclamp.checkpoints.formats.hdf5.file import Hdf5Checkpoint

            return Hdf5Checkpoint(source)
        case Kind.ZIP:
            from ckptclamp.checkpoints.formats.zip.archive import KerasArchive

            return KerasArchive(source, limits)
        case Kind.NPZ:
            from ckptclamp.checkpoints.formats.npz import NpzCheckpoint

            return NpzCheckpoint(source, limits)
        case Kind.JSON:
            from ckptclamp.checkpoints.formats.sharded import open_index

            return open_index(source, follow_symlinks=follow_symlinks, header_limit=limits.header)


def named_as_file(path: Path) -> Path:
    """The file that is opened where `path` is the directory of one checkpoint; else `path` itself.

    A directory of Keras has no such file.
    """
    if not path.is_dir():
        return path
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError:  # whoever opens it tells why
        return path
    found = [] if names >= KERAS_DIRECTORY else _checkpoints_in(names)
    return path / found[0] if len(found) == 1 else path


def _checkpoints_in(names: AbstractSet[str]) -> list[str]:
    """The indexes among the `names` in a directory, or where there is none the single files."""
    indexes = {name for name in names if name.endswith(tuple(SHARDS))}
    return sorted(indexes or {name for name in names if name.endswith(".safetensors")})


def names_in(path: Path) -> AbstractSet[str] | None:
    """The names in a directory; ``None`` where `path` is none.

    Raises:
        UnreadableError: they cannot be known.
    """
    if isinstance(path, RemotePath):
        files = path.files()
        return None if files is None else {name for name in files if "/" not in name}
    if not path.is_dir():
        return None
    try:
        return {entry.name for entry in path.iterdir()}
    except OSError as error:
        raise UnreadableError(error.strerror or str(error), path=path) from error


def _open_directory(
    path: Path, names: AbstractSet[str], follow_symlinks: bool, limits: Limits
) -> Checkpoint:
    """Open a Keras directory, or the one checkpoint that a directory holds."""
    if names >= KERAS_DIRECTORY:
        from ckptclamp.checkpoints.formats.zip.archive import open_keras_directory

        directory = open_keras_directory(path, follow_symlinks=follow_symlinks)
        _check_limits(directory, limits)
        return directory
    found = _checkpoints_in(names)
    singles = {name for name in names if name.endswith(".safetensors")}
    if not found:
        what, hint = _foreign_directory(names)
        raise NotACheckpointError(f"not a checkpoint: {what}", path=path, hint=hint)
    if len(found) > 1:
        raise NotACheckpointError(
            f"a directory with {len(found)} checkpoints",
            path=path,
            hint=f"name one of them: {', '.join(found[:3])}",
        )
    source = Source.open(path / found[0], follow_symlinks=follow_symlinks)
    checkpoint = open_source(source, follow_symlinks=follow_symlinks, limits=limits)
    checkpoint.folder = path
    checkpoint.several_files = True
    others = sorted(singles - {file.path.name for file in checkpoint.files})
    if others:
        checkpoint.close()
        raise RefusedError(
            f"the directory holds {others[0]} beside {found[0]}; which one is loaded is not said",
            path=path,
            hint="name the file or the index",
        )
    return checkpoint


_FOREIGN_DIRECTORIES: tuple[tuple[str, str, str], ...] = (
    (r"saved_model\.pb(?:txt)?", "a TensorFlow SavedModel", _OF_SAVED_MODEL),
    (r".+\.data-\d{5}-of-\d{5}", "a TensorFlow checkpoint", _OF_TENSORFLOW),
    (
        r"group\d+-shard\d+of\d+(?:\.bin)?",
        "a TensorFlow.js model",
        "convert it: tensorflowjs.converters.load_keras_model('model.json').save('model.keras')",
    ),
    (
        r"manifest\.ocdbt|_CHECKPOINT_METADATA|_METADATA|_sharding",
        "an Orbax checkpoint",
        "save its arrays as safetensors: safetensors.numpy.save_file(flat, 'model.safetensors') of "
        "orbax.checkpoint.PyTreeCheckpointer().restore(DIRECTORY), flattened to names",
    ),
    (
        r"pytorch_model.*\.bin|.+\.(?:pt|pth|ckpt)",
        "a directory of PyTorch pickles, which are never unpickled here",
        "save the model as safetensors: model.save_pretrained(DIRECTORY)",
    ),
    (
        r".+\.msgpack",
        "a directory of Flax weights",
        "save the model as safetensors: model.save_pretrained(DIRECTORY, safe_serialization=True)",
    ),
    (
        r"(?:checkpoint[-_]|step[-_]?)?\d+",
        "a directory of numbered checkpoints, as Orbax' CheckpointManager and trainers keep them",
        "name one of those that it holds",
    ),
)
"""Directories of other formats: the name of a file that they hold, what it is, what to do."""


def _foreign_directory(names: Iterable[str]) -> tuple[str, str]:
    """Say what a directory without a checkpoint is, and what to do."""
    for pattern, what, hint in _FOREIGN_DIRECTORIES:
        if any(re.fullmatch(pattern, name) for name in names):
            return what, hint
    return "a directory without weights", "name a checkpoint"


def sniff(source: Source) -> Kind:
    """Return what `source` is by its bytes.

    Raises:
        NotACheckpointError: it is nothing that can be opened here; the message says what it looks
            like, the hint what to do.
    """
    prefix = source.read_at(0, min(_PREFIX, source.size))
    kind = _kind(prefix)
    # A zip or JSON may hold another format; the others may look like another by chance.
    foreign = _foreign(prefix) if kind in (Kind.ZIP, Kind.JSON, None) else None
    if foreign or kind is None:
        what, hint = foreign or _unknown(prefix, source)
        raise NotACheckpointError(f"not a checkpoint: {what}", path=source.path, hint=hint)
    return kind


def name_note(source: Source, kind: Kind) -> str | None:
    """Return a sentence if the file's name promises another kind than the one it is of."""
    suffix = source.path.suffix.lower()
    promised = next((k for k, suffixes in _SUFFIXES.items() if suffix in suffixes), kind)
    return None if promised is kind else f"named {suffix} but holds {kind}"


def _kind(prefix: bytes) -> Kind | None:
    if any(prefix.startswith(_HDF5_SIGNATURE, start) for start in (0, *_HDF5_USER_BLOCKS)):
        return Kind.HDF5
    if prefix.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Kind.NPZ if _first_member(prefix).endswith(b".npy") else Kind.ZIP
    if _header_length(prefix) <= MAX_HEADER_BYTES and prefix[8:9] == b"{":
        return Kind.SAFETENSORS
    return Kind.JSON if prefix.lstrip(b" \t\r\n").startswith(b"{") else None


def _first_member(prefix: bytes) -> bytes:
    """The name of the member that a zip archive begins with."""
    return prefix[30 : 30 + int.from_bytes(prefix[26:28], "little")]


def _header_length(prefix: bytes) -> int:
    """The length in bytes that the first eight bytes of a safetensors file give for its header."""
    return int.from_bytes(prefix[:8], "little")


def _foreign(prefix: bytes) -> tuple[str, str] | None:
    """Say what a known kind of file that is no checkpoint is, and what to do."""
    for pattern, what, hint in _FOREIGN:
        if re.match(pattern, prefix, re.DOTALL | re.IGNORECASE):
            return what, hint
    return None


def _unknown(prefix: bytes, source: Source) -> tuple[str, str]:
    """Say what unknown bytes look like, and what to do."""
    end = source.read_at(max(0, source.size - 8), min(8, source.size))
    if end == _TENSORFLOW_INDEX:
        return "the index of a TensorFlow checkpoint", _OF_TENSORFLOW
    if source.path.name == "saved_model.pb":
        return "a TensorFlow SavedModel", _OF_SAVED_MODEL
    if _header_length(prefix) + 8 <= min(source.size, MAX_HEADER_BYTES):
        return "a safetensors file whose header does not begin with '{'", _AGAIN
    if all(byte >= 32 or byte in b"\t\r\n" for byte in prefix):
        return "text", "name the checkpoint itself"
    return (
        f"bytes that begin with {prefix[:8].hex(' ')}",
        "safetensors, HDF5, .keras, .npz and indexes of shards can be opened",
    )
