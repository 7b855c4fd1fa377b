"""What cannot be helped is forgiven, and no more: by training, by a cast, by an epsilon."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.checkpoints.dtypes import DTYPES, Kind
from ckptclamp.constraints.base import Statistic, UnitStatistics
from ckptclamp.constraints.sets.linear import CenterAround
from ckptclamp.constraints.sets.norms import MaxNorm, MinMaxNorm, UnitNorm
from ckptclamp.constraints.tolerance import (
    CHANCE,
    FLOOR,
    History,
    cast_tolerance,
    derived_tolerance,
    epsilon_shortfall,
    trained_tolerance,
)

ROUNDED = [n for n, d in DTYPES.items() if d.kind is Kind.FLOAT and n != "float8_e8m0fnu"]
NARROW = [name for name in ROUNDED if DTYPES[name].bits < 32]


def cast(units, dtype):
    """`units` as `dtype` stores them, in float64; what would be subnormal becomes zero before.

    Subnormals have no relative precision; a cast may do anything to them.
    """
    units = np.where(np.abs(units) < 2.0**-5, 0.0, units)
    return units, units.astype(dtype.numpy).astype(np.float64)


@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("constraint", [MaxNorm(2), UnitNorm()])
def test_rounding_to_storage_is_forgiven(name, constraint):
    """Units that lie exactly on the bound still conform after a cast to the dtype."""
    dtype = DTYPES[name]
    units = np.random.default_rng(0).normal(size=(500, 16))
    units *= (constraint.interval()[1] or 1.0) / np.linalg.norm(units, axis=1, keepdims=True)
    units, stored = cast(units, dtype)
    before, after = np.linalg.norm(units, axis=1), np.linalg.norm(stored, axis=1)
    for history in History:
        tolerance = derived_tolerance(history, dtype, 16)
        assert np.all(np.abs(after - before) <= tolerance * before)


@given(
    st.sampled_from(NARROW),
    st.lists(st.floats(0.03125, 100, width=32), min_size=1, max_size=24),
)
def test_no_cast_of_a_small_unit_moves_its_norm_farther(name, weights):
    """Whatever the weights are: the bound of small units does not rest on chance."""
    dtype = DTYPES[name]
    before, after = cast(np.array(weights), dtype)
    moved = abs(np.linalg.norm(after) - np.linalg.norm(before)) / np.linalg.norm(before)
    assert moved <= cast_tolerance(dtype, len(weights))


@given(
    st.sampled_from(NARROW),
    st.integers(60, 5000),
    st.sampled_from(["normal", "uniform", "laplace"]),
    st.integers(0, 2**32 - 1),
)
def test_casts_of_large_units_are_forgiven(name, size, distribution, seed):
    """Rounding errors of many weights mostly cancel; what is left is within the tolerance."""
    dtype = DTYPES[name]
    weights = getattr(np.random.default_rng(seed), distribution)(size=size)
    before, after = cast(weights, dtype)
    moved = abs(np.linalg.norm(after) - np.linalg.norm(before)) / np.linalg.norm(before)
    assert moved <= cast_tolerance(dtype, size)


def test_a_cast_is_forgiven_little_more_than_it_does():
    """Of 4,000 units the one that moved farthest is within a factor of four of the tolerance."""
    units = np.random.default_rng(2).normal(size=(4000, 768))
    before = np.linalg.norm(units, axis=1)
    after = np.linalg.norm(units.astype(DTYPES["bfloat16"].numpy).astype(np.float64), axis=1)
    farthest = np.max(np.abs(after - before) / before)
    tolerance = cast_tolerance(DTYPES["bfloat16"], 768)
    assert tolerance / 4 < farthest <= tolerance < 0.0011


@given(st.sampled_from(NARROW), st.integers(1, 10**9))
def test_the_formula_of_a_cast(name, size):
    """No more than one rounding, and for large units what Chernoff's bound says at `CHANCE`."""
    dtype = DTYPES[name]
    u, tolerance = dtype.unit_roundoff, cast_tolerance(dtype, size)
    likely = u * math.sqrt(2 * math.log(2 / CHANCE) / size)
    assert 2 * math.exp(-size * likely**2 / (2 * u**2)) == pytest.approx(CHANCE)
    assert FLOOR < tolerance <= (1 + u) * (1 + FLOOR) - 1
    assert tolerance <= (1 + likely + u**2) * (1 + FLOOR) - 1 + 2**-50
    assert cast_tolerance(dtype, size + 1) <= tolerance


