"""Markdown for a step summary or a pull request, under 1 MiB, the worst first.

Whatever comes from a checkpoint stands in a code span: there Markdown has no signs, no links and no
mentions. A bar, which would end a table's cell even there, is written as an escape.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptclamp.auditing.results import ApplyReport, AuditReport, Verdict
from ckptclamp.auditing.runs import Failure, Run, checkpoint_of, subject
from ckptclamp.errors import plural
from ckptclamp.reports.findings import Finding, findings, worst_first
from ckptclamp.reports.headlines import answer_line, headline
from ckptclamp.reports.wording import (
    CHANGE_HEADS,
    LEGEND,
    ResultCells,
    change_cells,
    file_path,
    result_cells,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckptclamp.auditing.results import TensorChange
    from ckptclamp.auditing.runs import Answer, Document, Report
    from ckptclamp.reports import RenderOptions

_ROOM = 900_000
"""Bytes for the rows of all tables of a page."""

_LIST = 60_000
"""Of these, for the list of several checkpoints."""

_MOST = 100
"""How many checkpoints have a section of their own, those that do not pass first."""

_TABLES = 3
"""How many tables one checkpoint has at most."""


def render(report: Document, options: RenderOptions) -> str:
    """Return the page."""
    lines = [f"## ckptclamp: {headline(report)}", "", answer_line(report), ""]
    if isinstance(report, Run):
        lines += _run(report, options)
    else:
        lines += _answer(report, options, _ROOM // _TABLES)
    return "\n".join(lines).rstrip() + "\n"


def _run(run: Run, options: RenderOptions) -> Iterator[str]:
    """A table of all checkpoints, what is said of the run, and a section for each checkpoint."""
    answers = sorted(run.answers, key=lambda answer: not answer.exit_code)
    told = answers[:_MOST]
    room = (_ROOM - 2 * _LIST) // (_TABLES * max(len(told), 1))
    rows = map(_checkpoint_cells, answers)
    yield from _table(("checkpoint", "answer"), rows, len(answers), "checkpoint", _LIST)
    yield ""
    own = [finding for finding in findings(run) if finding.checkpoint is None]
    if own:
        yield from _findings(own, _LIST)
    if len(answers) > len(told):
        yield f"Sections of {plural(len(answers) - len(told), 'more checkpoint')} left out for space."
        yield ""
    for answer in told:
        yield f"## {code(checkpoint_of(answer) or '?')}"
        yield ""
        yield answer_line(answer)
        yield ""
        yield from _answer(answer, options, room)


def _checkpoint_cells(answer: Answer) -> tuple[str, str]:
    return code(checkpoint_of(answer) or "?"), code(answer_line(answer))


def _answer(answer: Answer, options: RenderOptions, room: int) -> Iterator[str]:
    if isinstance(answer, Failure):
        if answer.checkpoint is not None:
            yield f"- checkpoint {code(answer.checkpoint)}"
            yield ""
        yield from _findings(findings(answer), room)
    else:
        yield from _report(answer, options, room)


def _report(report: Report, options: RenderOptions, room: int) -> Iterator[str]:
    audit = subject(report)
    yield from _about(audit)
    yield ""
    if isinstance(report, ApplyReport):
        yield from _changes(report, room)
        yield ""
    found = findings(report, show_suppressed=options.show_suppressed)
    if found:
        yield from _findings(found, room)
    if audit.results:
        yield from _results(audit, room)
        yield ""


def _findings(found: Sequence[Finding], room: int) -> Iterator[str]:
    heading = ("level", "rule", "tensor", "finding", "help")
    yield "### Findings"
    yield ""
    yield from _table(heading, map(_finding_cells, found), len(found), "finding", room)
    yield ""


def code(text: str) -> str:
    """`text` as a code span: a fence longer than any run of backticks in it."""
    inert = file_path(text).replace("|", r"\u{7c}")
    runs = [len(run) for run in re.findall("`+", inert)]
    fence = "`" * (max(runs, default=0) + 1)
    pad = " " if runs or inert != inert.strip() or not inert else ""
    return f"{fence}{pad}{inert}{pad}{fence}"


def _about(audit: AuditReport) -> Iterator[str]:
    summary = audit.checkpoint
    digest = summary.files[0].sha256 if len(summary.files) == 1 else None
    yield f"- checkpoint {code(summary.path)}" + (f", sha256 {code(digest)}" if digest else "")
    if audit.spec_path is not None:
        sha = f", sha256 {code(audit.spec_sha256)}" if audit.spec_sha256 else ""
        yield f"- spec {code(audit.spec_path)}{sha}"
    yield f"- ckptclamp {code(audit.tool_version)}"


def _table(
    heading: Sequence[str], rows: Iterable[Sequence[str]], total: int, noun: str, room: int
) -> Iterator[str]:
    """A table with as many rows as there is room for, and the count of the others."""
    yield _row(heading)
    yield f"|{' --- |' * len(heading)}"
    for shown, row in enumerate(map(_row, rows)):
        room -= len(row.encode()) + 1
        if room < 0:
            yield ""
            yield f"… {plural(total - shown, f'more {noun}')}, left out for space"
            return
        yield row


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _finding_cells(finding: Finding) -> tuple[str, ...]:
    tensor = code(finding.tensor) if finding.tensor else ""
    advice = code(finding.help) if finding.help else ""
    return finding.level.value, code(finding.code), tensor, code(finding.message), advice


def _results(audit: AuditReport, room: int) -> Iterator[str]:
    count = len(audit.results)
    yield f"<details><summary>{plural(count, 'result')}, worst first</summary>"
    yield ""
    rows = (result_cells(result, code) for result in worst_first(audit.results))
    yield from _table(ResultCells._fields, rows, count, "result", room)
    yield ""
    if any(result.verdict is Verdict.NOT_EVALUATED for result in audit.results):
        yield LEGEND
        yield ""
    yield "</details>"


def _changes(report: ApplyReport, room: int) -> Iterator[str]:
    count = len(report.changes)
    yield "### Changes"
    yield ""
    if report.after is None:
        yield "A dry run: nothing was written."
    else:
        yield f"The copy is {code(report.output or '?')}; the counts above are of it, as written."
    yield ""
    if count:
        rows = map(_change_cells, report.changes)
        yield from _table(CHANGE_HEADS, rows, count, "changed tensor", room)
    else:
        yield "Nothing had to change."


def _change_cells(change: TensorChange) -> tuple[str, ...]:
    tensor, rules, *numbers = change_cells(change, code)
    return tensor, code(rules), *numbers
