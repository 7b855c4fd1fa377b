"""What a reader must act on, worst first: the one list behind every format that lists findings.

A finding is a violation, a result that was not evaluated, a rule that matched nothing (or that there
was nothing to judge at all), a failure to judge at all, or a notice.
Its texts are printable already; a format adds only the escaping of its own signs.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from dataclasses import replace
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from ckptclamp.auditing.results import ApplyReport, AuditReport, Verdict
from ckptclamp.auditing.runs import Document, Failure, Report, Run, checkpoint_of, subject
from ckptclamp.constraints.registry import measured_words
from ckptclamp.errors import ExitCode, plural, printable
from ckptclamp.frozen import frozen
from ckptclamp.plan import Origin
from ckptclamp.reports.wording import (
    file_path,
    number,
    relative_excess,
    sentence,
    tensor_name,
    unit_index,
    unit_value,
    unmatched_words,
    zero_words,
)
from ckptclamp.spec.model import Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckptclamp.auditing.results import Result
    from ckptclamp.errors import Notice

_SPEC_PLACE = re.compile(r"(?P<path>.+):(?P<line>[1-9]\d{0,8}):(?P<column>[1-9]\d{0,8})", re.DOTALL)


class Kind(IntEnum):
    """What a finding is about, in the order in which findings are told."""

    FAILURE = 0
    VIOLATION = 1
    NOT_EVALUATED = 2
    UNMATCHED = 3
    NOTICE = 4


class Level(StrEnum):
    """How loud a finding is."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@frozen
class Place:
    """Where a finding is shown: a line of the spec (counted from 1), or a file without lines."""

    path: str
    line: int | None = None
    column: int | None = None

    def relative_to(self, base: Path, start: Path) -> str:
        """The path from `base` if it lies below it, else the absolute path; printable.

        `start` is the directory from which a relative path leads.
        """
        absolute = Path(os.path.normpath(start / self.path))
        inside = absolute.is_relative_to(base)
        return file_path(str(absolute.relative_to(base) if inside else absolute))

    def __str__(self) -> str:
        numbers = [str(n) for n in (self.line, self.column) if n is not None]
        return ":".join([printable(self.path), *numbers])


@frozen
class Finding:
    """One thing to act on.

    `code` is the rule's id or the notice's code. `place.path` is the raw path; all other texts are
    printable. `fingerprint` (64 hexadecimal digits) depends on kind, tensor and code alone, so that
    a finding keeps it while its numbers change. `checkpoint` is set where the report
    does not tell it, or is about several.
    """

    kind: Kind
    level: Level
    code: str
    message: str
    place: Place
    fingerprint: str
    tensor: str | None = None
    help: str | None = None
    result: Result | None = None
    checkpoint: str | None = None

    @property
    def sentence(self) -> str:
        """The message with the tensor that it is about, and the checkpoint if there are several."""
        return ": ".join(filter(None, (self.checkpoint, self.tensor, self.message)))

    @property
    def reason_code(self) -> str | None:
        """The kind of reason for which something was not evaluated, if it was not."""
        return None if self.result is None else self.result.reason_code

    @property
    def advised(self) -> str:
        """The sentence with what to do about it, in one line."""
        return f"{self.sentence} ({self.help})" if self.help else self.sentence


def findings(document: Document, *, show_suppressed: bool = False) -> tuple[Finding, ...]:
    """Everything to act on in `document`: errors before warnings before notes, worst first."""
    numbered = _Fingerprints()
    if isinstance(document, Run):
        found = list(_from_run(document, show_suppressed=show_suppressed))
    elif isinstance(document, Failure):
        found = list(_from_failure(document, numbered))
    else:
        audit = subject(document)
        found = [
            *_from_results(audit, numbered, show_suppressed=show_suppressed),
            *_from_unmatched(audit, numbered),
            *_from_notices(document, audit, numbered),
        ]
    levels = list(Level)
    return tuple(sorted(found, key=lambda finding: (levels.index(finding.level), finding.kind)))


def _from_run(run: Run, *, show_suppressed: bool) -> Iterator[Finding]:
    """The findings of each answer, known by its checkpoint, and what is said of all."""
    numbered = _Fingerprints()
    seen: Counter[str] = Counter()
    for answer in run.answers:
        path = checkpoint_of(answer) or "-"
        seen[path] += 1  # one file may be judged twice, by two specs
        for finding in findings(answer, show_suppressed=show_suppressed):
            own = numbered(finding.kind, f"{path}\0{seen[path]}", finding.fingerprint)
            yield replace(finding, checkpoint=file_path(path), fingerprint=own)
    for notice in run.notices:
        yield _noticed(notice, Place("."), numbered)


def _from_failure(failure: Failure, numbered: _Fingerprints) -> Iterator[Finding]:
    for problem in failure.problems:
        place = Place(problem.path or failure.checkpoint or ".", problem.line, problem.column)
        named = problem.path is not None and problem.path != failure.checkpoint
        message = f"{place}: {sentence(problem.message)}" if named else sentence(problem.message)
        yield Finding(
            kind=Kind.FAILURE,
            level=Level.ERROR,
            code=failure.code,
            message=message,
            place=place,
            fingerprint=numbered(Kind.FAILURE, problem.tensor, failure.code),
            tensor=None if problem.tensor is None else printable(problem.tensor),
            help=sentence(problem.hint) if problem.hint else None,
            checkpoint=None if failure.checkpoint is None else file_path(failure.checkpoint),
        )


def worst_first(results: Iterable[Result]) -> list[Result]:
    """Violations, worst first, then what was not evaluated, then the rest, each in file order."""
    return sorted(results, key=_badness)


