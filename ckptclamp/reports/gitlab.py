"""GitLab code quality JSON: one entry for each finding, with a fingerprint that outlives numbers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ckptclamp.reports.findings import Finding, Kind, Level, Place, findings, subject
from ckptclamp.reports.wording import plural

if TYPE_CHECKING:
    from ckptclamp.reports.options import RenderOptions
    from ckptclamp.results import ApplyReport, AuditReport

MOST = 5000
_SEVERITIES = {Level.ERROR: "major", Level.WARNING: "minor", Level.NOTE: "info"}


def render(report: AuditReport | ApplyReport, options: RenderOptions) -> str:
    """Return the JSON array; the worst 5,000 findings, and an entry that counts the others."""
    found = findings(report, show_suppressed=options.show_suppressed)
    entries = [_entry(finding, options) for finding in found[:MOST]]
    if len(found) > MOST:
        entries.append(_left_out(subject(report), len(found) - MOST, options))
    return json.dumps(entries, indent=1).replace("##", r"#\u0023") + "\n"


def _entry(finding: Finding, options: RenderOptions) -> dict[str, Any]:
    # What could not be judged outranks what was judged, as it does in the exit code.
    missing = finding.kind in (Kind.NOT_EVALUATED, Kind.UNMATCHED)
    return {
        "description": finding.sentence,
        "check_name": finding.code,
        "fingerprint": finding.fingerprint,
        "severity": "critical" if missing else _SEVERITIES[finding.level],
        "location": {
            "path": finding.place.relative_to(options.base),
            "lines": {"begin": finding.place.line or 1},
        },
    }


def _left_out(audit: AuditReport, count: int, options: RenderOptions) -> dict[str, Any]:
    finding = Finding(
        kind=Kind.NOTICE,
        level=Level.ERROR,
        code="left-out",
        message=f"{plural(count, 'more finding')}, less bad, left out of this report",
        place=Place(audit.checkpoint.path),
        fingerprint="0" * 64,
    )
    return _entry(finding, options)
