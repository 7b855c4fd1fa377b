"""Widening to float64: every bit pattern of the small formats, at every length, is exact."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.engine.blocks import Workspace
from ckptclamp.engine.kernels import widen

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in cast")

SMALL = [name for name, dtype in DTYPES.items() if dtype.bits <= 16]


def every_pattern(name):
    """All values of a dtype of one or two bytes, those that are no numbers too."""
    dtype = DTYPES[name].numpy
    if dtype == np.bool_:
        return np.array([False, True])
    return np.arange(1 << 8 * dtype.itemsize, dtype=f"u{dtype.itemsize}").view(dtype)


def converted(values):
    """What NumPy's own conversion makes of the values, one by one."""
    with np.errstate(all="ignore"):
        return values.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("name", SMALL)
def test_every_value_is_exact(name):
    """Tables and shifted bits give what a conversion gives: NaN, infinities and both zeros too."""
    values = every_pattern(name)
    wide = widen(values, Workspace())
    np.testing.assert_array_equal(wide, converted(values))
    np.testing.assert_array_equal(np.signbit(wide), np.signbit(converted(values)))


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan, -np.nan])
@pytest.mark.parametrize("place", [0, 4, 8])
def test_a_half_that_is_no_number_stays_none(special, place):
    """Moved bits would make 65,536 of an infinity; one such weight sends its block the long way."""
    values = np.array([1, -2, 0.5, 6e-8, 65504, -65504, 0, -0.0, 3], np.float16)
    values[place] = special
    wide = widen(values, Workspace())
    np.testing.assert_array_equal(wide, converted(values))


@pytest.mark.parametrize("length", [0, 1, 2, 7, 255])
def test_an_odd_number_of_float8_is_widened_whole(length):
    """Two are looked up at a time, and the last one may be alone."""
    values = every_pattern("float8_e4m3fn")[1 : 1 + length]
    np.testing.assert_array_equal(widen(values, Workspace()), converted(values))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.float8_e5m2, ml_dtypes.bfloat16])
def test_a_part_of_a_block_is_widened_as_the_block_is(dtype):
    """Pieces of a block are no runs of memory, and come out the same."""
    block = np.arange(-24, 24).astype(np.float32).astype(dtype).reshape(6, 8)
    part = block[1:5, 2:7]
    np.testing.assert_array_equal(widen(part, Workspace()), part.astype(np.float64))
