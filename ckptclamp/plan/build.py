"""Rules × tensors → Plan: every (tensor, constraint) pair that will be judged, and why.

What a model declares itself is planned in `plan.declarations`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from ckptclamp.errors import Notice, SpecError, SpecProblem, UsageError, printable
from ckptclamp.plan import Assignment, Entry, NotEvaluated, Origin, Plan, UnmatchedRule, plan_of
from ckptclamp.plan.tensors import (
    RAW_HINT,
    audited_tensors,
    keras_model,
    matching_tensors,
    names_of,
    parts_of,
    quantised_notice,
    stored,
    tolerance_for,
    unread_config_notice,
    why_no_weight,
    why_not_audited,
    why_not_projected,
)
from ckptclamp.plan.units import unit_of
from ckptclamp.spec.model import Declared, Rule, Spec, Storage
from ckptclamp.spec.patterns import TensorPatterns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from ckptclamp.checkpoints.checkpoint import Checkpoint
    from ckptclamp.checkpoints.tensor import Tensor
    from ckptclamp.models.families import Part
    from ckptclamp.models.keras.model import BoundModel

_MOST, _LONGEST, _GUESSES = 2000, 200, 20
"""How many names, and how long ones, are compared with how many patterns that match nothing."""

_SHOWN = 5
_TRIALS = 200_000
"""How many pairs of a weight and a word are tried; more weights than that allows are not looked at."""


def build_plan(
    checkpoint: Checkpoint,
    spec: Spec | None,
    *,
    allow_import: AbstractSet[str] = frozenset(),
    tolerance: float | None = None,
) -> Plan:
    """Decide what will be judged of `checkpoint`; no weight is read.

    The rules of `spec` come first, in their order, then what the checkpoint's own model declares,
    unless the spec ignores it. The same tensor may be judged under several constraints.

    Args:
        checkpoint: what is audited.
        spec: the rules; ``None`` leaves only declared constraints.
        allow_import: modules from which a declared custom constraint may be imported.
        tolerance: a relative tolerance that replaces every rule's own.

    Raises:
        SpecError: a rule makes no sense for a tensor that it matches, such as an axis that the
            tensor does not have, or has the id of a declared constraint that is judged as well; all
            such problems are in it.
        UsageError: `tolerance` is no relative tolerance, from 0 up to but not including 1.
    """
    if tolerance is not None and not 0 <= tolerance < 1:
        raise UsageError(f"a tolerance of {tolerance:g} makes no sense", hint="0.01 is one percent")
    spec = spec or Spec()
    entries: list[Entry] = []
    if spec.rules:
        entries += plan_rules(checkpoint, spec, tolerance)
    bound = keras_model(checkpoint)
    if bound is None:
        return plan_of(entries)
    if spec.declared is Declared.AUDIT:
        from ckptclamp.plan.declarations import plan_declarations

        declared = list(plan_declarations(bound, spec, allow_import, tolerance))
        _refuse_shared_ids(spec, declared)
        entries += declared
    plan = plan_of(entries)
    return replace(plan, tied=_tied_under_rules(bound, plan))


def _refuse_shared_ids(spec: Spec, declared: Iterable[Entry]) -> None:
    """Refuse a rule with the id of a declared constraint: baselines and ignore rules go by it."""
    taken = {entry.rule for entry in declared if isinstance(entry, Assignment | NotEvaluated)}
    problems = tuple(
        _problem(
            rule,
            "a constraint that the model declares, and that is judged too, has this id",
            "give the rule another id, or say `declared: ignore`",
        )
        for rule in spec.rules
        if rule.id in taken
    )
    if problems:
        raise SpecError(spec.path or "options", problems)


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
            alike[assignment.tensor.name, assignment.axes, measured].append(assignment)
    for group in alike.values():
        lowest = min(group, key=lambda a: _forgiven(a)[1])
        highest = max(group, key=lambda a: _forgiven(a)[0])
        if _forgiven(highest)[0] > _forgiven(lowest)[1]:
            yield lowest, highest


def _forgiven(assignment: Assignment) -> tuple[float, float]:
    """The interval of a rule, with what its tolerance forgives."""
    low, high = assignment.constraint.interval()
    return (
        -math.inf if low is None else low - assignment.tolerance * abs(low),
        math.inf if high is None else high + assignment.tolerance * abs(high),
    )


def plan_rules(checkpoint: Checkpoint, spec: Spec, tolerance: float | None) -> Iterator[Entry]:
    """Match every rule of `spec` with every tensor.

    Raises:
        SpecError: a rule states axes that a tensor does not have, or none where it must.
    """
    bound = keras_model(checkpoint)
    labels = {} if bound is None else bound.labels
    shown = {} if bound is None else bound.distinct_labels
    patterns = TensorPatterns([rule.tensors for rule in spec.rules])
    matching = matching_tensors(patterns, audited_tensors(checkpoint).values(), labels)
    pairs: list[Entry] = []
    problems: list[SpecProblem] = []
    parts = parts_of(checkpoint)
    for rule, tensors in zip(spec.rules, matching, strict=True):
        refused = []
        for tensor in tensors:
            try:
                part, label = parts.get(tensor.name), shown.get(tensor.name)
                pairs.append(_pair(rule, tensor, part, label, tolerance, keras=bound is not None))
            except UsageError as error:
                refused.append((tensor, error))
        if refused:
            problems.append(_shape_problem(rule, *refused[0], others=len(refused) - 1))
    if problems:
        raise SpecError(spec.path or "options", tuple(problems))
    empty = [rule for rule, tensors in zip(spec.rules, matching, strict=True) if not tensors]
    nearest = _Nearest(checkpoint.tensors)
    partly = (
        _matches_in_part(spec.rules[index], unused, nearest)
        for index, unused in patterns.never_met().items()
        if matching[index] and spec.rules[index].required
    )
    yield from pairs
    yield from (_unmatched(rule, nearest) for rule in empty if rule.required)
    yield from (_matches_nothing(rule) for rule in empty if not rule.required)
    yield from partly
    if bound is not None:
        yield from _unnamed_notice(spec.rules, bound)
    if any(matching):
        yield from unread_config_notice(checkpoint)


def _pair(
    rule: Rule,
    tensor: Tensor,
    part: Part | None,
    label: str | None,
    tolerance: float | None,
    *,
    keras: bool,
) -> Entry:
    effective = rule.storage is Storage.EFFECTIVE
    no_weight = why_no_weight(tensor, part, rule.constraint) if effective else None
    reason = no_weight or why_not_audited(tensor)
    if reason is not None:
        return NotEvaluated(
            subject=tensor.name,
            rule=rule.id,
            constraint=str(rule.constraint),
            origin=Origin.SPEC,
            reason=reason,
            hint=None if no_weight is None else RAW_HINT,
            location=_place(rule),
            tensor=tensor,
            severity=rule.severity,
            no_weight=no_weight is not None,
        )
    unit = unit_of(tensor, rule.constraint, rule.units, keras=keras)
    return Assignment(
        tensor=tensor,
        constraint=stored(rule.constraint, tensor),
        axes=unit.axes,
        rule=rule.id,
        origin=Origin.SPEC,
        why=_why(rule),
        tolerance=tolerance_for(tensor, rule.tolerance, tolerance),
        automatic=rule.tolerance is None and tolerance is None,
        severity=rule.severity,
        label=label,
        location=_place(rule),
        notices=(*unit.notices, *quantised_notice(tensor)),
        unprojected=why_not_projected(tensor),
        meant=unit.meant,
    )


def _place(rule: Rule) -> str | None:
    return None if rule.location is None else str(rule.location)


def _why(rule: Rule) -> str:
    matched = f"matched by {', '.join(p for p in rule.tensors if not p.startswith('!'))}"
    return f"{matched}; as stored (storage: raw)" if rule.storage is Storage.RAW else matched


def _shape_problem(rule: Rule, tensor: Tensor, error: UsageError, *, others: int) -> SpecProblem:
    more = f" (and {others} more)" if others else ""
    shape = "x".join(map(str, tensor.shape)) or "()"
    return _problem(rule, f"{tensor.name} of shape {shape}{more}: {error.message}", error.hint)


def _problem(rule: Rule, message: str, hint: str | None) -> SpecProblem:
    place = rule.location
    line, column = (None, None) if place is None else (place.line, place.column)
    return SpecProblem(f"rule {rule.id}: {message}", line, column, hint)


def _unmatched(rule: Rule, nearest: _Nearest) -> UnmatchedRule:
    """Tell where the rule stands, and which tensor it may have meant."""
    literal = next((p for p in rule.tensors if not p.startswith(("!", "re:"))), None)
    return UnmatchedRule(
        rule=rule.id,
        patterns=rule.tensors,
        location=_place(rule),
        meant=None if literal is None else nearest.to(literal),
    )


class _Nearest:
    """Guesses which tensor a pattern meant; only the first few, since each looks at many names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = names
        self._left = _GUESSES

    def to(self, pattern: str) -> str | None:
        """The name nearest to `pattern`, if one is near."""
        if not self._left:
            return None
        self._left -= 1
        import difflib

        few = islice((name for name in self._names if len(name) <= _LONGEST), _MOST)
        return next(iter(difflib.get_close_matches(pattern, list(few), n=1)), None)


