"""Text for people: a table, what is wrong and where, and the whole answer in the last line.

Its plain tables serve the other commands too. On a terminal names are shortened in the middle so
that a row is a line; elsewhere nothing is cut.
rich's tables cut a name at its end, where those of one model differ, and cost a gate their import.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptclamp.auditing.results import ApplyReport, AuditReport, Verdict
from ckptclamp.errors import printable
from ckptclamp.reports.findings import Finding, Kind, Level, Report, findings, subject
from ckptclamp.reports.wording import (
    CHANGE_HEADS,
    LEGEND,
    WORST_HEADS,
    ResultCells,
    about,
    change_cells,
    file_path,
    isolation,
    plural,
    result_cells,
    sentence,
    shape_words,
    summary_line,
    tensor_name,
    tolerance_words,
    unit_sentence,
    worst_cells,
    zero_words,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptclamp.auditing.results import CheckpointSummary, Result
    from ckptclamp.errors import ExitCode
    from ckptclamp.reports import RenderOptions

_BOLD, _DIM, _RED, _GREEN, _YELLOW = "1", "2", "1;31", "32", "1;33"
_LEVEL_COLORS = {Level.ERROR: _RED, Level.WARNING: _YELLOW, Level.NOTE: _DIM}
_VERDICT_COLORS = {
    "pass": _GREEN,
    "VIOLATION": _RED,
    "NOT EVALUATED": _YELLOW,
    "warning": _YELLOW,
    "suppressed": _DIM,
}

_GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and how its cells are set.

    Where space is short a column of names `shrinks`, to `least` columns and no further.
    """

    title: str
    right: bool = False
    shrinks: bool = False
    least: int = 8


Table = tuple[Sequence[Column], Sequence[Sequence[str]]]
"""The columns and the rows of one table."""

_NAMES = {
    "tensor": Column("tensor", shrinks=True, least=14),
    "rule": Column("rule", shrinks=True),
    "rules": Column("rules", shrinks=True),
}
_WORDS = ("constraint", "worst", "verdict")


def _columns(heads: Sequence[str]) -> list[Column]:
    """Names shrink, words are set left, numbers right."""
    return [_NAMES.get(head) or Column(head, right=head not in _WORDS) for head in heads]


def render(report: Report, options: RenderOptions) -> str:
    """Return the report as text that ends with a line break."""
    page = _Page(options)
    lines = page.audit(report) if isinstance(report, AuditReport) else page.apply(report)
    return "\n".join(lines) + "\n"


