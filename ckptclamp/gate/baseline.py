"""A baseline: the violations of a day, so that a gate can fail on what is new or worse.

An entry is known by its tensor and rule, never by a value, and says how bad the violation was: how
many units, how far outside the worst of them lay, how many held non-finite weights. It suppresses
that violation as long as none of these has grown, the rule is what it was, and its `expires` has
not passed. What rounding to a narrow dtype can add is no growth: a cast changes no verdict.

It is for one checkpoint, known by a name or by its path and never by a digest, which changes with
every training: another model has its own tensors of the same names.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

from ckptclamp.auditing.comparison.renames import Renames
from ckptclamp.auditing.results import AuditReport, Result, Suppressed, Verdict
from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.opening import named_as_file
from ckptclamp.checkpoints.remote import as_path
from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.errors import ExitCode, NothingEvaluatedError, Notice, UnreadableError, UsageError
from ckptclamp.gate.known import Baseline, Entry
from ckptclamp.plan import EQUAL
from ckptclamp.reports.codec import codec, json_text
from ckptclamp.spec.model import utc_today
from ckptclamp.spec.settings import project_path

_SLACK = 1e-9
"""Relative growth of a distance that is taken for the same: another machine's last bits."""

_FLOAT32_ROUNDOFF = 2.0**-24


def checkpoint_identity(
    checkpoint: str | Path, baseline: str | Path, name: str | None = None
) -> str:
    """What the file `baseline` calls `checkpoint`: the `name` that was given, or else its path.

    A directory is called by the file that is opened in it, as its report calls it.
    """
    file, place = named_as_file(as_path(checkpoint)), as_path(baseline)
    start = Path.cwd() if isinstance(place, RemotePath) else place.absolute().parent
    known_as = name or project_path(file, start)
    return str(codec(str).encode(known_as))


def unfit(report: AuditReport) -> str | None:
    """Why no baseline is made from `report`, if it is so: what it did not judge is not resolved."""
    if report.unmatched:
        rules = ", ".join(unmatched.rule for unmatched in report.unmatched)
        return f"these rules match no tensor: {rules}"
    if all(result.verdict is Verdict.NOT_EVALUATED for result in report.results):
        return "nothing was evaluated"
    return None


