"""GitLab code quality JSON: one entry for each finding, with a fingerprint that outlives numbers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from ckptclamp.auditing.runs import Failure, answers_of, checkpoint_of, subject
from ckptclamp.errors import plural
from ckptclamp.reports.codec import json_text
from ckptclamp.reports.findings import Finding, Kind, Level, Place, findings
from ckptclamp.reports.headlines import answer_line
from ckptclamp.reports.wording import file_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptclamp.auditing.runs import Answer, Document
    from ckptclamp.reports import RenderOptions

MOST = 5000
_SEVERITIES = {Level.ERROR: "major", Level.WARNING: "minor", Level.NOTE: "info"}


def render(report: Document, options: RenderOptions) -> str:
    """Return the JSON array: the worst 5,000 findings, and entries that count what is not among them."""
    found = findings(report, show_suppressed=options.show_suppressed)
    entries = [_entry(finding, options) for finding in found[:MOST]]
    answers = answers_of(report)
    several = len(answers) > 1
    if len(found) > MOST:
        more = plural(len(found) - MOST, "more finding")
        message = f"{more}, less bad, left out of this report"
        entries.append(
            _count(checkpoint_of(answers[0]), Level.ERROR, "left-out", message, options=options)
        )
    for number, answer in enumerate(answers):
        # One checkpoint may be judged twice.
        again = sum(checkpoint_of(a) == checkpoint_of(answer) for a in answers[:number])
        of = f"{checkpoint_of(answer)} {again}" if several else None
        entries += _hidden(answer, options, of)
    return json_text(entries, indent=1) + "\n"


def _hidden(answer: Answer, options: RenderOptions, of: str | None) -> Iterator[dict[str, Any]]:
    """Entries that count what is no finding of a checkpoint, `of` which, where there are several."""
    if isinstance(answer, Failure):
        return
    census = subject(answer).census
    hidden = {
        "suppressed": census.suppressed,
        "within-tolerance": census.within_tolerance,
        "zero-units": census.zero_allowed,
    }
    path = checkpoint_of(answer)
    message = (
        answer_line(answer) if of is None else f"{file_path(path or '?')}: {answer_line(answer)}"
    )
    for code, units in hidden.items():
        if units:
            yield _count(path, Level.NOTE, code, message, options=options, of=of)


def _entry(finding: Finding, options: RenderOptions) -> dict[str, Any]:
    # What could not be judged outranks what was judged, as it does in the exit code.
    missing = finding.kind in (Kind.FAILURE, Kind.NOT_EVALUATED, Kind.UNMATCHED)
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
    path: str | None,
    level: Level,
    code: str,
    message: str,
    *,
    options: RenderOptions,
    of: str | None = None,
) -> dict[str, Any]:
    """An entry about the report itself, the same one whatever the number in it.

    `of` is the checkpoint that it counts for, where there are several.
    """
    key = "ckptclamp " + code + (f" {of}" if of else "")
    finding = Finding(
        kind=Kind.NOTICE,
        level=level,
        code=code,
        message=message,
        place=Place(path or "."),
        fingerprint=hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest(),
    )
    return _entry(finding, options)
