"""The child that loads the HDF5 library: one file, one task, one answer.

Started by `sandbox` as ``main()`` with ``task fd offset length longest asks`` on its command line: where
the HDF5 file lies, how long it may get by writing, and whether its bytes are asked for. The answer is eight bytes of length,
big-endian, and that much JSON on standard output. Nothing here is read from a path: the file is a
window on an inherited descriptor. Chunks that are to be written come through standard input.

A file is walked from link to link, not from object to object: what it calls by two names must be
described by both, or a rule about one of them would pass without having been applied. Links that lead
out of the file or have no fixed end are refused before anything is opened through them.
"""

from __future__ import annotations

import encodings.ascii  # noqa: F401 - h5py asks for it when nothing can be opened any more
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import h5py
from h5py import h5a, h5d, h5g, h5l, h5o

from ckptclamp import system
from ckptclamp.checkpoints.formats.hdf5 import datasets, isolation
from ckptclamp.checkpoints.formats.hdf5.datasets import ChunkBudget, describe_dataset
from ckptclamp.checkpoints.formats.hdf5.ranges import ASKED, MOST
from ckptclamp.errors import CkptclampError, RefusedError, UnreadableError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from h5py.h5g import GroupID

MAX_DEPTH = 64
MAX_NAME_BYTES = 1024
MAX_LINKS = 1_000_000
MAX_ALIASES = 10_000
"""Names that objects have beyond their first: a few hard links can make any number of paths."""

_NO_DATASET = {
    "shape": [],
    "label": "datatype",
    "reason": "is a datatype without values, or a damaged dataset",
}
"""What the library takes for a named datatype may be a dataset of which a part of its header is lost."""

_LINK_CLASSES = {h5l.TYPE_SOFT: "a soft", h5l.TYPE_EXTERNAL: "an external"}

_MEMORY = {"describe": 416 << 20, "write-chunks": 1 << 30, "nothing": 416 << 20}
"""Bytes that a task may take beyond what the worker has when the libraries are loaded."""


_STDIN, _STDOUT = 0, 1


def main() -> None:
    """Run the task of the command line, answer, and leave without waiting for the library."""
    task = sys.argv[1]
    fd, *numbers = (int(number) for number in sys.argv[2:])
    answer = _answer(task, fd, numbers)
    text = json.dumps(answer).encode("ascii")
    _write_all(_STDOUT, len(text).to_bytes(8, "big"))
    _write_all(_STDOUT, text)
    os._exit(0)  # what the file made of the library's state is not run through its destructors


def _answer(task: str, fd: int, numbers: list[int]) -> dict[str, Any]:
    tasks: dict[str, Callable[[Window], dict[str, Any]]] = {
        "describe": _describe,
        "write-chunks": _write_chunks,
        "nothing": lambda _: {},
    }
    offset, length, longest, asks = numbers
    window = AskingWindow if asks else Window
    layers = isolation.lock_down(memory=_MEMORY[task], file_size=longest)
    try:
        return {**tasks[task](window(system.adopted(fd), offset, length)), "isolation": layers}
    except CkptclampError as error:
        fields = {"message": error.message, "tensor": error.tensor, "hint": error.hint}
        return {"error": {"class": type(error).__name__, **fields}}
    except MemoryError:
        return _unreadable(
            f"the HDF5 library needed more than {_MEMORY[task] >> 20} MiB to read it"
        )
    except Exception as error:  # noqa: BLE001 - h5py raises any of them on a damaged file
        return _unreadable(f"is no readable HDF5 file: {_reason(error)}")