def test_a_drift_is_seen_in_what_was_cast():
    """1 % of a row of 768 weights in bfloat16 is three times what training leaves, or ten casts."""
    dtype = DTYPES["bfloat16"]
    drifted = UnitStatistics(768, {Statistic.NORM: np.array([1.01])}, np.zeros(1, np.int64))
    judgement = MaxNorm(1.0).judge(drifted)
    assert judgement.violates(derived_tolerance(History.CAST, dtype, 768)).all()
    assert not judgement.violates(derived_tolerance(History.TRAINED, dtype, 768)).any()


def test_keras_float32_projection_is_forgiven():
    """Keras' UnitNorm formula in float32 leaves norms that a derived tolerance accepts."""
    rng = np.random.default_rng(1)
    units = (rng.normal(size=(2000, 64)) * rng.uniform(0.01, 3, size=(2000, 1))).astype(np.float32)
    norm = np.sqrt(np.sum(np.square(units), axis=1, keepdims=True, dtype=np.float32))
    kept = (units / (np.float32(1e-7) + norm)).astype(np.float64)
    stats = UnitStatistics(64, {Statistic.NORM: np.linalg.norm(kept, axis=1)}, np.zeros(2000, int))
    for history in History:
        tolerance = derived_tolerance(history, DTYPES["float32"], 64)
        assert not UnitNorm().judge(stats).violates(tolerance).any()
    assert UnitNorm().judge(stats).violates(0.0).any()


def test_tolerance_never_hides_a_real_excess():
    """No dtype forgives more than its own roundings, and integers only the floor."""
    assert trained_tolerance(DTYPES["float32"]) == FLOOR == trained_tolerance(DTYPES["int8"])
    assert cast_tolerance(DTYPES["float32"], 1) == FLOOR == cast_tolerance(DTYPES["int8"], 1)
    assert trained_tolerance(DTYPES["bfloat16"]) == 3 * 2.0**-8
    assert trained_tolerance(DTYPES["float8_e4m3fn"]) == 2.0**-4
    assert max(trained_tolerance(d) for d in DTYPES.values() if d.name in ROUNDED) <= 0.125


@pytest.mark.parametrize("history", History)
def test_powers_of_two_are_no_roundings_of_each_other(history):
    """0.5 is no unit norm, in float8_e8m0fnu as little as elsewhere."""
    half = UnitStatistics(1, {Statistic.NORM: np.array([0.5])}, np.zeros(1, np.int64))
    tolerance = derived_tolerance(history, DTYPES["float8_e8m0fnu"], 1)
    assert UnitNorm().judge(half).violates(tolerance).all()


@given(
    st.floats(1e-8, 1e-3),
    st.floats(4, 1e6),
    st.lists(st.floats(0.5, 3), min_size=1, max_size=20),
)
def test_an_epsilon_leaves_no_unit_farther_below(epsilon, times, steps):
    """Keras' formula after steps of an optimizer that take up to half of a unit's norm, or add to it."""
    minimum = times * epsilon
    norm = minimum
    for step in steps:
        moved = max(norm * step, minimum / 2)
        norm = np.clip(moved, minimum, 2 * minimum) * moved / (moved + epsilon)
        assert norm >= minimum * (1 - epsilon_shortfall(minimum, epsilon)) * (1 - 1e-12)


def test_an_epsilon_excuses_no_more_than_half():
    """A minimum below the epsilon is none for Keras, and still one for a gate."""
    assert epsilon_shortfall(1e-9, 1e-7) == 0.5 == MinMaxNorm(1e-9, 1.0).shortfall()
    assert UnitNorm().shortfall() == 2e-7
    assert MaxNorm(2.0).shortfall() == MinMaxNorm(0.0, 1.0).shortfall() == 0.0
    assert CenterAround(1.0).with_epsilon(1e-3).shortfall() == 0.0


def test_another_epsilon_changes_nothing_but_what_keras_does():
    """The set, its name and its bounds are what they were; the first constraint keeps its own."""
    plain = MinMaxNorm(0.5, 2.0, rate=0.5)
    raised = plain.with_epsilon(1e-3)
    assert (str(raised), raised.interval(), raised.one_sided) == (
        str(plain),
        plain.interval(),
        plain.one_sided,
    )
    assert (plain.epsilon, raised.epsilon, raised.shortfall()) == (1e-7, 1e-3, 4e-3)
    stats = UnitStatistics(1, {Statistic.NORM: np.array([1.0])}, np.zeros(1, np.int64))
    assert raised.project_keras(stats).scale == pytest.approx(1 / 1.001)
