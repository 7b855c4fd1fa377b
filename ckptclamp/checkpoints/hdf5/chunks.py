"""How encoded chunks go through the pipe to the worker that puts them into an HDF5 file.

Each record is four bytes of length, big-endian, a JSON object with the dataset's name, the chunk's
start and the size of its bytes, and those bytes.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
from h5py import h5d

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptclamp.checkpoints.hdf5.worker import Window


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


_STDIN = 0


def write_chunks(window: Window) -> dict[str, Any]:
    """Write every chunk that comes through standard input, and return how many there were.

    They are encoded already: no filter is applied, and none is marked as left out.
    """
    written = 0
    with h5py.File(window, "r+") as file:
        for record in read_records(_STDIN):
            dataset = h5d.open(file.id, record.name.encode("utf-8"))
            dataset.write_direct_chunk(record.start, record.data, 0)
            written += 1
    return {"written": written}
