"""The master report: versioned JSON that holds everything, written and read back.

All other formats can be made from it. `docs/report-format.md` tells what is stable in it;
`schemas/report-1.schema.json` is its schema. A failure, and a run over several checkpoints, have
formats of their own; a run holds what each checkpoint would have had alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from ckptclamp.auditing.results import ApplyReport, AuditReport, Result, Summary, WorstUnit
from ckptclamp.auditing.runs import Answer, Document, Failure, Report, Run, subject
from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import ExitCode, Notice, RefusedError, UsageError, printable
from ckptclamp.reports import whole_file
from ckptclamp.reports.codec import MisfitError, Value, codec, json_text

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from ckptclamp.reports import RenderOptions

SCHEMA = "ckptclamp-report-1"
"""The name of the format; a change that could break a reader counts it up."""

FAILURE_SCHEMA = "ckptclamp-failure-1"
RUN_SCHEMA = "ckptclamp-run-1"

MAX_BYTES = 1 << 29
"""The longest document that is read."""
MAX_DEPTH = 16
_HEAD = 256
_KINDS = {"audit": codec(AuditReport), "apply": codec(ApplyReport)}


def render(report: Document, options: RenderOptions) -> str:
    """Return the whole report; no option shortens it. ASCII, one line for each result."""
    return "".join(stream(report, options))


def stream(report: Document, options: RenderOptions) -> Iterator[str]:
    """Yield what `render` returns piece by piece, so that a large report need not be in memory."""
    del options
    yield from lines(_run(report) if isinstance(report, Run) else _answer(report), "")
    yield "\n"


def _run(run: Run) -> dict[str, Any]:
    return {
        "schema": RUN_SCHEMA,
        "exit_code": int(run.exit_code),
        "census": codec(Summary).encode(run.census),
        "tool_version": codec(str).encode(run.tool_version),
        "seconds": codec(float).encode(run.seconds),
        "notices": [codec(Notice).encode(notice) for notice in run.notices],
        "checkpoints": map(_answer, run.answers),
    }


def _answer(answer: Answer) -> dict[str, Any]:
    """What would be written about one checkpoint alone."""
    if isinstance(answer, Failure):
        return {"schema": FAILURE_SCHEMA, **codec(Failure).encode(answer)}
    kind = "audit" if isinstance(answer, AuditReport) else "apply"
    return {
        "schema": SCHEMA,
        "kind": kind,
        "exit_code": int(answer.exit_code),
        "census": codec(Summary).encode(subject(answer).census),
        "report": _audit(answer) if isinstance(answer, AuditReport) else _apply(answer),
    }


def _audit(report: AuditReport) -> dict[str, Any]:
    """The members of an audit; its results are encoded one by one, as they are written."""
    members: dict[str, Any] = codec(AuditReport).encode(replace(report, results=()))
    members["results"] = map(codec(Result).encode, report.results)
    return members


def _apply(report: ApplyReport) -> dict[str, Any]:
    bare = replace(report, before=replace(report.before, results=()), after=None)
    members: dict[str, Any] = codec(ApplyReport).encode(bare)
    members["before"] = _audit(report.before)
    members["after"] = None if report.after is None else _audit(report.after)
    return members


def lines(value: Value, indent: str) -> Iterator[str]:
    """Yield `value` as JSON: objects a line a member, arrays of objects a line an item, all else in one line."""
    inner = indent + " "
    if isinstance(value, dict) and not all(map(_is_plain, value.values())):
        for i, (key, member) in enumerate(value.items()):
            yield f"{',' if i else '{'}\n{inner}{json_text(key)}: "
            yield from lines(member, inner)
        yield f"\n{indent}}}"
    elif isinstance(value, map) or (isinstance(value, list) and not all(map(_is_plain, value))):
        opening = "["
        for item in value:
            yield f"{opening}\n{inner}"
            yield from lines(item, inner) if _is_document(item) else (json_text(item),)
            opening = ","
        yield f"\n{indent}]" if opening == "," else "[]"
    else:
        yield json_text(value)


def _is_plain(value: Value) -> bool:
    return not isinstance(value, (dict, list, map))


def _is_document(value: Value) -> bool:
    return isinstance(value, dict) and "schema" in value


def read_document(path: Path) -> Document:
    """Read the JSON at `path`: a report, a failure or a run.

    Raises:
        UnreadableError: it cannot be read, or is no JSON with one meaning.
        UsageError: it is none of these in this version.
    """
    with closing(Source.open(path)) as source:
        if source.size > MAX_BYTES:
            raise RefusedError(f"is {source.size} bytes long, too large for a report", path=path)
        return load_document(source.read_at(0, source.size), path=path)


def read_report(path: Path) -> Report:
    """Read the JSON report at `path`, of one audit or apply.

    Raises:
        UnreadableError: it cannot be read, or is no JSON with one meaning.
        UsageError: it is no report of this version, or one of a failure or of several checkpoints.
    """
    document = read_document(path)
    if isinstance(document, Failure | Run):
        failed = isinstance(document, Failure)
        what = "tells of a failure" if failed else "is of several checkpoints"
        raise UsageError(f"{what}; the report of one audit is needed here", path=path)
    return document


def is_report(path: Path) -> bool:
    """Tell whether `path` begins as a JSON report does; `read_report` makes sure."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    named = any(schema.encode() in head for schema in (SCHEMA, FAILURE_SCHEMA, RUN_SCHEMA))
    return head.lstrip().startswith(b"{") and named


