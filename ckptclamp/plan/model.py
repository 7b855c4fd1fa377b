"""What a plan is made of: the pairs that will be judged, and those that cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ckptclamp.errors import Notice
from ckptclamp.spec.model import Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.constraints.base import Constraint


@dataclass(frozen=True, slots=True)
class UnmatchedRule:
    """A required rule that governs no tensor: its patterns, its place in the spec, what was meant.

    `meant` is the tensor whose name is nearest to a pattern, if one is near.
    """

    rule: str
    patterns: tuple[str, ...] = ()
    location: str | None = None
    meant: str | None = None


class Origin(StrEnum):
    """Where a rule came from."""

    DECLARED = "declared"
    SPEC = "spec"


@dataclass(frozen=True, slots=True)
class Assignment:
    """One tensor under one rule, ready to be measured.

    `axes` are the reduced axes, sorted and non-negative; empty when every weight is a unit of its
    own (elementwise constraints). `location` is the spec's line or the layer's place in the config.
    `unprojected` is the reason why a violation may be shown but not fixed, if there is one. `mended` is
    the stored tensor whose projection is that of a `tensor` that is computed from it. `meant`
    are the axes that were probably meant where `axes` make the constraint vacuous; they are measured
    for a notice. `automatic` says that nobody stated the tolerance: it follows from the storage
    dtype.
    """

    tensor: Tensor
    constraint: Constraint
    axes: tuple[int, ...]
    rule: str
    origin: Origin
    why: str
    tolerance: float
    severity: Severity = Severity.ERROR
    label: str | None = None
    location: str | None = None
    notices: tuple[Notice, ...] = ()
    unprojected: str | None = None
    mended: Tensor | None = None
    meant: tuple[int, ...] | None = None
    automatic: bool = False

    @property
    def projection_tolerance(self) -> float:
        """What `apply` forgives: nothing, unless a tolerance was stated or 0 cannot be reached.

        An automatic tolerance forgives an audit what a model cannot help; a copy can.
        """
        return 0.0 if self.automatic and self.constraint.one_sided else self.tolerance


@dataclass(frozen=True, slots=True)
class NotEvaluated:
    """A pair that cannot be judged, and why; it makes the audit incomplete (exit 3).

    `no_weight` says that what is stored is not the weight that the model computes with: to change it
    would destroy that weight, so `apply` writes nothing (exit 5).
    """

    subject: str
    rule: str
    constraint: str
    origin: Origin
    reason: str
    hint: str | None = None
    location: str | None = None
    tensor: Tensor | None = None
    severity: Severity = Severity.ERROR
    notices: tuple[Notice, ...] = ()
    no_weight: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be judged, what cannot be, and which rules matched nothing.

    `tied` are governed tensors that must be copies of each other; the second one counts.
    """

    assignments: tuple[Assignment, ...] = ()
    not_evaluated: tuple[NotEvaluated, ...] = ()
    unmatched: tuple[UnmatchedRule, ...] = ()
    notices: tuple[Notice, ...] = ()
    tied: tuple[tuple[Tensor, Tensor], ...] = ()


Entry = Assignment | NotEvaluated | UnmatchedRule | Notice
"""What rules and declarations contribute to a plan."""


def plan_of(entries: Iterable[Entry]) -> Plan:
    """The plan of everything that rules and declarations contribute, in their order."""
    found = list(entries)
    return Plan(
        assignments=tuple(entry for entry in found if isinstance(entry, Assignment)),
        not_evaluated=tuple(entry for entry in found if isinstance(entry, NotEvaluated)),
        unmatched=tuple(entry for entry in found if isinstance(entry, UnmatchedRule)),
        notices=tuple(entry for entry in found if isinstance(entry, Notice)),
    )
