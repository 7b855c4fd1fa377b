"""Rows that move by compiled kernels: turned out of columns and back, and fitted between two offsets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptclamp.engine.kernels import native
from ckptclamp.engine.kernels.native.moving import Offsets, RowMovement
from ckptclamp.engine.project.between import Between
from tests.engine.test_kernels import WORKSPACE, at, compiled, rows_to_move

pytestmark = compiled


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 300),
    st.integers(1, 300),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_columns_become_rows_and_back(size, height, width, share, seed):
    """Any columns of any matrix, beside each other or not, as NumPy's indices do; no other is touched."""
    random = np.random.default_rng(seed)
    matrix = random.integers(0, 256, (height, width * size), np.uint8).view(f"u{size}")
    columns = np.flatnonzero(random.random(width) <= share)
    new = random.integers(0, 256, (len(columns), height * size), np.uint8).view(f"u{size}")
    expected = matrix.copy()
    expected[:, columns] = new.T

    def turned():
        rows, changed = np.empty((len(columns), height), matrix.dtype), matrix.copy()
        library = native.loaded()
        assert library is not None
        library.gather(matrix, columns, rows)
        library.scatter(changed, columns, new)
        return rows, changed

    for level in native.LEVELS:
        rows, changed = at(level, turned)
        np.testing.assert_array_equal(rows, matrix[:, columns].T)
        np.testing.assert_array_equal(changed, expected)


@settings(max_examples=150, deadline=None)
@given(rows_to_move(), st.integers(0, 1 << 32))
def test_what_is_fitted_has_the_same_bits(case, seed):
    """Where the inner offset ends, what it gains and what is stored: NumPy and every level."""
    rows, (movement, outer, adds) = case
    random, count = np.random.default_rng(seed), len(rows)
    sign = random.choice([-1.0, 1.0], count)
    inner = outer - sign * random.uniform(0, 0.3, count)
    power = np.ldexp(1.0, random.integers(-3, 4, count))
    between = Between(movement, outer, inner, sign, power, adds)

    def done():
        gained = between.gained(rows, WORKSPACE)
        share = random.choice([0.0, 0.3, 0.9, 2.0, np.inf], count)
        rest = np.where(np.isinf(share), np.inf, np.abs(np.nan_to_num(gained)) * share)
        return gained.tobytes(), between.fitted(rows, rest, WORKSPACE).tobytes()

    state = random.bit_generator.state
    expected = at("numpy", done)
    for level in native.LEVELS:
        random.bit_generator.state = state
        assert at(level, done) == expected


@settings(max_examples=100, deadline=None)
@given(rows_to_move())
def test_as_few_of_the_first_weights_take_it_as_can(case):
    """They take the inner offset, and no other does."""
    rows, (movement, _, _) = case
    rows = np.clip(rows[:, :64].astype(np.float64), 0, 9).astype(rows.dtype)
    count = len(rows)
    none = np.zeros(count)
    between = Between(movement, none, none - 0.5, np.ones(count), np.ones(count), adds=False)
    outer, inner = (array.copy() for array in between.stored(rows, WORKSPACE))
    gains = between.gains(outer, inner, WORKSPACE)
    rest = gains.sum(axis=1) / 2
    new = between.fitted(rows, rest, WORKSPACE)
    for i in range(count):
        sums = np.concatenate([[0.0], np.cumsum(gains[i])])
        first = int(np.searchsorted(sums, rest[i], side="left"))
        assert new[i, :first].tobytes() == inner[i, :first].tobytes()
        assert new[i, first:].tobytes() == outer[i, first:].tobytes()


def test_nothing_is_written_beside_an_array():
    """Numbers for other rows, or room for others, are refused before C sees them."""
    rows, library = np.ones((3, 4), np.float32), native.loaded()
    assert library is not None
    by = RowMovement(1.0, None, None, None, np.zeros(3), adds=False, limits=(-9.0, 9.0))
    few = RowMovement(np.ones(2), None, None, None, None, adds=False, limits=(-9.0, 9.0))
    offsets = Offsets(by, np.zeros(2), np.ones(3), np.ones(3))
    without = Offsets(few, np.zeros(3), np.ones(3), np.ones(3))
    out = np.empty_like(rows)
    for refused in (
        lambda: library.move(rows, by, out[:2]),
        lambda: library.move(rows, by, out.astype(np.float64)),
        lambda: library.move(rows, few, out),
        lambda: library.gained(rows, offsets),
        lambda: library.gained(rows, without),
        lambda: library.fit(rows, offsets, np.ones(3), out),
        lambda: library.fit(rows, Offsets(by, *3 * [np.ones(3)]), np.ones(2), out),
        lambda: library.gather(rows, np.array([4]), np.empty((1, 3), np.float32)),
        lambda: library.gather(rows, np.array([0]), np.empty((1, 2), np.float32)),
        lambda: library.scatter(rows, np.array([-1]), np.empty((1, 3), np.float32)),
    ):
        with pytest.raises(ValueError, match=r"rows|array|offsets"):
            refused()
