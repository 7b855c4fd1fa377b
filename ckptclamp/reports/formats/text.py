"""Text for people: what is not a pass, where and why, and the whole answer in the last line.

What passes is counted, and listed where more is asked for. A reader begins at the prompt: what is
wrong stands nearest to it, and what is only told stands above. On a terminal names are shortened so
that a row is a line; elsewhere nothing is cut. A run over several checkpoints begins with a table of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ckptclamp.auditing.results import ApplyReport, AuditReport, Verdict
from ckptclamp.auditing.runs import Answer, Document, Failure, Run, checkpoint_of, subject
from ckptclamp.errors import ExitCode, plural, printable
from ckptclamp.reports.findings import (
    Finding,
    Kind,
    Level,
    findings,
    worst_first,
)
from ckptclamp.reports.headlines import answer_line
from ckptclamp.reports.tables import Column, first_that_fits, table_lines, wrapped
from ckptclamp.reports.wording import (
    CHANGE_HEADS,
    LEGEND,
    WORST_HEADS,
    ResultCells,
    about,
    change_cells,
    fetched,
    file_path,
    isolation,
    part_line,
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

    from ckptclamp.auditing.parts.partial import PartialReport
    from ckptclamp.auditing.results import CheckpointSummary, Result
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

_PIECE = 4096
"""Lines that are put together at once."""

_NAMES = {
    "tensor": Column("tensor", shrinks=True, least=14),
    "rule": Column("rule", shrinks=True),
    "rules": Column("rules", shrinks=True),
}
_WORDS = ("constraint", "worst", "verdict")


def _columns(heads: Sequence[str]) -> list[Column]:
    """Names shrink, words are set left, numbers right."""
    return [_NAMES.get(head) or Column(head, right=head not in _WORDS) for head in heads]


def render(report: Document, options: RenderOptions) -> str:
    """Return the report as text that ends with a line break."""
    return "".join(stream(report, options))


def stream(report: Document, options: RenderOptions) -> Iterator[str]:
    """Yield what `render` returns piece by piece: it may have a paragraph for each of many tensors."""
    if isinstance(report, (Failure, Run)):
        lines = iter(overview_lines(report, options, render))
    elif isinstance(report, AuditReport):
        lines = _Page(options).audit(report)
    else:
        lines = _Page(options).apply(report)
    while piece := [*islice(lines, _PIECE)]:
        yield "\n".join(piece) + "\n"


def render_part(part: PartialReport, options: RenderOptions) -> str:
    """Return what one part of an audit found, as text that never reads as the gate's answer."""
    return "\n".join(_Page(options).part(part)) + "\n"