class _Page:
    """The lines of one report under one set of options."""

    def __init__(self, options: RenderOptions) -> None:
        self.options = options

    def audit(self, report: AuditReport) -> Iterator[str]:
        if self.options.verbose >= 0:
            yield from self._heading(report)
            yield ""
            yield from self._table(report)
            yield from self._findings(report)
        yield from self._summary(report, report.exit_code)

    def apply(self, report: ApplyReport) -> Iterator[str]:
        audit = subject(report)
        if self.options.verbose >= 0:
            yield from self._heading(report.before)
            yield ""
            yield from self._changes(report)
            yield from self._findings(report)
        if report.after is None:
            yield from self._summary(audit, report.exit_code, "before: ")
            yield self._paint(_BOLD, "dry run: nothing was written")
        else:
            yield from self._summary(audit, report.exit_code, "after: ")
            yield self._paint(_BOLD, f"copy: {file_path(report.output or '?')}")
            yield from self._digests(audit.checkpoint)

    def _paint(self, color: str, text: str) -> str:
        return f"\x1b[{color}m{text}\x1b[0m" if self.options.color else text

    def _paint_verdict(self, word: str, shown: str) -> str:
        return self._paint(_VERDICT_COLORS.get(word, _BOLD), shown)

    def _heading(self, report: AuditReport) -> Iterator[str]:
        summary = report.checkpoint
        yield f"{self._paint(_BOLD, file_path(summary.path))} ({about(summary)})"
        yield from self._digests(summary)
        if report.spec_path is not None:
            digest = f" (sha256 {printable(report.spec_sha256)})" if report.spec_sha256 else ""
            yield f"  spec: {file_path(report.spec_path)}{digest}"
        if self.options.verbose > 0:
            yield from self._settings(report)

    def _digests(self, summary: CheckpointSummary) -> Iterator[str]:
        """The digest of a single file always, those of many where more was asked for."""
        if len(summary.files) == 1 and summary.files[0].sha256:
            yield f"  sha256: {printable(summary.files[0].sha256)}"
        elif self.options.verbose > 0:
            for file in summary.files:
                yield f"  {printable(file.path)}: sha256 {printable(file.sha256 or '-')}"

    def _settings(self, report: AuditReport) -> Iterator[str]:
        for name, value in sorted(report.parameters.items()):
            yield f"  {printable(name)}: {sentence(value)}"
        yield f"  isolation: {isolation(report.checkpoint)}"
        yield f"  ckptclamp {printable(report.tool_version)}, {report.seconds:.2f} s"

    def _table(self, report: AuditReport) -> Iterator[str]:
        shown = [
            result
            for result in report.results
            if result.suppressed is None or self.options.show_suppressed
        ]
        if not shown:
            return
        rows = [result_cells(result) for result in shown]
        heads = _columns(ResultCells._fields)
        everything = heads, rows
        narrow = [*heads[:2], *heads[3:]], [(*row[:2], *row[3:]) for row in rows]
        width = self.options.width
        columns, cells = first_that_fits([everything, narrow], width)
        yield from table_lines(columns, cells, width=width, paint=self._paint_verdict)
        if any(result.verdict is Verdict.NOT_EVALUATED for result in shown):
            yield self._paint(_DIM, LEGEND)
        yield ""
        if self.options.verbose > 0:
            yield from self._explanations(shown)

    def _explanations(self, results: list[Result]) -> Iterator[str]:
        for result in results:
            yield (
                f"{tensor_name(result)} ({shape_words(result.shape)}, {printable(result.dtype)})"
            )
            yield f"  = unit: {unit_sentence(result)}"
            yield f"  = tolerance: {tolerance_words(result)}"
            if result.zero_allowed:
                yield f"  = allowed: {zero_words(result)}"
            if result.why:
                yield f"  = why: {sentence(result.why)}"
        yield ""

    def _findings(self, report: Report) -> Iterator[str]:
        found = findings(report, show_suppressed=self.options.show_suppressed)
        short = self.options.width is not None and self.options.verbose < 1
        listed = found[: self.options.max_findings] if short else found
        for finding in listed:
            yield from self._finding(finding)
            yield ""
        if len(found) > len(listed):
            more = plural(len(found) - len(listed), "more finding")
            yield f"{more}, less bad; `-v` shows all of them"
            yield ""

    def _finding(self, finding: Finding) -> Iterator[str]:
        head = f"{finding.level}[{finding.code}]"
        first, *rest = self._wrapped(f"{head}: {finding.sentence}")
        yield self._paint(_LEVEL_COLORS[finding.level], head) + first.removeprefix(head)
        yield from rest
        if finding.place.line is not None or finding.kind is Kind.UNMATCHED:
            yield f"  --> {finding.place}"
        result = finding.result
        if result is not None and finding.kind is Kind.VIOLATION:
            yield from self._wrapped(f"  = unit: {unit_sentence(result)}")
            yield from self._worst(result)
            if result.nonfinite:
                yield f"  = note: {plural(result.nonfinite, 'unit')} with non-finite weights"
            if result.unmendable:
                yield f"  = note: no projection can fix {plural(result.unmendable, 'unit')}"
        if finding.help:
            yield from self._wrapped(f"  = help: {finding.help}")

    def _worst(self, result: Result) -> Iterator[str]:
        worst = result.worst[: self.options.max_worst]
        if not worst:
            return
        for line in table_lines(_columns(WORST_HEADS), [worst_cells(unit) for unit in worst]):
            yield f"      {line}"
        if result.violating > len(worst):
            yield f"      … {plural(result.violating - len(worst), 'more violating unit')}"

    def _changes(self, report: ApplyReport) -> Iterator[str]:
        if not report.changes:
            yield "nothing had to change"
            yield ""
            return
        cells = map(change_cells, report.changes)
        rows = [(tensor, rules or "-", *numbers) for tensor, rules, *numbers in cells]
        yield from table_lines(_columns(CHANGE_HEADS), rows, width=self.options.width)
        changed = sum(change.changed for change in report.changes)
        verb = "would change" if report.after is None else "changed"
        yield (
            f"{plural(changed, 'unit')} in {plural(len(report.changes), 'tensor')} {verb} "
            f"(projection: {printable(report.projection)})"
        )
        yield ""

    def _summary(self, audit: AuditReport, exit_code: ExitCode, about: str = "") -> Iterator[str]:
        for line in self._wrapped(f"{about}{summary_line(audit, exit_code)}"):
            yield self._paint(_RED if exit_code else _GREEN, line)

    def _wrapped(self, text: str) -> list[str]:
        """One line, or on a terminal several that are broken between words."""
        width = self.options.width
        if width is None or cell_width(text) <= width:
            return [text]
        return textwrap.wrap(
            text, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )


