"""The child that loads the HDF5 library: one file, one task, one answer.

Started by `sandbox` as ``main()`` with ``task fd offset length longest`` on its command line:
where the HDF5 file lies, and how long the file may get by writing. The answer is eight bytes of
length, big-endian, and that much JSON on standard output. Nothing here is read from a path: the
file is a window on an inherited descriptor. Chunks that are to be written come through standard
input, as records. The process that starts it imports this module for them, and never h5py.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ckptclamp.errors import CkptclampError

_MEMORY = {"describe": 416 << 20, "write-chunks": 1 << 30, "nothing": 416 << 20}
"""Bytes that a task may take beyond what the worker has when the libraries are loaded."""


_STDIN, _STDOUT = 0, 1


def main() -> None:
    """Run the task of the command line, answer, and leave without waiting for the library."""
    task = sys.argv[1]
    fd, *numbers = (int(number) for number in sys.argv[2:])
    answer = _answer(task, fd, numbers)
    text = json.dumps(answer).encode("ascii")
    _write_all(len(text).to_bytes(8, "big"))
    _write_all(text)
    os._exit(0)  # what the file made of the library's state is not run through its destructors


def _answer(task: str, fd: int, numbers: list[int]) -> dict[str, Any]:
    from ckptclamp.checkpoints.hdf5 import isolation, walk

    tasks: dict[str, Callable[[Window], dict[str, Any]]] = {
        "describe": walk.describe,
        "write-chunks": _write_chunks,
        "nothing": lambda _: {},
    }
    offset, length, longest = numbers
    layers = isolation.lock_down(memory=_MEMORY[task], file_size=longest)
    try:
        return {**tasks[task](Window(fd, offset, length)), "isolation": layers}
    except CkptclampError as error:
        fields = {"message": error.message, "tensor": error.tensor, "hint": error.hint}
        return {"error": {"class": type(error).__name__, **fields}}
    except MemoryError:
        return _unreadable(
            f"the HDF5 library needed more than {_MEMORY[task] >> 20} MiB to read it"
        )
    except Exception as error:  # noqa: BLE001 - h5py raises any of them on a damaged file
        return _unreadable(f"is no readable HDF5 file: {walk.reason(error)}")


def _unreadable(message: str) -> dict[str, Any]:
    return {"error": {"class": "UnreadableError", "message": message}}


def _write_all(data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(_STDOUT, rest) :]


def _write_chunks(window: Window) -> dict[str, Any]:
    """Write every chunk that comes through standard input, and return how many there were.

    They are encoded already: no filter is applied, and none is marked as left out.
    """
    import h5py  # `walk` has loaded it: nothing can be, once the process is locked down
    from h5py import h5d

    written = 0
    with h5py.File(window, "r+") as file:
        for record in read_records(_STDIN):
            dataset = h5d.open(file.id, record.name.encode("utf-8"))
            dataset.write_direct_chunk(record.start, record.data, 0)
            written += 1
    return {"written": written}


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """One encoded chunk: of which dataset, from which element on, and its bytes.

    In the pipe it is four bytes of length, big-endian, a JSON object with the dataset's name, the
    chunk's start and the size of its bytes, and those bytes.
    """

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


class Window(io.RawIOBase):
    """The part of a descriptor that holds the HDF5 file, as h5py's file-object driver wants it."""

    def __init__(self, fd: int, offset: int, length: int) -> None:
        super().__init__()
        self.fd = fd
        self.offset = offset
        self.length = length
        self.position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move as `io.RawIOBase.seek` does."""
        start = (0, self.position, self.length)[whence]
        self.position = start + offset
        return self.position

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - as typeshed's Buffer
        """Fill `buffer`; beyond the window there is nothing to read."""
        room = min(len(buffer), max(self.length - self.position, 0))
        count = os.preadv(self.fd, [memoryview(buffer)[:room]], self.offset + self.position)
        self.position += count
        return count

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - as typeshed's Buffer
        """Write `data` at the position; the window grows."""
        done = 0
        while done < len(data):
            done += os.pwrite(self.fd, data[done:], self.offset + self.position + done)
        self.position += done
        self.length = max(self.length, self.position)
        return done

    def truncate(self, size: int | None = None, /) -> int:
        """Make the file `size` bytes long, where it is open for writing."""
        size = self.position if size is None else size
        if size != self.length:
            os.ftruncate(self.fd, self.offset + size)
            self.length = size
        return size
