"""The text of what is no single report: a run over several checkpoints, and a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptclamp.auditing.results import AuditReport
from ckptclamp.auditing.runs import Answer, Failure, Run, checkpoint_of
from ckptclamp.reports.findings import Finding, Level, findings
from ckptclamp.reports.headlines import answer_line
from ckptclamp.reports.tables import wrapped
from ckptclamp.reports.wording import file_path, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptclamp.reports import RenderOptions

_BOLD, _RED, _GREEN, _YELLOW = "1", "1;31", "32", "1;33"


def overview_lines(
    document: Run | Failure,
    options: RenderOptions,
    render: Callable[[Answer, RenderOptions], str],
) -> Iterator[str]:
    """Yield the lines of `document`; `render` makes the text of one report in it."""
    if isinstance(document, Failure):
        yield from _failure(document, options)
        return
    if options.verbose >= 0:
        for answer in document.answers:
            yield _painted(_BOLD, f"=== {_name(answer)}", options)
            yield from render(answer, options).splitlines()
            yield ""
    quiet = options.verbose < 0
    strict = any(isinstance(answer, AuditReport) and answer.strict for answer in document.answers)
    failing = {Level.ERROR, Level.WARNING} if strict else {Level.ERROR}
    for finding in findings(document):
        # What is said of the run; where sections are left out, what is wrong in them.
        if finding.checkpoint is None or (quiet and finding.level in failing):
            yield from _finding(finding, options, help_=not quiet)
    for answer in document.answers:
        yield from _told(f"{_name(answer)}: {answer_line(answer)}", _color(answer), options)
    yield from _told(answer_line(document), _color(document), options)


def _failure(failure: Failure, options: RenderOptions) -> Iterator[str]:
    for finding in findings(failure):
        yield from _finding(finding, options)
    problems = plural(len(failure.problems), "problem")
    line = f"no report of {_name(failure)}: {problems}; exit {int(failure.exit_code)}"
    yield from _told(line, _RED, options)


def _told(text: str, color: str, options: RenderOptions) -> Iterator[str]:
    """One line, or on a terminal several that are broken between words."""
    for line in wrapped(text, options.width):
        yield _painted(color, line, options)


def _finding(finding: Finding, options: RenderOptions, *, help_: bool = True) -> Iterator[str]:
    color = {Level.ERROR: _RED, Level.WARNING: _YELLOW, Level.NOTE: _BOLD}[finding.level]
    head = f"{finding.level}[{finding.code}]"
    first, *rest = wrapped(f"{head}: {finding.sentence}", options.width)
    yield _painted(color, head, options) + first.removeprefix(head)
    yield from rest
    if finding.help and help_:
        yield from wrapped(f"  = help: {finding.help}", options.width)


def _name(answer: Answer) -> str:
    return file_path(checkpoint_of(answer) or "a checkpoint")


def _color(document: Answer | Run) -> str:
    return _RED if document.exit_code else _GREEN


def _painted(color: str, text: str, options: RenderOptions) -> str:
    return f"\x1b[{color}m{text}\x1b[0m" if options.color else text
