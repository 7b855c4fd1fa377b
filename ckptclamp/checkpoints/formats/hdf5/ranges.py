"""Ranges of a file for a worker that has no descriptor of it: it asks for them on a socket.

The worker may have been taken over by the file that it reads. It can ask for bytes of that file, a few
MiB at a time and for as long as its task may take, and for nothing else.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING, Any, Self

from ckptclamp.errors import UnreadableError

if TYPE_CHECKING:
    from ckptclamp.checkpoints.source import Source

_SECONDS = 600.0
"""What a worker may take, which waits for a network most of the time."""
ASKED = struct.Struct(">QQ")
"""What is asked for: offset and length."""
MOST = 4 << 20
"""Bytes of one answer."""


class Ranges:
    """Answers on a socket with bytes of `source`; a context manager that gives the other end.

    `failure` is what went wrong with the source; the socket was then closed.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._ours, self._theirs = socket.socketpair()
        self._thread = Thread(target=self._answer, daemon=True, name="ranges")
        self.failure: UnreadableError | None = None

    @property
    def fd(self) -> int:
        """The descriptor for the worker."""
        return self._theirs.fileno()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._theirs.close()
        self._thread.join()

    def _answer(self) -> None:
        with self._ours, self._ours.makefile("rb") as questions:
            try:
                while len(question := questions.read(ASKED.size)) == ASKED.size:
                    offset, length = ASKED.unpack(question)
                    if length > MOST or offset + length > self._source.size:
                        return
                    self._ours.sendall(self._source.read_at(offset, length))
            except UnreadableError as error:
                self.failure = error
            except OSError:  # the worker has ended: how, says whoever waits for it
                return


def describe(source: Source, offset: int, length: int, seconds: float) -> dict[str, Any]:
    """What a worker says of the HDF5 file that is `length` bytes from `offset` of `source` on.

    It may take so many `seconds`, or where it waits for a network, as long as such a task may take.
    Raises as `sandbox.run` and `source` do.
    """
    from ckptclamp.checkpoints.formats.hdf5 import sandbox

    task = sandbox.Task("describe", source.fd, source.path, offset, length, seconds)
    if not source.remote:
        return sandbox.run(task)
    with Ranges(source) as ranges:
        try:
            return sandbox.run(replace(task, fd=ranges.fd, seconds=_SECONDS, asks=True))
        except UnreadableError as error:
            raise ranges.failure or error from None
