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
import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from ckptclamp.auditing.results import (
    ApplyReport,
    AuditReport,
    CheckpointSummary,
    FileDigest,
    Summary,
)
from ckptclamp.checkpoints.directories.huggingface import blob_of
from ckptclamp.checkpoints.documents import ADAPTER, parse_strict
from ckptclamp.checkpoints.source import Source, sha256
from ckptclamp.errors import ExitCode, UnreadableError, UsageError
from ckptclamp.frozen import frozen
from ckptclamp.gate.envelopes import Envelope, member, opened
from ckptclamp.reports.codec import codec, json_text

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
AUDIT_TYPE = "urn:ckptclamp:attestation:audit:v1"
APPLY_TYPE = "urn:ckptclamp:attestation:apply:v1"

_BASE = "base/"
_NO_FILES = frozenset({"baseline", "config"})
"""Parameters with a digest that are options, and name no file of the model's."""

_MAX_BYTES = 1 << 26
_HEX_DIGITS = frozenset("0123456789abcdef")


def check_attestable(names: Iterable[str]) -> None:
    """Find out before the work whether a statement can be made that names `names`.

    Raises:
        UsageError: it cannot, or the time that it is to state is none.
    """
    for name in names:
        _name(name)
    _now()


def render_attestation(report: AuditReport | ApplyReport) -> str:
    """Return the statement about `report`, as JSON text.

    Raises:
        UsageError: files were not hashed, have names that no statement can hold, or nothing was
            written (a dry run).
    """
    if isinstance(report, AuditReport):
        predicate, checkpoint = _predicate(report), report.checkpoint
        subject = _descriptors(checkpoint, _relative_names(checkpoint))
        document = _statement(AUDIT_TYPE, subject, predicate)
    else:
        document = _apply_attestation(report)
    return json_text(document, indent=1) + "\n"


class Match(StrEnum):
    """How a file on disk stands to a statement."""

    SAME = "same"
    DIFFERS = "differs"
    UNREADABLE = "unreadable"
    NOT_COMPARED = "not compared"


@frozen
class Checked:
    """One file of a statement and what was found of it on disk."""

    name: str
    match: Match
    detail: str = ""


