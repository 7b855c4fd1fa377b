"""Ignore rules one by one: what they accept, until when, and what is told of them."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from ckptclamp.auditing.results import AuditReport, CheckpointSummary, Result, Suppressed, Verdict
from ckptclamp.auditing.suppression import suppress, suppress_results
from ckptclamp.errors import Notice
from ckptclamp.plan import Origin
from ckptclamp.spec.model import Suppression

TODAY = datetime.date(2026, 6, 1)
DAY = datetime.timedelta(days=1)
PASS = Result("a/kernel", "r", "NonNeg()", Origin.SPEC, Verdict.PASS, units=1)
VIOLATION = replace(PASS, verdict=Verdict.VIOLATION, violating=1)
RULE = Suppression(tensors=("a/**",), rules=(), reason="known")


def ignored(result: Result, *rules: Suppression) -> AuditReport:
    """The report of this result under these rules."""
    notices = (Notice("earlier", "said before"),)
    report = AuditReport(CheckpointSummary("m.h5", "hdf5", (), 1), (result,), notices=notices)
    return suppress(report, rules, {}, TODAY)


def codes(report: AuditReport) -> list[str]:
    """What the report tells."""
    return [notice.code for notice in report.all_notices]


def test_a_violation_that_a_rule_names_is_accepted():
    """The rule's reason is kept, and of a rule that was of use nothing is told."""
    report = ignored(VIOLATION, RULE)
    assert report.results == (replace(VIOLATION, suppressed=Suppressed("spec", "known")),)
    assert codes(report) == ["earlier"]
    assert suppress_results([VIOLATION], [RULE], {}, TODAY) == report.results


def test_without_rules_nothing_changes():
    """A report without ignore rules is what it was."""
    assert ignored(VIOLATION).results == (VIOLATION,)
    assert suppress_results([VIOLATION, PASS], [], {}) == (VIOLATION, PASS)


@pytest.mark.parametrize(
    ("result", "rule"),
    [
        (replace(VIOLATION, tensor="b/kernel"), RULE),
        (VIOLATION, replace(RULE, rules=("other",))),
        (PASS, RULE),
        (replace(VIOLATION, verdict=Verdict.NOT_EVALUATED), RULE),
        (VIOLATION, replace(RULE, expires=TODAY - DAY)),
    ],
)
def test_what_no_rule_covers_stays(result: Result, rule: Suppression):
    """Another tensor, another rule, another verdict, another day: the rule did nothing, and that is told."""
    report = ignored(result, rule)
    assert report.results == (result,)
    assert len(report.notices) == 2


def test_the_label_counts_as_a_name():
    """Keras' names of weights are what users write."""
    labelled = replace(VIOLATION, tensor="layers/d/vars/0", label="a/kernel")
    assert ignored(labelled, RULE).results[0].suppressed is not None


@pytest.mark.parametrize("days", [0, 1])
def test_a_rule_lasts_through_its_last_day(days: int):
    """The day of expiry itself is covered, and told with the violation."""
    expires = TODAY + days * DAY
    report = ignored(VIOLATION, replace(RULE, expires=expires))
    (result,) = report.results
    assert result.suppressed == Suppressed("spec", "known", expires.isoformat())
    assert codes(report) == ["earlier"]


def test_the_first_rule_that_matches_is_the_reason():
    """Of two rules for one violation the second one is told to be of no use."""
    report = ignored(VIOLATION, RULE, replace(RULE, reason="again"))
    assert report.results[0].suppressed == Suppressed("spec", "known")
    assert len(report.notices) == 2


def test_what_was_suppressed_before_keeps_its_reason():
    """A baseline came first."""
    known = replace(VIOLATION, suppressed=Suppressed("baseline", "known since May"))
    assert ignored(known, RULE).results == (known,)


def test_non_finite_weights_are_never_accepted():
    """Whatever a rule says, a NaN fails; and the rule is not told to be of no use."""
    report = ignored(replace(VIOLATION, nonfinite=1), RULE)
    assert report.results[0].suppressed is None
    assert len(report.results[0].notices) == 1
    assert codes(report)[0] == "earlier"
    assert len(report.notices) == 1
