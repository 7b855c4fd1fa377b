"""What an audit or an apply found, bound to the bytes that it looked at: an in-toto Statement v1.

The subjects are the checkpoint's files with their sha256; the predicate says which spec, which
version of this program and which parameters gave which answer, and for a projected copy what it was
made from. A statement is not signed here: it says what was found, and a signature over it (cosign,
sigstore, GPG) says who found it.

The digests are taken from the files that were measured, while they were, opened once and watched
for changes of size, times and identity; who can alter a file without these changing can deceive the
statement.

Format of a statement: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ckptclamp.errors import UsageError
from ckptclamp.reports.codec import codec
from ckptclamp.results import ApplyReport, AuditReport, Census, CheckpointSummary, FileDigest

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
AUDIT_TYPE = "urn:ckptclamp:attestation:audit:v1"
APPLY_TYPE = "urn:ckptclamp:attestation:apply:v1"


def check_attestable(names: Iterable[str]) -> None:
    """Find out before the work whether a statement can be made that names `names`.

    Raises:
        UsageError: it cannot, or the time that it is to tell is none.
    """
    for name in names:
        _name(name)
    _now()


def render_statement(report: AuditReport | ApplyReport) -> str:
    """Return the statement about `report`, as JSON text.

    Raises:
        UsageError: files were not hashed, have names that no statement can hold, or nothing was
            written (a dry run).
    """
    if isinstance(report, AuditReport):
        predicate = _predicate(report)
        document = _statement(AUDIT_TYPE, _descriptors(report.checkpoint), predicate)
    else:
        document = _apply_statement(report)
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    return text.replace("##", r"#\u0023")  # a CI log takes `##[` for a command


def _apply_statement(report: ApplyReport) -> dict[str, Any]:
    if report.after is None or report.output is None:
        raise UsageError("a dry run writes nothing that could be attested")
    before, after = report.before.checkpoint, report.after.checkpoint
    predicate = _predicate(report.after) | {
        "projection": report.projection,
        "changedTensors": len(report.changes),
        "changedUnits": sum(change.changed for change in report.changes),
        "parents": _descriptors(before),
    }
    return _statement(APPLY_TYPE, _descriptors(after, _names_of_copy(report)), predicate)


def _statement(kind: str, subject: list[Any], predicate: dict[str, Any]) -> dict[str, Any]:
    return {
        "_type": STATEMENT_TYPE,
        "subject": subject,
        "predicateType": kind,
        "predicate": predicate,
    }


def _predicate(report: AuditReport) -> dict[str, Any]:
    spec = None
    if report.spec_path is not None or report.spec_sha256 is not None:
        spec = {"name": _name(Path(report.spec_path or "inline").name)}
        if report.spec_sha256 is not None:
            spec["digest"] = {"sha256": report.spec_sha256}  # type: ignore[assignment]
    return {
        "tool": {"name": "ckptclamp", "version": report.tool_version},
        "time": _now(),
        "format": report.checkpoint.format,
        "spec": spec,
        "rules": _rules(report),
        "parameters": codec(Mapping[str, str]).encode(report.parameters),
        "exitCode": int(report.exit_code),
        "census": codec(Census).encode(report.census),
        "unmatched": [unmatched.rule for unmatched in report.unmatched],
    }


def _rules(report: AuditReport) -> list[dict[str, str]]:
    """Which constraints were judged, whoever asked for them."""
    rules = {(r.rule, r.constraint, r.origin.value) for r in report.results}
    return [{"rule": r, "constraint": c, "origin": o} for r, c, o in sorted(rules)]


def _now() -> str:
    """The time in UTC, or that of ``SOURCE_DATE_EPOCH`` where builds are to be reproducible."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        now = datetime.datetime.fromtimestamp(float(epoch), datetime.UTC) if epoch else None
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"SOURCE_DATE_EPOCH is no time: {epoch!r}") from error
    now = now or datetime.datetime.now(datetime.UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def _descriptors(
    checkpoint: CheckpointSummary, names: tuple[str, ...] | None = None
) -> list[dict[str, Any]]:
    """The files of a checkpoint as in-toto resource descriptors."""
    names = names or relative_names(checkpoint)
    return [
        {"name": _name(name), "digest": {"sha256": _digest(file)}}
        for name, file in zip(names, checkpoint.files, strict=True)
    ]


def _name(name: str) -> str:
    """`name` as a statement may have it: text, and of one meaning wherever it is verified."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            "has a name that is no UTF-8; a statement cannot hold it", path=name
        ) from error
    if "\\" in name:
        raise UsageError("has a backslash in its name; a statement cannot hold it", path=name)
    return name


def _digest(file: FileDigest) -> str:
    if file.sha256 is None:
        raise UsageError("was not hashed", path=file.path, hint="audit with --hash")
    return file.sha256


def relative_names(checkpoint: CheckpointSummary) -> tuple[str, ...]:
    """The names of a checkpoint's files below the directory that holds it."""
    path = Path(checkpoint.path)
    files = [Path(file.path) for file in checkpoint.files]
    within = all(path in file.parents for file in files)
    root = path if within else path.parent
    return tuple(
        (file.relative_to(root) if root in file.parents else Path(file.name)).as_posix()
        for file in files
    )


def _names_of_copy(report: ApplyReport) -> tuple[str, ...]:
    """A directory's copy has the same files; a single file takes the name of the output."""
    names = relative_names(report.before.checkpoint)
    assert report.output is not None
    return names if len(names) > 1 else (Path(report.output).name,)
