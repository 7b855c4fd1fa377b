"""What a unit is where nobody says, and where what was said does not fit."""

from __future__ import annotations

import pytest

from ckptclamp.errors import UsageError
from ckptclamp.models.producers import Layout
from ckptclamp.plan.units import default_axes
from ckptclamp.spec.model import Units


@pytest.mark.parametrize(
    ("rank", "units", "layout", "axes"),
    [
        (0, None, Layout.LAST, ()),
        (1, Units(axis=(7,)), Layout.LAST, (0,)),
        (2, None, Layout.LAST, (0,)),
        (2, None, Layout.FIRST, (1,)),
        (4, None, Layout.LAST, (0, 1, 2)),
        (4, None, Layout.FIRST, (1, 2, 3)),
        (4, None, Layout.UNKNOWN, (1, 2, 3)),
        (4, Units(), Layout.FIRST, (1, 2, 3)),
        (3, Units(whole=True), Layout.LAST, (0, 1, 2)),
        (2, Units(axis=(0, 1, 2)), Layout.LAST, (0, 1)),
        (4, Units(unit_axis=(-1,)), Layout.LAST, (0, 1, 2)),
    ],
)
def test_reduced_axes(rank, units, layout, axes):
    """One output of a layer is a unit; what is stated decides as far as the tensor has it."""
    assert default_axes(rank, units, layout=layout) == axes


@pytest.mark.parametrize("units", [Units(axis=(7,)), Units(unit_axis=(-3,))])
def test_axes_that_do_not_exist_are_refused(units):
    """A drift over single weights must not pass for one over the units that were meant."""
    with pytest.raises(UsageError, match="does not exist in a tensor of 2 axes"):
        default_axes(2, units, layout=Layout.LAST)
