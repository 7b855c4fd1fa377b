"""The automatic tolerance: wide enough for what cannot be helped, and no wider."""

from __future__ import annotations

import numpy as np
import pytest

from ckptclamp.checkpoints.dtypes import DTYPES, Kind
from ckptclamp.constraints.base import Statistic, UnitStatistics
from ckptclamp.constraints.norms import MaxNorm, UnitNorm
from ckptclamp.constraints.tolerance import FLOOR, auto_tolerance

ROUNDED = [n for n, d in DTYPES.items() if d.kind is Kind.FLOAT and n != "float8_e8m0fnu"]


@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("constraint", [MaxNorm(2), UnitNorm()])
def test_rounding_to_storage_is_forgiven(name, constraint):
    """Units that lie exactly on the bound still conform after a cast to the dtype."""
    dtype = DTYPES[name]
    units = np.random.default_rng(0).normal(size=(500, 16))
    units *= (constraint.interval()[1] or 1.0) / np.linalg.norm(units, axis=1, keepdims=True)
    # Subnormals have no relative precision; a cast may do anything to them.
    units = np.where(np.abs(units) < 2.0**-5, 0.0, units)
    before = np.linalg.norm(units, axis=1)
    after = np.linalg.norm(units.astype(dtype.numpy).astype(np.float64), axis=1)
    assert np.all(np.abs(after - before) <= auto_tolerance(dtype) * before)


def test_keras_float32_projection_is_forgiven():
    """Keras' UnitNorm formula in float32 leaves norms that the automatic tolerance accepts."""
    rng = np.random.default_rng(1)
    units = (rng.normal(size=(2000, 64)) * rng.uniform(0.01, 3, size=(2000, 1))).astype(np.float32)
    norm = np.sqrt(np.sum(np.square(units), axis=1, keepdims=True, dtype=np.float32))
    kept = (units / (np.float32(1e-7) + norm)).astype(np.float64)
    stats = UnitStatistics(64, {Statistic.NORM: np.linalg.norm(kept, axis=1)}, np.zeros(2000, int))
    tolerance = auto_tolerance(DTYPES["float32"])
    assert not UnitNorm().judge(stats).violates(tolerance).any()
    assert UnitNorm().judge(stats).violates(0.0).any()


def test_tolerance_never_hides_a_real_excess():
    """No dtype forgives more than its own roundings, and integers only the floor."""
    assert auto_tolerance(DTYPES["float32"]) == FLOOR == auto_tolerance(DTYPES["int8"])
    assert auto_tolerance(DTYPES["bfloat16"]) == 3 * 2.0**-8
    assert auto_tolerance(DTYPES["float8_e4m3fn"]) == 2.0**-4
    assert max(auto_tolerance(d) for d in DTYPES.values() if d.name in ROUNDED) <= 0.125
