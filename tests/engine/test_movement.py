"""A constraint that moves weights by a formula of its own goes through the same engine."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

from ckptclamp.constraints.base import Constraint, Judgement, Statistic
from ckptclamp.constraints.movement import Movement
from ckptclamp.engine.project import project
from ckptclamp.spec.model import Projection
from tests.engine.raw import InMemory


@dataclass(frozen=True)
class SoftThreshold(Movement):
    """``sign(w) * max(|w| - by, 0)``, which no factor and no shift can do."""

    by: np.ndarray | float = 0.0

    def apply(self, w, over, out):
        """Take `by` off every magnitude."""
        by = over(self.by)
        np.subtract(w, np.clip(w, -by, by), out=out)


class Peak(Constraint):
    """The largest magnitude of a unit is at most 1, and the others fall by as much."""

    needs = frozenset({Statistic.MAX_ABS})

    def judge(self, statistics):
        """Compare the peak with 1."""
        peak = statistics[Statistic.MAX_ABS]
        one = np.ones_like(peak)
        return Judgement(peak, one, np.maximum(peak - 1, 0), one)

    def project(self, statistics):
        """Take off what is above 1."""
        return SoftThreshold(np.maximum(statistics[Statistic.MAX_ABS] - 1, 0))

    def get_config(self):
        """No arguments."""
        return {}


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("block", [1000, 1 << 20], ids=["units over blocks", "whole units"])
def test_a_movement_of_another_kind_is_carried_out(dtype, axis, block):
    """Every unit outside is what the formula says, rounded to the nearest; the others stay."""
    weights = np.random.default_rng(8).standard_normal((90, 70)) * 0.6
    weights[:, :5] *= 0.1
    weights[:5] *= 0.1
    copy = InMemory(w=weights.astype(dtype))
    before = copy.arrays["w"].copy()
    done = project(copy, copy.tensors["w"], (axis,), Peak(), 0.0, block=block)
    wide = before.astype(np.float64)
    excess = np.maximum(np.abs(wide).max(axis=axis, keepdims=True) - 1, 0)
    wanted = (wide - np.clip(wide, -excess, excess)).astype(dtype)
    np.testing.assert_array_equal(copy.arrays["w"].astype(float), wanted.astype(float))
    assert done.left == 0
    assert done.changed == np.count_nonzero(excess) > 0


def test_what_keras_does_is_the_projection_where_it_has_no_formula():
    """The movement computes in float64 and rounds once to the weights' dtype."""
    copy = InMemory(w=np.array([[0.5, -1.5, 1.25]], np.float32))
    project(copy, copy.tensors["w"], (1,), Peak(), 0.0, projection=Projection.KERAS)
    assert copy.arrays["w"].tolist() == [[0.0, -1.0, 0.75]]
