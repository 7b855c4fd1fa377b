"""A statement against files on disk: are these the bytes that passed?

The digests of a statement are compared with the files, and its own answer is looked at: a statement
of an audit that failed verifies nothing. Who wrote the statement is for a signature to tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from ckptclamp.attestation import APPLY_TYPE, AUDIT_TYPE, STATEMENT_TYPE
from ckptclamp.checkpoints.digests import sha256
from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.strict_json import parse_strict
from ckptclamp.errors import UnreadableError
from ckptclamp.results import ExitCode

_MAX_BYTES = 1 << 26
_HEX_DIGITS = frozenset("0123456789abcdef")


class Match(StrEnum):
    """How a file on disk stands to a statement."""

    SAME = "same"
    DIFFERS = "differs"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Checked:
    """One subject of a statement and what was found of it on disk."""

    name: str
    match: Match
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    """What became of a statement: its files, the spec that was asked for, and its own answer."""

    files: tuple[Checked, ...]
    attested: int
    version: str
    spec: Checked | None = None

    @property
    def exit_code(self) -> ExitCode:
        """3 if a file cannot be read, 1 if one differs or the attested audit did not pass."""
        checks = [*self.files, *([self.spec] if self.spec else [])]
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
    follow_symlinks: bool = False,
) -> Verification:
    """Compare the statement at `path` with the files in `directory` (by default beside it).

    With `spec`, the audit must have been made with that very file. Names in the statement never
    lead out of the directory, and symbolic links are followed only if asked for.

    Raises:
        UnreadableError: the statement cannot be read, or is none that this program wrote.
    """
    path = Path(path)
    subjects, predicate = _load(path)
    root = Path(directory) if directory is not None else path.parent
    return Verification(
        files=tuple(
            _check_file(root, name, digest, follow_symlinks) for name, digest in subjects.items()
        ),
        attested=predicate["exitCode"],
        version=str(predicate["tool"]["version"]),
        spec=_check_spec(Path(spec), predicate.get("spec")) if spec is not None else None,
    )


def _load(path: Path) -> tuple[dict[str, str], Mapping[str, Any]]:
    """Return the digest of each subject by its name, and the predicate."""
    source = Source.open(path)
    try:
        if source.size > _MAX_BYTES:
            raise UnreadableError("is too large for a statement", path=path)
        data = source.read_at(0, source.size)
    finally:
        source.close()
    document = parse_strict(data, max_depth=16, max_bytes=_MAX_BYTES, what="statement", path=path)
    try:
        return _checked(document)
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableError(
            f"this is no statement of this program: {error}",
            path=path,
            hint="it must be one that --attest wrote, without an envelope",
        ) from None


def _checked(document: Any) -> tuple[dict[str, str], Mapping[str, Any]]:  # noqa: ANN401 - any JSON
    if document["_type"] != STATEMENT_TYPE:
        raise ValueError(f"_type must be {STATEMENT_TYPE}")
    if document["predicateType"] not in (AUDIT_TYPE, APPLY_TYPE):
        raise ValueError(f"predicateType must be {AUDIT_TYPE} or {APPLY_TYPE}")
    subjects: dict[str, str] = {}
    for subject in document["subject"]:
        name, digest = subject["name"], subject["digest"]["sha256"]
        if not isinstance(name, str) or name in subjects:
            raise ValueError("each subject must have a name of its own")
        if not isinstance(digest, str) or len(digest) != 64 or set(digest) - _HEX_DIGITS:
            raise ValueError("each subject must have a sha256")
        subjects[name] = digest
    if not subjects:
        raise ValueError("it has no subject")
    predicate = document["predicate"]
    if type(predicate["exitCode"]) is not int or not isinstance(predicate["tool"]["version"], str):
        raise ValueError("predicate.exitCode and predicate.tool.version must be there")
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
    return any(root.joinpath(*parts[: n + 1]).is_symlink() for n in range(len(parts)))


def _compare(path: Path, name: str, digest: str) -> Checked:
    try:
        source = Source.open(path)
    except UnreadableError as error:
        return Checked(name, Match.UNREADABLE, error.message)
    try:
        found = sha256(source)
        source.verify_unchanged()
    except UnreadableError as error:
        return Checked(name, Match.UNREADABLE, error.message)
    finally:
        source.close()
    if found != digest:
        return Checked(name, Match.DIFFERS, f"sha256 is {found}, not {digest}")
    return Checked(name, Match.SAME)


def _check_spec(path: Path, attested: Any) -> Checked:  # noqa: ANN401 - any JSON
    try:
        digest = attested["digest"]["sha256"]
    except (KeyError, TypeError):
        return Checked(path.name, Match.DIFFERS, "the audit was made without a spec file")
    return _compare(path, path.name, str(digest))
