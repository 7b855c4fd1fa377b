"""SARIF 2.1.0, for code scanning: findings at the spec line of their rule.

A violation is a `fail`. What was not evaluated, and a rule that matched nothing, is `open` ("could
not be determined"), which SARIF 3.27.10 pairs with the level `none`; so that no reader takes it for
a pass, it is also an error among the invocation's notifications, and the invocation is then not
successful. A failure has no results, and is told there alone. A constraint that the checkpoint
itself declares is placed at the checkpoint.

Several checkpoints are one run, in which each has an invocation: forges limit the runs of a file, and
keep what a run of its own once found for as long as no later one has its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ckptclamp.auditing.runs import Failure, Run, answers_of, checkpoint_of, subject, version_of
from ckptclamp.errors import ExitCode, printable
from ckptclamp.reports.catalogue import (
    SITE,
    anchor,
    exit_code_url,
    explained_reason,
    explanation,
    help_url,
    page_url,
)
from ckptclamp.reports.codec import json_text
from ckptclamp.reports.findings import Finding, Kind, Level, Place, findings
from ckptclamp.reports.headlines import answer_line
from ckptclamp.reports.wording import sentence, unit_sentence
from ckptclamp.spec.model import Severity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptclamp.auditing.results import FileDigest
    from ckptclamp.auditing.runs import Answer, Document
    from ckptclamp.reports import RenderOptions
    from ckptclamp.reports.catalogue import Explained

MOST = 5000
"""GitHub keeps this many results of a run, and refuses files with 25,000."""

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_ROOT = "%SRCROOT%"
_OPEN = (Kind.NOT_EVALUATED, Kind.UNMATCHED)


def render(report: Document, options: RenderOptions) -> str:
    """Return the log: one run with the worst 5,000 findings, and the true total."""
    found = findings(report, show_suppressed=True)
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [_run(report, found, options)]}
    return json_text(log, indent=1) + "\n"


def _run(report: Document, found: Sequence[Finding], options: RenderOptions) -> dict[str, Any]:
    kept = [finding for finding in found if finding.kind is not Kind.FAILURE][:MOST]
    failed = [finding for finding in found if finding.kind is Kind.FAILURE]
    order = {code: i for i, code in enumerate(dict.fromkeys(f.code for f in kept))}
    firsts = {finding.code: finding for finding in reversed(kept)}
    answers = answers_of(report)
    total = len(found) - len(failed)
    return {
        "tool": {
            "driver": {
                "name": "ckptclamp",
                "version": printable(version_of(report)) or "unknown",
                "informationUri": SITE,
                "rules": [_rule(firsts[code]) for code in order],
                "notifications": [
                    *(_failure_kind(c) for c in dict.fromkeys(f.code for f in failed)),
                    *map(_reason_kind, _reasons(found)),
                ],
            }
        },
        "automationDetails": {"id": _category(report, options)},
        "originalUriBaseIds": {_ROOT: {"description": {"text": "The root of the repository."}}},
        "invocations": [_invocation(answer, options) for answer in answers] or [_empty(report)],
        "artifacts": _artifacts(answers, options),
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, order[finding.code], options) for finding in kept],
        "properties": {"findings": total, "findingsLeftOut": total - len(kept)},
    }


def _category(document: Document, options: RenderOptions) -> str:
    """What code scanning keeps alerts by: the checkpoint, or that there are several."""
    path = None if isinstance(document, Run) else checkpoint_of(document)
    if path is None:
        return "ckptclamp/"
    return f"ckptclamp/{_uri(Place(path).relative_to(options.base, options.start))}/"


def _rule(finding: Finding) -> dict[str, Any]:
    """What a rule of a spec, a declared constraint or a notice is about, and where to read more."""
    result, known = finding.result, explanation(finding.code)
    if known is not None:
        short, full, help_ = (
            known.title,
            known.text,
            {"text": known.text, "markdown": known.markdown},
        )
    elif result is not None:
        short = printable(result.constraint)
        full = _rule_text(finding)
        help_ = {"text": full}
    else:
        short = full = sentence(finding.message)
        help_ = {"text": finding.help or full}
    constraint = "" if result is None else result.constraint
    return {
        "id": finding.code,
        "shortDescription": {"text": short},
        "fullDescription": {"text": full},
        "help": help_,
        "helpUri": help_url(finding.code, constraint),
        "defaultConfiguration": {"level": _kind_and_level(finding)[1]},
    }


def _rule_text(finding: Finding) -> str:
    """What the user's own rule asks, in a sentence."""
    result = finding.result
    assert result is not None
    where = f" It is stated at {finding.place}." if finding.place.line is not None else ""
    return (
        f"Each unit must conform to {printable(result.constraint)}; here a unit is "
        f"{unit_sentence(result)}.{where}"
    )


