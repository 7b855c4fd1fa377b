"""Boxes of weights that are stored as integers and scales."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.reading import read_box
from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.tensor import Contiguous, Tensor
from ckptclamp.errors import UnreadableError
from ckptclamp.models.keras.dequantised import Dequantised, boxes_of_range


@given(st.lists(st.integers(1, 4), max_size=4), st.data())
def test_a_range_is_cut_into_boxes_that_are_it(shape, data):
    """In order, each element once, and few boxes however long the range."""
    elements = np.arange(math.prod(shape)).reshape(shape)
    start = data.draw(st.integers(0, elements.size))
    stop = data.draw(st.integers(start, elements.size))
    boxes = list(boxes_of_range(tuple(shape), start, stop))
    found = [elements[tuple(slice(*part) for part in box)].reshape(-1) for box in boxes]
    assert np.concatenate([np.zeros(0, int), *found]).tolist() == list(range(start, stop))
    assert len(boxes) <= max(1, 2 * len(shape) - 1)


class File:
    """A file that is filled with arrays, and the tensors that lie in it."""

    def __init__(self, path):
        self.path = path
        self.data = b""

    def put(self, name, array):
        tensor = Tensor(name, array.shape, DTYPES[array.dtype.name], Contiguous(0, len(self.data)))
        self.data += array.tobytes()
        return tensor

    def read(self, tensor, box):
        self.path.write_bytes(self.data)
        source = Source.open(self.path)
        try:
            return read_box([source], tensor, box)
        finally:
            source.close()


def packed_along(integers, axis):
    """Two integers to a byte, the even one in the low half."""
    even = np.take(integers, range(0, integers.shape[axis], 2), axis)
    odd = np.take(integers, range(1, integers.shape[axis], 2), axis)
    room = [(0, e - o) for e, o in zip(even.shape, odd.shape, strict=True)]
    return ((even & 15) | (np.pad(odd, room) << 4)).astype(np.int8)


@st.composite
def weights(draw):
    """A description of random integers and scales, a file for them, and what they stand for."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=2, max_size=3)))
    split = draw(st.integers(1, len(shape) - 1))
    matrix = (math.prod(shape[:split]), math.prod(shape[split:]))
    packed, kept = draw(st.sampled_from([None, 0, 1])), draw(st.sampled_from([0, 1]))
    layout = (shape, matrix, kept, packed)
    low, high = (-128, 128) if packed is None else (-8, 8)
    integers = rng.integers(low, high, matrix, np.int8)
    stored = integers.reshape(shape) if packed is None else packed_along(integers, packed)
    wide = integers.astype(np.float32)
    if not draw(st.booleans()):
        scale = rng.uniform(0.5, 9, matrix[kept]).astype(np.float32)
        whole = wide / np.expand_dims(scale, 1 - kept)
        return layout, stored, scale, None, None, whole.reshape(shape)
    count = draw(st.integers(1, 3))
    groups = rng.integers(0, count, matrix[1 - kept])
    rows = [matrix[kept], count] if kept == 0 else [count, matrix[kept]]
    scale = rng.uniform(0.5, 9, rows).astype(np.float32)
    zero = rng.integers(-8, 8, rows, np.int8)
    of = [np.take(array, groups, axis=1 - kept) for array in (zero, scale)]
    whole = (wide - of[0].astype(np.float32)) * of[1]
    return layout, stored, scale, zero, groups, whole.reshape(shape)


def described(file, layout, stored, *scales):
    shape, matrix, kept, packed = layout
    scale, zero, groups = (*scales, None, None)[:3]
    storage = Dequantised(
        file.put("values", stored),
        file.put("scale", scale),
        matrix,
        kept,
        packed,
        None if zero is None else file.put("zero", zero),
        None if groups is None else file.put("groups", np.asarray(groups, np.float32)),
    )
    return Tensor("weight", shape, DTYPES["float32"], storage)


@given(weights(), st.data())
def test_any_box_is_that_part_of_the_whole(tmp_path_factory, made, data):
    """Whatever the layout, a box of the weight is the box of what all integers together stand for."""
    *parts, whole = made
    file = File(tmp_path_factory.mktemp("weights") / "file")
    tensor = described(file, *parts)
    box = tuple(
        tuple(sorted((data.draw(st.integers(0, n)), data.draw(st.integers(0, n)))))
        for n in tensor.shape
    )
    got = file.read(tensor, box)
    np.testing.assert_array_equal(got, whole[tuple(slice(*part) for part in box)])


@pytest.mark.parametrize("group", [-1, 2, 0.5, np.nan, np.inf, 1e30])
def test_a_group_that_does_not_exist(tmp_path, group):
    """A file may name any number; only those that have a scale are taken."""
    file = File(tmp_path / "file")
    scale, zero = np.ones((2, 3), np.float32), np.zeros((2, 3), np.int8)
    integers = np.zeros((4, 3), np.int8)
    tensor = described(file, ((4, 3), (4, 3), 1, None), integers, scale, zero, [0, group, 1, 1])
    with pytest.raises(UnreadableError, match="groups") as refused:
        file.read(tensor, ((0, 4), (0, 3)))
    assert refused.value.tensor == "weight"


def test_a_scale_of_zero_is_not_finite(tmp_path):
    """Division by a scale of 0 gives what is judged as a violation, never a pass."""
    file = File(tmp_path / "file")
    integers, scale = np.array([[1, 0]], np.int8), np.zeros(2, np.float32)
    tensor = described(file, ((1, 2), (1, 2), 1, None), integers, scale)
    assert not np.isfinite(file.read(tensor, ((0, 1), (0, 2)))).any()
