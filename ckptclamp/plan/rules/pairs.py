"""A rule and the tensors that it matches: each pair as it will be judged, or why it cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.checkpoints.tensor import Computed, Contiguous
from ckptclamp.errors import SpecProblem, UsageError
from ckptclamp.models.producers import producer_of
from ckptclamp.plan import Assignment, Entry, NotEvaluated, Origin
from ckptclamp.plan.layout import Seen, seen_by
from ckptclamp.plan.parts import (
    NOT_WITH_ITS_BASE,
    part_to_change,
    quantised_notice,
    why_not_projected,
)
from ckptclamp.plan.tensors import (
    keras_model,
    may_be_codes,
    parts_of,
    raw_hint,
    stored,
    why_no_weight,
    why_not_audited,
)
from ckptclamp.plan.tolerances import Histories, forgiving
from ckptclamp.plan.units import unit_of
from ckptclamp.spec.model import Leeway, Rule, Storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.models.parts import Part
    from ckptclamp.models.producers import Layout
    from ckptclamp.plan.layout import Numbers


class Pairing:
    """Pairs rules with tensors of `checkpoint`.

    What the `caller` forgives goes before a rule's; `number` looks up what a rule refers to.
    """

    def __init__(self, checkpoint: Checkpoint, caller: Leeway, number: Numbers) -> None:
        bound = keras_model(checkpoint)
        self._checkpoint = checkpoint
        self._caller = caller
        self._number = number
        self._keras = bound is not None
        self._labels = {} if bound is None else bound.distinct_labels
        self._parts = parts_of(checkpoint)
        self._histories = Histories(bound)
        self._producer = producer_of(checkpoint)

    def of(self, rule: Rule, tensors: Sequence[Tensor]) -> tuple[list[Entry], SpecProblem | None]:
        """Pair `rule` with each of `tensors`; tell what makes no sense for some of them.

        Tensors that differ in nothing that a rule goes by are paired alike, once for all.
        """
        alike: dict[object, Assignment] = {}
        pairs: list[Entry] = []
        refused: list[tuple[Tensor, UsageError]] = []
        apart = self._keras or rule.units.named is not None or not rule.constraint.streaming
        for tensor in tensors:
            kind = None if apart else self._kind(tensor)
            if kind in alike:
                pairs.append(alike[kind].about(tensor))
                continue
            try:
                pair = self._pair(rule, tensor)
            except UsageError as error:
                refused.append((tensor, error))
                continue
            pairs.append(pair)
            if kind is not None and isinstance(pair, Assignment) and not pair.notices:
                alike[kind] = pair
        return pairs, _problem(rule, refused) if refused else None

    def _kind(self, tensor: Tensor) -> object:
        """All that a rule goes by in a tensor that is stored as it is; ``None`` for others."""
        if not isinstance(tensor.storage, Contiguous) or tensor.name in self._parts:
            return None
        laid = self._producer.laid(tensor).layout
        return tensor.shape, id(tensor.dtype), laid, may_be_codes(tensor)

    def _pair(self, rule: Rule, tensor: Tensor) -> Entry:
        pair = _pair(
            rule,
            seen_by(rule.units, tensor, self._number),
            self._parts.get(tensor.whole.name),
            self._labels.get(tensor.name),
            layout=self._producer.laid(tensor).layout,
            keras=self._keras,
            merged=self._checkpoint.merged,
        )
        if not rule.constraint.streaming:  # others compare with no base, and need no such module
            from ckptclamp.plan.base import compared

            pair = compared(pair, rule, self._checkpoint)
        return forgiving(pair, self._caller.over(rule.leeway), self._histories)


def _pair(
    rule: Rule,
    seen: Seen,
    part: Part | None,
    label: str | None,
    *,
    layout: Layout,
    keras: bool,
    merged: bool,
) -> Entry:
    tensor = seen.tensor
    effective = rule.storage is Storage.EFFECTIVE
    no_weight = why_no_weight(tensor, part, rule.constraint, label) if effective else None
    reason = no_weight or why_not_audited(tensor, rule.constraint)
    if reason is not None:
        return NotEvaluated(
            subject=tensor.name,
            rule=rule.id,
            constraint=str(rule.constraint),
            origin=Origin.SPEC,
            reason=reason,
            hint=None if no_weight is None else raw_hint(tensor, part),
            location=place_of(rule),
            tensor=tensor,
            severity=rule.severity,
            no_weight=no_weight is not None,
        )
    unit = unit_of(tensor, rule.constraint, seen.units, layout=layout)
    changing = part_to_change(tensor, rule.constraint, unit.axes)
    changes = NOT_WITH_ITS_BASE if merged else "" if changing is None else changing.words
    return Assignment(
        tensor=tensor,
        constraint=stored(rule.constraint, tensor),
        axes=unit.axes,
        rule=rule.id,
        origin=Origin.SPEC,
        why=_why(rule, tensor, changes),
        severity=rule.severity,
        label=label,
        location=place_of(rule),
        notices=(*unit.notices, *(quantised_notice(tensor) if keras else ())),
        unprojected=why_not_projected(tensor, rule.constraint, unit.axes),
        meant=unit.meant,
        names=seen.names,
    )


def place_of(rule: Rule) -> str | None:
    """Where `rule` stands in its spec."""
    return None if rule.location is None else str(rule.location)


def _why(rule: Rule, tensor: Tensor, changes: str) -> str:
    matched = f"matched by {', '.join(p for p in rule.tensors if not p.startswith('!'))}"
    if rule.units.named is not None:
        sizes = (f"{name} = {size}" for name, size in rule.units.named.sizes.items())
        matched += f"; units {', '.join([rule.units.named.text, *sizes])}"
    if rule.storage is Storage.RAW:
        return f"{matched}; as stored (storage: raw)"
    storage = tensor.whole.storage
    if not isinstance(storage, Computed):
        return matched
    return "; ".join(filter(None, (matched, f"from {storage.stored_as}", changes)))


def _problem(rule: Rule, refused: Sequence[tuple[Tensor, UsageError]]) -> SpecProblem:
    """Tell of the first tensor for which `rule` makes no sense."""
    (tensor, error), *others = refused
    more = f" (and {len(others)} more)" if others else ""
    shape = "x".join(map(str, tensor.shape)) or "()"
    return SpecProblem(
        f"rule {rule.id}: {tensor.name} of shape {shape}{more}: {error.message}",
        line=None if rule.location is None else rule.location.line,
        column=None if rule.location is None else rule.location.column,
        hint=error.hint,
    )
