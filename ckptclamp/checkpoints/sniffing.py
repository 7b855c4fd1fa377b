"""What a file is, told by its first bytes; and for what is no checkpoint, what to do about it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.safetensors_header import MAX_HEADER_BYTES, header_length
from ckptclamp.errors import NotACheckpointError

if TYPE_CHECKING:
    from ckptclamp.checkpoints.source import Source

_PREFIX = 4096
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HDF5_USER_BLOCKS = (512, 1024, 2048)


class Kind(StrEnum):
    """The containers that can be opened."""

    SAFETENSORS = "safetensors"
    HDF5 = "HDF5"
    ZIP = "a zip archive"
    JSON = "JSON"


_SUFFIXES = {
    Kind.SAFETENSORS: (".safetensors",),
    Kind.HDF5: (".h5", ".hdf5", ".hdf"),
    Kind.ZIP: (".keras", ".zip"),
    Kind.JSON: (".json",),
}

_AGAIN = "download or save it again"

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
        "save it as safetensors",
    ),
    (rb"\x93NUMPY|PK\x03\x04.{26}[^\0]{1,200}?\.npy", "a NumPy file", "save it as safetensors"),
    (rb"GGUF", "a GGUF file", "audit the safetensors that it was made from"),
    (rb"\s*<(?:!doctype|html|\?xml)", "a web page or XML", "download the file again"),
    (
        rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|.{257}ustar",
        "a compressed file or a tar archive",
        "unpack it first",
    ),
)
"""What is no checkpoint: how its bytes begin, what it is, what to do."""


def sniff(source: Source) -> Kind:
    """Return what `source` is by its bytes.

    Raises:
        NotACheckpointError: it is nothing that can be opened here; the message says what it looks
            like, the hint what to do.
    """
    prefix = source.read_at(0, min(_PREFIX, source.size))
    kind = _kind(prefix)
    # A zip may hold another format; what is HDF5 or safetensors may look like another by chance.
    foreign = _foreign(prefix) if kind in (None, Kind.ZIP) else None
    if foreign or kind is None:
        what, hint = foreign or _unknown(prefix, source)
        raise NotACheckpointError(f"no checkpoint, but {what}", path=source.path, hint=hint)
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
        return Kind.ZIP
    if header_length(prefix) <= MAX_HEADER_BYTES and prefix[8:9] == b"{":
        return Kind.SAFETENSORS
    return Kind.JSON if prefix.lstrip(b" \t\r\n").startswith(b"{") else None


def _foreign(prefix: bytes) -> tuple[str, str] | None:
    """Say what a known kind of file that is no checkpoint is, and what to do."""
    for pattern, what, hint in _FOREIGN:
        if re.match(pattern, prefix, re.DOTALL | re.IGNORECASE):
            return what, hint
    return None


def _unknown(prefix: bytes, source: Source) -> tuple[str, str]:
    """Say what unknown bytes look like, and what to do."""
    if header_length(prefix) + 8 <= min(source.size, MAX_HEADER_BYTES):
        return "a safetensors file whose header does not begin with '{'", _AGAIN
    if all(byte >= 32 or byte in b"\t\r\n" for byte in prefix):
        return "text", "name the checkpoint itself"
    return (
        f"bytes that begin with {prefix[:8].hex(' ')}",
        "safetensors, HDF5, .keras and their indexes can be opened",
    )
