"""Numbers that a user gives to a constraint, checked once and in one place."""

from __future__ import annotations

import math
from numbers import Real

from ckptclamp.errors import UsageError


def number(name: str, value: object) -> float:
    """Return `value` as a float; infinities are numbers, NaN, booleans and text are not.

    Raises:
        UsageError: it is no number that can be compared with.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(f"{name} must be a number, not {value!r}")
    try:
        result = float(value)
    except OverflowError:
        raise UsageError(f"{name} is too large for a float64") from None
    if math.isnan(result):
        raise UsageError(f"{name} must be a number, not NaN")
    return result


def norm_bound(name: str, value: object) -> float:
    """Return `value` as a bound of a norm: a number that is not negative.

    Raises:
        UsageError: it is no number, or negative.
    """
    result = number(name, value)
    if result < 0:
        raise UsageError(f"{name} bounds a norm and cannot be negative, but is {value!r}")
    return result


def ordered(low_name: str, low: float, high_name: str, high: float) -> None:
    """Check that ``low <= high``.

    Raises:
        UsageError: no number lies in the interval.
    """
    if low > high:
        raise UsageError(f"{low_name} ({low:g}) is greater than {high_name} ({high:g})")
