"""Axes by name and parts of tensors: the same weights as NumPy's own reshaping gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.reading import read_view
from ckptclamp.checkpoints.tensor import Box, Constant, Tensor, View
from ckptclamp.errors import UsageError
from ckptclamp.plan.layout import numbers, seen_by
from ckptclamp.spec.model import Units
from ckptclamp.spec.values import parse_units
from tests.checkpoints.contract import as_slices


@st.composite
def views(draw: st.DrawFn) -> tuple[tuple[int, ...], View, Box]:
    """A shape, a view of a tensor that has it, and a box of the view."""
    factors = draw(
        st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=3)
    )
    start = tuple(draw(st.integers(0, 2)) for _ in factors)
    after = [draw(st.integers(0, 2)) for _ in factors]
    shape = tuple(a + math.prod(f) + b for a, f, b in zip(start, factors, after, strict=True))
    whole = Tensor("w", shape, DTYPES["float32"], Constant(0, b"\0"))
    view = View(whole, start, tuple(map(tuple, factors)))
    ends = [
        sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n))))
        for axis in factors
        for n in axis
    ]
    return shape, view, tuple((low, high) for low, high in ends)


@settings(max_examples=300, deadline=None)
@given(views())
def test_a_view_reads_what_numpy_reshapes(drawn: tuple[tuple[int, ...], View, Box]):
    """A box of a view is that box of the part, reshaped."""
    shape, view, box = drawn
    array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    part = array[
        tuple(slice(a, a + math.prod(f)) for a, f in zip(view.start, view.factors, strict=True))
    ]
    seen = tuple(n for axis in view.factors for n in axis)
    tensor = Tensor("w", seen, DTYPES["float32"], view)
    read = read_view(lambda _, piece, __: array[as_slices(piece)].copy(), tensor, view, box)
    np.testing.assert_array_equal(read, part.reshape(seen)[as_slices(box)])


def seen(text: str, shape: tuple[int, ...], config: Any = None, **sizes: int | str):
    """The shape and the reduced axes of a tensor as `text` names its axes."""
    from dataclasses import replace

    named = replace(parse_units(text), sizes=sizes)
    tensor = Tensor("w", shape, DTYPES["float32"], Constant(0, b"\0"))
    found = seen_by(Units(named=named), tensor, numbers(lambda: config))
    return found.tensor.shape, found.units.axis


@pytest.mark.parametrize(
    ("text", "shape", "sizes", "expected"),
    [
        ("(head dim) in -> head", (32, 5), {"head": 4}, ((4, 8, 5), (1, 2))),
        ("(head dim) in -> head", (32, 5), {"dim": 8}, ((4, 8, 5), (1, 2))),
        ("out (head dim) -> head", (5, 32), {"head": 4, "dim": 8}, ((5, 4, 8), (0, 2))),
        ("expert (two out) in -> expert two", (3, 8, 5), {"two": 2}, ((3, 2, 4, 5), (2, 3))),
        ("expert (two out) in -> two expert", (3, 8, 5), {"two": 2}, ((3, 2, 4, 5), (2, 3))),
        ("out in -> out", (3, 4), {}, ((3, 4), (1,))),
        ("out in ->", (3, 4), {}, ((3, 4), (0, 1))),
        ("(a b c) -> b", (24,), {"a": 2, "b": 3}, ((2, 3, 4), (0, 2))),
    ],
)
def test_names_give_the_axes(text, shape, sizes, expected):
    """One size may follow from the axis; the order on the right is that of the tensor."""
    assert seen(text, shape, **sizes) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(head dim) in", "one `->`"),
        ("a -> b -> c", "one `->`"),
        ("(head dim in -> head", "not closed"),
        ("head) in -> head", "no place"),
        ("((a b) c) d -> a", "no place"),
        ("a a -> a", "twice on the left"),
        ("a b -> a a", "twice on the right"),
        ("a b -> c", "no axis on the left"),
        ("a b -> a b", "each weight"),
        ("-> a", "no axis on the left"),
        ("() a -> a", "no place"),
        ("a... b -> a", "no place"),
        (" ".join(f"a{i}" for i in range(40)) + " -> a0", "at most"),
    ],
)
def test_other_texts_are_refused(text, message):
    """What is no notation of units says what is wrong with it."""
    with pytest.raises(UsageError, match=message):
        parse_units(text)


@pytest.mark.parametrize(
    ("text", "shape", "sizes", "message"),
    [
        ("(head dim) in -> head", (32, 5), {}, "needs the size of head, or of dim"),
        ("(head dim) in -> head", (32, 5), {"head": 5}, "does not fit its axis of 32"),
        ("(head dim) in -> head", (32, 5), {"head": 4, "dim": 4}, "does not fit its axis of 32"),
        ("out in -> out", (32, 5), {"in": 4}, "does not fit its axis of 5"),
        ("out in -> out", (32, 5, 2), {}, "names 2 axes; it has 3"),
        ("(head dim) in -> head", (32, 5), {"head": "$heads"}, "there is none beside it"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(text, shape, sizes, message):
    """A tensor that is not of that kind is an error, never another unit."""
    with pytest.raises(UsageError, match=message):
        seen(text, shape, **sizes)


CONFIG = {"heads": 4, "text_config": {"heads": 8}, "theta": 1.5, "none": 0, "yes": True}


def test_numbers_come_from_the_config():
    """By their key, and by a path of keys."""
    assert seen("(h d) -> h", (32,), CONFIG, h="$heads") == ((4, 8), (1,))
    assert seen("(h d) -> h", (32,), CONFIG, h="$text_config.heads") == ((8, 4), (1,))


@pytest.mark.parametrize("name", ["head", "theta", "none", "yes", "text_config", "heads.more"])
def test_a_number_that_the_config_lacks_is_an_error(name):
    """Also what is no positive integer; the hint names those that are there."""
    with pytest.raises(UsageError, match="no positive integer") as error:
        seen("(h d) -> h", (32,), CONFIG, h=f"${name}")
    assert error.value.hint == "it has heads, none"
