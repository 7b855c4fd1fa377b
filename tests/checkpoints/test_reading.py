"""Boxes against NumPy's own slicing, over every way in which a tensor can be stored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.reading import read_box
from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.tensor import (
    Box,
    Chunked,
    Constant,
    Contiguous,
    Tensor,
    Unreadable,
    one_run,
    plan_chunks,
    plan_runs,
)
from ckptclamp.errors import UnreadableError
from tests.checkpoints.boxes import boxed_shapes, described
from tests.checkpoints.contract import as_slices, assert_same, boxes, full

FLOAT32 = DTYPES["float32"]


@settings(max_examples=300, deadline=None)
@given(boxed_shapes(), st.sampled_from([1, 2, 8]))
def test_runs_are_the_bytes_of_the_slice(shaped: tuple[tuple[int, ...], Box], itemsize: int):
    """The planned extents, in order, hold just the bytes that NumPy's slice holds."""
    shape, box = shaped
    array = np.arange(math.prod(shape) * itemsize).reshape(*shape, itemsize)
    planned = [
        offset
        for runs in plan_runs(shape, box, itemsize)
        for start in range(runs.offset, runs.offset + runs.count * runs.stride, runs.stride)
        for offset in range(start, start + runs.length)
    ]
    assert planned == array[as_slices(box)].reshape(-1).tolist()


@settings(max_examples=300, deadline=None)
@given(boxed_shapes(), st.sampled_from([1, 2, 8]))
def test_one_run_is_told_as_the_plan_tells_it(shaped: tuple[tuple[int, ...], Box], itemsize: int):
    """The short way finds what the long one finds, and only where there is one run."""
    shape, box = shaped
    planned = list(plan_runs(shape, box, itemsize))
    run = one_run(shape, box, itemsize)
    if run is not None:
        assert [(r.offset, r.length * r.count, r.count) for r in planned] == [(*run, 1)]
    elif planned and planned[0].count == 1 == len(planned):
        raise AssertionError(f"{box} of {shape} is one run")


@pytest.mark.parametrize(
    "box", [((0, 5),), ((-1, 3),), ((2, 1),), ((2, 2),), (), ((0, 1), (0, 1))], ids=str
)
def test_a_box_outside_of_the_tensor_is_no_run(box: Box):
    """What is not inside is left to the check that names it."""
    assert one_run((4,), box, 1) is None


def test_a_whole_range_of_rows_is_one_run():
    """Blocks along the first axis cost one system call, whatever the rank."""
    (runs,) = plan_runs((100, 3, 4, 5), ((10, 90), (0, 3), (0, 4), (0, 5)), 4)
    assert (runs.offset, runs.length, runs.count) == (10 * 60 * 4, 80 * 60 * 4, 1)


@settings(max_examples=200, deadline=None)
@given(boxed_shapes(), st.data())
def test_chunks_cover_the_box_once(shaped: tuple[tuple[int, ...], Box], data: st.DataObject):
    """Every element of a box comes from one chunk, from its own place there."""
    shape, box = shaped
    chunk_shape = tuple(data.draw(st.integers(1, 5)) for _ in shape)
    array = np.arange(math.prod(shape)).reshape(shape)
    padded = np.full([n + chunk for n, chunk in zip(shape, chunk_shape, strict=True)], -1)
    padded[tuple(slice(n) for n in shape)] = array
    out = np.full([stop - start for start, stop in box], -2)
    for part in plan_chunks(box, chunk_shape):
        ends = tuple((at, at + n) for at, n in zip(part.start, chunk_shape, strict=True))
        assert (out[part.in_box] == -2).all()
        out[part.in_box] = padded[as_slices(ends)][part.in_chunk]
    np.testing.assert_array_equal(out, array[as_slices(box)])