def _badness(result: Result) -> tuple[int, float]:
    order = (Verdict.VIOLATION, Verdict.NOT_EVALUATED, Verdict.PASS)
    rank = order.index(result.verdict) + 3 * (result.suppressed is not None)
    if result.verdict is not Verdict.VIOLATION:
        return rank, 0.0
    excess = result.worst[0].excess if result.worst and not result.nonfinite else None
    return rank, -math.inf if excess is None or math.isnan(excess) else -excess


class _Fingerprints:
    """Digests that never repeat within one report: the n-th of a kind counts itself in."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[str, ...]] = Counter()

    def __call__(self, kind: Kind, tensor: str | None, code: str) -> str:
        key = (kind.name, tensor or "", code)
        nth = self._seen[key]
        self._seen[key] += 1
        text = "\0".join([*key, str(nth)] if nth else key)
        import hashlib

        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _from_results(
    audit: AuditReport, numbered: _Fingerprints, *, show_suppressed: bool
) -> Iterator[Finding]:
    for result in worst_first(audit.results):
        if result.verdict is Verdict.PASS or (result.suppressed and not show_suppressed):
            continue
        missing = result.verdict is Verdict.NOT_EVALUATED
        kind = Kind.NOT_EVALUATED if missing else Kind.VIOLATION
        yield Finding(
            kind=kind,
            level=_level(result),
            code=printable(result.rule),
            message=_not_evaluated(result) if missing else _violation(result),
            place=_place(result, audit),
            fingerprint=numbered(kind, result.tensor, result.rule),
            tensor=tensor_name(result),
            help=sentence(result.hint) if result.hint else None,
            result=result,
        )


def _level(result: Result) -> Level:
    if result.suppressed is not None:
        return Level.NOTE
    if result.verdict is Verdict.NOT_EVALUATED or result.severity is Severity.ERROR:
        return Level.ERROR
    return Level.WARNING


def _violation(result: Result) -> str:
    count = f"{result.violating:,} of {plural(result.units, 'unit')}"
    verb = "violates" if result.violating == 1 else "violate"
    message = f"{count} {verb} {printable(result.constraint)}"
    if result.worst:
        worst = result.worst[0]
        where = f"unit {unit_index(worst.index)}" if worst.index else "the whole tensor"
        over = relative_excess(worst.excess)
        words = "" if worst.nonfinite else measured_words(result.constraint)
        value = unit_value(worst, result.unit_size)
        message += f"; worst is {where}: {f'{words} {value}'.lstrip()}"
        message += "" if over == "-" else f" ({over})"
    if result.zero:
        message += f"; {zero_words(result)}"
    if result.epsilon is not None:
        message += f"; an epsilon of {number(result.epsilon)} explains these"
    if result.suppressed is not None:
        message += f" (suppressed by {sentence(result.suppressed.by)}: "
        message += f"{sentence(result.suppressed.reason)})"
    return message


def _not_evaluated(result: Result) -> str:
    return f"not evaluated against {printable(result.constraint)}: {sentence(result.reason or '?')}"


def _place(result: Result, audit: AuditReport) -> Place:
    """The rule's line in the spec; for a declared constraint, the checkpoint that declares it."""
    place = _spec_place(result.location) if result.origin is Origin.SPEC else None
    return place or Place(audit.checkpoint.path)


def _spec_place(location: str | None) -> Place | None:
    match = _SPEC_PLACE.fullmatch(location or "")
    return match and Place(match["path"], int(match["line"]), int(match["column"]))


def _from_unmatched(audit: AuditReport, numbered: _Fingerprints) -> Iterator[Finding]:
    for unmatched in audit.unmatched:
        in_a_file = unmatched.location is not None
        yield Finding(
            kind=Kind.UNMATCHED,
            level=Level.ERROR,
            code=printable(unmatched.rule),
            message=unmatched_words(unmatched),
            place=_spec_place(unmatched.location)
            or Place(audit.spec_path or audit.checkpoint.path),
            fingerprint=numbered(Kind.UNMATCHED, None, unmatched.rule),
            help="fix its pattern" + (", or let it say `required: false`" * in_a_file),
        )
    if audit.exit_code is ExitCode.NOTHING_EVALUATED and not audit.unmatched:
        yield Finding(
            kind=Kind.UNMATCHED,
            level=Level.ERROR,
            code="nothing-evaluated",
            message="it declares no constraint, and no rule applies to a tensor of it",
            place=Place(audit.checkpoint.path),
            fingerprint=numbered(Kind.UNMATCHED, None, "nothing-evaluated"),
            help="give a spec (`ckptclamp init` writes a first one), or --preset health",
        )


def _from_notices(report: Report, audit: AuditReport, numbered: _Fingerprints) -> Iterator[Finding]:
    own = report.notices if isinstance(report, ApplyReport) else ()
    names = {result.tensor: tensor_name(result) for result in audit.results}
    for notice in (*own, *audit.all_notices):
        yield _noticed(notice, Place(audit.checkpoint.path), numbered, names)


def _noticed(
    notice: Notice, place: Place, numbered: _Fingerprints, names: Mapping[str, str] | None = None
) -> Finding:
    """A notice as a finding; `names` are those by which people know tensors."""
    tensor = notice.tensor
    shown = None if tensor is None else (names or {}).get(tensor) or printable(tensor)
    return Finding(
        kind=Kind.NOTICE,
        level=Level.NOTE if notice.informational else Level.WARNING,
        code=printable(notice.code),
        message=sentence(notice.message),
        place=place,
        fingerprint=numbered(Kind.NOTICE, tensor, notice.code),
        tensor=shown,
        help=sentence(notice.hint) if notice.hint else None,
    )
