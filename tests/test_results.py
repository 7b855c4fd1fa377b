"""The gate's arithmetic: which exit code follows from which verdicts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ckptclamp.notices import Notice
from ckptclamp.results import (
    ApplyReport,
    AuditReport,
    CheckpointSummary,
    ExitCode,
    Origin,
    Result,
    Severity,
    Suppressed,
    UnmatchedRule,
    Verdict,
)

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


def test_census_counts_suppressed_apart():
    """A baseline hides nothing: what it suppresses is counted, and not as a pass."""
    census = AuditReport(SUMMARY, (PASS, VIOLATION, MISSING, SUPPRESSED)).census
    assert (census.passed, census.violations) == (1, 1)
    assert (census.not_evaluated, census.suppressed) == (1, 1)


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([PASS], ExitCode.OK),
        ([VIOLATION], ExitCode.OK),
        ([VIOLATION, MISSING], ExitCode.INCOMPLETE),
        ([], ExitCode.NOTHING_EVALUATED),
        ([replace(VIOLATION, unmendable=1)], ExitCode.VIOLATIONS),
        ([replace(SUPPRESSED, unmendable=1)], ExitCode.OK),
    ],
)
def test_a_dry_run_promises_only_what_a_copy_could_keep(results, code):
    """What was not read or cannot be mended would be so in the copy, too."""
    before = AuditReport(SUMMARY, tuple(results))
    assert ApplyReport(before, (), None, None, "exact").exit_code is code