class _Page:
    """The lines of one report under one set of options."""

    def __init__(self, options: RenderOptions) -> None:
        self.options = options

    def audit(self, report: AuditReport) -> Iterator[str]:
        found = findings(report, show_suppressed=self.options.show_suppressed)
        yield from self._body(report, found)
        yield from self._summary(report, report.exit_code)

    def part(self, part: PartialReport) -> Iterator[str]:
        report = part.report
        none = part.exit_code is ExitCode.NOTHING_EVALUATED
        found = [f for f in findings(report) if none or f.code != "nothing-evaluated"]
        yield from self._body(report, found)
        for line in self._wrapped(part_line(part)):
            yield self._paint(_RED if part.exit_code else _YELLOW, line)

    def _body(self, report: AuditReport, found: Sequence[Finding]) -> Iterator[str]:
        """All but the last line."""
        if self.options.verbose >= 0:
            yield from self._heading(report)
            yield ""
            yield from self._findings(found, told=True)
            yield from self._table(report)
            yield from self._findings(found)
        else:
            yield from self._failures(found, strict=report.strict)

    def apply(self, report: ApplyReport) -> Iterator[str]:
        audit = subject(report)
        found = findings(report, show_suppressed=self.options.show_suppressed)
        if self.options.verbose >= 0:
            yield from self._heading(report.before)
            yield ""
            yield from self._findings(found, told=True)
            yield from self._changes(report)
            yield from self._findings(found)
        elif report.exit_code:
            yield from self._failures(found, strict=audit.strict)
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
        if (known := fetched(summary)) is not None:
            yield f"  fetched: {known}"
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
        """What is not a pass, worst first, or all; passes that are not shown are counted."""
        whole = self.options.verbose > 0
        listed = [
            result
            for result in worst_first(report.results)
            if result.suppressed is None or self.options.show_suppressed
        ]
        shown = [r for r in listed if whole or r.verdict is not Verdict.PASS]
        if shown:
            yield from self._rows(shown)
        if len(shown) < len(listed):
            passes = plural(len(listed) - len(shown), "result")
            verb = "passes" if len(listed) - len(shown) == 1 else "pass"
            yield self._paint(_DIM, f"{passes} {verb}; `-v` lists what does")
        if listed:
            yield ""
        if whole and shown:
            yield from self._explanations(shown)

    def _rows(self, shown: list[Result]) -> Iterator[str]:
        rows = [result_cells(result) for result in shown]
        heads = _columns(ResultCells._fields)
        # Where it is narrow, without the constraint, which the rule names, and then without units.
        tables = (
            ([heads[i] for i in kept], [[row[i] for i in kept] for row in rows])
            for kept in (range(7), (0, 1, 3, 4, 5, 6), (0, 1, 4, 5, 6))
        )
        width = self.options.width
        columns, cells = first_that_fits(tables, width)
        del rows
        yield from table_lines(columns, cells, width=width, paint=self._paint_verdict)
        if any(result.verdict is Verdict.NOT_EVALUATED for result in shown):
            yield self._paint(_DIM, LEGEND)

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

    def _findings(self, found: Sequence[Finding], *, told: bool = False) -> Iterator[str]:
        """What is wrong, or only the notes, which nobody need act on."""
        chosen = [finding for finding in found if (finding.level is Level.NOTE) is told]
        short = self.options.width is not None and self.options.verbose < 1
        listed = chosen[: self.options.max_findings] if short else chosen
        for finding in listed:
            yield from self._finding(finding)
            yield ""
        if len(chosen) > len(listed):
            noun, less = ("more note", "") if told else ("more finding", ", less bad")
            yield f"{plural(len(chosen) - len(listed), noun)}{less}; `-v` shows all of them"
            yield ""

    def _failures(self, found: Sequence[Finding], *, strict: bool) -> Iterator[str]:
        """A line for each finding by which the gate does not pass."""
        for finding in found:
            if finding.level is Level.ERROR or (strict and finding.level is Level.WARNING):
                head = f"{finding.level}[{finding.code}]"
                yield f"{self._paint(_LEVEL_COLORS[finding.level], head)}: {finding.sentence}"

    def _finding(self, finding: Finding) -> Iterator[str]:
        head = f"{finding.level}[{finding.code}]"
        first, *rest = self._wrapped(f"{head}: {finding.sentence}")
        yield self._paint(_LEVEL_COLORS[finding.level], head) + first.removeprefix(head)
        yield from rest
        if finding.place.line is not None or finding.kind is Kind.UNMATCHED:
            yield f"  --> {finding.place}"
        if finding.reason_code:
            yield f"  = reason: {printable(finding.reason_code)}"
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
        return wrapped(text, self.options.width)


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
            yield from _line(finding, options) if quiet else _finding(finding, options)
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


def _finding(finding: Finding, options: RenderOptions) -> Iterator[str]:
    yield from _headed(finding, finding.sentence, options)
    if finding.help:
        yield from wrapped(f"  = help: {finding.help}", options.width)


def _line(finding: Finding, options: RenderOptions) -> Iterator[str]:
    """All in one line; what to do where there is no report, which stands nowhere else."""
    told = finding.advised if finding.kind is Kind.FAILURE else finding.sentence
    yield from _headed(finding, told, options)


def _headed(finding: Finding, told: str, options: RenderOptions) -> Iterator[str]:
    color = {Level.ERROR: _RED, Level.WARNING: _YELLOW, Level.NOTE: _BOLD}[finding.level]
    head = f"{finding.level}[{finding.code}]"
    first, *rest = wrapped(f"{head}: {told}", options.width)
    yield _painted(color, head, options) + first.removeprefix(head)
    yield from rest


def _name(answer: Answer) -> str:
    return file_path(checkpoint_of(answer) or "a checkpoint")


def _color(document: Answer | Run) -> str:
    return _RED if document.exit_code else _GREEN


def _painted(color: str, text: str, options: RenderOptions) -> str:
    return f"\x1b[{color}m{text}\x1b[0m" if options.color else text
