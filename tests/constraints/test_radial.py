"""Kernels that are the same in every direction."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ckptclamp.constraints.registry import make
from ckptclamp.constraints.sets.whole import RadialConstraint
from ckptclamp.errors import UsageError

RADIAL = RadialConstraint()
KERNELS = st.integers(1, 6).flatmap(
    lambda size: arrays.arrays(
        np.float64, (size, size, 2, 1), elements=st.floats(-100, 100, width=32)
    )
)


@pytest.fixture(scope="module")
def recorded(pytestconfig):
    path = pytestconfig.rootpath / "fixtures" / "radial" / "formula.json"
    return [
        {key: np.array(value, np.float32) for key, value in record.items()}
        for record in json.loads(path.read_text())
    ]


def test_the_formula_of_tf_keras(recorded):
    """What the framework really makes of kernels of sizes 2 to 7, bit for bit."""
    assert [len(record["before"]) for record in recorded] == [2, 3, 4, 5, 6, 7]
    for record in recorded:
        np.testing.assert_array_equal(RADIAL.apply_keras(record["before"]), record["after"])


def test_what_tf_keras_makes_conforms(recorded):
    """A model that was trained under the constraint passes, of odd size too."""
    for record in recorded:
        np.testing.assert_array_equal(RADIAL.apply(record["after"]), record["after"])
        assert not np.array_equal(RADIAL.apply(record["before"]), record["before"])


def test_rings():
    """Each ring around the centre gets its mean; the centre of an even kernel has four positions."""
    odd = np.array([[1, 1, 1], [1, 9, 1], [1, 1, 9]], np.float64)[:, :, None, None]
    assert RADIAL.apply(odd)[:, :, 0, 0].tolist() == [[2, 2, 2], [2, 9, 2], [2, 2, 2]]
    even = np.zeros((4, 4, 1, 1))
    even[1, 1] = 8
    middle = RADIAL.apply(even)[1:3, 1:3, 0, 0]
    assert middle.tolist() == [[2, 2], [2, 2]]
    assert RADIAL.apply(even).sum() == 8


@given(KERNELS)
def test_it_is_a_projection(kernel):
    """Applied twice it changes nothing, to the last bit."""
    once = RADIAL.apply(kernel)
    np.testing.assert_array_equal(RADIAL.apply(once), once)


@given(KERNELS, st.data())
def test_no_radial_kernel_is_nearer(kernel, data):
    """The nearest point, in the Euclidean sense, of all kernels that depend on the ring alone."""
    size = len(kernel)
    depth = np.abs(np.arange(size) - (size - 1) / 2).astype(int)
    ring = np.maximum.outer(depth, depth)
    drawn = data.draw(st.lists(st.floats(-100, 100), min_size=size, max_size=size))
    other = np.asarray(drawn)[ring][:, :, None, None]
    near, far = (np.sum((kernel - point) ** 2) for point in (RADIAL.apply(kernel), other))
    assert near <= far * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize("shape", [(3, 3), (3, 3, 2), (3, 4, 2, 2), (3, 3, 3, 2, 2), ()])
def test_other_shapes_are_refused(shape):
    """Keras refuses them too, when the first step is taken."""
    with pytest.raises(UsageError, match="square"):
        RADIAL.check_shape(shape)


@pytest.mark.parametrize("name", ["RadialConstraint", "radial_constraint"])
def test_names(name):
    """As tf_keras writes it, and as its users do."""
    assert make(name, {}) == RADIAL
    assert str(RADIAL) == "RadialConstraint()"