@frozen
class Verification:
    """What became of a statement: its files, the spec that was asked for, and its own answer.

    `decided` are the files that the answer also hung on: configs beside the checkpoint, and those of
    a base. `envelope` is what the statement came in, whose signatures are not verified here.
    """

    files: tuple[Checked, ...]
    attested: int
    version: str
    spec: Checked | None = None
    envelope: Envelope | None = None
    decided: tuple[Checked, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """3 if a file cannot be read, 1 if one differs or the attested audit did not pass."""
        checks = [*self.files, *self.decided, *([self.spec] if self.spec else [])]
        if any(check.match is Match.UNREADABLE for check in checks):
            return ExitCode.INCOMPLETE
        if self.attested != ExitCode.OK or any(c.match is Match.DIFFERS for c in checks):
            return ExitCode.VIOLATIONS
        return ExitCode.OK


def verify(
    path: str | Path,
    directory: str | Path | None = None,
    *,
    spec: str | Path | None = None,
    renamed: Mapping[str, str | Path] | None = None,
    follow_symlinks: bool = False,
) -> Verification:
    """Compare the statement at `path` with the files in `directory` (by default beside it).

    So are the configs that decided the answer, and the files of a base where `renamed` names them or
    they lie in a folder called ``base``; what is said to be "not compared" is not. The statement may
    lie in a DSSE envelope or a Sigstore bundle. With `spec`, the audit must have
    been made with that very file. `renamed` says where files are now that have another name or place
    than in the statement. Names in the statement never lead out of the directory, and symbolic links
    are followed only if asked for.

    Raises:
        UnreadableError: the statement cannot be read, or is none that this program wrote.
        UsageError: `renamed` names a file that the statement does not.
    """
    path = Path(path)
    subjects, predicate, envelope = _load(path)
    renamed = renamed or {}
    decided = _decided(predicate)
    based = "base" in (predicate.get("parameters") or {})
    _check_renamed(renamed, {**subjects, **decided})
    root = Path(directory) if directory is not None else path.parent

    def check(name: str, digest: str) -> Checked:
        if name in renamed:
            return _compare(Path(renamed[name]), name, digest)
        of_base = name in decided and (name.startswith(_BASE) or (based and name != ADAPTER))
        if of_base and not os.path.lexists(root / name):  # it may lie beside the base
            return Checked(name, Match.NOT_COMPARED, f"--map {name}=PATH says where it is")
        return _check_file(root, name, digest, follow_symlinks)

    return Verification(
        files=tuple(check(name, digest) for name, digest in subjects.items()),
        decided=tuple(
            check(name, digest) for name, digest in decided.items() if name not in subjects
        ),
        attested=predicate["exitCode"],
        version=str(predicate["tool"]["version"]),
        spec=_check_spec(Path(spec), predicate.get("spec")) if spec is not None else None,
        envelope=envelope,
    )


def _decided(predicate: Mapping[str, Any]) -> dict[str, str]:
    """The digest of each file that is no subject, and without which the answer could be another."""
    named = predicate.get("parameters")
    if not isinstance(named, dict):
        return {}
    found = {}
    for name, value in named.items():
        kind, _, digest = str(value).partition(":")
        whole = kind == "sha256" and len(digest) == 64 and not set(digest) - _HEX_DIGITS
        if whole and name not in _NO_FILES:
            found[name] = digest
    return found


def _check_renamed(renamed: Mapping[str, str | Path], subjects: Mapping[str, str]) -> None:
    """A name that fits nothing is a misspelt one."""
    for name in renamed:
        if name not in subjects:
            few = ", ".join(list(subjects)[:3])
            raise UsageError(f"the statement names no file {name!r}", hint=f"it names {few}")


def _apply_attestation(report: ApplyReport) -> dict[str, Any]:
    if report.after is None or report.output is None:
        raise UsageError("a dry run writes nothing that could be attested")
    before, after = report.before.checkpoint, report.after.checkpoint
    names = _relative_names(before)
    predicate = _predicate(report.after) | {
        "projection": report.projection,
        "changedTensors": len(report.changes),
        "changedUnits": sum(change.changed for change in report.changes),
        "parents": _descriptors(before, names),
    }
    # A directory's copy has the same files; a single file takes the name of the output.
    copied = names if len(names) > 1 else (Path(report.output).name,)
    return _statement(APPLY_TYPE, _descriptors(after, copied), predicate)


def _statement(kind: str, subject: list[Any], predicate: dict[str, Any]) -> dict[str, Any]:
    return {
        "_type": STATEMENT_TYPE,
        "subject": subject,
        "predicateType": kind,
        "predicate": predicate,
    }


def _predicate(report: AuditReport) -> dict[str, Any]:
    spec: dict[str, Any] | None = None
    if report.spec_path is not None or report.spec_sha256 is not None:
        spec = {"name": _name(Path(report.spec_path or "inline").name)}
        if report.spec_sha256 is not None:
            spec["digest"] = {"sha256": report.spec_sha256}
    return {
        "tool": {"name": "ckptclamp", "version": report.tool_version},
        "time": _now(),
        "format": report.checkpoint.format,
        "spec": spec,
        "rules": _rules(report),
        "parameters": codec(Mapping[str, str]).encode(report.parameters),
        "exitCode": int(report.exit_code),
        "census": codec(Summary).encode(report.census),
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


def _descriptors(checkpoint: CheckpointSummary, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The files of a checkpoint as in-toto resource descriptors."""
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
            "has a name that is no UTF-8; an attestation cannot hold it", path=name
        ) from error
    if "\\" in name:
        raise UsageError("has a backslash in its name; an attestation cannot hold it", path=name)
    return name


def _digest(file: FileDigest) -> str:
    if file.sha256 is None:
        raise UsageError("was not hashed", path=file.path, hint="audit with --hash")
    return file.sha256


def _relative_names(checkpoint: CheckpointSummary) -> tuple[str, ...]:
    """The names of a checkpoint's files below the directory that holds it."""
    path = Path(checkpoint.path)
    files = [Path(file.path) for file in checkpoint.files]
    within = all(path in file.parents for file in files)
    root = path if within else path.parent
    return tuple(
        (file.relative_to(root) if root in file.parents else Path(file.name)).as_posix()
        for file in files
    )


def _load(path: Path) -> tuple[dict[str, str], Mapping[str, Any], Envelope | None]:
    """Return the digest of each subject by its name, the predicate, and what both came in."""
    with closing(Source.open(path)) as source:
        if source.size > _MAX_BYTES:
            raise UnreadableError("is too large for an attestation", path=path)
        data = source.read_at(0, source.size)
    document = parse_strict(data, max_depth=16, max_bytes=_MAX_BYTES, what="statement", path=path)
    try:
        statement, envelope = opened(document, path, _MAX_BYTES)
        return *_checked(statement), envelope
    except ValueError as error:
        raise UnreadableError(
            f"this is no attestation of this program: {error}",
            path=path,
            hint="it must be one that --attest wrote, plain, in a DSSE envelope or a Sigstore bundle",
        ) from None


def _checked(document: object) -> tuple[dict[str, str], Mapping[str, Any]]:
    """The digest of each subject, and the predicate.

    Raises:
        ValueError: `document` is no statement; the message says what it lacks.
    """
    if member(document, "_type") != STATEMENT_TYPE:
        raise ValueError(f"_type must be {STATEMENT_TYPE}")
    if member(document, "predicateType") not in (AUDIT_TYPE, APPLY_TYPE):
        raise ValueError(f"predicateType must be {AUDIT_TYPE} or {APPLY_TYPE}")
    listed = member(document, "subject")
    if not isinstance(listed, list) or not listed:
        raise ValueError("it has no subject")
    subjects: dict[str, str] = {}
    for subject in listed:
        name, digest = member(subject, "name"), member(subject, "digest", "sha256")
        if not isinstance(name, str) or name in subjects:
            raise ValueError("each subject must have a name of its own")
        if not isinstance(digest, str) or len(digest) != 64 or set(digest) - _HEX_DIGITS:
            raise ValueError("each subject must have a sha256")
        subjects[name] = digest
    code, version = (
        member(document, "predicate", *keys) for keys in (["exitCode"], ["tool", "version"])
    )
    if type(code) is not int or not isinstance(version, str):
        raise ValueError("predicate.exitCode and predicate.tool.version must be there")
    predicate = member(document, "predicate")
    assert isinstance(predicate, dict)
    return subjects, predicate


def _check_file(root: Path, name: str, digest: str, follow_symlinks: bool) -> Checked:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
        return Checked(name, Match.UNREADABLE, "its name leads out of the directory")
    path = root.joinpath(*parts)
    if not follow_symlinks and _through_link(root, parts):
        return Checked(name, Match.UNREADABLE, "is reached through a symbolic link")
    return _compare(path, name, digest)


def _through_link(root: Path, parts: tuple[str, ...]) -> bool:
    places = [root.joinpath(*parts[: n + 1]) for n in range(len(parts))]
    links = [place for place in places if place.is_symlink()]
    # The last place may be a link that stays in its repository's folder of a cache.
    return bool(links) and (links != places[-1:] or blob_of(links[0]) is None)


def _compare(path: Path, name: str, digest: str) -> Checked:
    try:
        with closing(Source.open(path)) as source:
            found = sha256(source)
            source.verify_unchanged()
    except UnreadableError as error:
        return Checked(name, Match.UNREADABLE, error.message)
    if found != digest:
        return Checked(name, Match.DIFFERS, f"sha256 is {found}, not {digest}")
    return Checked(name, Match.SAME)


def _check_spec(path: Path, attested: object) -> Checked:
    digest = member(attested, "digest", "sha256")
    if digest is None:
        return Checked(path.name, Match.DIFFERS, "the audit was made without a spec file")
    return _compare(path, path.name, str(digest))
