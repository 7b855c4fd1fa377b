"""How encoded chunks go through the pipe to the worker that puts them into an HDF5 file.

Each record is four bytes of length, big-endian, a JSON object with the dataset's name, the chunk's
start and the size of its bytes, and those bytes.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """One encoded chunk: of which dataset, from which element on, and its bytes."""

    name: str
    start: tuple[int, ...]
    data: bytes

    def encode(self) -> bytes:
        """Return the record as it goes through the pipe."""
        header = {"name": self.name, "start": self.start, "size": len(self.data)}
        text = json.dumps(header).encode("ascii")
        return len(text).to_bytes(4, "big") + text + self.data


def read_records(fd: int) -> Iterator[ChunkRecord]:
    """Yield the records that come from `fd` until it ends.

    Raises:
        EOFError: it ends inside a record.
    """
    while length := _take(fd, 4, may_end=True):
        header = json.loads(_take(fd, int.from_bytes(length, "big")))
        yield ChunkRecord(header["name"], tuple(header["start"]), _take(fd, header["size"]))


def _take(fd: int, size: int, *, may_end: bool = False) -> bytes:
    taken = bytearray()
    while len(taken) < size:
        more = os.read(fd, size - len(taken))
        if not more:
            if may_end and not taken:
                return b""
            raise EOFError("the stream of chunks breaks off")
        taken += more
    return bytes(taken)
