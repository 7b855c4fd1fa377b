"""What the tests of constraints share: statistics of units, by the plainest NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ckptclamp.constraints.base import Statistic, UnitStatistics


def _statistics(units) -> UnitStatistics:
    """Measure `units`, shape (units, weights), exactly enough for any test."""
    array = np.asarray(units, dtype=np.float64)
    values = {
        Statistic.NORM: [math.hypot(*row) for row in array],
        Statistic.SUM: [_sum(row) for row in array],
        Statistic.SUM_ABS: [_sum(np.abs(row)) for row in array],
        Statistic.MIN: array.min(axis=1),
        Statistic.MAX: array.max(axis=1),
        Statistic.MAX_ABS: np.abs(array).max(axis=1),
        Statistic.NONZERO: np.count_nonzero(array, axis=1),
    }
    return UnitStatistics(
        size=array.shape[1],
        values={name: np.asarray(value, dtype=np.float64) for name, value in values.items()},
        nonfinite=np.count_nonzero(~np.isfinite(array), axis=1),
    )


def _sum(row):
    try:
        return math.fsum(row)
    except (OverflowError, ValueError):
        return math.nan


@pytest.fixture(scope="session")
def statistics():
    """Measure an array of shape (units, weights)."""
    return _statistics


@pytest.fixture(scope="session")
def projected():
    """Apply a constraint's projection to an array of shape (units, weights), in float64.

    By the formula that `Transform` states, with which its own arithmetic must agree.
    """

    def project(constraint, units, method="project"):
        array = np.asarray(units, dtype=np.float64)
        transform = getattr(constraint, method)(_statistics(array))

        def column(part):
            return np.reshape(part, (-1, 1)) if np.ndim(part) else part

        expected = np.clip(
            array * column(transform.scale) + column(transform.shift),
            column(transform.low),
            column(transform.high),
        )
        moved = np.empty_like(array)
        transform.apply(array, column, moved)
        np.testing.assert_array_equal(moved, expected)
        return expected

    return project
