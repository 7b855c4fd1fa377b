"""HDF5 files that Keras would not write: with links, odd types, odd storage, damage."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g, h5p, h5s, h5t

Make = Callable[[h5py.File], object]


def written(path: Path, make: Make, **options: Any) -> Path:
    """A file at `path` that `make` filled."""
    with h5py.File(path, "w", **options) as file:
        make(file)
    return path


def low_level(
    file: h5py.File,
    name: str,
    shape: tuple[int, ...],
    *,
    datatype: Any = None,
    change: Callable[[Any], object] = lambda created: None,
) -> Any:
    """A dataset whose creation property list `change` changed; float32 unless told otherwise."""
    created = h5p.create(h5p.DATASET_CREATE)
    change(created)
    space = h5s.create_simple(shape)
    return h5d.create(
        file.id, name.encode(), datatype or h5t.py_create(np.dtype("<f4")), space, created
    )


def with_shared_bytes(path: Path, shift: int) -> Path:
    """Two datasets; the second one's address is that of the first, and `shift` bytes on."""

    def make(file: h5py.File) -> None:
        file["a"] = np.arange(64, dtype="f4")
        file["b"] = np.arange(64, dtype="f4") + 1000

    written(path, make)
    with h5py.File(path) as file:
        first, second = (file[name].id.get_offset() for name in "ab")
    data = path.read_bytes()
    assert data.count(struct.pack("<Q", second)) == 1
    path.write_bytes(data.replace(struct.pack("<Q", second), struct.pack("<Q", first + shift)))
    return path


def ladder(file: h5py.File, rungs: int) -> None:
    """Two hard links from each group to the next: 2 ** rungs paths to one dataset."""
    group = file
    for _ in range(rungs):
        below = group.create_group("left")
        group["right"] = below
        group = below
    group["w"] = np.ones(3, "f4")


def external_storage(file: h5py.File) -> None:
    """A dataset whose values are the bytes of another file."""
    file.create_dataset("w", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def virtual(file: h5py.File) -> None:
    """A dataset that is made of itself."""
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(".", "w", (4,))
    file.create_virtual_dataset("w", layout)


def hard_cycle(file: h5py.File) -> None:
    """A group that holds the root."""
    file["g/w"] = np.ones(3, "f4")
    file["g/up"] = file["/"]


def deep(file: h5py.File) -> None:
    """A hundred groups, one inside the other."""
    file["/".join(["g"] * 100) + "/w"] = np.ones(3, "f4")


def not_utf8(file: h5py.File) -> None:
    """A name that is no text."""
    h5g.create(file.id, b"\xff\xfe")


def twice_deflated(file: h5py.File) -> None:
    """A dataset that was compressed and then compressed again."""

    def change(created: Any) -> None:
        created.set_chunk((8,))
        created.set_deflate(9)
        created.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (9,))

    low_level(file, "w", (16,), change=change)


def never_written(file: h5py.File) -> None:
    """Half a tebibyte of which nothing is stored."""
    file.create_dataset("w", (1 << 37,), "f4", chunks=(1 << 20,), compression="gzip")


REFUSED: dict[str, tuple[Make, str, str]] = {
    "soft link": (lambda f: f.__setitem__("s", h5py.SoftLink("/w")), "s", "soft link"),
    "dangling external link": (
        lambda f: f.__setitem__("g/e", h5py.ExternalLink("/etc/passwd", "/w")),
        "g/e",
        "external link",
    ),
    "external storage": (external_storage, "w", "external storage"),
    "virtual dataset": (virtual, "w", "virtual"),
    "cycle of groups": (hard_cycle, "g/up", "never end"),
    "ladder of groups": (lambda f: ladder(f, 40), "", "second names"),
    "depth": (deep, "", "deeper than 64"),
    "long name": (lambda f: f.create_group("n" * 1100), "", "longer than 1024"),
    "name that is no text": (not_utf8, "/", "no UTF-8"),
    "name that is a path": (lambda f: low_level(f, "w", (3,)) and f.move("w", ".."), "/", "path"),
    "scale-offset filter": (
        lambda f: f.create_dataset("w", (8,), "i4", scaleoffset=True),
        "w",
        "not decoded",
    ),
    "filter twice": (twice_deflated, "w", "twice"),
    "declared but not stored": (never_written, "w", "stores only 0"),
}
"""What must be refused: how to make it, the link or dataset that is named, words of the reason."""
