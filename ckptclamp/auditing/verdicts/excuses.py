"""What may explain that units violate, beside a model that broke its constraint; and how to say so.

Keras divides by norm + epsilon, so a unit that it holds at a minimum ends short of that by about the
epsilon itself, whatever the minimum is (`constraints.tolerance.epsilon_shortfall`). The epsilon is in
no file: what all violating units show alike is the only trace of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ckptclamp.constraints.tolerance import KERAS_EPSILON, History, trained_tolerance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ckptclamp.constraints.base import Judgement
    from ckptclamp.plan import Assignment

_LARGEST = -3
"""Nobody is known to have set more than 1e-3."""

_ALIKE = 0.7, 1.5
"""What a step of the optimizer, and rounding, may make of a shortage, relative to the epsilon."""


class Excuses:
    """How far the violating units of one assignment lie outside, and on which side.

    Units of zeros alone are counted, and nothing else: no formula brings them anywhere.
    """

    def __init__(self, assignment: Assignment) -> None:
        assert assignment.tensor.dtype is not None
        self.assignment = assignment
        self._rounding = trained_tolerance(assignment.tensor.dtype)
        self._all_short = assignment.constraint.with_epsilon(KERAS_EPSILON).shortfall() > 0
        self._zeros = 0
        self._smallest, self._largest, self._relative = math.inf, 0.0, 0.0

    def add(
        self, judgement: Judgement, violating: NDArray[np.bool_], zero: NDArray[np.bool_]
    ) -> None:
        """Take in the violating units of a batch, of which some are of zeros alone."""
        self._zeros += int(np.count_nonzero(zero))
        chosen = violating & ~zero
        if not chosen.any():
            return
        distance = judgement.distance[chosen]
        with np.errstate(all="ignore"):
            all_short = bool((judgement.measured < judgement.bound)[chosen].all())
            relative = float((distance / judgement.scale[chosen]).max())
        self.take(all_short, float(distance.min()), float(distance.max()), relative)

    def take(self, all_short: bool, smallest: float, largest: float, relative: float) -> None:
        """Take in violating units: whether all are below their bound, and the extremes of how far."""
        self._all_short &= all_short
        self._smallest = min(self._smallest, smallest)
        self._largest = max(self._largest, largest)
        # NaN, of units that are not finite, is excused by nothing.
        self._relative = math.inf if math.isnan(relative) else max(self._relative, relative)

    def epsilon(self) -> float | None:
        """The epsilon by which all of these units would conform; ``None`` if there is none."""
        if not (self._all_short and self._largest):
            return None
        constraint = self.assignment.constraint
        if self.assignment.history is not None and self._relative <= self._rounding:
            return None  # an assumed cast forgives less than this
        if self._relative <= self._rounding + constraint.shortfall():
            return constraint.epsilon
        exponent = round(math.log10(self._largest))
        epsilon = float(f"1e{exponent}")
        alike = _ALIKE[0] * epsilon <= self._smallest and self._largest <= _ALIKE[1] * epsilon
        conforms = self._relative <= constraint.with_epsilon(epsilon).shortfall()
        return epsilon if alike and conforms and exponent <= _LARGEST else None

    def hint(self) -> str | None:
        """What to say in a rule where these units are what they should be."""
        return "; ".join(self._hints()) or None

    def _may_except_zeros(self) -> bool:
        """Whether a rule can; the health preset cannot, to which zeros are what is wrong."""
        from ckptclamp.constraints.sets.soundness import OpenSet

        return not isinstance(self.assignment.constraint, OpenSet)

    def _hints(self) -> Iterator[str]:
        history, epsilon = self.assignment.history, self.epsilon()
        if self._zeros and self._may_except_zeros():
            yield "`zero_units: allow`, or --zero-units allow, excepts units of zeros alone"
        if epsilon is not None:
            known = epsilon == self.assignment.constraint.epsilon
            words = [f"`epsilon: {epsilon:g}`"] * (not known)
            words += ["`tolerance: trained`"] * (known or history is None)
            yield (
                "Keras divides by norm + epsilon, which leaves units short of a minimum: say "
                f"{' and '.join(words)} if training left these there"
            )
        elif history is History.CAST and 0 < self._relative <= self._rounding:
            yield (
                f"training in {self.assignment.tensor.dtype} leaves units as far outside: say `tolerance: "
                "trained` if the weights had that dtype when they were projected"
            )
