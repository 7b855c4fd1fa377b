"""One part of an audit as JSON: what ``audit --part`` writes, and ``merge`` reads back.

Numbers are as in the master report, so nothing is rounded on the way. What is read may have been written
by anybody: it must say of itself what its results say.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptclamp.auditing.parts.partial import PartialReport, check_answers
from ckptclamp.auditing.results import Result, Summary
from ckptclamp.checkpoints.documents import parse_strict
from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import CkptclampError, RefusedError, UsageError, printable
from ckptclamp.reports.codec import MisfitError, Value, codec
from ckptclamp.reports.formats.json import (
    FAILURE_SCHEMA,
    MAX_BYTES,
    MAX_DEPTH,
    check_answer,
    check_members,
    lines,
    load_document,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = "ckptclamp-partial-1"
"""The name of the format; a change that could break a reader counts it up."""

_MEMBERS = {"schema", "exit_code", "census", "partial"}


def stream(part: PartialReport) -> Iterator[str]:
    """Yield `part` as JSON text in ASCII, piece by piece; the same text whenever it is the same part."""
    members = codec(PartialReport).encode(replace(part, results=()))
    encode = codec(tuple[int, Result]).encode
    members["results"] = map(encode, part.results)
    document = {
        "schema": SCHEMA,
        "exit_code": int(part.exit_code),
        "census": codec(Summary).encode(part.census),
        "partial": members,
    }
    yield from lines(document, "")
    yield "\n"


def read_part(path: Path) -> PartialReport:
    """Read the part that ``--part`` wrote to `path`.

    Raises:
        UnreadableError: it cannot be read, or is no JSON with one meaning.
        CkptclampError: it tells why there is no such part.
        UsageError: it is no part in this version's form.
    """
    with closing(Source.open(path)) as source:
        if source.size > MAX_BYTES:
            raise RefusedError(f"is {source.size} bytes long, too large for a part", path=path)
        data = source.read_at(0, source.size)
    document = parse_strict(data, max_depth=MAX_DEPTH, max_bytes=MAX_BYTES, what="part", path=path)
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema == FAILURE_SCHEMA:
        raise _failed(data, path)
    try:
        return _checked(document)
    except (MisfitError, ValueError) as error:
        raise UsageError(
            f"this is no part that can be merged: {printable(str(error))}",
            path=path,
            hint="it must be a file that `audit --part 1/16 -o partial=FILE` wrote",
        ) from None


def _failed(data: bytes, path: Path) -> CkptclampError:
    """Why the audit of a part came to nothing, as it told in place of the part."""
    failure = load_document(data, path=path)
    problems = getattr(failure, "problems", ())
    told = f"this part failed: {problems[0].message}" if problems else "this part failed"
    return CkptclampError(told, path=path, hint="run it again")


def _checked(document: Value) -> PartialReport:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise MisfitError(f"$.schema must be {SCHEMA!r}")
    check_members(document, _MEMBERS, "$")
    part = codec(PartialReport).decode(document.get("partial"), "$.partial")
    assert isinstance(part, PartialReport)
    check_answers(part)
    check_answer(document, part.exit_code, part.census, "$")
    return part
