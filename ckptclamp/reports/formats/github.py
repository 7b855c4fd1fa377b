"""GitHub workflow commands: annotations beside the spec's lines, worst first.

GitHub shows ten annotations for a step and drops the rest without a word, so the tenth counts what
was left out. The census stands in the last line as plain text, and a line for each of several
checkpoints above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.auditing.runs import Run, checkpoint_of
from ckptclamp.errors import plural
from ckptclamp.reports.findings import Finding, Level, findings
from ckptclamp.reports.headlines import answer_line
from ckptclamp.reports.wording import file_path

if TYPE_CHECKING:
    from ckptclamp.auditing.runs import Document
    from ckptclamp.reports import RenderOptions

_MOST = 10
_COMMANDS = {Level.ERROR: "error", Level.WARNING: "warning", Level.NOTE: "notice"}


def render(report: Document, options: RenderOptions) -> str:
    """Return at most ten workflow commands, and the census."""
    found = findings(report, show_suppressed=options.show_suppressed)
    listed = found if len(found) <= _MOST else found[: _MOST - 1]
    lines = [_annotation(finding, options) for finding in listed]
    if len(found) > len(listed):
        lines.append(_left_out(found[len(listed) :]))
    if isinstance(report, Run):
        lines += [f"{file_path(checkpoint_of(a) or '?')}: {answer_line(a)}" for a in report.answers]
    lines.append(answer_line(report))
    return "\n".join(lines) + "\n"


def _annotation(finding: Finding, options: RenderOptions) -> str:
    properties = {}
    if finding.place.path != ".":  # else it is about no file
        properties["file"] = finding.place.relative_to(options.base, options.start)
    if finding.place.line is not None:
        properties["line"] = str(finding.place.line)
        properties["col"] = str(finding.place.column or 1)
    properties["title"] = f"ckptclamp: {finding.code}"
    message = finding.sentence + (f"\nhelp: {finding.help}" if finding.help else "")
    return _command(_COMMANDS[finding.level], properties, message)


def _left_out(rest: tuple[Finding, ...]) -> str:
    """One annotation for all that do not fit, as loud as the loudest of them."""
    message = f"{plural(len(rest), 'more finding')}, not shown here; see the step's log or report"
    return _command(_COMMANDS[rest[0].level], {"title": "ckptclamp"}, message)


def _command(name: str, properties: dict[str, str], message: str) -> str:
    listed = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {listed}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
