"""Constraints that need whole units: any axes, any memory, any dtype."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.constraints.base import Statistic
from ckptclamp.constraints.sets.l1 import MaxL1Norm, Simplex
from ckptclamp.engine.measure import measure
from ckptclamp.engine.measure.requests import Batch, Request
from ckptclamp.engine.project.transform import Rounding, rounded
from ckptclamp.engine.project.whole_units import project_whole_units
from ckptclamp.errors import UnreadableError
from tests.engine.raw import InMemory, units_of

MEMORY = 1 << 24
DTYPE_NAMES = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "int8"]


def random_array(seed, shape, dtype):
    scale = 20 if dtype == "int8" else 1
    values = np.random.default_rng(seed).normal(size=shape) * scale
    return values.astype(DTYPES[dtype].numpy)


def exact_sum(unit):
    """The sum of magnitudes, which no order of addition rounds."""
    return sum(map(Fraction, np.abs(unit).tolist()))


@given(
    st.integers(0, 1000),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from(DTYPE_NAMES),
    st.data(),
)
def test_every_unit_is_brought_inside_as_stored(seed, shape, dtype, data):
    """At tolerance 0, whatever the axes and the dtype; a unit inside keeps its bits."""
    array = random_array(seed, shape, dtype)
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    bound = 15.0 if dtype == "int8" else 0.7
    copy = InMemory(w=array)
    done = project_whole_units(copy, copy.tensors["w"], axes, MaxL1Norm(bound), 0.0, memory=MEMORY)
    before, after = (units_of(a, axes).astype(float) for a in (array, copy.arrays["w"]))
    assert all(exact_sum(unit) <= Fraction(bound) for unit in after)
    inside = np.array([exact_sum(unit) <= Fraction(bound) for unit in before])
    np.testing.assert_array_equal(after[inside], before[inside])
    assert (done.units, done.left) == (len(before), 0)
    assert done.changed == np.count_nonzero((before != after).any(axis=1))


@given(st.integers(0, 1000), st.sampled_from(["float16", "bfloat16", "float8_e4m3fn"]))
def test_rounding_costs_little(seed, dtype):
    """Hardly farther from the exact projection than rounding every weight toward zero would be."""
    array = random_array(seed, (1, 40), dtype)
    copy = InMemory(w=array)
    project_whole_units(copy, copy.tensors["w"], (1,), MaxL1Norm(2.0), 0.0, memory=MEMORY)
    near = MaxL1Norm(2.0).nearest(array.astype(float))
    low = rounded(near, array.dtype, Rounding.TOWARD_ZERO).astype(float)
    found = np.abs(copy.arrays["w"].astype(float))
    more = np.linalg.norm(np.spacing(near)) * 2  # what float64 itself rounds
    assert np.linalg.norm(found - np.abs(near)) <= 1.1 * np.linalg.norm(low - near) + more


@pytest.mark.parametrize("axes", [(0,), (1,)])
def test_the_memory_decides_nothing_but_how_many_units_at_once(axes):
    """One by one or all at once: the same bytes."""
    array = random_array(3, (30, 20), "float32")
    copies = [InMemory(w=array) for _ in range(2)]
    for copy, memory in zip(copies, (5000, MEMORY), strict=True):
        done = project_whole_units(copy, copy.tensors["w"], axes, Simplex(), 1e-6, memory=memory)
        assert done.changed == array.shape[1 - axes[0]]
    np.testing.assert_array_equal(copies[0].arrays["w"], copies[1].arrays["w"])
    assert len(copies[0].written) > len(copies[1].written)


def test_a_unit_that_does_not_fit_is_refused():
    """Memory stays bounded: what has no room is not tried."""
    copy = InMemory(w=np.ones((2, 50), np.float32))
    with pytest.raises(UnreadableError, match="one unit needs 6600 bytes"):
        project_whole_units(copy, copy.tensors["w"], (1,), Simplex(), 0.0, memory=6000)


def test_units_that_no_projection_can_mend_are_left():
    """A NaN, or a sum beyond float64, keeps its bytes, and the others are projected."""
    array = np.array([[np.nan, 9], [1.7e308, 1.7e308], [3, 1], [0.1, 0.1]])
    copy = InMemory(w=array)
    done = project_whole_units(copy, copy.tensors["w"], (1,), MaxL1Norm(2), 0.0, memory=MEMORY)
    assert (done.units, done.changed, done.left) == (4, 1, 2)
    np.testing.assert_array_equal(copy.arrays["w"][[0, 1, 3]], array[[0, 1, 3]])
    np.testing.assert_allclose(copy.arrays["w"][2], [2, 0], rtol=1e-12)


def test_what_an_audit_measured_is_believed():
    """Which units are outside is not measured a second time."""
    copy = InMemory(w=np.array([[3.0, 1.0], [5.0, 1.0]]))
    request = Request(copy.tensors["w"], (1,), MaxL1Norm(2).needs)
    known = [item for item in measure(copy, [request]) if isinstance(item, Batch)]
    known[0].statistics.values[Statistic.SUM_ABS][0] = 1.0
    done = project_whole_units(
        copy, copy.tensors["w"], (1,), MaxL1Norm(2), 0.0, memory=MEMORY, known=known
    )
    assert done.changed == 1
    assert copy.arrays["w"][0].tolist() == [3, 1]


def test_big_endian_units_stay_big_endian():
    """The byte order is the file's; only the weights that move differ."""
    array = np.array([[3.0, 1.0], [0.5, 0.5]], ">f4")
    copy = InMemory(w=array)
    project_whole_units(copy, copy.tensors["w"], (1,), MaxL1Norm(2), 0.0, memory=MEMORY)
    np.testing.assert_allclose(copy.arrays["w"], np.array([[2, 0], [0.5, 0.5]]), rtol=1e-6)
