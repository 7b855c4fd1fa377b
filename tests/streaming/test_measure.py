"""Measuring: right numbers for any shape, axes, dtype and cut, the same whatever runs the work."""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptclamp.checkpoints.description import Chunked, Contiguous, Tensor
from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.constraints.base import Statistic
from ckptclamp.errors import UnreadableError
from ckptclamp.streaming.measure import measure
from ckptclamp.streaming.requests import Batch, Failed, Request, Screened
from tests.streaming.raw import InMemory, units_of

EVERY = frozenset(Statistic)
FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "bool")


def request(reader, axes, needs=EVERY, name="w", bounds=None):
    return Request(reader.tensors[name], tuple(axes), frozenset(needs), bounds)


def gathered(reader, asked, **options):
    """Measure one request; put the batches together where their boxes say."""
    kept = [reader.tensors[asked.tensor.name].shape[axis] for axis in asked.kept]
    values = {key: np.full(kept, np.nan) for key in asked.needs}
    nonfinite = np.full(kept, -1)
    for batch in measure(reader, [asked], **options):
        assert isinstance(batch, Batch)
        place = tuple(slice(*span) for span in batch.units)
        assert (nonfinite[place] == -1).all(), "a unit was answered twice"
        nonfinite[place] = batch.statistics.nonfinite.reshape(nonfinite[place].shape)
        for key in asked.needs:
            values[key][place] = batch.statistics[key].reshape(nonfinite[place].shape)
    assert (nonfinite >= 0).all(), "a unit was not answered"
    return {key: value.reshape(-1) for key, value in values.items()}, nonfinite.reshape(-1)


def reference(array, axes):
    """The statistics in exact arithmetic, rounded once."""
    rows = units_of(array.astype(np.float64), tuple(axes))
    exact = [[Fraction(float(w)) for w in row] for row in rows]
    return {
        Statistic.NORM: [_root(sum(w * w for w in row)) for row in exact],
        Statistic.SUM: [float(sum(row)) for row in exact],
        Statistic.SUM_ABS: [float(sum(abs(w) for w in row)) for row in exact],
        Statistic.MIN: rows.min(axis=1),
        Statistic.MAX: rows.max(axis=1),
        Statistic.MAX_ABS: np.abs(rows).max(axis=1),
    }


def _root(square):
    """The square root of a fraction of any size, to within a unit in the last place."""
    if not square:
        return 0.0
    shift = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(square / Fraction(4) ** shift), shift)


@st.composite
def cases(draw):
    shape = tuple(draw(st.lists(st.integers(1, 7), max_size=5)))
    axes = tuple(sorted(draw(st.sets(st.sampled_from(range(len(shape))))))) if shape else ()
    dtype = draw(st.sampled_from(FLOATS + INTEGERS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    array = (rng.standard_normal(shape) * 10.0 ** draw(st.integers(-3, 2))).astype(
        np.float32 if dtype in INTEGERS else np.float64
    )
    return array.astype(DTYPES[dtype].numpy), axes


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from([1, 3, 16, 64, 1 << 17]), st.sampled_from([1, 2]))
def test_statistics_are_those_of_exact_arithmetic(case, block, jobs):
    """A wrong axis, a lost block, a bad merge or a lossy sum would show in one of these."""
    array, axes = case
    reader = InMemory(w=array)
    values, nonfinite = gathered(reader, request(reader, axes), block=block, jobs=jobs)
    expected = reference(array, axes)
    scale = expected[Statistic.SUM_ABS]
    assert not nonfinite.any()
    for key in EVERY - {Statistic.SUM}:
        np.testing.assert_allclose(values[key], expected[key], rtol=1e-14, err_msg=str(key))
    assert (np.abs(values[Statistic.SUM] - expected[Statistic.SUM]) <= 1e-14 * np.array(scale)).all()
