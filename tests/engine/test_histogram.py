"""Histograms of any number of values in bounded memory."""

from __future__ import annotations

import sys

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckptclamp.engine.histogram import UnitHistogram, histograms_of

VALUES = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=50)
EVERYWHERE = [sign * 2.0**n for n in range(-1074, 1024) for sign in (1, -1)] + [sys.float_info.max]
"""More powers of two than there are bins while values arrive."""


def histogram_of(*parts):
    histogram = UnitHistogram()
    for part in parts:
        histogram.add(np.array(part, np.float64))
    return histogram


@settings(deadline=None)
@given(VALUES, VALUES)
@example([sys.float_info.max, 1.0], [-sys.float_info.max])
@example(EVERYWHERE, [])
def test_every_finite_value_is_counted_in_its_bin(first, second):
    """The counts are exact for the edges that are given, in whatever order values came."""
    result = histogram_of(first, second).result()
    values = np.array([v for v in first + second if np.isfinite(v)])
    assert histogram_of(second, first).result() == result
    edges = np.array(result.edges)
    assert np.isfinite(edges).all()
    edges[edges == sys.float_info.max] = np.inf  # the last bin includes it
    assert len(result.counts) <= min(32, max(8, len(values)))
    assert sum(result.counts) == len(values)
    for low, high, count in zip(edges[:-1], edges[1:], result.counts, strict=True):
        assert ((values >= low) & (values < high)).sum() == count


@settings(deadline=None)
@given(VALUES, VALUES)
def test_merging_is_as_good_as_adding(first, second):
    """Parts may be counted apart and put together."""
    merged = histogram_of(first)
    merged.merge(histogram_of(second))
    assert merged.result() == histogram_of(first, second).result()


@settings(deadline=None)
@given(st.integers(0, 40), st.data())
def test_rows_are_counted_as_each_would_be(width, data):
    """To the bit: what is judged many at a time is told as if it had been judged by itself."""
    finite = st.floats(allow_nan=False, allow_infinity=False)
    near = st.floats(0.9, 1.1)
    row = st.one_of(*(st.lists(s, min_size=width, max_size=width) for s in (finite, near)))
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    found = histograms_of(np.array(rows, np.float64).reshape(len(rows), width))
    assert found == [histogram_of(row).result() for row in rows]


def test_bins_are_evenly_spaced_where_values_are_close():
    """Norms near a bound are what a histogram is read for; they must not fall into one bin."""
    values = np.random.default_rng(0).uniform(0.9, 1.1, 100_000)
    result = histogram_of(*np.array_split(values, 7)).result()
    assert len(result.counts) > 25
    np.testing.assert_allclose(np.diff(result.edges), 0.2 / 32, rtol=0.2)


def test_memory_is_bounded_whatever_comes():
    """Values of every magnitude and sign still make few bins."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(200_000) * 10.0 ** rng.uniform(-300, 300, 200_000)
    histogram = histogram_of(*np.array_split(values, 5))
    assert len(histogram._keys) <= 2048
    assert sum(histogram.result().counts) == len(values)


def test_nothing_gives_no_bins():
    """No value, no edge."""
    assert histogram_of([np.nan]).result().edges == ()
