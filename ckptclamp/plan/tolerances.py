"""What each pair of a plan forgives: by the caller, the rule, or what is known of the producer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.tensor import Computed
from ckptclamp.constraints.base import Statistic
from ckptclamp.constraints.tolerance import FLOOR, History, derived_tolerance
from ckptclamp.plan import Assignment
from ckptclamp.plan.units import unit_size
from ckptclamp.spec.model import ZeroUnits

if TYPE_CHECKING:
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.models.keras.model import BoundModel
    from ckptclamp.plan import Entry
    from ckptclamp.spec.model import Leeway


class Histories:
    """What was probably done to the weights of a checkpoint, `bound` if it is one of Keras'.

    Keras saves variables in their own dtype, and constrains them in it: trained, unless the config
    says that the variable had another dtype than the file. Other formats hold what somebody wrote. A
    model that is trained in mixed precision keeps its weights, and projects them, in float32, and is
    cast when it is saved; so whatever does not say otherwise was cast, which forgives less.
    """

    def __init__(self, bound: BoundModel | None) -> None:
        self.keras = bound is not None
        self.dtypes = {} if bound is None else bound.variable_dtypes

    def of(self, tensor: Tensor) -> History:
        """The history of `tensor`, where nobody states it."""
        held = tensor.dtype.name if tensor.dtype else ""
        same = self.dtypes.get(tensor.name, held) == held
        return History.TRAINED if self.keras and same else History.CAST


def forgiving(entry: Entry, leeway: Leeway, histories: Histories) -> Entry:
    """Return `entry` with what it forgives, if it is a pair to judge; `leeway` is what was stated."""
    if not isinstance(entry, Assignment):
        return entry
    constraint = entry.constraint
    if leeway.epsilon is not None:
        constraint = constraint.with_epsilon(leeway.epsilon)
    judged = replace(entry, constraint=constraint, allow_zero=leeway.zero_units is ZeroUnits.ALLOW)
    if isinstance(leeway.tolerance, float | int):
        return replace(judged, tolerance=float(leeway.tolerance))
    history = leeway.tolerance or histories.of(entry.tensor)
    if entry.base is not None:
        # Rounding moves a weight by a share of itself, and says nothing about a share of a distance.
        return replace(judged, tolerance=FLOOR, history=history)
    assert entry.tensor.dtype is not None
    return replace(
        judged,
        tolerance=derived_tolerance(history, entry.tensor.dtype, _independent(entry)),
        shortfall=constraint.shortfall(),
        history=history,
    )


def _independent(assignment: Assignment) -> int:
    """How many roundings by independent, relative errors what is judged of a unit is made of.

    A norm is one of as many as the unit has weights. Of other numbers that is not known, and weights
    that were quantised were rounded relative to the largest of those that share a scale.
    """
    by_norm = assignment.constraint.needs == frozenset({Statistic.NORM})
    if not by_norm or isinstance(assignment.tensor.whole.storage, Computed):
        return 1
    return unit_size(assignment.tensor.shape, assignment.axes)
