"""What one unit is: from what a rule states to the axes of one shape."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.tensor import Contiguous, Tensor
from ckptclamp.constraints.custom import CallableConstraint
from ckptclamp.constraints.sets.linear import CenterAround, Clip, NonNeg
from ckptclamp.constraints.sets.norms import MaxNorm
from ckptclamp.errors import UsageError
from ckptclamp.models.producers import Layout
from ckptclamp.plan.units import reduced_axes, unit_of
from ckptclamp.spec.model import Units

TENSOR = Tensor("weight", (4, 5), DTYPES["float32"], Contiguous(0, 0))
OWN = CallableConstraint(abs, "own")


@pytest.mark.parametrize(
    ("constraint", "units", "shape", "axes"),
    [
        (MaxNorm(), Units(axis=(0,)), (4, 5), (0,)),
        (MaxNorm(), Units(axis=(-1,)), (4, 5), (1,)),
        (MaxNorm(), Units(axis=(2, 0)), (4, 5, 6), (0, 2)),
        (MaxNorm(), Units(unit_axis=(-1,)), (3, 3, 4, 5), (0, 1, 2)),
        (MaxNorm(), Units(unit_axis=(0,)), (5, 4), (1,)),
        (MaxNorm(), Units(whole=True), (4, 5), (0, 1)),
        (MaxNorm(), Units(), (4, 5), (0,)),
        (MaxNorm(), Units(), (4,), (0,)),
        (MaxNorm(), Units(), (), ()),
        (CenterAround(), Units(), (3, 4, 5), (0, 1, 2)),
        (CenterAround(), Units(axis=(0,)), (3, 4, 5), (0,)),
        (NonNeg(), Units(), (3, 4, 5), ()),
        (Clip(0, 1), Units(), (), ()),
        (OWN, Units(), (3, 4, 5), (0, 1, 2)),
    ],
)
def test_resolved(constraint, units, shape, axes):
    """Reduced or kept, negative or not, stated or left to the default."""
    assert reduced_axes(units, constraint, shape) == axes


@pytest.mark.parametrize(
    ("constraint", "units", "shape", "message"),
    [
        (MaxNorm(), Units(axis=(2,)), (4, 5), "axis 2 does not exist"),
        (MaxNorm(), Units(axis=(-3,)), (4, 5), "axis -3 does not exist"),
        (MaxNorm(), Units(unit_axis=(2,)), (4, 5), "axis 2 does not exist"),
        (MaxNorm(), Units(axis=(0,)), (), "axis 0 does not exist"),
        (MaxNorm(), Units(axis=(0, -2)), (4, 5), "one axis twice"),
        (MaxNorm(), Units(axis=()), (4, 5), "no axis at all"),
        (MaxNorm(), Units(unit_axis=(0,)), (4,), "leaves no axis"),
        (MaxNorm(), Units(), (3, 4, 5), "need an axis to be stated"),
        (NonNeg(), Units(axis=(0,)), (4, 5), "has no axis"),
        (Clip(0, 1), Units(whole=True), (4, 5), "has no axis"),
        (OWN, Units(unit_axis=(0,)), (4, 5), "states no axis"),
    ],
)
def test_refused(constraint, units, shape, message):
    """No axis is made up, dropped or wrapped around."""
    with pytest.raises(UsageError, match=message):
        reduced_axes(units, constraint, shape)


def test_what_to_state_is_said_in_words():
    """For a kernel of a convolution the message says what the usual axes would mean."""
    with pytest.raises(UsageError) as caught:
        reduced_axes(Units(), MaxNorm(), (3, 3, 16, 32))
    assert caught.value.hint == (
        "axis [0, 1, 2] would make a unit one of 32 filters (last axis): 3x3x16 = 144 weights, as "
        "Keras and Flax have it"
    )


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5).map(tuple), st.data())
def test_axis_and_unit_axis_are_complements(shape, data):
    """Reducing some axes is keeping the others, however they are counted."""
    rank = len(shape)
    axes = data.draw(st.sets(st.integers(0, rank - 1), min_size=1, max_size=rank - 1))
    kept = tuple(axis - rank for axis in range(rank) if axis not in axes)
    assert (
        reduced_axes(Units(axis=tuple(axes)), MaxNorm(), shape)
        == reduced_axes(Units(unit_axis=kept), MaxNorm(), shape)
        == tuple(sorted(axes))
    )


def test_the_hint_follows_the_layout_of_the_producer():
    """Whoever follows it for a PyTorch convolution must not audit Keras' units."""
    for layout, axes in ((Layout.LAST, "[0, 1, 2]"), (Layout.FIRST, "[1, 2, 3]")):
        with pytest.raises(UsageError) as refusal:
            reduced_axes(Units(), MaxNorm(), (64, 32, 3, 3), layout=layout)
        assert f"axis {axes}" in (refusal.value.hint or "")


def test_a_layout_that_is_not_known_is_not_asserted():
    """Both readings are told, each with whose it is."""
    with pytest.raises(UsageError) as refusal:
        reduced_axes(Units(), MaxNorm(), (64, 32, 3, 3), layout=Layout.UNKNOWN)
    hint = refusal.value.hint or ""
    assert "nothing says whose layout" in hint
    assert "PyTorch and MLX have it, axis [1, 2, 3] would make a unit one of 64 filters" in hint
    assert "Keras and Flax have it, axis [0, 1, 2]: one of 3 filters" in hint


@pytest.mark.parametrize("layout", list(Layout))
def test_another_default_than_the_producer_has_is_a_warning(layout):
    """In a PyTorch file Keras' axis 0 is probably not meant; `--strict` has to hear of it."""
    (notice,) = unit_of(TENSOR, MaxNorm(), Units(), layout=layout).notices
    assert notice.code == "default-axis"
    assert notice.informational == (layout is not Layout.FIRST)
