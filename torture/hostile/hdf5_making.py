"""How hostile HDF5 files are made; `hdf5` lists them."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g, h5p, h5s, h5t, h5z

from tests.checkpoints.hdf5_files import low_level, written
from torture.hostile.case import Make

Fill = Callable[[h5py.File], object]
NAME = "model.h5"
LARGE = np.full((4, 4), 1e6, "f4")


def filled(fill: Fill, **options: Any) -> Make:
    """A file that `fill` filled."""
    return lambda directory: written(directory / NAME, fill, **options)


def weights(data: Any = LARGE, **options: Any) -> Fill:
    """One dataset."""
    return lambda file: file.create_dataset("w", data=data, **options)


def patched(
    change: Callable[[bytearray], object], fill: Fill | None = None, **options: Any
) -> Make:
    """A file whose bytes `change` changed afterwards; by default one of large weights."""

    def make(directory: Path) -> Path:
        path = written(directory / NAME, fill or weights(), **options)
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)
        return path

    return make


def at(offset: int, value: bytes) -> Callable[[bytearray], object]:
    """Put `value` at `offset`."""
    return lambda data: data.__setitem__(slice(offset, offset + len(value)), value)


def external_storage(path: str) -> Fill:
    """A dataset whose values are the bytes of another file."""
    return lambda file: file.create_dataset("w", (4,), "f4", external=[(path, 0, 16)])


def external_pipe(directory: Path) -> Path:
    """A dataset whose values come from a pipe that nobody writes to."""
    os.mkfifo(directory / "pipe")
    return written(directory / NAME, external_storage(str(directory / "pipe")))


def linked_pipe(directory: Path) -> Path:
    """A link to a file that is a pipe."""
    os.mkfifo(directory / "pipe.h5")
    link = h5py.ExternalLink(str(directory / "pipe.h5"), "/w")
    return written(directory / NAME, lambda file: file.__setitem__("w", link))


def linked_file(directory: Path) -> Path:
    """A link to another file, which conforms."""
    written(directory / "other.h5", weights(np.ones(4, "f4")))
    link = h5py.ExternalLink("other.h5", "/w")
    return written(directory / NAME, lambda file: file.__setitem__("w", link))


def user_defined_link(directory: Path) -> Path:
    """A link of a class that only some program knows."""

    def make(file: h5py.File) -> None:
        file["w"] = np.ones(2, "f4")
        file["g/e"] = h5py.ExternalLink("/nowhere", "/w")

    def change(data: bytearray) -> None:
        data[data.index(b"/nowhere") - 6] = 65  # the class; 64 is an external link's

    return patched(change, make)(directory)


def virtual(source: str, fill: float = 0.5) -> Fill:
    """A dataset that is made of one in another file; where that is missing, of `fill`."""

    def make(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource(source, "w", (4,))
        file.create_virtual_dataset("w", layout, fillvalue=fill)

    return make


def virtual_pair(directory: Path) -> Path:
    """Two virtual datasets, each made of the other."""
    written(directory / "other.h5", virtual(NAME))
    return written(directory / NAME, virtual("other.h5"))


def soft(path: str) -> Fill:
    """A link by name beside a conforming dataset."""

    def make(file: h5py.File) -> None:
        file["w"] = np.ones(2, "f4")
        file["g/link"] = h5py.SoftLink(path)

    return make


def alias(file: h5py.File) -> None:
    """One dataset under two names, as `visititems` would miss."""
    file["a"] = LARGE
    file["z"] = file["a"]


def beyond(offset: int) -> Make:
    """A dataset whose address leads to `offset`."""

    def make(directory: Path) -> Path:
        path = written(directory / NAME, lambda file: (weights()(file), named("x")(file)))
        with h5py.File(path) as file:
            address = struct.pack("<Q", file["x"].id.get_offset())
        data = path.read_bytes()
        assert data.count(address) == 1
        path.write_bytes(data.replace(address, struct.pack("<Q", offset)))
        return path

    return make


def in_chunks(payload: bytes, mask: int = 0, **options: Any) -> Fill:
    """Two chunks of 16 floats, of which the first has these bytes, whatever the filters say."""

    def make(file: h5py.File) -> None:
        options_here = {"compression": "gzip"} | options
        dataset = file.create_dataset("w", (32,), "f4", chunks=(16,), **options_here)
        dataset[16:] = 1
        dataset.id.write_direct_chunk((0,), payload, filter_mask=mask)

    return make


def deflated(data: bytes) -> bytes:
    """Bytes as a chunk holds them."""
    import zlib

    return zlib.compress(data)


def huge_chunk(file: h5py.File) -> None:
    """A chunk of half a gibibyte."""
    low_level(file, "w", (1 << 27,), change=lambda created: created.set_chunk((1 << 27,)))


def unwritten(elements: int, fill: float = 0.0) -> Fill:
    """A contiguous dataset of which nothing was ever written."""

    def make(file: h5py.File) -> None:
        def change(created: Any) -> None:
            created.set_alloc_time(h5d.ALLOC_TIME_LATE)
            created.set_fill_value(np.array(fill, "f4"))

        low_level(file, "w", (elements,), change=change)

    return make


def without_fill(file: h5py.File) -> None:
    """Nothing was written, and what is read then is not said."""
    file["v"] = np.ones(2, "f4")
    created = h5p.create(h5p.DATASET_CREATE)
    created.set_fill_time(h5d.FILL_TIME_NEVER)
    low_level(file, "w", (4,), change=lambda c: c.set_fill_time(h5d.FILL_TIME_NEVER))


def gzip_bomb(file: h5py.File) -> None:
    """Half a gibibyte of zeros in half a mebibyte."""
    dataset = file.create_dataset("w", (1 << 27,), "f4", chunks=(1 << 24,), compression="gzip")
    payload = deflated(bytes(1 << 26))
    for start in range(0, 1 << 27, 1 << 24):
        dataset.id.write_direct_chunk((start,), payload)


def unknown_filter(file: h5py.File) -> None:
    """A filter that a plug-in would have to be loaded for."""

    def change(created: Any) -> None:
        created.set_chunk((8,))
        created.set_filter(32_015, h5z.FLAG_OPTIONAL, (1,))

    low_level(file, "w", (16,), change=change)


def of_type(datatype: Any) -> Fill:
    """A dataset of some HDF5 datatype, beside a conforming one."""

    def make(file: h5py.File) -> None:
        file["v"] = np.ones(2, "f4")
        low_level(file, "w", (2,), datatype=datatype)

    return make


def bits24() -> Any:
    """A float of 24 bits."""
    datatype = h5t.IEEE_F32LE.copy()
    datatype.set_fields(23, 15, 8, 0, 15)
    datatype.set_size(3)
    datatype.set_precision(24)
    return datatype


def odd_bias() -> Any:
    """A float32 whose exponent means something else."""
    datatype = h5t.IEEE_F32LE.copy()
    datatype.set_ebias(100)
    return datatype


def padded_integer() -> Any:
    """An integer of 24 bits in 32."""
    datatype = h5t.STD_I32LE.copy()
    datatype.set_precision(24)
    return datatype


def lying_bfloat16(file: h5py.File) -> None:
    """Two opaque bytes that say they are something else."""
    file.create_dataset("w", data=np.zeros(3, "V2")).attrs["dtype"] = "float8"


def numbered_bfloat16(file: h5py.File) -> None:
    """Two opaque bytes whose dtype is a number."""
    file.create_dataset("w", data=np.zeros(3, "V2")).attrs["dtype"] = 7


def many_attributes(file: h5py.File) -> None:
    """Three thousand attributes, in dense storage, that nobody needs."""
    dataset = file.create_dataset("w", data=LARGE)
    for number in range(3000):
        dataset.attrs[f"a{number}"] = number


def named(*names: bytes | str) -> Fill:
    """Datasets of these names."""

    def make(file: h5py.File) -> None:
        for name in names:
            raw = name.encode() if isinstance(name, str) else name
            space = h5s.create_simple((1,))
            dataset = h5d.create(file.id, raw, h5t.IEEE_F32LE, space)
            dataset.write(h5s.ALL, h5s.ALL, np.full(1, 1e6, "f4"))

    return make


def wide(file: h5py.File) -> None:
    """A group of twenty thousand groups."""
    for number in range(20_000):
        h5g.create(file.id, str(number).encode())


def checksummed(change: Callable[[bytearray], object]) -> Make:
    """The same with metadata checksums."""
    return patched(change, libver="latest")


def left_open(data: bytearray) -> None:
    """Say that the writer still has it open."""
    data[11] |= 1


def user_block(size: int) -> Make:
    """A shell script before the HDF5 part."""

    def make(directory: Path) -> Path:
        path = written(directory / NAME, weights(), userblock_size=size)
        data = bytearray(path.read_bytes())
        data[:10] = b"#!/bin/sh\n"
        path.write_bytes(data)
        return path

    return make


def zeroed_tail(data: bytearray) -> None:
    """Lose the second half without becoming shorter."""
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)


def with_family_name(data: bytearray) -> None:
    """Nothing but the signature."""
    del data[8:]


def shuffled_otherwise(path: Path) -> Path:
    """A shuffle filter that is set for pairs of bytes, where the elements have four."""
    values = np.ones(64, "f4")
    written(
        path,
        lambda file: file.create_dataset(
            "w", data=values, shuffle=True, chunks=(64,), compression="gzip"
        ),
    )
    data = path.read_bytes()
    # The filter's number, the length of its name, flags, how many settings; then name and setting.
    at = data.index(b"shuffle\0") + 8
    assert data[at : at + 4] == b"\4\0\0\0"
    path.write_bytes(data[:at] + b"\2" + data[at + 1 :])
    return path
