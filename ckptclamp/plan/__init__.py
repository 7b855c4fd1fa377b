"""Rules and declared constraints matched with tensors: what will be judged, and what cannot be.

Here is what a plan is made of; `plan.build` makes one.
"""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING

from ckptclamp.errors import Notice, Reason
from ckptclamp.frozen import frozen
from ckptclamp.plan.units import unit_words
from ckptclamp.spec.model import Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.constraints.base import Constraint
    from ckptclamp.constraints.tolerance import History
    from ckptclamp.spec.model import Suppression


@frozen
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


@frozen
class Assignment:
    """One tensor under one rule, ready to be measured.

    `axes` are the reduced axes, sorted and non-negative; empty when every weight is a unit of its
    own (elementwise constraints). `location` is the spec's line or the layer's place in the config.
    `unprojected` is the reason why a violation may be shown but not fixed, if there is one. `meant` are
    the axes that were probably meant where `axes` make the constraint vacuous; they are measured for a
    notice. `tolerance` is relative to the bound; below it units may lie farther out by
    `shortfall`, which is what Keras' epsilon takes off them. `history` is what the tolerance was
    derived from; ``None`` where a number was stated. `allow_zero` says that units without a weight but
    zeros are let be where they lie outside. `names` are those that the rule gives the axes, if it does.
    `base` is the same tensor of the base checkpoint, where the constraint compares with it. `tied_to` names
    the tensor that the rule matches, where this one is judged because both are one weight.
    """

    tensor: Tensor
    constraint: Constraint
    axes: tuple[int, ...]
    rule: str
    origin: Origin
    why: str
    tolerance: float = 0.0
    severity: Severity = Severity.ERROR
    label: str | None = None
    location: str | None = None
    notices: tuple[Notice, ...] = ()
    unprojected: str | None = None
    meant: tuple[int, ...] | None = None
    shortfall: float = 0.0
    history: History | None = None
    allow_zero: bool = False
    names: tuple[str, ...] = ()
    base: Tensor | None = None
    tied_to: str | None = None

    def about(self, tensor: Tensor) -> Assignment:
        """This assignment about another tensor that differs in nothing that it tells of."""
        return Assignment(tensor, *_OTHERS(self))

    @property
    def unit_words(self) -> str:
        """What one unit is, in words."""
        return unit_words(self.tensor.shape, self.axes, self.names)

    @property
    def projection_tolerance(self) -> float:
        """What `apply` forgives: nothing, unless a number was stated or 0 cannot be reached.

        A derived tolerance forgives an audit what a model cannot help; a copy can.
        """
        derived = self.history is not None
        return 0.0 if derived and self.constraint.one_sided else self.tolerance


_OTHERS = attrgetter(*(field.name for field in fields(Assignment)[1:]))
"""Gets all that an assignment says beside its tensor."""


EQUAL = "equal to what it is tied to"
"""What is asked of tied tensors, in place of a constraint."""


@frozen
class NotEvaluated:
    """A pair that cannot be judged, and why; it makes the audit incomplete (exit 3).

    `no_weight` says that what is stored is not the weight that the model computes with: to change it
    would destroy that weight, so `apply` writes nothing (exit 5). `candidates` are the tensors that a
    declaration is about, or among which they are; ``None`` where no rule could settle it.
    """

    subject: str
    rule: str
    constraint: str
    origin: Origin
    reason: Reason
    hint: str | None = None
    location: str | None = None
    tensor: Tensor | None = None
    severity: Severity = Severity.ERROR
    notices: tuple[Notice, ...] = ()
    no_weight: bool = False
    candidates: tuple[str, ...] | None = None


@frozen
class Plan:
    """What will be judged, what cannot be, and which rules matched nothing.

    `tied` are governed tensors that must be copies of each other; the second one counts. `settling`
    are the ignore rules that settled a declaration. `same` are names of tensors that are one weight.
    """

    assignments: tuple[Assignment, ...] = ()
    not_evaluated: tuple[NotEvaluated, ...] = ()
    unmatched: tuple[UnmatchedRule, ...] = ()
    notices: tuple[Notice, ...] = ()
    tied: tuple[tuple[Tensor, Tensor], ...] = ()
    settling: tuple[Suppression, ...] = ()
    same: tuple[tuple[str, ...], ...] = ()


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