@pytest.mark.parametrize(
    "box", [(), ((0, 2),), ((0, 3), (0, 2)), ((2, 1), (0, 2)), ((-1, 1), (0, 2))]
)
def test_a_box_outside_of_the_tensor_is_a_mistake(box: Box, source: Source):
    """A box never wraps around or reads a neighbour's bytes."""
    tensor = Tensor("w", (2, 2), FLOAT32, Contiguous(0, 0))
    with pytest.raises(ValueError, match="no box"):
        read_box([source], tensor, box)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    """A file with enough bytes for a small tensor."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(64)))
    opened = Source.open(path)
    yield opened
    opened.close()


@pytest.mark.parametrize("columns", [(0, 1), (3, 9), (4000, 4001), (0, 5000)])
def test_columns_of_a_wide_matrix(tmp_path: Path, columns: tuple[int, int]):
    """Narrow columns are the same whether gaps are read over or skipped."""
    rng = np.random.default_rng(0)
    array = rng.normal(size=(300, 5000)).astype(np.float32)
    path = tmp_path / "wide"
    path.write_bytes(b"abc" + array.tobytes())
    source = Source.open(path)
    tensor = Tensor("w", array.shape, FLOAT32, Contiguous(0, 3))
    assert_same(read_box([source], tensor, ((1, 299), columns)), array[1:299, slice(*columns)])
    source.close()


def test_rows_far_apart_are_read_one_by_one(tmp_path: Path):
    """A gap too wide to read over leaves the same values."""
    array = np.arange(40 * 9000, dtype=np.float32).reshape(40, 9000)
    path = tmp_path / "wide"
    path.write_bytes(array.tobytes())
    source = Source.open(path)
    tensor = Tensor("w", array.shape, FLOAT32, Contiguous(0, 0))
    assert_same(read_box([source], tensor, ((0, 40), (7, 9))), array[:, 7:9])
    source.close()


FILTERS: list[dict[str, object]] = [
    {},
    {"compression": "gzip", "compression_opts": 9},
    {"shuffle": True},
    {"fletcher32": True},
    {"compression": "lzf"},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
    {"compression": "lzf", "shuffle": True, "fletcher32": True},
]


@pytest.mark.parametrize("options", FILTERS, ids=lambda options: "-".join(options) or "none")
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", "u1"])
def test_chunks_that_h5py_wrote(tmp_path: Path, options: dict[str, object], dtype: str):
    """Filtered, big-endian, ragged and unwritten chunks are what h5py reads."""
    rng = np.random.default_rng(1)
    array = rng.integers(0, 50, (9, 7)).astype(dtype)
    path = tmp_path / "chunks.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("w", (9, 7), dtype, chunks=(4, 3), fillvalue=3, **options)
        dataset[:4, :] = array[:4, :]
        dataset[8:, 6:] = array[8:, 6:]
        expected = dataset[()]
        tensor = described(dataset)
    assert isinstance(tensor.storage, Chunked)
    assert len(tensor.storage.chunks) < 9
    source = Source.open(path)
    for box in boxes((9, 7)):
        assert_same(read_box([source], tensor, box), expected[as_slices(box)])
    source.close()


def test_a_damaged_chunk_is_named(tmp_path: Path):
    """A flipped bit under a checksum ends in one line that says which chunk of which tensor."""
    path = tmp_path / "chunks.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(
            "w", data=np.ones((4, 4), "f4"), chunks=(2, 2), fletcher32=True
        )
        tensor = described(dataset)
    assert isinstance(tensor.storage, Chunked)
    data = bytearray(path.read_bytes())
    data[tensor.storage.chunks[3].offset] ^= 1
    path.write_bytes(data)
    source = Source.open(path)
    assert read_box([source], tensor, ((0, 2), (0, 4))).sum() == 8
    with pytest.raises(UnreadableError, match=r"w: the chunk at \[2, 2\] is damaged: .*checksum"):
        read_box([source], tensor, full(tensor))
    source.close()


def test_unwritten_tensors_are_their_fill(source: Source):
    """A tensor without bytes has its fill value everywhere, to the last bit of a NaN."""
    fill = b"\x01\x02\xc0\x7f"
    tensor = Tensor("w", (2, 3), FLOAT32, Constant(0, fill))
    assert read_box([source], tensor, ((0, 2), (1, 3))).tobytes() == fill * 4
    scalar = Tensor("w", (), FLOAT32, Constant(0, fill))
    assert read_box([source], scalar, ()).tobytes() == fill


def test_a_fill_of_another_size_is_refused(source: Source):
    """A fill value that is not one element long is no value."""
    tensor = Tensor("w", (2,), FLOAT32, Constant(0, b"\0\0"))
    with pytest.raises(UnreadableError, match="fill value has 2 bytes"):
        read_box([source], tensor, full(tensor))


def test_an_unreadable_tensor_says_why(source: Source):
    """What can be named but not read never looks like zeros."""
    tensor = Tensor("q", (2,), None, Unreadable("the dtype F4 cannot be read"))
    with pytest.raises(UnreadableError, match="q: the dtype F4 cannot be read"):
        read_box([source], tensor, full(tensor))


def test_bytes_beyond_the_end_are_named(source: Source):
    """A tensor that the file is too short for ends in one line, with the tensor's name."""
    tensor = Tensor("late", (4,), FLOAT32, Contiguous(0, 56))
    with pytest.raises(UnreadableError, match="late: ends at byte 64, 8 bytes too early") as caught:
        read_box([source], tensor, full(tensor))
    assert caught.value.path == str(source.path)


def test_a_buffer_is_used_and_may_be_longer(source: Source):
    """The result lies in the buffer that was given, so no memory is taken beside it."""
    buffer = bytearray(100)
    tensor = Tensor("w", (4,), FLOAT32, Contiguous(0, 8))
    values = read_box([source], tensor, full(tensor), memoryview(buffer))
    assert bytes(buffer[:16]) == bytes(range(8, 24)) == values.tobytes()
    assert np.shares_memory(values, np.frombuffer(buffer, np.uint8))
