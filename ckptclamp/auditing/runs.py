"""What a run answers that is more, or less, than one audit: several checkpoints, or a failure.

An `Answer` is about one checkpoint: an audit, a copy, or why there is neither. A `Run` has several.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from ckptclamp.auditing.results import ApplyReport, AuditReport, Summary
from ckptclamp.errors import ExitCode, Notice
from ckptclamp.frozen import frozen


@frozen
class Problem:
    """One thing that went wrong: what, where (line and column count from 1), and what to do."""

    message: str
    path: str | None = None
    line: int | None = None
    column: int | None = None
    tensor: str | None = None
    hint: str | None = None


@frozen
class Failure:
    """Why there is no report about a checkpoint.

    `command` is what was asked for (``audit``). `checkpoint` is the path that was given, ``None``
    where none was understood. `code` is the kind of failure, as the classes of `ckptclamp.errors`
    name it.
    """

    command: str
    code: str
    exit_code: ExitCode
    problems: tuple[Problem, ...]
    checkpoint: str | None = None
    tool_version: str = ""


Report = AuditReport | ApplyReport
"""What an audit or an apply found."""

Answer = Report | Failure
"""What one checkpoint came to."""


@frozen
class Run:
    """The answers about several checkpoints, in the order in which they were asked for."""

    answers: tuple[Answer, ...]
    notices: tuple[Notice, ...] = ()
    tool_version: str = ""
    seconds: float = 0.0

    @property
    def exit_code(self) -> ExitCode:
        """One answer for all; a run of nothing has evaluated nothing."""
        return outranking(answer.exit_code for answer in self.answers)

    @property
    def census(self) -> Summary:
        """The sum of what was counted in each; failures count nothing."""
        counted = [subject(a).census for a in self.answers if not isinstance(a, Failure)]
        names = [field.name for field in fields(Summary)]
        sums = {name: sum(getattr(census, name) for census in counted) for name in names}
        sums["warnings"] += sum(not notice.informational for notice in self.notices)
        return Summary(**sums)


Document = Answer | Run
"""What a report is made of."""

_RANK = (
    ExitCode.USAGE,
    ExitCode.NOT_WRITTEN,
    ExitCode.INCOMPLETE,
    ExitCode.NOTHING_EVALUATED,
    ExitCode.VIOLATIONS,
    ExitCode.OK,
)


def outranking(codes: Iterable[ExitCode]) -> ExitCode:
    """The one exit code of several: what could not be judged before what was; 4 for none."""
    return min(codes, key=_RANK.index, default=ExitCode.NOTHING_EVALUATED)


def subject(report: Report) -> AuditReport:
    """The audit that a report's answer is about: for an apply, that of the copy if there is one."""
    return report if isinstance(report, AuditReport) else report.after or report.before


def answers_of(document: Document) -> tuple[Answer, ...]:
    """The answers in `document`, of which most documents are one."""
    return document.answers if isinstance(document, Run) else (document,)


def checkpoint_of(answer: Answer) -> str | None:
    """The path of the checkpoint that `answer` is about."""
    return answer.checkpoint if isinstance(answer, Failure) else subject(answer).checkpoint.path


def version_of(document: Document) -> str:
    """The version of this program that made `document`."""
    if isinstance(document, (Failure, Run)):
        return document.tool_version
    return subject(document).tool_version


def seconds_of(document: Document) -> float:
    """How long it took to make `document`; what failed is not counted."""
    match document:
        case Failure():
            return 0.0
        case Run():
            return document.seconds
    return subject(document).seconds