def load_document(data: bytes | str, *, path: str | PathLike[str] | None = None) -> Document:
    """Read what `render` wrote; `path` is where it came from, for messages.

    Raises:
        RefusedError: it is no JSON, or JSON with two readings.
        UsageError: it is no report of this version, a value does not fit, or the exit code and the
            census that it states are not those of its results.
    """
    encoded = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    document = parse_strict(
        encoded, max_depth=MAX_DEPTH, max_bytes=MAX_BYTES, what="report", path=path
    )
    try:
        if isinstance(document, dict) and document.get("schema") == RUN_SCHEMA:
            return _checked_run(document)
        return _checked_answer(document, "$")
    except MisfitError as error:
        raise UsageError(
            f"this is no report that can be read: {printable(str(error))}",
            path=path,
            hint=f"it must be a `{SCHEMA}` file, as `-o json=FILE` writes it",
        ) from None


def _checked_run(document: dict[str, Value]) -> Run:
    members = {"schema", "exit_code", "census", "tool_version", "seconds", "notices", "checkpoints"}
    check_members(document, members, "$")
    answers = document.get("checkpoints")
    notices = document.get("notices")
    if not isinstance(answers, list) or not isinstance(notices, list):
        raise MisfitError("$.checkpoints and $.notices must be arrays")
    run = Run(
        tuple(_checked_answer(a, f"$.checkpoints[{i}]") for i, a in enumerate(answers)),
        tuple(codec(Notice).decode(n, f"$.notices[{i}]") for i, n in enumerate(notices)),
        codec(str).decode(document.get("tool_version"), "$.tool_version"),
        codec(float).decode(document.get("seconds"), "$.seconds"),
    )
    check_answer(document, run.exit_code, run.census, "$")
    return run


def _checked_answer(document: Value, place: str) -> Answer:
    if isinstance(document, dict) and document.get("schema") == FAILURE_SCHEMA:
        failure = {key: value for key, value in document.items() if key != "schema"}
        return _checked_failure(codec(Failure).decode(failure, place), place)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise MisfitError(f"{place}.schema must be {SCHEMA!r}")
    check_members(document, {"schema", "kind", "exit_code", "census", "report"}, place)
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise MisfitError(f"{place}.kind must be audit or apply")
    report = _KINDS[kind].decode(document.get("report"), f"{place}.report")
    assert isinstance(report, (AuditReport, ApplyReport))
    check_answer(document, report.exit_code, subject(report).census, place)
    return report


def _checked_failure(failure: Failure, place: str) -> Failure:
    """A failure that says nothing, or that nothing failed, would read as a pass."""
    if failure.exit_code in (ExitCode.OK, ExitCode.VIOLATIONS) or not failure.problems:
        raise MisfitError(f"{place} is no failure")
    return failure


def check_members(document: dict[str, Value], known: set[str], place: str) -> None:
    """Raise `MisfitError` if `document`, which stands at `place`, has members that are not `known`."""
    unknown = document.keys() - known
    if unknown:
        raise MisfitError(f"{place} has {min(unknown)!r}, which is unknown here")


def check_answer(document: dict[str, Value], code: ExitCode, counts: Summary, place: str) -> None:
    """Refuse an exit code or a census that is not that of the results."""
    if codec(int).decode(document.get("exit_code"), f"{place}.exit_code") != code:
        raise MisfitError(f"{place}.exit_code is not that of its results")
    stated, census = document.get("census"), codec(Summary).encode(counts)
    codec(Summary).decode(stated, f"{place}.census")
    # Earlier releases did not count all of it.
    if stated is None or stated != {key: census[key] for key in stated}:
        raise MisfitError(f"{place}.census is not that of its results")


class UnitsWriter:
    """Writes every violating unit to an open file as JSON Lines, while the audit runs.

    A report keeps the worst few units of a tensor; whoever needs all of them asks for this file. One
    line is one unit: ``{"tensor", "rule", "index", "measured", "bound", "distance", "excess",
    "nonfinite", "zero"}``, with numbers as in the JSON report.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, tensor: str, rule: str, unit: WorstUnit, checkpoint: str | None = None) -> None:
        """Write one violating unit of `tensor` under `rule`, both by their full names.

        `checkpoint` is the path of theirs, where there are several.
        """
        named = {"tensor": codec(str).encode(tensor), "rule": codec(str).encode(rule)}
        if checkpoint is not None:
            named = {"checkpoint": codec(str).encode(checkpoint), **named}
        line = json_text(named | codec(WorstUnit).encode(unit))
        self._file.write(line.encode() + b"\n")


@contextmanager
def units_file(path: Path) -> Iterator[UnitsWriter]:
    """A writer whose file appears at `path` when the block ends well, and not at all otherwise.

    Raises:
        CkptclampError: the file could not be written (exit 3).
    """
    with whole_file(path) as file:
        yield UnitsWriter(file)
