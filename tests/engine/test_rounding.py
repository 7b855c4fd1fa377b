"""Rounding to storage: to the nearest number, or to the neighbour on the asked side."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.engine.project.transform import Rounding, inward, rounded

SMALL = (
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
)


def numbers(name):
    """Every finite number of a dtype of at most 16 bits, in order."""
    dtype = DTYPES[name].numpy
    unsigned = np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    with np.errstate(invalid="ignore"):
        values = unsigned.view(dtype).astype(np.float64)
    return np.unique(values[np.isfinite(values)])


@pytest.mark.parametrize("name", SMALL)
def test_directed_rounding_gives_the_neighbour_on_that_side(name):
    """Checked against the list of all numbers of the dtype, subnormals and the ends too."""
    known = numbers(name)
    rng = np.random.default_rng(0)
    between = (known[:-1] + known[1:]) / 2
    near = known * (1 + rng.uniform(-1e-4, 1e-4, len(known)))
    values = np.concatenate([between, near, known, [1e9, -1e9, 1e-30, -1e-30, 0.0]])
    below = known[np.clip(np.searchsorted(known, values, "right") - 1, 0, None)]
    above = known[np.clip(np.searchsorted(known, values, "left"), None, len(known) - 1)]
    toward = np.where(values >= 0, below, above)
    away = np.where(values >= 0, above, below)
    dtype = DTYPES[name].numpy
    for rounding, expected in ((Rounding.TOWARD_ZERO, toward), (Rounding.AWAY_FROM_ZERO, away)):
        result = rounded(values, dtype, rounding).astype(np.float64)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("name", SMALL)
def test_nearest_rounding_is_the_nearest_number(name):
    """And the largest number for what lies beyond, never infinity or NaN."""
    known = numbers(name)
    values = np.random.default_rng(1).uniform(known[0] * 1.5, known[-1] * 1.5, 2000)
    values = np.concatenate([values, np.random.default_rng(2).standard_normal(2000)])
    result = rounded(values, DTYPES[name].numpy, Rounding.NEAREST).astype(np.float64)
    after = np.clip(np.searchsorted(known, values), 1, len(known) - 1)
    best = np.minimum(np.abs(known[after - 1] - values), np.abs(known[after] - values))
    # Not exactly: some conversions round twice, by way of float32.
    np.testing.assert_allclose(np.abs(result - values), best, rtol=2**-10, atol=1e-12)


@pytest.mark.parametrize("name", ["int8", "uint8", "int32", "int64", "uint64", "bool"])
def test_integers_saturate_and_round_to_the_asked_side(name):
    """No wrap-around at the ends of the range."""
    dtype = DTYPES[name].numpy
    low, high = (0, 1) if name == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    ends = rounded(np.array([-1e30, 1e30]), dtype, Rounding.NEAREST)
    assert int(ends[0]) == low
    assert int(ends[1]) <= high
    assert int(ends[1]) >= high * (1 - 1e-15)
    value = np.array([0.6])
    assert int(rounded(value, dtype, Rounding.TOWARD_ZERO)[0]) == 0
    assert int(rounded(value, dtype, Rounding.NEAREST)[0]) == 1
    assert int(rounded(value, dtype, Rounding.AWAY_FROM_ZERO)[0]) == 1


def test_each_value_may_be_rounded_its_own_way():
    """Units of one block may shrink or grow."""
    values = np.array([[1.001, -1.001], [1.001, -1.001]])
    result = rounded(values, DTYPES["bfloat16"].numpy, np.array([[-1], [1]], np.int8))
    step = float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps)
    assert result.astype(float).tolist() == [[1.0, -1.0], [1.0 + step, -1.0 - step]]


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float8_e4m3fn", "int8"])
def test_intervals_are_narrowed_to_what_the_dtype_holds(name):
    """A clip to the narrowed interval cannot be rounded out of the one that was asked for."""
    low, high = inward(-1.3, 2.7, DTYPES[name].numpy)
    assert -1.3 <= low <= high <= 2.7
    assert float(low.astype(DTYPES[name].numpy)) == low
    low, high = inward(-np.inf, np.inf, DTYPES[name].numpy)
    assert (float(low), float(high)) == (-np.inf, np.inf)


def test_a_dtype_without_sign_and_zero_has_neighbours_too():
    """float8_e8m0fnu holds powers of two alone: intervals are narrowed to those."""
    dtype = DTYPES["float8_e8m0fnu"].numpy
    low, high = inward(0.3, 3.0, dtype)
    assert (float(low), float(high)) == (0.5, 2.0)
    low, high = inward(-1.0, 4.0, dtype)
    assert (float(low), float(high)) == (2.0**-127, 4.0)
    values = np.array([0.0, -3.0, 1e300, 1.0])
    nearest = rounded(values, dtype, Rounding.NEAREST).astype(float)
    assert nearest.tolist() == [2.0**-127, 2.0**-127, 2.0**127, 1.0]
