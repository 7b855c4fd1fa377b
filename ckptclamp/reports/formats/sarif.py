"""SARIF 2.1.0, for code scanning: findings at the spec line of their rule.

A violation is a `fail`. What was not evaluated, and a rule that matched nothing, is `open` ("could
not be determined"), which SARIF 3.27.10 pairs with the level `none`; so that no reader takes it for
a pass, it is also an error among the invocation's notifications, and the invocation is then not
successful. A constraint that the checkpoint itself declares is placed at the checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ckptclamp.errors import ExitCode, printable
from ckptclamp.reports.codec import json_text
from ckptclamp.reports.findings import Finding, Kind, Level, Place, Report, findings, subject
from ckptclamp.reports.wording import sentence, summary_line
from ckptclamp.spec.model import Severity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptclamp.auditing.results import AuditReport, FileDigest
    from ckptclamp.reports import RenderOptions

MOST = 5000
"""GitHub keeps this many results of a run, and refuses files with 25,000."""

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_ROOT = "%SRCROOT%"
_OPEN = (Kind.NOT_EVALUATED, Kind.UNMATCHED)


def render(report: Report, options: RenderOptions) -> str:
    """Return the log: one run with the worst 5,000 findings, and the true total."""
    found = findings(report, show_suppressed=True)
    run = _run(report, found, options)
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json_text(log, indent=1) + "\n"


def _run(report: Report, found: Sequence[Finding], options: RenderOptions) -> dict[str, Any]:
    audit = subject(report)
    kept = found[:MOST]
    rules = {finding.code: index for index, finding in reversed(list(enumerate(kept)))}
    order = {code: i for i, code in enumerate(sorted(rules, key=rules.__getitem__))}
    checkpoint = Place(audit.checkpoint.path)
    return {
        "tool": {
            "driver": {
                "name": "ckptclamp",
                "version": printable(audit.tool_version) or "unknown",
                "rules": [_rule(kept[rules[code]]) for code in order],
            }
        },
        "automationDetails": {
            "id": f"ckptclamp/{_uri(checkpoint.relative_to(options.base, options.start))}/"
        },
        "originalUriBaseIds": {_ROOT: {"description": {"text": "The root of the repository."}}},
        "invocations": [_invocation(report, audit, found)],
        "artifacts": [_artifact(file, options) for file in audit.checkpoint.files],
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, order[finding.code], options) for finding in kept],
        "properties": {"findings": len(found), "findingsLeftOut": len(found) - len(kept)},
    }


def _rule(finding: Finding) -> dict[str, Any]:
    result = finding.result
    text = printable(result.constraint) if result is not None else finding.code
    return {"id": finding.code, "shortDescription": {"text": text}}


def _invocation(report: Report, audit: AuditReport, found: Sequence[Finding]) -> dict[str, Any]:
    complete = report.exit_code in (ExitCode.OK, ExitCode.VIOLATIONS)
    notifications = [_notification(summary_line(audit, report.exit_code), "note")]
    if len(found) > MOST:
        notifications.append(
            _notification(f"the worst {MOST:,} of {len(found):,} findings are listed", "warning")
        )
    unjudged = [finding for finding in found if finding.kind in _OPEN]
    notifications += [_notification(f.sentence, "error") for f in unjudged[:MOST]]
    return {
        "executionSuccessful": complete,
        "exitCode": int(report.exit_code),
        "toolExecutionNotifications": notifications,
    }


def _notification(text: str, level: str) -> dict[str, Any]:
    return {"level": level, "message": {"text": text}}


def _artifact(file: FileDigest, options: RenderOptions) -> dict[str, Any]:
    artifact: dict[str, Any] = {
        "location": _location(Place(file.path), options),
        "length": file.size,
    }
    if file.sha256:
        artifact["hashes"] = {"sha-256": printable(file.sha256)}
    return artifact


def _result(finding: Finding, rule: int, options: RenderOptions) -> dict[str, Any]:
    kind, level = _kind_and_level(finding)
    place = finding.place
    region = {"startLine": place.line or 1, "startColumn": place.column or 1}
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": _location(place, options), "region": region}
    }
    if finding.tensor:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.tensor, "kind": "variable"}]
    help_ = f" Help: {finding.help}" if finding.help else ""
    entry = {
        "ruleId": finding.code,
        "ruleIndex": rule,
        "kind": kind,
        "level": level,
        "message": {"text": finding.sentence + help_},
        "locations": [location],
        "partialFingerprints": {"ckptclamp/v1": finding.fingerprint},
    }
    result = finding.result
    if result is not None and result.suppressed is not None:
        reason = sentence(result.suppressed.reason)
        entry["suppressions"] = [{"kind": "external", "justification": reason}]
    return entry


def _kind_and_level(finding: Finding) -> tuple[str, str]:
    if finding.kind in _OPEN:
        return "open", "none"
    if finding.result is not None:
        error = finding.result.severity is Severity.ERROR
        return "fail", "error" if error else "warning"
    if finding.level is Level.NOTE:
        return "informational", "none"
    return "fail", finding.level.value


def _location(place: Place, options: RenderOptions) -> dict[str, str]:
    """A repository-relative URI; an absolute one for what lies outside the repository."""
    path = place.relative_to(options.base, options.start)
    if path.startswith("/"):
        return {"uri": f"file://{_uri(path)}"}
    return {"uri": _uri(path), "uriBaseId": _ROOT}


def _uri(path: str) -> str:
    return quote(path, safe="/")
