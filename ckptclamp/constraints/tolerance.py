"""How far outside a unit may lie and still conform, when no number says it: what cannot be helped.

All of these are relative to the bound. `docs/tolerance.md` has the derivations at length, and what was
measured.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptclamp.checkpoints.dtypes import StorageDType

FLOOR = 2e-6
"""What a float32 projection leaves behind at most, rounded up; see `trained_tolerance`."""

KERAS_EPSILON = 1e-7
"""`keras.config.epsilon()` unless a user changed it; files do not record it."""

CHANCE = 1e-12
"""The probability with which a unit that conformed lies farther out than `cast_tolerance` says."""

_FLOAT32_ROUNDOFF = 2.0**-24

_TRAINED = frozenset({"float16", "bfloat16"})
"""The narrow dtypes in which models are trained, not only stored."""

_MOST_SHORT = 0.5
"""No epsilon excuses more: a minimum that forgives every norm below it would be none."""


class History(StrEnum):
    """What was done to a unit between the projection and the file."""

    TRAINED = "trained"
    """Keras projected it in the storage dtype."""
    CAST = "cast"
    """It was projected in float32, and cast to the storage dtype."""


def derived_tolerance(history: History, dtype: StorageDType, size: int) -> float:
    """Return what `history` leaves behind in units of `size` weights that are stored as `dtype`."""
    if history is History.CAST:
        return cast_tolerance(dtype, size)
    return trained_tolerance(dtype)


def trained_tolerance(dtype: StorageDType) -> float:
    """Return what training in a storage dtype leaves behind: ``max(k u, 2e-6)``.

    The largest of the errors that no conforming model can help; u is the dtype's unit roundoff:

    - Rounding to storage. Each weight moves by at most a relative u, so each of the norms that are
      judged moves by at most u too: ‖δ‖₂ ≤ u ‖w‖₂. Hence k = 1: 6.25e-2 for float8_e4m3fn.
    - Projecting in float16 or bfloat16, as Keras does where a model is trained in them. The norm,
      the factor and the product are each rounded, so k = 3: 1.5e-3 and 1.2e-2. (Seen: 2.97 u in
      float16, 1.6 u in bfloat16.)
    - Projecting in float32. Keras' formulas, run on TensorFlow, JAX, PyTorch and NumPy over units of
      several sizes, leave norms up to 2.3e-7 above a maximum, and up to 1.5e-6 away from 1 or below
      a minimum (their epsilon of 1e-7 pulls inward). Rounded up, the floor of all dtypes: 2e-6.
    - Quantising to int8 or int4. The weights that such integers stand for have a u of half a step,
      relative to the largest weight that shares their scale: 1/254 and 1/14.

    Integers that are judged as they are hold what they hold; the floor is all they get. So do powers
    of two alone (float8_e8m0fnu, the scales of other numbers): rounding to them moves a number by up
    to a third, and a check that forgave it would call 0.75 a norm of 1.
    """
    roundings = 3 if dtype.name in _TRAINED else 1
    return max(roundings * _roundoff(dtype), FLOOR)


def cast_tolerance(dtype: StorageDType, size: int) -> float:
    """Return what a cast leaves behind in units of `size` weights: about ``7.5 u/√n``, at most u.

    Weight i becomes w_i (1 + δ_i) with |δ_i| ≤ u, and with p_i = w_i²/‖w‖² (their sum is 1) the norm
    is multiplied by √(1 + 2X + Y), where X = Σ p_i δ_i and Y = Σ p_i δ_i² ≤ u².

    - Always |X| ≤ u, so the norm moves by at most u: the bound of small units.
    - Rounding errors that are independent and uniform within half a step make X a sum of bounded
      terms of mean 0. For a uniform δ on [-u, u], E exp(λδ) = sinh(λu)/(λu) ≤ exp(λ²u²/6), so by
      Chernoff's bound P(|X| ≥ t) ≤ 2 exp(-3t²/(2u² Σ p_i²)), and Σ p_i² is κ/n for weights of
      kurtosis κ. For κ = 3 (normally distributed weights) and P = `CHANCE` this solves to
      t = u √(2 ln(2/P)/n) = 7.5 u/√n. Weights lie at the lower end of their binade (where δ reaches
      u) for a part only: that gains a factor of 0.54 in the variance, so that κ may be 5.5.
    - The second order, Y/2 outward and t² inward, is at most u².

    To it comes what projecting in float32 left behind, which is `FLOOR`; dtypes of 24 bits and more
    get nothing else. Chernoff, *A Measure of Asymptotic Efficiency* (1952); Hoeffding, *Probability
    Inequalities for Sums of Bounded Random Variables* (1963); for rounding errors as independent
    random variables, Higham and Mary, *A New Approach to Probabilistic Rounding Error Analysis*
    (2019).
    """
    u = _roundoff(dtype)
    if u <= _FLOAT32_ROUNDOFF:
        return FLOOR
    likely = u * math.sqrt(2 * math.log(2 / CHANCE) / size) + u**2
    return (1 + FLOOR) * (1 + min(u, likely)) - 1


def epsilon_shortfall(minimum: float, epsilon: float) -> float:
    """Return how far under a positive minimum Keras' own formula leaves a unit: ``2 ε / minimum``.

    Keras brings a norm of n < minimum to minimum · n / (n + ε), and takes ε off a norm above it. So a
    unit that training holds at its minimum rests where n + ε = minimum, short by ε / minimum; one that
    a step of the optimizer has just taken to half the minimum is short by 2 ε / minimum. No more than a
    half is excused: training does not keep a minimum of a few ε, and a gate must not call that kept.
    """
    return min(2 * epsilon / minimum, _MOST_SHORT)


def _roundoff(dtype: StorageDType) -> float:
    """The unit roundoff, of dtypes that have a mantissa to round."""
    return 0.0 if dtype.unit_roundoff >= _MOST_SHORT else dtype.unit_roundoff