def cell_width(text: str) -> int:
    """Columns of a terminal that `text` takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def elide(text: str, width: int) -> str:
    """Cut `text` so that it takes at most `width` columns, and keep more of its end.

    Names of one model differ most in their last part.
    """
    if cell_width(text) <= width:
        return text
    head = _fitting(text, (width - 1) * 2 // 5)
    tail = _fitting(text[::-1], width - 1 - cell_width(head))[::-1]
    return f"{head}…{tail}"


def _fitting(text: str, width: int) -> str:
    """As much of the beginning of `text` as `width` columns hold."""
    end = 0
    while end < len(text) and cell_width(text[: end + 1]) <= width:
        end += 1
    return text[:end]


def table_lines(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None = None,
    paint: Callable[[str, str], str] | None = None,
) -> Iterator[str]:
    """Yield a heading and a line a row, without trailing spaces.

    With a `width`, columns of names are shortened in step until a line fits. `paint(cell, padded)`
    colours the last cell of a row.
    """
    widths = _widths(columns, rows, width)
    yield _line(columns, [column.title for column in columns], widths).rstrip()
    for row in rows:
        cells = [elide(cell, room) for cell, room in zip(row, widths, strict=True)]
        line = _line(columns, cells, widths).rstrip()
        if paint is not None and cells[-1]:
            line = line.removesuffix(cells[-1]) + paint(row[-1], cells[-1])
        yield line


def fits(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> bool:
    """Whether the table needs no shortening at `width`."""
    return _total(_widths(columns, rows, None)) <= width


def first_that_fits(tables: Sequence[Table], width: int | None) -> Table:
    """The first of `tables`, richest first, that needs no shortening at `width`, or the last."""
    if width is None:
        return tables[0]
    return next((table for table in tables if fits(*table, width)), tables[-1])


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _widths(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None
) -> list[int]:
    widths = [
        max([len(column.title), *(cell_width(row[i]) for row in rows)])
        for i, column in enumerate(columns)
    ]
    while width is not None and _total(widths) > width:
        longest = [
            i for i, column in enumerate(columns) if column.shrinks and widths[i] > column.least
        ]
        if not longest:
            break
        widths[max(longest, key=lambda i: widths[i] / columns[i].least)] -= 1
    return widths


def _line(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(
        " " * (room - cell_width(cell)) + cell
        if column.right
        else cell + " " * (room - cell_width(cell))
        for column, cell, room in zip(columns, cells, widths, strict=True)
    )
