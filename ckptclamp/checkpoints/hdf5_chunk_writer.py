"""Puts encoded chunks into an HDF5 file; part of the worker, and the only HDF5 writing there is.

Records arrive on standard input: four bytes of length, big-endian, a JSON object that names the
dataset, the chunk's start and the size of its bytes, then those bytes.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import h5py
from h5py import h5d

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptclamp.checkpoints.hdf5_worker import Window

_STDIN = 0


def encode_record(name: str, start: tuple[int, ...], data: bytes) -> bytes:
    """Return one record of the stream that `write_chunks` reads."""
    header = json.dumps({"name": name, "start": start, "size": len(data)}).encode("ascii")
    return len(header).to_bytes(4, "big") + header + data


def write_chunks(window: Window) -> dict[str, Any]:
    """Write every chunk of the stream as it is, no filter left out, and return how many there were."""
    written = 0
    with h5py.File(window, "r+") as file:
        for header, data in _records():
            dataset = h5d.open(file.id, header["name"].encode("utf-8"))
            dataset.write_direct_chunk(tuple(header["start"]), data, 0)
            written += 1
    return {"written": written}


def _records() -> Iterator[tuple[dict[str, Any], bytes]]:
    while length := _take(4, may_end=True):
        header = json.loads(_take(int.from_bytes(length, "big")))
        yield header, _take(header["size"])


def _take(size: int, *, may_end: bool = False) -> bytes:
    taken = bytearray()
    while len(taken) < size:
        more = os.read(_STDIN, size - len(taken))
        if not more:
            if may_end and not taken:
                return b""
            raise EOFError("the stream of chunks breaks off")
        taken += more
    return bytes(taken)