def record(report: AuditReport, checkpoint: str, previous: Baseline | None = None) -> Baseline:
    """Record the violations of `report` that nothing else suppresses, as those of `checkpoint`.

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
        by_others = result.suppressed is not None and result.suppressed.by != "baseline"
        if result.verdict is Verdict.VIOLATION and not by_others:
            entry = _entry(result, _base(report, result))
            old = known.get(entry.identity, entry)
            entries.append(replace(entry, reason=old.reason, expires=old.expires))
    return Baseline(tuple(entries), checkpoint)


def compare(
    report: AuditReport,
    checkpoint: str,
    baseline: Baseline,
    today: datetime.date | None = None,
    *,
    advice: str = "",
) -> AuditReport:
    """Mark the violations in `report` that `baseline` knows, and note what else is in it.

    `checkpoint` is what was audited, as `checkpoint_identity` says. A baseline for another one knows
    nothing of it, which is a warning; so is one that does not tell. New and worse violations stay as
    they are. `today` is the day that expiry is judged by; by default the current one in UTC. `advice`
    is what to do about a baseline for another one, where `Baseline.same` is not.
    """
    today = today or utc_today()
    if baseline.of_another(checkpoint):
        return replace(report, notices=(*report.notices, *_foreign(baseline, checkpoint, advice)))
    entry_of = _Known(baseline, report).entry
    results = tuple(_judged(r, entry_of(r), today, _base(report, r)) for r in report.results)
    foreign = _foreign(baseline, checkpoint, advice)
    notices = (*report.notices, *foreign, *_leftovers(report, baseline))
    return replace(report, results=results, notices=notices)


def prune(baseline: Baseline, report: AuditReport, checkpoint: str) -> Baseline:
    """Tighten `baseline`: drop what no longer violates or is no longer judged, lower its limits.

    Entries whose tensor could not be evaluated stay as they are. Nothing is added or raised.

    Raises:
        UsageError: the baseline is for another checkpoint than `checkpoint`.
        UnreadableError, NothingEvaluatedError: the report judged nothing, or nothing that the
            baseline knows, so that all would be dropped.
    """
    refuse_another(baseline, checkpoint)
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
    pruned = [_tightened(entry, results.get(entry.identity), report) for entry in baseline.entries]
    return replace(baseline, entries=tuple(entry for entry in pruned if entry is not None))


def _tightened(entry: Entry, result: Result | None, report: AuditReport) -> Entry | None:
    if result is None or result.verdict is Verdict.PASS:
        return None
    if result.verdict is Verdict.NOT_EVALUATED:
        return entry
    if not entry.same_rule(result, _base(report, result)):
        return None
    old, new = entry.worst_distance, worst_distance(result)
    return replace(
        entry,
        violating=min(entry.violating, result.violating),
        nonfinite=min(entry.nonfinite, result.nonfinite),
        worst_distance=None if old is None or new is None else min(old, new),
    )


def _base(report: AuditReport, result: Result) -> str | None:
    """The name of the checkpoint that `result` is about the distance to, if it is about one."""
    return report.parameters.get("base") if result.constraint.startswith("Distance(") else None


def _entry(result: Result, base: str | None) -> Entry:
    return Entry(
        tensor=result.tensor,
        rule=result.rule,
        constraint=result.constraint,
        axes=result.axes,
        violating=result.violating,
        nonfinite=result.nonfinite,
        worst_distance=worst_distance(result),
        base=base,
    )


def worst_distance(result: Result) -> float | None:
    """How far outside its bound the worst unit with finite weights of `result` lies.

    ``None`` where every violating unit holds non-finite weights, or nothing is measured.

    Raises:
        UsageError: the result does not tell, because it kept no worst unit.
    """
    low, high = result.bound
    distances = [unit.distance for unit in result.worst if not unit.nonfinite]
    if low is not None and result.measured_min is not None:
        distances.append(low - result.measured_min)
    if high is not None and result.measured_max is not None:
        distances.append(result.measured_max - high)
    if result.violating == result.nonfinite or result.constraint == EQUAL:
        return None
    if not distances:
        raise UsageError(
            f"rule {result.rule} does not tell how bad its violations are",
            tensor=result.tensor,
            hint="audit with --worst above the number of non-finite units",
        )
    return max(distances)


class _Known:
    """The entries of a baseline for the results of one report.

    Whoever audits a checkpoint where it is remote does not look for tensors that hold the same bytes, so
    that an entry may be there for one of them only. It holds for those that are tied to it, as long as
    their numbers are the same.
    """

    def __init__(self, baseline: Baseline, report: AuditReport) -> None:
        self._entries = baseline.by_identity()
        tied = {(r.tied_to, r.rule) for r in report.results if r.tied_to is not None}
        pairs = (((r.tensor, r.rule), r) for r in report.results)
        self._matched = {identity: r for identity, r in pairs if identity in tied}

    def entry(self, result: Result) -> Entry | None:
        """What is known of `result`."""
        own = self._entries.get((result.tensor, result.rule))
        if own is not None or result.tied_to is None:
            return own
        identity = result.tied_to, result.rule
        matched = self._matched.get(identity)
        same = matched is not None and _NUMBERS(matched) == _NUMBERS(result)
        return self._entries.get(identity) if same else None


_NUMBERS = attrgetter(
    *("constraint", "axes", "shape", "dtype", "verdict", "units", "violating", "nonfinite", "zero"),
    *("measured_min", "measured_max"),
)
"""What is alike of results about the same bytes, whatever they are called."""


def _judged(result: Result, entry: Entry | None, today: datetime.date, base: str | None) -> Result:
    if entry is None or result.verdict is not Verdict.VIOLATION or result.suppressed is not None:
        return result
    objection = _objection(result, entry, today, base)
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


def _objection(
    result: Result, entry: Entry, today: datetime.date, base: str | None
) -> Notice | None:
    """Why `entry` does not suppress `result`, if it does not."""
    if entry.expired(today):
        code = "baseline-expired"
        message = f"the baseline's entry for rule {entry.rule} expired on {entry.expires}"
        hint = "fix the weights, or give the entry a new date"
    elif not entry.same_rule(result, base):
        code = "baseline-outdated"
        before, now = ("" if b is None else f" from {b}" for b in (entry.base, base))
        message = (
            f"the baseline knows rule {entry.rule} as {entry.constraint} over axes "
            f"{list(entry.axes)}{before}, now it is {result.constraint} over axes "
            f"{list(result.axes)}{now}"
        )
        hint = "write the baseline again with --write-baseline"
    elif grown := "; ".join(_grown(result, entry)):
        code = "baseline-worse"
        message = f"worse than the baseline allows for rule {entry.rule}: {grown}"
        hint = "fix the weights; --write-baseline would accept them as they are"
    else:
        return None
    return Notice(code, message, hint, result.tensor)


def _grown(result: Result, entry: Entry) -> Iterable[str]:
    """What of `result` is worse than `entry`, in words."""
    if result.violating > entry.violating:
        yield f"{result.violating} units violate, {entry.violating} are known"
    if result.nonfinite > entry.nonfinite:
        yield f"{result.nonfinite} units hold non-finite weights, {entry.nonfinite} are known"
    now = worst_distance(result)
    old = entry.worst_distance
    if now is not None and (old is None or not now <= old * (1 + _SLACK) + _rounding(result, now)):
        known = "none" if old is None else f"{old:.6g}"
        yield f"the worst lies {now:.6g} outside, {known} is known"


def _rounding(result: Result, distance: float) -> float:
    """What rounding to a dtype that is narrower than float32 can add to a distance."""
    dtype = DTYPES.get(result.dtype)
    u = dtype.unit_roundoff if dtype is not None else 0.0
    if not _FLOAT32_ROUNDOFF < u < 0.5:  # wide, or without a mantissa to round
        return 0.0
    return u * (max(abs(bound) for bound in (*result.bound, 0.0) if bound is not None) + distance)


def renames_of(texts: Sequence[str]) -> Renames:
    """What ``old=>new`` makes of the names in a baseline, as in a comparison.

    Raises:
        UsageError: one cannot be understood.
    """
    return Renames(texts, "the baseline")


def renamed(baseline: Baseline, renames: Renames) -> Baseline:
    """`baseline` with the names that its tensors have now, where `renames` fit them.

    Raises:
        UsageError: two names become one.
    """
    of = renames.where_they_fit({entry.tensor for entry in baseline.entries})
    return replace(
        baseline, entries=tuple(replace(e, tensor=of[e.tensor]) for e in baseline.entries)
    )


def refuse_another(baseline: Baseline, checkpoint: str, advice: str = "") -> None:
    """Refuse to change a baseline that is for another checkpoint than `checkpoint`; see `compare`.

    Raises:
        UsageError: it is.
    """
    if baseline.of_another(checkpoint):
        raise UsageError(
            f"the baseline stays as it is, it was written for {baseline.checkpoint}, and this is "
            f"{checkpoint}",
            hint=advice or baseline.same,
        )


def _foreign(baseline: Baseline, checkpoint: str, advice: str) -> Iterable[Notice]:
    """Warn of a baseline that may be about another model."""
    if baseline.checkpoint is None:
        yield Notice(
            "baseline-unbound",
            "the baseline does not tell which checkpoint it is for, so it would suppress the same "
            "violations of any other",
            hint=f'add "checkpoint": {json_text(checkpoint)} to it if it is for this one',
        )
    if baseline.of_another(checkpoint):
        yield Notice(
            "baseline-of-another",
            f"the baseline was written for {baseline.checkpoint}, and this is {checkpoint}, of which "
            "it suppresses nothing",
            hint=advice or baseline.same,
        )


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
