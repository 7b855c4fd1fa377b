"""HDF5's filters, against chunks that the HDF5 library wrote and reads."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zlib_ng import zlib_ng

from ckptclamp.checkpoints.formats.hdf5.filters import (
    decode_chunk,
    decode_into,
    encode_chunk,
    fletcher32,
)
from ckptclamp.checkpoints.tensor import Chunked
from ckptclamp.errors import UnreadableError

KEYWORDS: dict[str, dict[str, object]] = {
    "shuffle": {"shuffle": True},
    "deflate": {"compression": "gzip"},
    "lzf": {"compression": "lzf"},
    "fletcher32": {"fletcher32": True},
}
PIPELINES = [
    ("shuffle",),
    ("deflate",),
    ("lzf",),
    ("fletcher32",),
    ("shuffle", "deflate"),
    ("shuffle", "lzf", "fletcher32"),
    ("shuffle", "deflate", "fletcher32"),
]


def chunked(*filters: str, level: int | None = None) -> Chunked:
    """A description of which only the filters matter."""
    return Chunked(0, (1,), filters, (), b"", level)


def stored(data: bytes, filters: tuple[str, ...], itemsize: int) -> tuple[int, bytes]:
    """One chunk as the HDF5 library stores it: its filter mask and its bytes."""
    options = {key: value for name in filters for key, value in KEYWORDS[name].items()}
    with h5py.File(io.BytesIO(), "w") as file:
        values = np.frombuffer(data, f"V{itemsize}" if itemsize > 1 else "u1")
        dataset = file.create_dataset("w", data=values, chunks=values.shape, **options)
        mask, raw = dataset.id.read_direct_chunk((0,))
        return mask, bytes(raw)


def read_back(raw: bytes, filters: tuple[str, ...], count: int, itemsize: int) -> bytes:
    """What the HDF5 library makes of one stored chunk."""
    options = {key: value for name in filters for key, value in KEYWORDS[name].items()}
    with h5py.File(io.BytesIO(), "w") as file:
        dtype = f"V{itemsize}" if itemsize > 1 else "u1"
        dataset = file.create_dataset("w", (count,), dtype, chunks=(count,), **options)
        dataset.id.write_direct_chunk((0,), raw)
        values: bytes = dataset[()].tobytes()
        return values


@st.composite
def chunks(draw: st.DrawFn) -> tuple[bytes, int]:
    """Bytes of one chunk and the size of one element; some compress well and some do not."""
    itemsize = draw(st.sampled_from([1, 2, 4, 8]))
    count = draw(st.integers(1, 300))
    pattern = draw(st.binary(min_size=1, max_size=40))
    noise = draw(st.binary(max_size=200))
    data = (noise + pattern * (count * itemsize))[: count * itemsize]
    return data, itemsize


@pytest.mark.parametrize("filters", PIPELINES, ids="-".join)
@settings(max_examples=60, deadline=None)
@given(chunks())
def test_decodes_what_hdf5_wrote(filters: tuple[str, ...], chunk: tuple[bytes, int]):
    """Chunks of the library come back as the bytes that it was given."""
    data, itemsize = chunk
    mask, raw = stored(data, filters, itemsize)
    assert decode_chunk(raw, chunked(*filters), mask, itemsize, len(data)) == data


@pytest.mark.parametrize("filters", PIPELINES, ids="-".join)
@settings(max_examples=60, deadline=None)
@given(chunks())
def test_hdf5_reads_what_was_encoded(filters: tuple[str, ...], chunk: tuple[bytes, int]):
    """The library, checksums and all, reads our chunks as the bytes that we were given."""
    data, itemsize = chunk
    raw = encode_chunk(data, chunked(*filters), itemsize)
    assert read_back(raw, filters, len(data) // itemsize, itemsize) == data


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["shuffle", "deflate", "lzf", "fletcher32"]), unique=True), chunks()
)
def test_any_order_of_filters_round_trips(filters: list[str], chunk: tuple[bytes, int]):
    """A pipeline is undone in the opposite order, also where lengths are odd inside of it.

    No file is opened in which a filter stands twice.
    """
    data, itemsize = chunk
    description = chunked(*filters)
    raw = encode_chunk(data, description, itemsize)
    assert decode_chunk(raw, description, 0, itemsize, len(data)) == data


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["shuffle", "deflate", "lzf", "fletcher32"]), unique=True),
    st.sampled_from([1, 2, 4, 8]),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.data(),
)
def test_a_part_of_a_chunk_goes_to_its_place(
    filters: list[str], itemsize: int, shape: tuple[int, int], data: st.DataObject
):
    """What is decoded into a part of an array is that part of the chunk, and nothing beside it."""
    chunk = np.arange(np.prod(shape) * itemsize, dtype=np.uint8).reshape(*shape, itemsize)
    part = tuple(
        slice(low, data.draw(st.integers(low + 1, extent)))
        for extent in shape
        for low in [data.draw(st.integers(0, extent - 1))]
    )
    mask = data.draw(st.integers(0, 1)) if filters else 0
    applied = chunked(*filters[mask:])
    raw = encode_chunk(chunk.tobytes(), applied, itemsize)
    out = np.full((20, 20, itemsize), 255, np.uint8)
    here = tuple(slice(5, 5 + piece.stop - piece.start) for piece in part)
    described = replace(chunked(*filters), chunk_shape=shape)
    decode_into(raw, described, mask, part, np.moveaxis(out[here], -1, 0))
    wanted = np.full_like(out, 255)
    wanted[here] = chunk[part]
    assert (out == wanted).all()


@pytest.mark.parametrize(
    "data", [b"\xff" * 4096, b"\xff\xff", b"\0" * 8, b"\xff", b"\xff\xfe\0\x01"]
)
def test_checksums_at_the_edge_of_their_folding(data: bytes):
    """Sums that are multiples of 65535 are 65535 and not 0, as the library has them."""
    _, raw = stored(data, ("fletcher32",), 1)
    assert fletcher32(data).to_bytes(4, "little") == raw[-4:]


def test_a_masked_filter_is_left_out():
    """A chunk that the writer could not compress is stored as it is, and says so in its mask."""
    description = chunked("shuffle", "deflate")
    data = bytes(range(32))
    shuffled = encode_chunk(data, chunked("shuffle"), 4)
    assert decode_chunk(shuffled, description, 0b10, 4, 32) == data
    assert decode_chunk(data, description, 0b11, 4, 32) == data


def test_the_deflate_level_is_kept():
    """A rewritten chunk is compressed as hard as its neighbours."""
    data = bytes(range(256)) * 64
    assert encode_chunk(data, chunked("deflate", level=0), 1) == zlib.compress(data, 0)
    assert encode_chunk(data, chunked("deflate", level=9), 1) == zlib.compress(data, 9)


@pytest.mark.parametrize(
    ("filters", "raw", "reason"),
    [
        (("deflate",), zlib.compress(bytes(1 << 22)), "inflates beyond"),
        (("deflate", "deflate"), zlib.compress(zlib.compress(bytes(1 << 24))), "inflates beyond"),
        (("deflate",), zlib.compress(bytes(64))[:-6], "breaks off"),
        (("deflate",), b"no deflate", "cannot be inflated"),
        (("deflate",), zlib.compress(bytes(63)), "63 bytes, not 64"),
        ((), bytes(63), "63 bytes, not 64"),
        ((), bytes(65), "65 bytes, not 64"),
        (("fletcher32",), bytes(64) + b"\1\0\0\0", "checksum"),
        (("fletcher32",), b"\0\0", "too short"),
        (("lzf",), b"\xff" * 3, "damaged"),
        (("lzf",), b"\x00a" + b"\xe0\xff\x00" * 64, "expands beyond"),
        (("lzf",), b"\x1fabc", "damaged"),
        (("lzf",), b"\x20\x05", "damaged"),
        (("lzf",), b"\x00a\x20", "damaged"),
        (("szip",), bytes(64), "not known"),
    ],
)
def test_bad_chunks_are_refused(filters: tuple[str, ...], raw: bytes, reason: str):
    """Bombs, broken streams and wrong lengths end in a refusal, after bounded work."""
    with pytest.raises(UnreadableError, match=reason):
        decode_chunk(raw, chunked(*filters), 0, 4, 64)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(PIPELINES), st.sampled_from([1, 2, 4, 8]))
def test_random_bytes_never_do_harm(raw: bytes, filters: tuple[str, ...], itemsize: int):
    """Whatever is stored, decoding gives the expected length or refuses."""
    try:
        decoded = decode_chunk(raw, chunked(*filters), 0, itemsize, 64)
    except UnreadableError:
        return
    assert len(decoded) == 64


@settings(max_examples=500, deadline=None)
@given(
    st.binary(min_size=1, max_size=300),
    st.integers(0, 9),
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=3),
    st.integers(0, 400),
)
def test_zlib_ng_takes_and_refuses_the_streams_of_zlib(
    data: bytes, level: int, flips: list[tuple[int, int]], length: int
):
    """It inflates faster, and reads no other files."""
    stream = bytearray(zlib.compress(data, level))
    for place, bits in flips:
        stream[place % len(stream)] ^= bits
    del stream[max(length, 1) :]

    def outcome(library: Any) -> tuple[bytes, bool] | None:
        inflating = library.decompressobj()
        try:
            return inflating.decompress(stream, 600), inflating.eof
        except library.error:
            return None

    assert outcome(zlib_ng) == outcome(zlib)
