"""A first spec for a checkpoint: from what its model declares, else from what its weights show.

Declared constraints become rules, so that a later model that lost one fails. Where nothing is
declared, tensors whose names differ only in numbers share a rule: a norm of at most the largest
that any of them has now, and some headroom.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptclamp.auditing import AuditOptions, make_plan, opened
from ckptclamp.checkpoints.description import Role
from ckptclamp.default_units import default_axes
from ckptclamp.errors import NothingEvaluatedError
from ckptclamp.inspection import inspect
from ckptclamp.planning.tensors import judged_tensors, why_not_judged, why_not_projected
from ckptclamp.spec.patterns import TensorPatterns
from ckptclamp.unit_words import unit_words

if TYPE_CHECKING:
    from ckptclamp.constraints.base import Constraint
    from ckptclamp.inspection import TensorSummary
    from ckptclamp.plan import Assignment, Plan

_NUMBER = re.compile(r"(?<![^./_])\d+(?![^./_])")
"""A number that is a part of a name by itself: ``layers.12.attn``, ``dense_3``, never ``conv2d``."""

_SPECIAL = re.compile(r"[*?\[\]]|^!|^re:")
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class StartingRule:
    """One rule to be written: `remark` explains its unit and its bound.

    `axes` are the reduced axes; empty for all of them, ``None`` where there is nothing to state.
    """

    id: str
    tensors: tuple[str, ...]
    constraint: Constraint
    axes: tuple[int, ...] | None
    remark: str


@dataclass(frozen=True, slots=True)
class StartingSpec:
    """A spec to be written. `left_out` tells tensors without a rule, each with the reason.

    `declared` says that the rules are what the model declares. `unknown` are declared constraints of
    which no rule was made, each with the reason. `warnings` are what an audit of the declarations
    would warn of; rules are not asked.
    """

    checkpoint: str
    declared: bool
    rules: tuple[StartingRule, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    unknown: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


def starting_spec(
    path: str | Path, *, headroom: float = 0.1, options: AuditOptions | None = None
) -> StartingSpec:
    """Make a first spec for the checkpoint at `path`.

    `headroom` is the share by which a bound lies above the largest norm; it does not alter
    constraints that the model declares.

    Raises:
        UnreadableError: the checkpoint cannot be opened.
        NothingEvaluatedError: it has no weight that a rule could govern.
    """
    options = options or AuditOptions()
    with opened(path, options) as checkpoint:
        plan = make_plan(checkpoint, None, options)
        keras = checkpoint.keras is not None
        reasons = {
            tensor.name: why_not_judged(tensor) or why_not_projected(tensor)
            for tensor in judged_tensors(checkpoint).values()
            if tensor.role is Role.WEIGHT
        }
    unknown = tuple((entry.rule, entry.reason) for entry in plan.not_evaluated)
    if plan.assignments:
        return StartingSpec(
            checkpoint=str(path),
            declared=True,
            rules=tuple(_declared(plan)),
            unknown=unknown,
            warnings=tuple(_warnings(plan)),
        )
    tensors = [t for t in inspect(path, norms=True, options=options).tensors if t.name in reasons]
    left_out = {t.name: reasons[t.name] or _why_not(t) for t in tensors}
    usable = [tensor for tensor in tensors if left_out[tensor.name] is None]
    if not usable:
        raise NothingEvaluatedError("no weight here can have a bound on its norm", path=path)
    return StartingSpec(
        checkpoint=str(path),
        declared=False,
        rules=tuple(_measured(usable, tensors, headroom, keras=keras)),
        left_out=tuple((name, reason) for name, reason in left_out.items() if reason is not None),
        unknown=unknown,
    )


def _declared(plan: Plan) -> Iterable[StartingRule]:
    """One rule for all tensors that are declared to satisfy the same."""
    groups: dict[tuple[str, tuple[int, ...] | None], list[Assignment]] = defaultdict(list)
    for assignment in plan.assignments:
        groups[str(assignment.constraint), _stated(assignment)].append(assignment)
    counts = Counter(a.label for a in plan.assignments)
    ids = _Ids()
    for (_, axes), assignments in groups.items():
        names = dict.fromkeys(
            a.label if a.label is not None and counts[a.label] == 1 else a.tensor.name
            for a in assignments
        )
        first = assignments[0]
        yield StartingRule(
            id=ids.unique(
                next(iter(names)) if len(names) == 1 else type(first.constraint).__name__
            ),
            tensors=tuple(exact_pattern(name) for name in names),
            constraint=first.constraint,
            axes=axes,
            remark=f"{first.why}. A unit is {unit_words(first.tensor.shape, first.axes)}.",
        )


def _warnings(plan: Plan) -> Iterable[str]:
    """What is odd about the declarations, each once."""
    notices = [*plan.notices, *(n for assignment in plan.assignments for n in assignment.notices)]
    return dict.fromkeys(notice.message for notice in notices if not notice.informational)


def _stated(assignment: Assignment) -> tuple[int, ...] | None:
    if assignment.constraint.elementwise:
        return None
    rank = len(assignment.tensor.shape)
    return () if rank > 1 and len(assignment.axes) == rank else assignment.axes


def _why_not(tensor: TensorSummary) -> str | None:
    """Why the norms of a tensor show no bound, if they show none."""
    norms = tensor.norms
    if norms is None:
        return "it has no weights"
    if norms.failure is not None:
        return norms.failure
    if norms.nonfinite:
        return f"{norms.nonfinite} units hold non-finite weights"
    if not tensor.shape:
        return "a scalar"
    if not norms.maximum:
        return "all its weights are 0, which shows no bound"
    return None


def _measured(
    tensors: Sequence[TensorSummary],
    everything: Sequence[TensorSummary],
    headroom: float,
    *,
    keras: bool,
) -> Iterable[StartingRule]:
    """One rule for tensors whose names differ only in numbers, and whose units are alike."""
    labels = Counter(label for tensor in everything for label in (tensor.label, tensor.name))
    groups: dict[tuple[str, int], dict[str, TensorSummary]] = defaultdict(dict)
    for tensor in tensors:
        name = tensor.name
        if tensor.label is not None and labels[tensor.label] == 1:
            name = tensor.label
        groups[_NUMBER.sub("*", name), len(tensor.shape)][name] = tensor
    patterns = [_folded(folded, group) for (folded, _), group in groups.items()]
    exact = _that_match_no_others(patterns, list(groups.values()), everything)
    ids = _Ids()
    for (folded, rank), group, pattern, good in zip(
        groups, groups.values(), patterns, exact, strict=True
    ):
        yield _bounded(
            ids.unique(folded if len(group) > 1 else next(iter(group))),
            pattern if good else tuple(exact_pattern(name) for name in group),
            list(group.values()),
            headroom,
            default_axes(rank, None, keras=keras),
        )


def _folded(folded: str, group: Iterable[str]) -> tuple[str, ...]:
    names = list(group)
    if len(names) == 1 or _SPECIAL.search(names[0]):
        return tuple(exact_pattern(name) for name in names)
    return (folded,)


def _that_match_no_others(
    patterns: Sequence[Sequence[str]],
    groups: Sequence[dict[str, TensorSummary]],
    everything: Iterable[TensorSummary],
) -> list[bool]:
    """Which patterns match exactly the tensors of their group."""
    matching = TensorPatterns(patterns)
    found: list[set[str]] = [set() for _ in patterns]
    for tensor in everything:
        names = (tensor.name, *tensor.aliases, *([tensor.label] if tensor.label else []))
        for index in matching.matching(names):
            found[index].add(tensor.name)
    wanted = [{tensor.name for tensor in group.values()} for group in groups]
    return [one == other for one, other in zip(found, wanted, strict=True)]


def _bounded(
    id_: str,
    patterns: tuple[str, ...],
    tensors: Sequence[TensorSummary],
    headroom: float,
    axes: tuple[int, ...],
) -> StartingRule:
    from ckptclamp.constraints.norms import MaxNorm

    largest = max(t.norms.maximum for t in tensors if t.norms is not None and t.norms.maximum)
    shapes = {tensor.shape for tensor in tensors}
    count = "1 tensor" if len(tensors) == 1 else f"{len(tensors)} tensors"
    words = unit_words(tensors[0].shape, axes)
    unit = words if len(shapes) == 1 else f"for example {words}"
    return StartingRule(
        id=id_,
        tensors=patterns,
        constraint=MaxNorm(max_value=rounded_up(largest * (1 + headroom))),
        axes=axes,
        remark=f"{count}; a unit is {unit}. The largest norm is {largest:.6g}.",
    )


def rounded_up(value: float) -> float:
    """`value`, positive, with four significant digits and never smaller."""
    exponent = math.floor(math.log10(value)) - (_DIGITS - 1)
    for digits in (math.ceil(value * 10.0**-exponent), math.floor(value * 10.0**-exponent) + 1):
        rounded = float(f"{digits}e{exponent}")
        if rounded >= value:
            return rounded
    return value


def exact_pattern(name: str) -> str:
    """A pattern that means `name` and no other."""
    return f"re:{re.escape(name)}" if _SPECIAL.search(name) else name


class _Ids:
    """Rule ids made of names: short, plain, each once."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()

    def unique(self, name: str) -> str:
        words = re.sub(r"[^A-Za-z0-9_]+", "-", name.replace("*", "N"))
        base = words.strip("-").lower()[-60:].strip("-") or "rule"
        self._used[base] += 1
        return base if self._used[base] == 1 else f"{base}--{self._used[base]}"
