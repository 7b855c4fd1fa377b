"""What one unit is, in words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.plan.units import unit_words


@pytest.mark.parametrize(
    ("shape", "axes", "words"),
    [
        ((128, 64), (0,), "one of 64 columns (last axis): 128 weights"),
        ((128, 64), (1,), "one of 128 rows (first axis): 64 weights"),
        ((3, 3, 16, 32), (0, 1, 2), "one of 32 filters (last axis): 3x3x16 = 144 weights"),
        ((32, 16, 3, 3), (1, 2, 3), "one of 32 filters (first axis): 16x3x3 = 144 weights"),
        ((5, 16, 32), (0, 1), "one of 32 slices (last axis): 5x16 = 80 weights"),
        ((5, 16, 32), (0, 2), "one of 16 slices (second axis): 5x32 = 160 weights"),
        (
            (1, 16, 1, 8),
            (0,),
            "one of 16x1x8 = 128 positions along axes 1, 2 and 3: 1 weight",
        ),
        ((64, 64), (0, 1), "the whole tensor: 64x64 = 4096 weights"),
        ((64,), (0,), "the whole vector: 64 weights"),
        ((64, 64), (), "each weight"),
        ((), (), "each weight"),
    ],
)
def test_words(shape, axes, words):
    """The layouts that people meet."""
    assert unit_words(shape, axes) == words


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.data())
def test_sizes_are_right(shape, data):
    """Whatever the axes, the numbers of units and of weights are those of the tensor."""
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    words = unit_words(shape, axes)
    size = math.prod(shape[a] for a in axes)
    assert f"{size} weight" in words
    if len(axes) < len(shape):
        assert str(math.prod(shape) // size) in words
