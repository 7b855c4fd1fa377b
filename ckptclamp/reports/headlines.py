"""What a whole document comes to, in a line: of one report, of a failure, and of several."""

from __future__ import annotations

from ckptclamp.auditing.results import AuditReport
from ckptclamp.auditing.runs import Document, Failure, Run, subject
from ckptclamp.errors import ExitCode, plural, printable
from ckptclamp.reports.wording import (
    counted_words,
    sentence,
    summary_line,
    verdict_sentence,
)

_FAILURES = {
    ExitCode.USAGE: "Fail: the command line, the settings or the spec is wrong",
    ExitCode.INCOMPLETE: "Fail: there is no report, something could not be read",
    ExitCode.NOTHING_EVALUATED: "Fail: nothing was evaluated",
    ExitCode.NOT_WRITTEN: "Fail: no copy was written",
}


def headline(document: Document) -> str:
    """The first line of a page."""
    match document:
        case AuditReport():
            return verdict_sentence(document)
        case Failure():
            return _FAILURES[document.exit_code]
        case Run():
            return _run_headline(document)
    return verdict_sentence(document.after) if document.after else "Dry run: nothing was written"


def _run_headline(run: Run) -> str:
    """How many checkpoints pass; an unqualified pass only where all do."""
    count, failed = len(run.answers), sum(bool(answer.exit_code) for answer in run.answers)
    if not count:
        return _FAILURES[ExitCode.NOTHING_EVALUATED]
    if failed:
        verb = "does" if failed == 1 else "do"
        return f"Fail: {failed:,} of {plural(count, 'checkpoint')} {verb} not pass"
    return f"Pass: {plural(count, 'checkpoint')}"


def answer_line(document: Document) -> str:
    """What a document comes to in one line that ends with its exit code."""
    match document:
        case Failure():
            return f"{_no_report(document)}; exit {int(document.exit_code)}"
        case Run():
            return _run_line(document)
    return summary_line(subject(document), document.exit_code)


def _no_report(failure: Failure) -> str:
    """``no report: 3 problems``, or the one problem itself."""
    if len(failure.problems) != 1:
        return f"no report: {plural(len(failure.problems), 'problem')}"
    (problem,) = failure.problems
    other = problem.path not in (None, failure.checkpoint)
    told = f"{printable(str(problem.path))}: {problem.message}" if other else problem.message
    return f"no report: {sentence(told)}"


def _run_line(run: Run) -> str:
    failed = sum(bool(answer.exit_code) for answer in run.answers)
    unread = sum(isinstance(answer, Failure) for answer in run.answers)
    counts = [f"{len(run.answers) - failed:,} pass", f"{failed:,} fail"]
    if unread:
        counts.append(f"{unread:,} without a report")
    parts = [f"{plural(len(run.answers), 'checkpoint')}: {', '.join(counts)}"]
    unmatched = sum(len(subject(a).unmatched) for a in run.answers if not isinstance(a, Failure))
    return "; ".join([*parts, *counted_words(run.census, unmatched), f"exit {int(run.exit_code)}"])
