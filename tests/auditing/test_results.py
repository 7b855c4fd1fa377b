"""The gate's arithmetic: which exit code follows from which verdicts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ckptclamp.auditing.results import (
    ApplyReport,
    AuditReport,
    CheckpointSummary,
    Result,
    Summary,
    Suppressed,
    Verdict,
    WorstUnit,
)
from ckptclamp.errors import ExitCode, Notice
from ckptclamp.plan import Origin, UnmatchedRule
from ckptclamp.spec.model import Severity

SUMMARY = CheckpointSummary("m.h5", "hdf5", (), 1)
PASS = Result("w", "r", "NonNeg()", Origin.SPEC, Verdict.PASS, units=1)
VIOLATION = replace(PASS, verdict=Verdict.VIOLATION, violating=1)
WARNING = replace(VIOLATION, severity=Severity.WARNING)
MISSING = replace(PASS, verdict=Verdict.NOT_EVALUATED, reason="unreadable", units=0)
OTHER = UnmatchedRule("other")
SUPPRESSED = replace(VIOLATION, suppressed=Suppressed("baseline", "known"))


@pytest.mark.parametrize(
    ("results", "unmatched", "code"),
    [
        ([], (), ExitCode.NOTHING_EVALUATED),
        ([PASS], (), ExitCode.OK),
        ([PASS, VIOLATION], (), ExitCode.VIOLATIONS),
        ([PASS, WARNING], (), ExitCode.OK),
        ([PASS, SUPPRESSED], (), ExitCode.OK),
        ([SUPPRESSED], (), ExitCode.OK),
        ([VIOLATION, MISSING], (), ExitCode.INCOMPLETE),
        ([MISSING], (OTHER,), ExitCode.INCOMPLETE),
        ([PASS], (OTHER,), ExitCode.NOTHING_EVALUATED),
        ([VIOLATION], (OTHER,), ExitCode.NOTHING_EVALUATED),
    ],
)
def test_exit_code(results, unmatched, code):
    """3 outranks 4, 4 outranks 1, and only 0 is a pass."""
    assert AuditReport(SUMMARY, tuple(results), unmatched=unmatched).exit_code is code


def test_strict_counts_warnings():
    """With --strict a warning fails the gate, information does not."""
    notice = Notice("degenerate-axis", "the norm is an element-wise clip")
    strict = AuditReport(SUMMARY, (PASS,), notices=(notice,), strict=True)
    assert strict.exit_code is ExitCode.VIOLATIONS
    assert replace(strict, strict=False).exit_code is ExitCode.OK
    told = replace(notice, informational=True)
    assert replace(strict, notices=(told,)).exit_code is ExitCode.OK
    assert replace(strict, notices=(), results=(WARNING,)).exit_code is ExitCode.VIOLATIONS


def test_the_numbers_are_those_of_the_readme():
    """Scripts compare with numbers."""
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "VIOLATIONS": 1,
        "USAGE": 2,
        "INCOMPLETE": 3,
        "NOTHING_EVALUATED": 4,
        "NOT_WRITTEN": 5,
    }


def test_a_result_claims_nothing_by_default():
    """What nobody counted is 0, and what nobody called a warning is an error."""
    result = Result("w", "r", "NonNeg()", Origin.SPEC, Verdict.PASS)
    assert result.severity is Severity.ERROR
    counts = ("units", "violating", "within_tolerance", "nonfinite", "unmendable", "unit_size")
    assert [getattr(result, name) for name in counts] == [0] * len(counts)
    assert result.tolerance == 0
    assert WorstUnit((0,), 1.0, 1.0, 0.0, None).nonfinite == 0
    assert not AuditReport(SUMMARY, ()).strict
    assert AuditReport(SUMMARY, ()).seconds == 0


def test_census_counts_suppressed_apart():
    """A baseline hides nothing: what it suppresses is counted, and not as a pass."""
    notices = (Notice("a", "told"), Notice("b", "told"), Notice("c", "told", informational=True))
    results = (PASS, *[VIOLATION] * 2, *[MISSING] * 3, *[SUPPRESSED] * 4)
    assert AuditReport(SUMMARY, results, notices=notices).census == Summary(
        results=10,
        passed=1,
        violations=2,
        not_evaluated=3,
        suppressed=4,
        warnings=2,
        units=7,
        violating_units=2,
    )


def test_notices_of_results_are_those_of_the_report():
    """A warning that belongs to one tensor fails a strict gate, too."""
    notice, other = Notice("a", "told"), Notice("b", "told")
    report = AuditReport(SUMMARY, (replace(PASS, notices=(other,)),), notices=(notice,))
    assert report.all_notices == (notice, other)
    assert replace(report, notices=(), strict=True).exit_code is ExitCode.VIOLATIONS


def test_a_copy_is_judged_as_it_was_written():
    """Whatever the input was: the answer of an apply is that of its copy."""
    before = AuditReport(SUMMARY, (replace(VIOLATION, unmendable=1), MISSING))
    for after, code in ((PASS, ExitCode.OK), (VIOLATION, ExitCode.VIOLATIONS)):
        written = AuditReport(SUMMARY, (after,))
        assert ApplyReport(before, (), written, "out", "exact").exit_code is code


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([PASS], ExitCode.OK),
        ([VIOLATION], ExitCode.OK),
        ([VIOLATION, MISSING], ExitCode.INCOMPLETE),
        ([], ExitCode.NOTHING_EVALUATED),
        ([replace(VIOLATION, unmendable=1)], ExitCode.VIOLATIONS),
        ([PASS, replace(VIOLATION, unmendable=1)], ExitCode.VIOLATIONS),
        ([replace(SUPPRESSED, unmendable=1)], ExitCode.OK),
    ],
)
def test_a_dry_run_promises_only_what_a_copy_could_keep(results, code):
    """What was not read or cannot be mended would be so in the copy, too."""
    before = AuditReport(SUMMARY, tuple(results))
    assert ApplyReport(before, (), None, None, "exact").exit_code is code
