"""Violations that are known and accepted: the ignore rules of a spec, applied to results.

A suppressed violation stays in the report, is counted apart in every format, and no longer fails
the gate. What was not evaluated is never suppressed here (a declaration may be settled, see
`plan.settled`). Neither are non-finite weights: who accepted a norm that is too large did not accept
a NaN (a baseline can record them, see `baseline`).
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ckptclamp.auditing.results import AuditReport, Result, Suppressed, Verdict
from ckptclamp.errors import Notice
from ckptclamp.spec.model import Suppression, utc_today
from ckptclamp.spec.patterns import TensorPatterns

Names = Mapping[str, Sequence[str]]
"""All names of tensors, by the full name (see `all_names`)."""


def suppress(
    report: AuditReport,
    rules: Sequence[Suppression],
    names: Names,
    today: datetime.date | None = None,
    *,
    settling: Sequence[Suppression] = (),
) -> AuditReport:
    """Mark the violations in `report` that `rules` accept, and note rules that do nothing.

    `names` are what a tensor matches by, exactly as it does for the rules that govern: an exclusion
    that holds there must hold here. `today` is the day that expiry is judged by, by default
    the current one in UTC. Rules that are `settling` a declaration do something.
    """
    if not rules:
        return report
    ignoring = _Ignoring(rules, names, today, settling)
    results = tuple(map(ignoring.judge, report.results))
    return replace(report, results=results, notices=(*report.notices, *ignoring.notices()))


def suppress_results(
    results: Iterable[Result],
    rules: Sequence[Suppression],
    names: Names,
    today: datetime.date | None = None,
) -> tuple[Result, ...]:
    """Mark the violations among `results` that `rules` accept; see `suppress`."""
    return tuple(map(_Ignoring(rules, names, today).judge, results)) if rules else tuple(results)


class _Ignoring:
    """The ignore rules of one spec on one day, and what they have been of use for."""

    def __init__(
        self,
        rules: Sequence[Suppression],
        names: Names,
        today: datetime.date | None,
        settling: Sequence[Suppression] = (),
    ) -> None:
        today = today or utc_today()
        self._names = names
        self._expired = [rule for rule in rules if not rule.holds(today)]
        self._rules = [rule for rule in rules if rule.holds(today)]
        self._tensors = TensorPatterns([rule.tensors for rule in self._rules])
        self._ids = TensorPatterns([rule.rules or ("**",) for rule in self._rules])
        self._used = {index for index, rule in enumerate(self._rules) if rule in settling}

    def judge(self, result: Result) -> Result:
        """Return `result`, marked if a rule accepts it."""
        if result.verdict is not Verdict.VIOLATION or result.suppressed is not None:
            return result
        names = {result.tensor, *self._names.get(result.tensor, ())}
        names |= {result.label} if result.label else set()
        matching = self._tensors.matching(names) & self._ids.matching([result.rule])
        if not matching:
            return result
        first = min(matching)
        self._used.add(first)
        if result.nonfinite:
            return replace(result, notices=(*result.notices, _not_covered(result)))
        rule = self._rules[first]
        expires = rule.expires.isoformat() if rule.expires else None
        return replace(result, suppressed=Suppressed("spec", rule.reason, expires))

    def notices(self) -> Iterable[Notice]:
        """What a reader must know of rules that have expired or accept nothing."""
        for rule in self._expired:
            yield Notice(
                "ignore-expired",
                f"{_named(rule)} expired on {rule.expires} and suppresses nothing any more",
                hint="fix what it ignored, or give it a new date",
            )
        for index, rule in enumerate(self._rules):
            if index not in self._used:
                yield Notice(
                    "ignore-unused",
                    f"{_named(rule)} suppresses nothing",
                    hint="remove it, so that it cannot hide what comes later",
                    informational=True,
                )


def _not_covered(result: Result) -> Notice:
    return Notice(
        "ignore-nonfinite",
        f"an ignore rule matches, but it does not cover {result.nonfinite} units with "
        "non-finite weights",
        hint="only a baseline can record non-finite weights as known",
        tensor=result.tensor,
    )


def _named(rule: Suppression) -> str:
    place = f" ({rule.location})" if rule.location else ""
    return f"the ignore rule for {', '.join(rule.tensors)}{place}"
