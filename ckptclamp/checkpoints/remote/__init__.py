"""Checkpoints that lie elsewhere: in a bucket, on a web server, in a repository of the Hugging Face Hub.

An address is a path, a remote object a source: whoever has a path opens it, whoever has a source reads
it, and neither learns of a network. It is used for what the user typed, and for what lies beside it.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from ckptclamp.checkpoints.remote.path import RemotePath


def as_path(text: str | Path) -> Path:
    """Return `text` as a path, or as an `Address` if it is one (``s3://bucket/model.safetensors``).

    Raises:
        UsageError: it looks like an address, and is none that can be read.
    """
    if isinstance(text, Path):
        return text
    if "://" not in text:
        return Path(text)
    from ckptclamp.checkpoints.remote.address import Address

    return Address.parse(text)


def content(path: Path, most: int) -> bytes:
    """Return what is at `path`, or its first `most` bytes where there are more.

    Raises:
        OSError: a local file cannot be read.
        UnreadableError: a remote one cannot.
    """
    if isinstance(path, RemotePath):
        with closing(path.source()) as source:
            return source.read_at(0, min(source.size, most))
    with path.open("rb") as file:
        return file.read(most)
