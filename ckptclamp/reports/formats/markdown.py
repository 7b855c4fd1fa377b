"""Markdown for a step summary or a pull request, under 1 MiB, the worst first.

Whatever comes from a checkpoint stands in a code span: there Markdown has no signs, no links and no
mentions. A bar, which would end a table's cell even there, is written as an escape.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptclamp.auditing.results import ApplyReport, AuditReport, Verdict
from ckptclamp.reports.findings import Finding, Report, findings, subject, worst_first
from ckptclamp.reports.wording import (
    CHANGE_HEADS,
    LEGEND,
    ResultCells,
    change_cells,
    file_path,
    headline,
    plural,
    result_cells,
    summary_line,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckptclamp.auditing.results import TensorChange
    from ckptclamp.reports import RenderOptions

_ROOM = 300_000
"""Bytes for the rows of one table; a page has three at most."""


def render(report: Report, options: RenderOptions) -> str:
    """Return the page."""
    audit = subject(report)
    lines = [f"## ckptclamp: {headline(report)}", ""]
    lines += [summary_line(audit, report.exit_code), "", *_about(audit), ""]
    if isinstance(report, ApplyReport):
        lines += [*_changes(report), ""]
    found = findings(report, show_suppressed=options.show_suppressed)
    if found:
        heading = ("level", "rule", "tensor", "finding", "help")
        rows = map(_finding_cells, found)
        lines += ["### Findings", "", *_table(heading, rows, len(found), "finding"), ""]
    if audit.results:
        lines += [*_results(audit), ""]
    return "\n".join(lines).rstrip() + "\n"


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
    heading: Sequence[str], rows: Iterable[Sequence[str]], total: int, noun: str
) -> Iterator[str]:
    """A table with as many rows as there is room for, and the count of the others."""
    yield _row(heading)
    yield f"|{' --- |' * len(heading)}"
    room = _ROOM
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


def _results(audit: AuditReport) -> Iterator[str]:
    count = len(audit.results)
    yield f"<details><summary>{plural(count, 'result')}, worst first</summary>"
    yield ""
    rows = (result_cells(result, code) for result in worst_first(audit.results))
    yield from _table(ResultCells._fields, rows, count, "result")
    yield ""
    if any(result.verdict is Verdict.NOT_EVALUATED for result in audit.results):
        yield LEGEND
        yield ""
    yield "</details>"


def _changes(report: ApplyReport) -> Iterator[str]:
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
        yield from _table(CHANGE_HEADS, rows, count, "changed tensor")
    else:
        yield "Nothing had to change."


def _change_cells(change: TensorChange) -> tuple[str, ...]:
    tensor, rules, *numbers = change_cells(change, code)
    return tensor, code(rules), *numbers
