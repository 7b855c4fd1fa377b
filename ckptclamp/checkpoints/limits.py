"""How much a checkpoint may ask of whoever reads it.

A few kilobytes can declare or unpack to terabytes, which would be hours of work. What is that much
larger than it is stored is refused when it is opened, before any of it is read or unpacked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.description import Chunked, Constant
from ckptclamp.checkpoints.safetensors_header import DEFAULT_HEADER_LIMIT
from ckptclamp.errors import RefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.description import Tensor

DEFAULT_EXPANSION_LIMIT = 1000
"""Deflate packs at most 1032 zeros into a byte."""
DEFAULT_UNPACKED_LIMIT = 1 << 40
_FLOOR = 64 << 20
"""Bytes below which the ratio does not matter: they cost nothing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused beyond them.

    `header` bounds the header of a safetensors file, in bytes. What is compressed, or left out
    because all of it is one fill value, may take `expansion` times its stored bytes (from 64 MiB
    on), and all of it together `unpacked` bytes.
    """

    header: int = DEFAULT_HEADER_LIMIT
    expansion: int = DEFAULT_EXPANSION_LIMIT
    unpacked: int = DEFAULT_UNPACKED_LIMIT

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise `RefusedError` if a tensor of `checkpoint`, or all together, declare too much."""
        total = 0
        for tensor in checkpoint.tensors.values():
            stored = _stored(tensor)
            if tensor.nbytes > stored:
                self._check_declared(checkpoint.path, stored, tensor.nbytes, tensor.name)
                total += tensor.nbytes
        files = sum(source.size for source in checkpoint.files)
        self._check_declared(checkpoint.path, files, total)

    def _check_declared(
        self, path: Path, stored: int, size: int, tensor: str | None = None
    ) -> None:
        said = f"declares {size} bytes of weights but stores only {stored}"
        self._check(path, stored, size, tensor, said)

    def check_packed(self, path: Path, stored: int, size: int, member: str | None = None) -> None:
        """Raise `RefusedError` if a member of an archive, or all together, unpack to too much."""
        self._check(path, stored, size, member, f"unpacks from {stored} to {size} bytes")

    def _check(self, path: Path, stored: int, size: int, name: str | None, said: str) -> None:
        if size > _FLOOR and size > self.expansion * stored:
            hint = "--expansion-limit allows a larger ratio, if it is meant"
            raise RefusedError(said, path=path, tensor=name, hint=hint)
        if size > self.unpacked:
            said = f"takes {size} bytes when unpacked; at most {self.unpacked} are read"
            hint = "--unpacked-limit allows more, if it is meant"
            raise RefusedError(said, path=path, tensor=name, hint=hint)


def _stored(tensor: Tensor) -> int:
    """The bytes that a tensor takes in its file."""
    storage = tensor.storage
    if isinstance(storage, Chunked):
        return sum(chunk.stored for chunk in storage.chunks)
    return 0 if isinstance(storage, Constant) else tensor.nbytes
