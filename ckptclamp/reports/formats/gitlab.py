"""GitLab code quality JSON: one entry for each finding, with a fingerprint that outlives numbers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from ckptclamp.reports.codec import json_text
from ckptclamp.reports.findings import Finding, Kind, Level, Place, Report, findings, subject
from ckptclamp.reports.wording import plural, summary_line

if TYPE_CHECKING:
    from ckptclamp.auditing.results import AuditReport
    from ckptclamp.reports import RenderOptions

MOST = 5000
_SEVERITIES = {Level.ERROR: "major", Level.WARNING: "minor", Level.NOTE: "info"}


def render(report: Report, options: RenderOptions) -> str:
    """Return the JSON array: the worst 5,000 findings, and entries that count what is not among them."""
    found = findings(report, show_suppressed=options.show_suppressed)
    audit = subject(report)
    entries = [_entry(finding, options) for finding in found[:MOST]]
    if len(found) > MOST:
        more = plural(len(found) - MOST, "more finding")
        message = f"{more}, less bad, left out of this report"
        entries.append(_count(audit, Level.ERROR, "left-out", message, options))
    census = audit.census
    hidden = {
        "suppressed": census.suppressed,
        "within-tolerance": census.within_tolerance,
        "zero-units": census.zero_allowed,
    }
    message = summary_line(audit, report.exit_code)
    entries += [
        _count(audit, Level.NOTE, code, message, options) for code, units in hidden.items() if units
    ]
    return json_text(entries, indent=1) + "\n"


def _entry(finding: Finding, options: RenderOptions) -> dict[str, Any]:
    # What could not be judged outranks what was judged, as it does in the exit code.
    missing = finding.kind in (Kind.NOT_EVALUATED, Kind.UNMATCHED)
    return {
        "description": finding.sentence,
        "check_name": finding.code,
        "fingerprint": finding.fingerprint,
        "severity": "critical" if missing else _SEVERITIES[finding.level],
        "location": {
            "path": finding.place.relative_to(options.base, options.start),
            "lines": {"begin": finding.place.line or 1},
        },
    }


def _count(
    audit: AuditReport, level: Level, code: str, message: str, options: RenderOptions
) -> dict[str, Any]:
    """An entry about the report itself, the same one whatever the number in it."""
    finding = Finding(
        kind=Kind.NOTICE,
        level=level,
        code=code,
        message=message,
        place=Place(audit.checkpoint.path),
        fingerprint=hashlib.sha256(f"ckptclamp {code}".encode()).hexdigest(),
    )
    return _entry(finding, options)
