"""The master report: versioned JSON that holds everything, written and read back.

All other formats can be made from it. `docs/report-format.md` tells what is stable in it;
`schemas/report-1.schema.json` is its schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from ckptclamp.auditing.results import ApplyReport, AuditReport, Result, Summary, WorstUnit
from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import RefusedError, UsageError, printable
from ckptclamp.reports import whole_file
from ckptclamp.reports.codec import MisfitError, Value, codec, json_text
from ckptclamp.reports.findings import Report, subject

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from ckptclamp.reports import RenderOptions

SCHEMA = "ckptclamp-report-1"
"""The name of the format; a change that could break a reader counts it up."""

_MAX_BYTES = 1 << 29
_MAX_DEPTH = 16
_HEAD = 256
_KINDS = {"audit": codec(AuditReport), "apply": codec(ApplyReport)}


def render(report: Report, options: RenderOptions) -> str:
    """Return the whole report; no option shortens it. ASCII, one line for each result."""
    return "".join(stream(report, options))


def stream(report: Report, options: RenderOptions) -> Iterator[str]:
    """Yield what `render` returns piece by piece, so that a large report need not be in memory."""
    del options
    kind = "audit" if isinstance(report, AuditReport) else "apply"
    document = {
        "schema": SCHEMA,
        "kind": kind,
        "exit_code": int(report.exit_code),
        "census": codec(Summary).encode(subject(report).census),
        "report": _audit(report) if isinstance(report, AuditReport) else _apply(report),
    }
    yield from _lines(document, "")
    yield "\n"


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


def _lines(value: Value, indent: str) -> Iterator[str]:
    """Objects a line a member, arrays of objects a line an item, all else in one line."""
    inner = indent + " "
    if isinstance(value, dict) and not all(map(_is_plain, value.values())):
        for i, (key, member) in enumerate(value.items()):
            yield f"{',' if i else '{'}\n{inner}{json_text(key)}: "
            yield from _lines(member, inner)
        yield f"\n{indent}}}"
    elif isinstance(value, map) or (isinstance(value, list) and not all(map(_is_plain, value))):
        opening = "["
        for item in value:
            yield f"{opening}\n{inner}{json_text(item)}"
            opening = ","
        yield f"\n{indent}]" if opening == "," else "[]"
    else:
        yield json_text(value)


def _is_plain(value: Value) -> bool:
    return not isinstance(value, (dict, list, map))


def read_report(path: Path) -> Report:
    """Read the JSON report at `path`.

    Raises:
        UnreadableError: it cannot be read, or is no JSON with one meaning.
        UsageError: it is no report of this version.
    """
    source = Source.open(path)
    try:
        if source.size > _MAX_BYTES:
            raise RefusedError(f"is {source.size} bytes long, too large for a report", path=path)
        return load_report(source.read_at(0, source.size), path=path)
    finally:
        source.close()


def is_report(path: Path) -> bool:
    """Tell whether `path` begins as a JSON report does; `read_report` makes sure."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return head.lstrip().startswith(b"{") and SCHEMA.encode() in head


def load_report(data: bytes | str, *, path: str | PathLike[str] | None = None) -> Report:
    """Read what `render` wrote; `path` is where it came from, for messages.

    Raises:
        RefusedError: it is no JSON, or JSON with two readings.
        UsageError: it is no report of this version, a value does not fit, or the exit code and the
            census that it states are not those of its results.
    """
    encoded = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    document = parse_strict(
        encoded, max_depth=_MAX_DEPTH, max_bytes=_MAX_BYTES, what="report", path=path
    )
    try:
        return _checked(document)
    except MisfitError as error:
        raise UsageError(
            f"this is no report that can be read: {printable(str(error))}",
            path=path,
            hint=f"it must be a `{SCHEMA}` file, as `-o json=FILE` writes it",
        ) from None


def _checked(document: Value) -> Report:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise MisfitError(f"$.schema must be {SCHEMA!r}")
    unknown = document.keys() - {"schema", "kind", "exit_code", "census", "report"}
    if unknown:
        raise MisfitError(f"$ has {min(unknown)!r}, which is unknown here")
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise MisfitError("$.kind must be audit or apply")
    report = _KINDS[kind].decode(document.get("report"), "$.report")
    assert isinstance(report, (AuditReport, ApplyReport))
    if codec(int).decode(document.get("exit_code"), "$.exit_code") != report.exit_code:
        raise MisfitError("$.exit_code is not that of its results")
    stated, census = document.get("census"), codec(Summary).encode(subject(report).census)
    codec(Summary).decode(stated, "$.census")
    # Earlier releases did not count all of it.
    if stated is None or stated != {key: census[key] for key in stated}:
        raise MisfitError("$.census is not that of its results")
    return report


class UnitsWriter:
    """Writes every violating unit to an open file as JSON Lines, while the audit runs.

    A report keeps the worst few units of a tensor; whoever needs all of them asks for this file. One
    line is one unit: ``{"tensor", "rule", "index", "measured", "bound", "distance", "excess",
    "nonfinite", "zero"}``, with numbers as in the JSON report.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, tensor: str, rule: str, unit: WorstUnit) -> None:
        """Write one violating unit of `tensor` under `rule`, both by their full names."""
        named = {"tensor": codec(str).encode(tensor), "rule": codec(str).encode(rule)}
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
