"""The gate's arithmetic: which exit code follows from which verdicts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ckptclamp.notices import Notice
from ckptclamp.results import (
    AuditReport,
    CheckpointSummary,
    ExitCode,
    Origin,
    Result,
    Suppressed,
    Verdict,
)
from ckptclamp.spec.model import Severity

SUMMARY = CheckpointSummary("m.h5", "hdf5", (), 1)
PASS = Result("w", "r", "NonNeg()", Origin.SPEC, Verdict.PASS, units=1)
VIOLATION = replace(PASS, verdict=Verdict.VIOLATION, violating=1)
WARNING = replace(VIOLATION, severity=Severity.WARNING)
MISSING = replace(PASS, verdict=Verdict.NOT_EVALUATED, reason="unreadable", units=0)
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
        ([MISSING], ("other",), ExitCode.INCOMPLETE),
        ([PASS], ("other",), ExitCode.NOTHING_EVALUATED),
        ([VIOLATION], ("other",), ExitCode.NOTHING_EVALUATED),
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