def _failure_kind(code: str) -> dict[str, Any]:
    known = explanation(code)
    title = known.title if known is not None else code
    return {"id": code, "shortDescription": {"text": title}, "helpUri": help_url(code)}


def _reasons(found: Sequence[Finding]) -> list[Explained]:
    """The kinds of reasons for which something was not evaluated, each once."""
    codes = dict.fromkeys(f.reason_code for f in found)
    return [known for known in map(explained_reason, codes) if known is not None]


def _reason_kind(reason: Explained) -> dict[str, Any]:
    return {
        "id": reason.code,
        "shortDescription": {"text": reason.title},
        "fullDescription": {"text": reason.text},
        "help": {"text": reason.text, "markdown": reason.markdown},
        "helpUri": page_url("reference/findings", anchor(reason.code)),
    }


def _invocation(answer: Answer, options: RenderOptions) -> dict[str, Any]:
    found = findings(answer, show_suppressed=True)
    code = answer.exit_code
    level = "error" if isinstance(answer, Failure) else "note"
    notifications = [_notification(answer_line(answer), level)]
    if len(found) > MOST:
        notifications.append(
            _notification(f"the worst {MOST:,} of {len(found):,} findings are listed", "warning")
        )
    notifications += [_told(f, options) for f in found if f.kind in (*_OPEN, Kind.FAILURE)][:MOST]
    path = checkpoint_of(answer)
    return {
        "executionSuccessful": code in (ExitCode.OK, ExitCode.VIOLATIONS),
        "exitCode": int(code),
        "toolExecutionNotifications": notifications,
        "properties": {
            "checkpoint": None if path is None else printable(path),
            "helpUri": exit_code_url(int(code)),
        },
    }


def _empty(document: Document) -> dict[str, Any]:
    """The invocation of a run that found no checkpoint."""
    return {
        "executionSuccessful": False,
        "exitCode": int(document.exit_code),
        "toolExecutionNotifications": [_notification(answer_line(document), "error")],
    }


def _notification(text: str, level: str) -> dict[str, Any]:
    return {"level": level, "message": {"text": text}}


def _told(finding: Finding, options: RenderOptions) -> dict[str, Any]:
    """A finding as an error of the run, with its place where it has one."""
    notification = _notification(finding.sentence + _help(finding), "error")
    if explained_reason(finding.reason_code) is not None:
        notification["descriptor"] = {"id": finding.reason_code}
    if finding.kind is Kind.FAILURE:
        notification["descriptor"] = {"id": finding.code}
        if finding.place.path != ".":
            notification["locations"] = [_located(finding, options)]
    return notification


def _help(finding: Finding) -> str:
    return f" Help: {finding.help}" if finding.help else ""


def _artifacts(answers: Sequence[Answer], options: RenderOptions) -> list[dict[str, Any]]:
    """Every file that was read, once."""
    files = [
        file
        for answer in answers
        if not isinstance(answer, Failure)
        for file in subject(answer).checkpoint.files
    ]
    return [_artifact(file, options) for file in dict.fromkeys(files)]


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
    entry: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": rule,
        "kind": kind,
        "level": level,
        "message": {"text": finding.sentence + _help(finding)},
        "locations": [_located(finding, options)],
        "partialFingerprints": {
            "ckptclamp/v1": finding.fingerprint,
            # What GitHub tells alerts by; it would take the text of the line, which is one for all
            # tensors that a rule of the spec governs.
            "primaryLocationLineHash": f"{finding.fingerprint[:16]}:1",
        },
    }
    if finding.reason_code is not None:
        entry["properties"] = {"reason": printable(finding.reason_code)}
    result = finding.result
    if result is not None and result.suppressed is not None:
        reason = sentence(result.suppressed.reason)
        entry["suppressions"] = [{"kind": "external", "justification": reason}]
    return entry


def _located(finding: Finding, options: RenderOptions) -> dict[str, Any]:
    """The line of the spec or the file, and as logical locations the tensor in its checkpoint."""
    place = finding.place
    region = {"startLine": place.line or 1, "startColumn": place.column or 1}
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": _location(place, options), "region": region}
    }
    logical = []
    if finding.tensor:
        full = printable(finding.result.tensor) if finding.result else finding.tensor
        within = f"{finding.checkpoint}:" if finding.checkpoint else ""
        logical.append(
            {"name": finding.tensor, "fullyQualifiedName": within + full, "kind": "variable"}
        )
    if finding.checkpoint:
        logical.append({"fullyQualifiedName": finding.checkpoint, "kind": "module"})
    if logical:
        location["logicalLocations"] = logical
    return location


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
