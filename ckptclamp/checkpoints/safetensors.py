"""One ``.safetensors`` file: its header judged twice, its weights read by range.

The header is read by our own strict parser, and by the `safetensors` library as the reference; only
what both agree on is believed. The library never sees the weights: it is shown the header followed
by a hole of the right length, because it maps files into memory, and a mapped file that is cut
short kills the process.
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ckptclamp.checkpoints.checkpoint import Checkpoint
from ckptclamp.checkpoints.copying import FileCopy
from ckptclamp.checkpoints.reading import read_box
from ckptclamp.checkpoints.safetensors_header import (
    DEFAULT_HEADER_LIMIT,
    DTYPE_BITS,
    MAX_HEADER_BYTES,
    Header,
    header_length,
    parse_header,
)
from ckptclamp.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ckptclamp.checkpoints.checkpoint import Copy, Target
    from ckptclamp.checkpoints.description import Box, Tensor
    from ckptclamp.checkpoints.source import Source


class SafetensorsCheckpoint(Checkpoint):
    """A single safetensors file; see `Checkpoint`."""

    format = "safetensors"

    def __init__(self, source: Source, header: Header, header_limit: int) -> None:
        self.path = source.path
        self.sources = (source,)
        self.tensors = header.tensors
        self.metadata = header.metadata
        self._header_limit = header_limit

    def read(self, tensor: Tensor, box: Box, buffer: memoryview | None = None) -> NDArray[Any]:
        """See `TensorReader.read`."""
        return read_box(self.sources, tensor, box, buffer)

    def copy_to(self, target: Target) -> Copy:
        """See `Checkpoint.copy_to`."""
        (source,) = self.sources
        limit = self._header_limit
        return FileCopy(
            [(source.path.name, source)],
            target,
            lambda sources: open_safetensors(sources[0], header_limit=limit),
        )


def open_safetensors(
    source: Source, *, header_limit: int = DEFAULT_HEADER_LIMIT
) -> SafetensorsCheckpoint:
    """Describe the safetensors file `source`, which the checkpoint then owns.

    `header_limit` bounds the header in bytes, and so the memory that describing it takes.

    Raises:
        RefusedError: it is no valid safetensors file, or has more than one reading.
    """
    return SafetensorsCheckpoint(source, read_header(source, header_limit), header_limit)


def read_header(source: Source, limit: int = DEFAULT_HEADER_LIMIT) -> Header:
    """Read the header of `source`; raises as `open_safetensors` does."""
    limit = min(limit, MAX_HEADER_BYTES)
    prefix = source.read_at(0, min(8, source.size))
    length = header_length(prefix)
    if len(prefix) < 8 or length + 8 > source.size:
        raise RefusedError(
            f"the file is truncated: it has {source.size} bytes, and its header ends later",
            path=source.path,
        )
    if length > limit:
        raise RefusedError(
            f"the header is {length} bytes long; at most {limit} are read",
            path=source.path,
        )
    data = source.read_at(8, length)
    header = parse_header(data, source.size - 8 - length, limit=limit, path=source.path)
    _check_with_library(header, prefix + data, source)
    return header


def _check_with_library(header: Header, prefix: bytes, source: Source) -> None:
    """Refuse what the reference parser refuses, or reads otherwise."""
    from safetensors import SafetensorError

    try:
        with _hollow_file(prefix, source.size) as path:
            theirs = _library_reading(path)
    except (SafetensorError, OSError, ValueError) as error:
        reason = f"the safetensors library refuses it: {error}"
        raise RefusedError(reason, path=source.path) from error
    if theirs != _our_reading(header):
        raise RefusedError("the safetensors library reads the header otherwise", path=source.path)


@contextmanager
def _hollow_file(prefix: bytes, size: int) -> Iterator[str]:
    """Give the path of a file in memory that begins with `prefix` and is a hole up to `size`."""
    fd = os.memfd_create("safetensors-header", os.MFD_CLOEXEC)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(prefix)
        os.ftruncate(fd, size)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


Reading = dict[str, tuple[str, tuple[int, ...], int | None]]
"""What one parser makes of a header: for each name the dtype, the shape, and where it begins."""


def _library_reading(path: str) -> Reading:
    """Read a header with the library, which tells the order of the tensors but no offsets.

    It has checked sizes and the absence of gaps, so a running sum gives each offset. A tensor of
    no bytes may stand anywhere among its like, so its offset is left out.
    """
    from safetensors import safe_open

    reading: Reading = {}
    bits = 0
    with safe_open(path, framework="numpy") as file:
        for name in file.offset_keys():
            part = file.get_slice(name)
            dtype, shape = part.get_dtype(), tuple(part.get_shape())
            length = math.prod(shape) * DTYPE_BITS[dtype]
            reading[name] = (dtype, shape, bits // 8 if length else None)
            bits += length
    return reading


def _our_reading(header: Header) -> Reading:
    return {
        name: (tensor.dtype_name, tensor.shape, begin if end > begin else None)
        for (name, tensor), (begin, end) in zip(
            header.tensors.items(), header.extents.values(), strict=True
        )
    }
