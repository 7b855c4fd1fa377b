"""A first spec for a checkpoint: from what its model declares, else from what its weights show.

Declared constraints become rules, so that a later model that lost one fails. Where nothing is
declared, tensors whose names differ only in numbers share a rule: a norm of at most the largest
that any of them has now, and some headroom.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal, localcontext
from pathlib import Path
from typing import TypeVar

from ckptclamp.auditing.audit import audit, opened
from ckptclamp.auditing.inspection import TensorSummary, inspect
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.auditing.results import Verdict
from ckptclamp.auditing.starting_spec.recognition import Recognised, recognise
from ckptclamp.checkpoints.tensor import Computed, Role, Tensor
from ckptclamp.constraints.base import Constraint
from ckptclamp.constraints.registry import canonical
from ckptclamp.errors import NothingEvaluatedError, printable
from ckptclamp.frozen import frozen
from ckptclamp.models.parts import Part
from ckptclamp.models.producers import Laid, Producer, producer_of
from ckptclamp.plan import Assignment, Plan
from ckptclamp.plan.build import build_plan
from ckptclamp.plan.tensors import (
    ExactPatterns,
    audited_tensors,
    is_effective,
    labels_of,
    parts_of,
    why_no_norm,
    why_not_audited,
)
from ckptclamp.plan.units import default_axes, has_axes, unit_words
from ckptclamp.spec.model import Declared, Preset, Severity, Spec

_NUMBER = re.compile(r"(?<![^./_])\d+(?![^./_])")
"""A number that is a whole part of a name: ``layers.12.attn``, ``dense_3``, never ``conv2d``."""

_DIGITS = 4

_SHOWN = 20
_NO_WORDS = frozenset({"false", "n", "no", "null", "off", "on", "true", "y", "yes"})
_ESCAPES = ((0x100, "\\x{:02x}"), (0x10000, "\\u{:04x}"), (0x110000, "\\U{:08x}"))

SCHEMA = "ckptclamp.schema.json"
"""The file beside a spec where editors find the JSON Schema, unless another one is chosen."""

Member = TypeVar("Member")


@frozen
class StartingRule:
    """One rule to be written: `remark` explains its unit and its bound.

    `axes` are the reduced axes; empty for all of them, ``None`` where there is nothing to state.
    """

    id: str
    tensors: tuple[str, ...]
    constraint: Constraint
    axes: tuple[int, ...] | None
    remark: str


@frozen
class StartingSpec:
    """A spec to be written. `left_out` are tensors without a rule, each with the reason.

    `declared` says that the rules are what the model declares. `unknown` are declared constraints of
    which no rule was made, each with the reason. `warnings` are what an audit of the declarations
    would warn of.
    `unsound` is what the health preset finds, if anything.
    """

    checkpoint: str
    declared: bool
    rules: tuple[StartingRule, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    unknown: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    unsound: tuple[str, ...] = ()


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
        plan = build_plan(checkpoint, None)
        keras, producer = checkpoint.keras is not None, producer_of(checkpoint)
        judged = tuple(audited_tensors(checkpoint).values())
        exact = ExactPatterns(judged, labels_of(checkpoint))
        parts = parts_of(checkpoint)
        reasons = {
            tensor.name: _why_no_rule(tensor, parts.get(tensor.name), keras=keras)
            for tensor in judged
            if tensor.role is Role.WEIGHT
        }
        able = {exact.friendly(t.name): t for t in judged if reasons.get(t.name, "") is None}
        undeclared = {} if plan.assignments else able
        known, without = recognise(checkpoint, undeclared, options)
    unknown = [(entry.rule, str(entry.reason)) for entry in plan.not_evaluated]
    left_out: dict[str, str | None] = {}
    if plan.assignments:
        rules = tuple(_declared(plan, exact, unknown))
        nothing = "no pattern could name what its model declares"
    else:
        shown = inspect(path, norms=True, options=options).tensors
        tensors = [tensor for tensor in shown if tensor.name in reasons]
        left_out = {
            t.name: reasons[t.name] or without.get(t.name) or _why_not(t)
            for t in tensors
            if t.name not in known
        }
        usable = [t for t in tensors if left_out.get(t.name, "") is None or t.name in known]
        rules = tuple(_measured(usable, exact, headroom, left_out, known=known, producer=producer))
        nothing = "no weight here can have a bound on its norm"
    unsound = tuple(_unsound(path, options))
    if not rules and (unsound or plan.assignments):
        raise NothingEvaluatedError(nothing, path=path)
    return StartingSpec(
        checkpoint=str(path),
        declared=bool(plan.assignments),
        rules=rules,
        left_out=tuple((name, reason) for name, reason in left_out.items() if reason is not None),
        unknown=tuple(unknown),
        warnings=tuple(_warnings(plan)) if plan.assignments else (),
        unsound=unsound,
    )


def _unsound(path: str | Path, options: AuditOptions) -> Iterator[str]:
    """What would make the health preset fail now: each tensor, with the rule that it does not keep."""
    health = Spec(declared=Declared.IGNORE, preset=Preset.HEALTH)
    report = audit(path, health, replace(options, hash=False, on_unit=None))
    if not report.results:
        yield "nothing here is a weight that it judges"
    for result in report.results:
        if result.verdict is Verdict.NOT_EVALUATED:
            yield f"{printable(result.tensor)}: not evaluated: {result.reason}"
        elif result.verdict is Verdict.VIOLATION and result.severity is Severity.ERROR:
            yield f"{printable(result.tensor)}: {result.rule}"


def _why_no_rule(tensor: Tensor, part: Part | None, *, keras: bool) -> str | None:
    if is_effective(tensor) and not keras:
        return why_not_audited(tensor)
    if part is not None:
        return part.reason
    storage = tensor.whole.storage
    computed = storage.unprojected if isinstance(storage, Computed) else None
    return why_not_audited(tensor) or computed or why_no_norm(tensor)


def _declared(
    plan: Plan, exact: ExactPatterns, unknown: list[tuple[str, str]]
) -> Iterator[StartingRule]:
    """One rule for all tensors that are declared to satisfy the same; others go to `unknown`."""
    alike: dict[tuple[str, tuple[int, ...] | None], dict[str, Assignment]] = defaultdict(dict)
    for assignment in plan.assignments:
        if canonical(type(assignment.constraint).__name__) is None:
            unknown.append((assignment.rule, f"no spec can state {assignment.constraint}"))
            continue
        key = str(assignment.constraint), _stated(assignment)
        alike[key].setdefault(assignment.tensor.name, assignment)
    ids = _Ids()
    for assignments, patterns in _grouped(list(alike.values()), exact):
        first = next(iter(assignments.values()))
        if patterns is None:
            unknown.append((first.rule, f"no pattern means {first.tensor.name} alone"))
            continue
        one = exact.friendly(first.tensor.name)
        yield StartingRule(
            id=ids.unique(one if len(assignments) == 1 else type(first.constraint).__name__),
            tensors=patterns,
            constraint=first.constraint,
            axes=_stated(first),
            remark=f"{first.why}. A unit is {unit_words(first.tensor.shape, first.axes)}.",
        )


def _grouped(
    groups: Sequence[Mapping[str, Member]],
    exact: ExactPatterns,
    short: Sequence[tuple[str, ...]] = (),
) -> Iterable[tuple[Mapping[str, Member], tuple[str, ...] | None]]:
    """Each group (by full names) with its patterns, and one by one the members of those without.

    `short` are the patterns that would be nicest, one proposal for each group.
    """
    names = [list(group) for group in groups]
    for group, patterns in zip(groups, exact.of(names, short or [()] * len(names)), strict=True):
        if patterns is not None or len(group) == 1:
            yield group, patterns
        else:
            yield from _grouped([{name: member} for name, member in group.items()], exact)


def _warnings(plan: Plan) -> Iterable[str]:
    """What is odd about the declarations, each once."""
    notices = [*plan.notices, *(n for assignment in plan.assignments for n in assignment.notices)]
    return dict.fromkeys(notice.message for notice in notices if not notice.informational)


def _stated(assignment: Assignment) -> tuple[int, ...] | None:
    if not has_axes(assignment.constraint):
        return None
    rank = len(assignment.tensor.shape)
    return () if rank > 1 and len(assignment.axes) == rank else assignment.axes


def _why_not(tensor: TensorSummary) -> str | None:
    """Why the norms of a tensor show no bound, if they show none."""
    norms = tensor.norms
    if norms is None or norms.failure is not None:
        return "it has no weights" if norms is None else norms.failure
    if norms.nonfinite:
        return f"{norms.nonfinite} units hold non-finite weights"
    if not tensor.shape:
        return "a scalar"
    if norms.maximum == math.inf:
        return "its norms are beyond float64"
    if not norms.maximum:
        return "all its weights are 0, which shows no bound"
    return None


def _measured(
    tensors: Sequence[TensorSummary],
    exact: ExactPatterns,
    headroom: float,
    left_out: dict[str, str | None],
    *,
    known: Mapping[str, Recognised],
    producer: Producer,
) -> Iterable[StartingRule]:
    """One rule for tensors whose names differ only in numbers, and whose units are alike.

    `known` is what is known of some of them. Tensors that get no rule go to `left_out`.
    """
    alike: dict[tuple[str, int, Recognised | None], dict[str, TensorSummary]] = defaultdict(dict)
    for tensor in tensors:
        folded = _NUMBER.sub("*", exact.friendly(tensor.name))
        alike[folded, len(tensor.shape), known.get(tensor.name)][tensor.name] = tensor
    short = [(key[0],) if len(group) > 1 else () for key, group in alike.items()]
    ids = _Ids()
    for group, patterns in _grouped(list(alike.values()), exact, short):
        first = next(iter(group.values()))
        if patterns is None:
            left_out[first.name] = "no pattern means it alone"
            continue
        name = exact.friendly(first.name)
        id_ = ids.unique(_NUMBER.sub("*", name) if len(group) > 1 else name)
        members = list(group.values())
        if (recognised := known.get(first.name)) is not None:
            yield _recognised(id_, patterns, members, recognised)
            continue
        yield _bounded(id_, patterns, members, headroom, producer.laid(first.name))


def _recognised(
    id_: str, patterns: tuple[str, ...], tensors: Sequence[TensorSummary], known: Recognised
) -> StartingRule:
    unit = "" if known.axes is None else f" A unit is {_unit(tensors, known.axes)}."
    remark = f"{_count(tensors)}. {known.why}.{unit}"
    return StartingRule(id_, patterns, known.constraint, known.axes, remark)


def _count(tensors: Sequence[TensorSummary]) -> str:
    return "1 tensor" if len(tensors) == 1 else f"{len(tensors)} tensors"


def _unit(tensors: Sequence[TensorSummary], axes: tuple[int, ...]) -> str:
    words = unit_words(tensors[0].shape, axes)
    return words if len({tensor.shape for tensor in tensors}) == 1 else f"for example {words}"


def _bounded(
    id_: str,
    patterns: tuple[str, ...],
    tensors: Sequence[TensorSummary],
    headroom: float,
    laid: Laid,
) -> StartingRule:
    from ckptclamp.constraints.sets.norms import MaxNorm

    axes = default_axes(len(tensors[0].shape), None, layout=laid.layout)
    doubt = laid.doubt if len(tensors[0].shape) > 1 else ""
    largest = max(t.norms.maximum for t in tensors if t.norms is not None and t.norms.maximum)
    return StartingRule(
        id=id_,
        tensors=patterns,
        constraint=MaxNorm(max_value=rounded_up(min(largest * (1 + headroom), sys.float_info.max))),
        axes=axes,
        remark=f"{_count(tensors)}; a unit is {_unit(tensors, axes)}.{doubt} The largest norm is "
        f"{largest:.6g}.",
    )


def rounded_up(value: float) -> float:
    """`value`, positive, with four significant digits and never smaller."""
    with localcontext(prec=_DIGITS, rounding=ROUND_CEILING):
        rounded = float(+Decimal(value))
    return rounded if math.isfinite(rounded) else value


class _Ids:
    """Rule ids made of names: short, plain, each once."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()

    def unique(self, name: str) -> str:
        words = re.sub(r"[^A-Za-z0-9_]+", "-", name.replace("*", "N"))
        base = words.strip("-").lower()[-60:].strip("-") or "rule"
        self._used[base] += 1
        return base if self._used[base] == 1 else f"{base}--{self._used[base]}"