def _unreadable(message: str) -> dict[str, Any]:
    return {"error": {"class": "UnreadableError", "message": message}}


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _write_chunks(window: Window) -> dict[str, Any]:
    """Write every chunk that comes through standard input, and return how many there were.

    Of each comes a line of JSON with the dataset's name, the chunk's start and its size, and then its
    bytes. They are encoded already: no filter is applied, and none is marked as left out.
    """
    written = 0
    with h5py.File(window, "r+") as file, os.fdopen(_STDIN, "rb", closefd=False) as chunks:
        while line := chunks.readline():
            chunk = json.loads(line)
            data = chunks.read(chunk["size"])
            if len(data) != chunk["size"]:
                raise EOFError("the stream of chunks breaks off")
            dataset = h5d.open(file.id, chunk["name"].encode("utf-8"))
            dataset.write_direct_chunk(tuple(chunk["start"]), data, 0)
            written += 1
    return {"written": written}


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
        count = system.read_into(self.fd, memoryview(buffer)[:room], self.offset + self.position)
        self.position += count
        return count

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - as typeshed's Buffer
        """Write `data` at the position; the window grows."""
        system.write_at(self.fd, memoryview(data), self.offset + self.position)
        self.position += len(data)
        self.length = max(self.length, self.position)
        return len(data)

    def truncate(self, size: int | None = None, /) -> int:
        """Make the file `size` bytes long, where it is open for writing."""
        size = self.position if size is None else size
        if size != self.length:
            os.ftruncate(self.fd, self.offset + size)
            self.length = size
        return size


class AskingWindow(Window):
    """A window on a file that is elsewhere: the descriptor is a socket on which ranges are asked for."""

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - as typeshed's Buffer
        """Ask for as much as fits into `buffer`, and wait for it."""
        room = min(len(buffer), max(self.length - self.position, 0), MOST)
        _write_all(self.fd, ASKED.pack(self.offset + self.position, room))
        done, target = 0, memoryview(buffer)
        while done < room:
            data = os.read(self.fd, room - done)
            if not data:
                raise EOFError("the bytes that were asked for did not come")
            target[done : done + len(data)] = data
            done += len(data)
        self.position += done
        return done


@frozen
class _Group:
    """A group that is still to be walked: its path, and the addresses of it and those above."""

    path: str
    addresses: tuple[int, ...]


@dataclass(slots=True)
class _Walk:
    """What was found so far."""

    root: GroupID
    datasets: dict[int, dict[str, Any]] = field(default_factory=dict)
    variables: dict[str, str | None] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    group_aliases: list[str] = field(default_factory=list)
    budget: ChunkBudget = field(default_factory=ChunkBudget)
    links: int = 0
    aliases: int = 0


def _describe(window: Window) -> dict[str, Any]:
    """Return every dataset of the file and what Keras' attributes say of them.

    Raises:
        RefusedError: a link or a dataset leads elsewhere, or a limit is passed; it is named.
    """
    with h5py.File(window, "r") as file:
        root = h5g.open(file.id, b"/")
        walk = _Walk(root)
        _walk_groups(walk)
        return {
            "datasets": list(walk.datasets.values()),
            "variables": [[path, name] for path, name in walk.variables.items()],
            "group_aliases": walk.group_aliases,
            "keras": _keras_facts(walk),
        }


def _walk_groups(walk: _Walk) -> None:
    address = h5o.get_info(walk.root).addr
    pending = [_Group("", (address,))]
    walk.seen.add(address)
    while pending:
        group = pending.pop()
        opened = h5g.open(walk.root, group.path.encode()) if group.path else walk.root
        walk.groups.add(group.path)
        if group.path.rpartition("/")[2] == "vars":
            walk.variables[group.path] = _layer_name(opened, group.path)
        inner = [_enter(walk, opened, group, raw, kind) for raw, kind in _links(walk, opened)]
        pending.extend(reversed([found for found in inner if found is not None]))


def _links(walk: _Walk, group: GroupID) -> list[tuple[bytes, int]]:
    found: list[tuple[bytes, int]] = []

    def note(name: bytes, info: Any) -> None:  # noqa: ANN401 - h5py's LinkInfo
        walk.links += 1
        if walk.links > MAX_LINKS:
            raise RefusedError(f"holds more than {MAX_LINKS} links")
        found.append((name, info.type))

    group.links.iterate(note, info=True)
    return found


def _enter(walk: _Walk, opened: GroupID, group: _Group, raw: bytes, kind: int) -> _Group | None:
    """Look at one link; return the group that it leads to, if it does."""
    path = _path(group, raw)
    if kind != h5l.TYPE_HARD:
        described = _LINK_CLASSES.get(kind, "a user-defined")
        raise RefusedError(
            f"is {described} link, which can lead anywhere",
            tensor=path,
            hint="replace the link by what it stands for",
        )
    try:
        info = h5o.get_info(opened, raw)
        if info.type != h5o.TYPE_GROUP:
            _note_dataset(walk, opened, raw, path, info)
    except (CkptclampError, MemoryError):
        raise
    except Exception as error:
        raise UnreadableError(f"cannot be opened: {_reason(error)}", tensor=path) from error
    return _note_group(walk, group, path, info.addr) if info.type == h5o.TYPE_GROUP else None


