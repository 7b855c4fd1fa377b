"""A trial run of a user's streaming constraint, so that a mistake in it is told as theirs, and early.

The built-in constraints are known to keep their promises; what a user wrote is first asked to judge
and to project three made-up units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ckptclamp.constraints.base import Judgement, Statistic, Transform, UnitStatistics

if TYPE_CHECKING:
    from ckptclamp.constraints.base import Constraint

_UNITS = 3


def try_out(constraint: Constraint) -> None:
    """Ask `constraint` for everything that an audit asks for.

    Raises:
        TypeError: it lacks something, or answers in another form than `Constraint` says.
        Exception: whatever its own methods raise.
    """
    needs = getattr(constraint, "needs", None)
    if not isinstance(needs, frozenset) or not needs <= set(Statistic) - {Statistic.MOVE}:
        raise TypeError("`needs` is no frozenset of the statistics that can be streamed")
    if not constraint.streaming:
        raise TypeError("it does not stream; write it as a plain callable w -> w")
    if constraint.elementwise:
        low, high = constraint.bounds()
        if not low <= high:
            raise TypeError(f"its bounds are {low} and {high}")
    sample = UnitStatistics(
        size=2,
        values={statistic: np.arange(_UNITS, dtype=np.float64) for statistic in needs},
        nonfinite=np.zeros(_UNITS, dtype=np.int64),
    )
    with np.errstate(all="ignore"):
        _check_judgement(constraint.judge(sample))
        for transform in (constraint.project(sample), constraint.project_keras(sample)):
            _check_transform(transform)
        _check_shape("unmendable", constraint.unmendable(sample))
    constraint.interval()
    str(constraint)


def _check_judgement(judgement: object) -> None:
    if not isinstance(judgement, Judgement):
        raise TypeError(f"judge returned {type(judgement).__name__}, not a Judgement")
    for name in ("measured", "bound", "distance", "scale"):
        _check_shape(f"the {name} of judge", getattr(judgement, name))


def _check_transform(transform: object) -> None:
    if not isinstance(transform, Transform):
        raise TypeError(f"project returned {type(transform).__name__}, not a Transform")
    for name in ("scale", "shift", "low", "high"):
        if np.ndim(getattr(transform, name)):
            _check_shape(f"the {name} of project", getattr(transform, name))


def _check_shape(what: str, array: object) -> None:
    shape = np.asarray(array).shape
    if shape != (_UNITS,):
        raise TypeError(f"{what} has shape {shape}, not one number for each unit")