def _matches_in_part(rule: Rule, unused: Sequence[str], nearest: _Nearest) -> Notice:
    """Some of a rule's patterns may be misspelt though others match; what they meant is not judged."""
    meant = nearest.to(unused[0])
    more = f" (and {len(unused) - 1} more)" if len(unused) > 1 else ""
    return Notice(
        "pattern-matches-nothing",
        f"rule {rule.id}: no tensor matches {unused[0]}{more}, though others of its patterns do",
        hint=f"did you mean {meant}?" if meant else "remove it, or make it a rule of its own",
    )


def _matches_nothing(rule: Rule) -> Notice:
    message = f"rule {rule.id} matches no tensor, and need not"
    return Notice("no-match", message, informational=True)


def _unnamed_notice(rules: Sequence[Rule], bound: BoundModel) -> tuple[Notice, ...]:
    """Warn of weights without a known name that a rule may mean, though it matches none in their layer."""
    if not (rules and bound.unnamed):
        return ()
    patterns = TensorPatterns([rule.tensors for rule in rules])
    words = _words(rules, bound.labels.values())
    unnamed = dict(islice(bound.unnamed.items(), max(1, _TRIALS // max(1, len(words)))))
    names = {name: names_of(bound.tensors[name], bound.labels.get(name)) for name in unnamed}
    met: dict[str, set[int]] = defaultdict(set)
    for tensor, layer in unnamed.items():
        met[layer] |= patterns.matching(names[tensor])
    passed = {
        tensor: by
        for tensor, layer in unnamed.items()
        if (by := _intended(patterns, names[tensor], layer, words) - met[layer])
    }
    if not passed:
        return ()
    ids = sorted({rules[index].id for by in passed.values() for index in by})
    return (
        Notice(
            "unnamed-weights",
            f"nothing tells what {len(passed)} weight(s) are called in their layers "
            f"({_few(list(passed))}), so a rule that asks for such names passes them by: "
            f"{_few(ids)}",
            "match them by these names, or exclude them by '!' and such a name",
            tensor=next(iter(passed)),
        ),
    )


def _intended(
    patterns: TensorPatterns, names: Sequence[str], layer: str, words: Sequence[str]
) -> frozenset[int]:
    """The rules that would match a weight with `names` if it were called by one of `words`.

    One word at a time: an exclusion of biases is none of what may be a kernel.
    """
    found = (patterns.matching((*names, f"{layer}/{word}")) for word in words)
    return frozenset[int]().union(*found)


def _words(rules: Sequence[Rule], labels: Iterable[str]) -> list[str]:
    """What weights are called: in this checkpoint, and in the patterns.

    The config's labels end in few words. A file's own names may be as many as it likes, and each
    word is tried with each weight.
    """
    asked = (_last(pattern) for rule in rules for pattern in rule.tensors)
    known = (label.rpartition("/")[2] for label in labels)
    return sorted({word for word in (*asked, *known) if word and not word.isdecimal()})


def _last(pattern: str) -> str:
    """The last segment of a glob, as the shortest name that it stands for."""
    if pattern.startswith(("!", "re:")):
        return ""
    last = pattern.rpartition("/")[2].replace("*", "")
    return "" if set(last) & set("?[") else last


def _few(values: Sequence[str]) -> str:
    rest = [f"and {len(values) - _SHOWN} more"] if len(values) > _SHOWN else []
    return ", ".join([*map(printable, values[:_SHOWN]), *rest])
