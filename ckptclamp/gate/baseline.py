"""A baseline: the violations of a day, so that a gate can fail on what is new or worse.

An entry is known by its tensor and rule, never by a value, and says how bad the violation was: how
many units, how far outside the worst of them lay, how many held non-finite weights. It suppresses
that violation as long as none of these has grown, the rule is what it was, and its `expires` has
not passed. The file is JSON, sorted and a line an entry, so that a change of it reads well in
review.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ckptclamp.auditing.results import AuditReport, Result, Suppressed, Verdict
from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.errors import (
    ExitCode,
    NothingEvaluatedError,
    Notice,
    RefusedError,
    UnreadableError,
    UsageError,
)
from ckptclamp.reports.codec import MisfitError, codec
from ckptclamp.spec.model import utc_today

SCHEMA = "ckptclamp-baseline-1"

_MAX_BYTES = 1 << 28
_SLACK = 1e-9
"""Relative growth of a distance that is taken for the same: another machine's last bits."""

Identity = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One known violation.

    `constraint` and `axes` are what the numbers were measured against. `worst_distance` is how far
    outside the bound the worst unit with finite weights lay, ``None`` where there was none.
    `reason` and `expires` (``2027-01-31``, the last day on which it holds) are for people to write.
    """

    tensor: str
    rule: str
    constraint: str
    axes: tuple[int, ...]
    violating: int
    nonfinite: int
    worst_distance: float | None = None
    reason: str | None = None
    expires: str | None = None

    @property
    def identity(self) -> Identity:
        """What the entry is known by."""
        return self.tensor, self.rule

    def expired(self, today: datetime.date) -> bool:
        """Whether its last day has passed."""
        return self.expires is not None and datetime.date.fromisoformat(self.expires) < today

    def same_rule(self, result: Result) -> bool:
        """Whether its numbers can be compared with those of `result`."""
        return (self.constraint, self.axes) == (result.constraint, result.axes)


@dataclass(frozen=True, slots=True)
class Baseline:
    """Known violations, one for each identity."""

    entries: tuple[Entry, ...] = ()

    def by_identity(self) -> dict[Identity, Entry]:
        """The entries by what they are known by."""
        return {entry.identity: entry for entry in self.entries}


def load_baseline(path: str | Path) -> Baseline:
    """Read what `render_baseline` wrote, and what people added to it.

    Raises:
        UsageError: the file cannot be read, or is no baseline of this version.
    """
    try:
        data = Path(path).read_bytes()
        document = parse_strict(data, max_depth=8, max_bytes=_MAX_BYTES, what="baseline", path=path)
    except OSError as error:
        raise UsageError(error.strerror or str(error), path=path) from error
    except RefusedError as error:
        raise UsageError(error.message, path=path) from error
    try:
        return _checked(document)
    except MisfitError as error:
        raise UsageError(
            f"this is no baseline that can be read: {error}",
            path=path,
            hint=f"it must be a `{SCHEMA}` file, as --write-baseline writes it",
        ) from None


def render_baseline(baseline: Baseline) -> str:
    """The text of a baseline file: JSON, a line an entry, sorted by tensor and rule."""
    encode = codec(Entry).encode
    lines = []
    for entry in sorted(baseline.entries, key=lambda entry: entry.identity):
        members = {name: value for name, value in encode(entry).items() if value is not None}
        line = json.dumps(members, allow_nan=False)
        lines.append("  " + line.replace("##", r"#\u0023"))  # a CI log takes `##[` for a command
    entries = "[\n" + ",\n".join(lines) + "\n ]" if lines else "[]"
    return f'{{\n "schema": "{SCHEMA}",\n "entries": {entries}\n}}\n'


def _checked(document: object) -> Baseline:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise MisfitError(f"$.schema must be {SCHEMA!r}")
    members = {name: value for name, value in document.items() if name != "schema"}
    baseline = codec(Baseline).decode(members, "$")
    assert isinstance(baseline, Baseline)
    seen: set[Identity] = set()
    for i, entry in enumerate(baseline.entries):
        if entry.identity in seen:
            raise MisfitError(f"$.entries[{i}] repeats the tensor and rule of another entry")
        seen.add(entry.identity)
        _check_date(entry.expires, f"$.entries[{i}].expires")
    return baseline


def _check_date(text: str | None, place: str) -> None:
    try:
        valid = text is None or datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        valid = False
    if not valid:
        raise MisfitError(f"{place} must be a date such as 2027-01-31")


def unfit(report: AuditReport) -> str | None:
    """Why no baseline is made from `report`, if it is so: what it did not judge is not resolved."""
    if report.unmatched:
        rules = ", ".join(unmatched.rule for unmatched in report.unmatched)
        return f"these rules match no tensor: {rules}"
    if all(result.verdict is Verdict.NOT_EVALUATED for result in report.results):
        return "nothing was evaluated"
    return None


def record(report: AuditReport, previous: Baseline | None = None) -> Baseline:
    """Record the violations of `report` that nothing else suppresses.

    Reasons and dates that `previous` holds for the same identity are kept, and so are its entries
    whose tensor could not be evaluated.

    Raises:
        UsageError: the report does not tell how bad a violation is (it kept no worst unit).
    """
    known = previous.by_identity() if previous else {}
    entries = []
    for result in report.results:
        if result.verdict is Verdict.NOT_EVALUATED and (result.tensor, result.rule) in known:
            entries.append(known[result.tensor, result.rule])
        if result.verdict is Verdict.VIOLATION and not _by_others(result):
            entry = _entry(result)
            old = known.get(entry.identity, entry)
            entries.append(replace(entry, reason=old.reason, expires=old.expires))
    return Baseline(tuple(entries))


def compare(
    report: AuditReport, baseline: Baseline, today: datetime.date | None = None
) -> AuditReport:
    """Mark the violations in `report` that `baseline` knows, and note what else is in it.

    New and worse violations stay as they are. `today` is the day that expiry is judged by; by
    default the current one in UTC.
    """
    today = today or utc_today()
    known = baseline.by_identity()
    results = tuple(_judged(r, known.get((r.tensor, r.rule)), today) for r in report.results)
    notices = (*report.notices, *_leftovers(report, baseline))
    return replace(report, results=results, notices=notices)


def prune(baseline: Baseline, report: AuditReport) -> Baseline:
    """Tighten `baseline`: drop what no longer violates or is no longer judged, lower its limits.

    Entries whose tensor could not be evaluated stay as they are. Nothing is added or raised.

    Raises:
        UnreadableError, NothingEvaluatedError: the report judged nothing, or nothing that the
            baseline knows, so that all would be dropped.
    """
    reason = unfit(report)
    if reason is not None:
        incomplete = report.exit_code is ExitCode.INCOMPLETE
        raise (UnreadableError if incomplete else NothingEvaluatedError)(
            f"the baseline stays as it is, {reason}", path=report.checkpoint.path
        )
    results = {(result.tensor, result.rule): result for result in report.results}
    if baseline.entries and results.keys().isdisjoint(baseline.by_identity()):
        raise NothingEvaluatedError(
            "the baseline stays as it is, it knows no tensor and rule that was judged",
            path=report.checkpoint.path,
            hint="give the checkpoint and the spec that it was written for",
        )
    pruned = [_tightened(entry, results.get(entry.identity)) for entry in baseline.entries]
    return Baseline(tuple(entry for entry in pruned if entry is not None))


def _tightened(entry: Entry, result: Result | None) -> Entry | None:
    if result is None or result.verdict is Verdict.PASS:
        return None
    if result.verdict is Verdict.NOT_EVALUATED:
        return entry
    if not entry.same_rule(result):
        return None
    return replace(
        entry,
        violating=min(entry.violating, result.violating),
        nonfinite=min(entry.nonfinite, result.nonfinite),
        worst_distance=_lower(entry.worst_distance, worst_distance(result)),
    )


def _lower(old: float | None, new: float | None) -> float | None:
    return None if old is None or new is None else min(old, new)


def _by_others(result: Result) -> bool:
    return result.suppressed is not None and result.suppressed.by != "baseline"


def _entry(result: Result) -> Entry:
    return Entry(
        tensor=result.tensor,
        rule=result.rule,
        constraint=result.constraint,
        axes=result.axes,
        violating=result.violating,
        nonfinite=result.nonfinite,
        worst_distance=worst_distance(result),
    )


def worst_distance(result: Result) -> float | None:
    """How far outside its bound the worst unit with finite weights of `result` lies.

    ``None`` where every violating unit holds non-finite weights.

    Raises:
        UsageError: the result does not tell, because it kept no worst unit.
    """
    low, high = result.bound
    distances = [unit.distance for unit in result.worst if not unit.nonfinite]
    if low is not None and result.measured_min is not None:
        distances.append(low - result.measured_min)
    if high is not None and result.measured_max is not None:
        distances.append(result.measured_max - high)
    if result.violating == result.nonfinite:
        return None
    if not distances:
        raise UsageError(
            f"rule {result.rule} does not tell how bad its violations are",
            tensor=result.tensor,
            hint="audit with --worst above the number of non-finite units",
        )
    return max(distances)


def _judged(result: Result, entry: Entry | None, today: datetime.date) -> Result:
    if entry is None or result.verdict is not Verdict.VIOLATION or result.suppressed is not None:
        return result
    objection = _objection(result, entry, today)
    if objection is not None:
        return replace(result, notices=(*result.notices, objection))
    reason = entry.reason or "known when the baseline was written"
    notices = (*result.notices, _recorded(result)) if result.nonfinite else result.notices
    suppressed = Suppressed("baseline", reason, entry.expires)
    return replace(result, suppressed=suppressed, notices=notices)


def _recorded(result: Result) -> Notice:
    return Notice(
        "baseline-nonfinite",
        f"the baseline suppresses {result.nonfinite} units with non-finite weights",
        tensor=result.tensor,
    )


def _objection(result: Result, entry: Entry, today: datetime.date) -> Notice | None:
    """Why `entry` does not suppress `result`, if it does not."""
    if entry.expired(today):
        return Notice(
            "baseline-expired",
            f"the baseline's entry for rule {entry.rule} expired on {entry.expires}",
            hint="fix the weights, or give the entry a new date",
            tensor=result.tensor,
        )
    if not entry.same_rule(result):
        return Notice(
            "baseline-outdated",
            f"the baseline knows rule {entry.rule} as {entry.constraint} over axes "
            f"{list(entry.axes)}, now it is {result.constraint} over axes {list(result.axes)}",
            hint="write the baseline again with --write-baseline",
            tensor=result.tensor,
        )
    grown = "; ".join(_grown(result, entry))
    if grown:
        return Notice(
            "baseline-worse",
            f"worse than the baseline allows for rule {entry.rule}: {grown}",
            hint="fix the weights; --write-baseline would accept them as they are",
            tensor=result.tensor,
        )
    return None


def _grown(result: Result, entry: Entry) -> Iterable[str]:
    """What of `result` is worse than `entry`, in words."""
    if result.violating > entry.violating:
        yield f"{result.violating} units violate, {entry.violating} are known"
    if result.nonfinite > entry.nonfinite:
        yield f"{result.nonfinite} units hold non-finite weights, {entry.nonfinite} are known"
    now = worst_distance(result)
    if now is not None and not _at_most(now, entry.worst_distance):
        known = "none" if entry.worst_distance is None else f"{entry.worst_distance:.6g}"
        yield f"the worst lies {now:.6g} outside, {known} is known"


def _at_most(now: float, known: float | None) -> bool:
    return known is not None and now <= known * (1 + _SLACK)


def _leftovers(report: AuditReport, baseline: Baseline) -> Iterable[Notice]:
    """Entries that no violation of today answers to: resolved, or of another tensor or rule."""
    verdicts = {(result.tensor, result.rule): result.verdict for result in report.results}
    resolved = [e for e in baseline.entries if verdicts.get(e.identity) is Verdict.PASS]
    unknown = [e for e in baseline.entries if e.identity not in verdicts]
    if resolved:
        yield _leftover("baseline-resolved", resolved, "no longer violate")
    if unknown:
        yield _leftover("baseline-outdated", unknown, "are of a tensor or rule that is not judged")


def _leftover(code: str, entries: Sequence[Entry], what: str) -> Notice:
    first = ", ".join(f"{entry.tensor} ({entry.rule})" for entry in entries[:3])
    more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
    return Notice(
        code,
        f"{len(entries)} of the baseline's entries {what}: {first}{more}",
        hint="ckptclamp baseline prune removes them",
        informational=True,
    )