def _reason(error: Exception) -> str:
    """Return what the library says of an error, without the quotes that `KeyError` puts around it."""
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)[:300]


def _path(group: _Group, raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        shown = raw[:80].decode("utf-8", "replace")
        raise RefusedError(f"the name {shown!r} is no UTF-8", tensor=group.path or "/") from None
    path = f"{group.path}/{name}" if group.path else name
    if name in ("", ".", "..") or "/" in name:
        raise RefusedError(f"the name {name!r} can be read as a path", tensor=group.path or "/")
    if len(raw) > MAX_NAME_BYTES:
        raise RefusedError(f"a name is longer than {MAX_NAME_BYTES} bytes", tensor=path)
    if len(group.addresses) > MAX_DEPTH:
        raise RefusedError(f"groups nest deeper than {MAX_DEPTH} levels", tensor=path)
    return path


def _note_dataset(
    walk: _Walk,
    opened: GroupID,
    raw: bytes,
    path: str,
    info: Any,  # noqa: ANN401 - h5py's ObjInfo
) -> None:
    known = walk.datasets.get(info.addr)
    if known is not None:
        _count_alias(walk, path)
        known["aliases"].append(path)
        return
    described = _NO_DATASET
    if info.type == h5o.TYPE_DATASET:
        described = describe_dataset(h5o.open(opened, raw), path, walk.budget)
    walk.datasets[info.addr] = {"name": path, "aliases": [], **described}


def _note_group(walk: _Walk, parent: _Group, path: str, address: int) -> _Group:
    if address in parent.addresses:
        raise RefusedError(
            "is a hard link to a group that it lies in, so paths never end", tensor=path
        )
    if address in walk.seen:
        _count_alias(walk, path)
        walk.group_aliases.append(path)
    walk.seen.add(address)
    return _Group(path, (*parent.addresses, address))


def _count_alias(walk: _Walk, path: str) -> None:
    walk.aliases += 1
    if walk.aliases > MAX_ALIASES:
        raise RefusedError(f"hard links make more than {MAX_ALIASES} second names", tensor=path)


def _layer_name(group: GroupID, path: str) -> str | None:
    return datasets.text(group, "name", path) if h5a.exists(group, b"name") else None


def _keras_facts(walk: _Walk) -> dict[str, Any]:
    """Return what the legacy layout keeps in attributes; nothing where the file has none of it."""
    weights_root = "model_weights" if "model_weights" in walk.groups else ""
    root = h5g.open(walk.root, weights_root.encode()) if weights_root else walk.root
    layer_names = datasets.names(root, "layer_names", weights_root or "/")
    facts: dict[str, Any] = {
        name: datasets.text(walk.root, name, "/") or datasets.text(root, name, weights_root or "/")
        for name in ("keras_version", "backend")
    }
    facts["model_config"] = _model_config(walk)
    if layer_names is None:
        return {name: value for name, value in facts.items() if value is not None}
    facts |= {"weights_root": weights_root, "layer_names": layer_names}
    facts["weight_names"] = _weight_names(walk, weights_root, layer_names)
    return facts


def _model_config(walk: _Walk) -> str | None:
    """The config as text; what stands there and is none may declare what a loader can read."""
    config = datasets.text(walk.root, "model_config", "/")
    if config is None and h5a.exists(walk.root, b"model_config"):
        raise RefusedError("the attribute 'model_config' is no text", tensor="/")
    return config


def _weight_names(walk: _Walk, weights_root: str, layers: list[str]) -> list[list[Any]]:
    """Return ``[layer, [weight name, …]]`` for each layer that has a group of its own."""
    found: list[list[Any]] = []
    for layer in dict.fromkeys([*layers, "top_level_model_weights"]):
        path = f"{weights_root}/{layer}" if weights_root else layer
        if path in walk.groups:
            group = h5g.open(walk.root, path.encode())
            weights = datasets.names(group, "weight_names", path)
            found.append([layer, weights or []])
    return found