def render_spec(spec: StartingSpec, schema: str | None = SCHEMA) -> str:
    """Return `spec` as YAML; `schema` is where editors find the JSON Schema, relative to it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - YAML, in which every filter escapes for itself
        loader=PackageLoader("ckptclamp.auditing.starting_spec", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(inert=_inert, reason=_with_reason, quoted=quoted, word=_word)
    environment.filters.update(number=_number, axes=_axes)
    name = printable(Path(spec.checkpoint).name)
    template = environment.get_template("starting_spec.yaml.jinja")
    return template.render(spec=spec, schema=schema, name=name, shown=_SHOWN)


def _inert(text: str) -> str:
    return printable(text, limit=None)


def _with_reason(entry: tuple[str, str]) -> str:
    name, reason = entry
    return f"{printable(name)}: {_inert(reason)}"


def _axes(axes: Sequence[int]) -> str:
    if not axes:
        return "null  # the whole tensor is one unit"
    return str(axes[0]) if len(axes) == 1 else str(list(axes))


def _word(text: str) -> str:
    """A word as it is, unless YAML would take it for a number or another value."""
    plain = re.fullmatch(r"[A-Za-z][\w-]*", text, re.ASCII) and text.lower() not in _NO_WORDS
    return text if plain else quoted(text)


def _number(value: float) -> str:
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    return repr(float(value))


def quoted(text: str) -> str:
    r"""Return `text` as a double-quoted YAML scalar in one line that hides nothing.

    What `printable` would escape is written as ``\xNN``, ``\uNNNN`` or ``\UNNNNNNNN``.
    """
    return '"' + "".join(_escaped(char) for char in text).replace("##", r"#\x23") + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isascii() and char.isprintable():
        return char
    if char.isalnum() and printable(char) == char:
        return char
    code = ord(char)
    return next(form for limit, form in _ESCAPES if code < limit).format(code)
