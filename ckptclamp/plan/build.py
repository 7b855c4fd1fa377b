"""Rules × tensors → Plan: every (tensor, constraint) pair that will be judged, and why."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptclamp.errors import SpecError, SpecProblem
from ckptclamp.plan import Assignment, Entry, NotEvaluated, Plan, plan_of
from ckptclamp.plan.tensors import keras_model
from ckptclamp.spec.model import Declared, Leeway, Preset, Spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.models.keras.model import BoundModel
    from ckptclamp.spec.model import Suppression


def build_plan(
    checkpoint: Checkpoint,
    spec: Spec | None,
    *,
    allow_import: AbstractSet[str] = frozenset(),
    caller: Leeway | None = None,
    same: tuple[tuple[str, ...], ...] | None = None,
    copied: bool = False,
) -> Plan:
    """Decide what will be judged of `checkpoint`; weights are compared (`plan.ties`), none is measured.

    The rules of `spec` come first, in their order, then what the checkpoint's own model declares,
    unless the spec ignores it, or states it itself. The same tensor may be judged under several
    constraints. A declaration that cannot be judged is settled by rules, or ignore rules, over the
    tensors that it is about.

    Args:
        checkpoint: what is audited.
        spec: the rules; ``None`` leaves only declared constraints.
        allow_import: modules from which a declared custom constraint may be imported.
        caller: what is forgiven, whatever the rules say of it.
        same: the tied tensors, where that is known: those of the original of a copy.
        copied: whether all bytes are fetched for a copy anyway. If not, equal tensors of a remote
            checkpoint are not looked for: each costs a request, and is judged as its like is.

    Raises:
        SpecError: a rule makes no sense for a tensor that it matches, such as an axis that the
            tensor does not have, or has the id of a declared constraint that is judged as well; all
            such problems are in it.
    """
    spec, caller = spec or Spec(), caller or Leeway()
    bound = keras_model(checkpoint, spec.custom_layers)
    entries = list(_stated(checkpoint, spec, caller))
    if bound is None:
        from ckptclamp.plan.ties import find_ties

        comparing = copied or not checkpoint.remote
        ties = find_ties(checkpoint, entries, same, comparing=comparing, all_groups=copied)
        return replace(plan_of(ties.entries), tied=ties.stated, same=ties.groups)
    ignored: tuple[Suppression, ...] = ()
    if spec.declared is Declared.AUDIT:
        declared, ignored = _declared(bound, spec, entries, allow_import, caller)
        entries = [*_restating(entries, declared)]
    plan = plan_of(entries)
    return replace(plan, tied=_tied_under_rules(bound, plan), settling=ignored)


def _stated(checkpoint: Checkpoint, spec: Spec, caller: Leeway) -> Iterator[Entry]:
    """What the rules of `spec` and its preset are about."""
    if checkpoint.base is not None:
        from ckptclamp.plan.base import refuse_idle_base, wide_distances

        refuse_idle_base(checkpoint, spec)
    if spec.rules:
        from ckptclamp.plan.rules import plan_rules

        yield from plan_rules(checkpoint, spec, caller)
    if checkpoint.base is not None:
        yield from wide_distances(spec.rules)
    if spec.preset is Preset.HEALTH:
        from ckptclamp.plan.health import plan_health

        yield from plan_health(checkpoint)


def _declared(
    bound: BoundModel,
    spec: Spec,
    entries: list[Entry],
    allow_import: AbstractSet[str],
    caller: Leeway,
) -> tuple[list[Entry], tuple[Suppression, ...]]:
    """What the model declares, settled by `spec` where it cannot be judged; the ignore rules that did so."""
    from ckptclamp.plan.declarations import plan_declarations

    declared = list(plan_declarations(bound, spec, allow_import, caller))
    _refuse_shared_ids(spec, declared)
    if not (spec.rules or spec.ignore):
        return declared, ()
    from ckptclamp.plan.settled import Settling

    settling = Settling(bound, entries, spec)
    return [settling.settled(entry) for entry in declared], tuple(settling.used)


def _refuse_shared_ids(spec: Spec, declared: Iterable[Entry]) -> None:
    """Refuse a rule with the id of a declared constraint: baselines and ignore rules go by it."""
    taken = {entry.rule for entry in declared if isinstance(entry, Assignment | NotEvaluated)}
    problems = tuple(
        SpecProblem(
            f"rule {rule.id}: a constraint that the model declares, and that is judged too, has this id",
            line=None if rule.location is None else rule.location.line,
            column=None if rule.location is None else rule.location.column,
            hint="give the rule another id, or say `declared: ignore`",
        )
        for rule in spec.rules
        if rule.id in taken
    )
    if problems:
        raise SpecError(spec.path or "options", problems)


def _restating(entries: Iterable[Entry], declared: Iterable[Entry]) -> Iterator[Entry]:
    """All of both, but what a rule states as the model declares it is judged once, as that rule.

    What a declaration would warn of, the rule does.
    """
    pairs = {_judgement(entry): entry for entry in declared if isinstance(entry, Assignment)}
    restated = set()
    for entry in entries:
        twin = pairs.get(_judgement(entry)) if isinstance(entry, Assignment) else None
        if twin is None or not isinstance(entry, Assignment):
            yield entry
            continue
        restated.add(id(twin))
        notices = (*entry.notices, *(n for n in twin.notices if n not in entry.notices))
        why = f"{entry.why}; the model declares it, too"
        yield replace(entry, notices=notices, why=why, label=entry.label or twin.label)
    yield from (entry for entry in declared if id(entry) not in restated)


def _judgement(pair: Assignment) -> tuple[object, ...]:
    """Everything by which the judgements of two pairs could differ."""
    constraint = pair.constraint
    return (
        *(pair.tensor.name, pair.axes, type(constraint), repr(constraint.get_config())),
        *(pair.tolerance, pair.shortfall, pair.allow_zero, pair.severity, pair.meant),
    )


def _tied_under_rules(bound: BoundModel, plan: Plan) -> tuple[tuple[Tensor, Tensor], ...]:
    """Copies of one variable of which some constraint governs at least one."""
    governed = {assignment.tensor.name for assignment in plan.assignments}
    return tuple(
        (bound.tensors[one], bound.tensors[other])
        for one, other in bound.tied
        if not governed.isdisjoint((one, other))
    )


def exclusive(assignments: Iterable[Assignment]) -> Iterator[tuple[Assignment, Assignment]]:
    """Pairs that bound the same numbers of the same units, by intervals that do not meet.

    Of rules that bound the same numbers, only the two that are farthest apart are told.
    Only that can be told without weights: rules about different numbers (a norm and each weight), or
    about different units, may exclude each other too.
    """
    alike: dict[object, list[Assignment]] = defaultdict(list)
    for assignment in assignments:
        constraint = assignment.constraint
        if constraint.streaming:
            measured = None if constraint.elementwise else constraint.needs
            tensor = assignment.tensor
            alike[tensor.name, tensor.shape, assignment.axes, measured].append(assignment)
    for group in alike.values():
        lowest = min(group, key=lambda a: _forgiven(a)[1])
        highest = max(group, key=lambda a: _forgiven(a)[0])
        if _forgiven(highest)[0] > _forgiven(lowest)[1]:
            yield lowest, highest


def _forgiven(assignment: Assignment) -> tuple[float, float]:
    """The interval of a rule, with what its tolerance forgives."""
    low, high = assignment.constraint.interval()
    return (
        -math.inf
        if low is None
        else low - (assignment.tolerance + assignment.shortfall) * abs(low),
        math.inf if high is None else high + assignment.tolerance * abs(high),
    )
