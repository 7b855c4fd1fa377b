"""Audit and apply results as terminal text, JSON and the formats of CI systems.

Here is every format by its name, how a report is to look, and how it gets out: several at once, each
file whole or not at all. A format is imported when it is rendered. Nothing in this room computes
anything about weights: it shows what `ckptclamp.auditing.results` holds.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ckptclamp.checkpoints.documents import CONFIGS
from ckptclamp.checkpoints.opening import CHECKPOINTS, PARTS
from ckptclamp.checkpoints.remote import as_path
from ckptclamp.checkpoints.remote.path import RemotePath
from ckptclamp.errors import CkptclampError, UsageError
from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import BinaryIO, TextIO

    from ckptclamp.auditing.runs import Document

_CHECKOUTS = ("GITHUB_WORKSPACE", "CI_PROJECT_DIR")
"""Where CI systems say that the repository is checked out."""


def repository_root(start: Path) -> Path:
    """The root of the repository in which `start` lies, or `start` where it is in none."""
    lineage = (start, *start.parents)
    for variable in _CHECKOUTS:
        checkout = os.environ.get(variable)
        if checkout and Path(checkout).resolve() in lineage:
            return Path(checkout).resolve()
    return next((directory for directory in lineage if (directory / ".git").exists()), start)


@frozen
class RenderOptions:
    """What a reader chose about the look of a report.

    Attributes:
        width: columns of the terminal; ``None`` where the output is no terminal, and then no name
            is shortened.
        color: whether text may hold ANSI colours.
        verbose: -1 failures in a line each and the census, 0 the report, 1 also what passes and why
            each rule governs its tensor.
        show_suppressed: whether suppressed violations are listed; they are counted always.
        max_worst: how many violating units are shown for one result.
        max_findings: how many findings the text tells at length on a terminal, unless it is verbose;
            the table has them all.
        base: what paths in SARIF, JUnit, GitHub and GitLab reports are relative to, the repository's
            root.
        start: what the report's own relative paths are relative to.
    """

    width: int | None = None
    color: bool = False
    verbose: int = 0
    show_suppressed: bool = False
    max_worst: int = 5
    max_findings: int = 10
    base: Path = field(default_factory=lambda: repository_root(Path.cwd()))
    start: Path = field(default_factory=Path.cwd)


@frozen
class Reporter:
    """One format: its name, which is that of its module here, and what it is for in a few words."""

    name: str
    summary: str

    def render(self, report: Document, options: RenderOptions) -> str:
        """Render `report` in this format: text that ends with a line break."""
        return "".join(self.stream(report, options))

    def stream(self, report: Document, options: RenderOptions) -> Iterable[str]:
        """Return what `render` does in pieces: rendered as they are taken, if the format can do so."""
        module = import_module(f"ckptclamp.reports.formats.{self.name}")
        pieces: Iterable[str] = (
            module.stream(report, options)
            if hasattr(module, "stream")
            else (module.render(report, options),)
        )
        return pieces


REPORTERS = {
    reporter.name: reporter
    for reporter in (
        Reporter("text", "a table and findings, for people"),
        Reporter("json", "everything, for programs and for making the other formats later"),
        Reporter("sarif", "SARIF 2.1.0, for code scanning"),
        Reporter("junit", "JUnit XML, for test reports"),
        Reporter("markdown", "for a CI step summary or a pull request"),
        Reporter("github", "GitHub workflow annotations"),
        Reporter("gitlab", "GitLab code quality JSON"),
        Reporter("html", "one self-contained page with plots"),
    )
}


def reporter_named(name: str) -> Reporter:
    """Return the format called `name`, or raise `UsageError` with a suggestion."""
    if name in REPORTERS:
        return REPORTERS[name]
    import difflib

    close = difflib.get_close_matches(name, REPORTERS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(REPORTERS)}"
    raise UsageError(f"there is no report format {name!r}", hint=hint)


def render(name: str, report: Document, options: RenderOptions) -> str:
    """Render `report` in the format called `name`; text that ends with a line break."""
    return reporter_named(name).render(report, options)


STDOUT = "-"

UNITS = "units"
"""Not a rendering of a report: every violating unit, written while the audit runs (`units_file`)."""

PARTIAL = "partial"
"""Not a report either: what one part of an audit found (`formats.partial`)."""

_NO_REPORTS = (UNITS, PARTIAL)


SUFFIXES = {
    ".sarif": "sarif",
    ".sarif.json": "sarif",
    ".json": "json",
    ".xml": "junit",
    ".md": "markdown",
    ".html": "html",
    ".htm": "html",
    ".txt": "text",
    ".jsonl": UNITS,
}
"""The formats that a file's name tells."""

_SEVERAL = {".json": ("json", "sarif", "gitlab"), ".txt": tuple(REPORTERS)}
"""Suffixes that more than one format may have."""


@frozen
class Output:
    """One report to write: a format's name, and a path or ``-`` for standard output.

    `bare` says that the user named a path alone.
    """

    format: str
    path: str
    bare: bool = False


def parse_outputs(texts: Sequence[str], format_: str | None = None) -> list[Output]:
    """Read several ``FORMAT=PATH`` or ``PATH``; worth doing before a long audit whose report they are.

    A path alone tells its format by its suffix; where this may be several or none, it is `format_`,
    if the user asked for one.

    Raises:
        UsageError: a format is unknown or cannot be told, a path cannot be a file, or two of them
            name one place.
    """
    outputs = [_parse_output(text, format_) for text in texts]
    _check_distinct(outputs)
    return outputs


def _check_distinct(outputs: Sequence[Output]) -> None:
    seen: set[str] = set()
    for output in outputs:
        place = output.path if output.path == STDOUT else os.path.realpath(output.path)
        if place in seen:
            raise UsageError("two reports would be written to the same place", path=output.path)
        seen.add(place)


def _parse_output(text: str, format_: str | None) -> Output:
    name, separator, path = text.partition("=")
    bare = not separator or "/" in name or "." in name
    output = _of_path(text, format_) if bare else Output(name, path)
    if not output.path:
        raise UsageError(f"{text!r} names no file", hint="for example json=report.json")
    if output.format not in _NO_REPORTS:
        reporter_named(output.format)
    elif output.path == STDOUT:
        raise UsageError(
            f"{output.format} is written to a file", hint=f"for example {output.format}=FILE"
        )
    if output.path != STDOUT:
        check_place(as_path(output.path))
    return output


def _of_path(path: str, format_: str | None) -> Output:
    """The output at a path that says by its suffix what it is."""
    suffix = max((s for s in SUFFIXES if path.lower().endswith(s)), key=len, default=None)
    told = None if suffix is None else SUFFIXES[suffix]
    if format_ is not None and (suffix is None or format_ in _SEVERAL.get(suffix, ())):
        told = format_
    if told is None or path in REPORTERS:
        raise UsageError(
            f"the name {path!r} does not tell a format",
            hint=f"write FORMAT=PATH, for example json={path}, or end it in "
            f"{', '.join(s for s in SUFFIXES if s.count('.') == 1)}",
        )
    return Output(told, path, bare=True)


def check_place(path: Path) -> None:
    """Find out before the work whether a file can be written at `path`.

    Raises:
        UsageError: its directory does not exist, or a directory stands there.
    """
    if isinstance(path, RemotePath):
        raise UsageError("is written to a file of this machine, not to an address", path=path)
    if not path.absolute().parent.is_dir():
        raise UsageError("the directory for this file does not exist", path=path)
    if path.is_dir():
        raise UsageError("a directory would be replaced by this file", path=path)


def check_places(
    read: Iterable[Path | None], written: Iterable[Path | None], copy: Path | None = None
) -> None:
    """Refuse to write over what is `read`, into a directory that is a `copy`, or twice.

    A file that is there and has a checkpoint's name is never replaced. Into a directory that is a
    checkpoint nothing goes that has the name of a part of it; the working directory may be one, so
    reports may. `None` stands for nothing.

    Raises:
        UsageError: one of `written` is such a place, or cannot be a file.
    """
    kept = [path for path in read if path is not None]
    taken = {name for path in kept for file in _files(path) for name in known_as(file)}
    folders = {name for path in kept if path.is_dir() for name in known_as(path)}
    copied = set() if copy is None else known_as(copy)
    for path in written:
        if path is None:
            continue
        check_place(path)
        names = known_as(path)
        if names & taken or _is_checkpoint(path):
            raise UsageError("would be overwritten by what is written about it", path=path)
        around = list(Path(os.path.realpath(path)).parents)
        is_part = path.name.endswith(PARTS) and bool(known_as(around[0]) & folders)
        if is_part or any(known_as(folder) & copied for folder in around):
            raise UsageError(
                "would become a part of the checkpoint that it is about",
                path=path,
                hint="write it outside of that directory",
            )
        taken |= names


def _files(path: Path) -> Iterator[Path]:
    """`path`, and what belongs to it if it is a checkpoint of several files.

    Which files an index names is not known before it is read; all that may be shards lie beside it, and
    the configs that are read with any weights.
    """
    yield path
    inside = path.is_dir()
    try:
        entries = list((path if inside else path.parent).iterdir())
    except OSError:  # whoever opens the checkpoint tells why
        return
    parts = PARTS if inside else CHECKPOINTS
    yield from (e for e in entries if e.name.endswith(parts) or e.name in CONFIGS)


def known_as(path: Path) -> set[str | tuple[int, int]]:
    """What `path` is known by, since another may lead to the same file: real path, device and inode."""
    names: set[str | tuple[int, int]] = {os.path.realpath(path)}
    try:
        status = path.stat()
    except OSError:
        return names
    return names | {(status.st_dev, status.st_ino)}


def _is_checkpoint(path: Path) -> bool:
    names = (path.name, Path(os.path.realpath(path)).name)
    return path.is_file() and any(name.endswith(CHECKPOINTS) for name in names)


def write_reports(
    report: Document,
    outputs: Sequence[Output],
    options: RenderOptions,
    stdout: TextIO | None = None,
) -> None:
    """Render `report` for every one of `outputs`, then write them.

    All are rendered before the first is written, but for JSON and text, which grow with the checkpoint and
    are written as they are rendered. A file gets its name when it is whole; what was there before stays
    until then. `options` hold for standard output; what goes to a file has neither colours nor a
    width, and is whole where standard output is to be quiet.

    Raises:
        UsageError: two outputs name one place.
        CkptclampError: a report could not be written (exit 3).
    """
    _check_distinct(outputs)
    rendered_later = [output for output in outputs if output.format not in _NO_REPORTS]
    plain = replace(options, width=None, color=False, verbose=max(options.verbose, 0))
    rendered = [
        reporter_named(o.format).stream(report, options if o.path == STDOUT else plain)
        for o in rendered_later
    ]
    failed: CkptclampError | None = None
    for output, pieces in zip(rendered_later, rendered, strict=True):
        if output.path == STDOUT:
            for text in pieces:
                write_stream(text, stdout or sys.stdout)
            (stdout or sys.stdout).flush()
            continue
        try:
            with whole_file(Path(output.path)) as file:
                file.writelines(text.encode() for text in pieces)
        except CkptclampError as error:
            failed = failed or error
    if failed is not None:  # the others are written all the same
        raise failed


def write_stream(text: str, stream: TextIO) -> None:
    """Write `text`, with escapes for characters that the stream's encoding lacks."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def write_whole(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all; see `whole_file`."""
    with whole_file(path) as file:
        file.write(text.encode())


WRITTEN: list[Path] = []
"""The files that this process has written, for whoever is interrupted to tell."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write that becomes `path` when the block ends, and is dropped if it raises.

    A symbolic link is followed; what is no regular file (a pipe, ``/dev/null``) is written to
    directly, since it cannot be replaced.

    Raises:
        CkptclampError: it could not be written (exit 3).
    """
    try:
        target = path.resolve()
        special = target.exists() and not target.is_file()
        with target.open("wb") if special else _replacing(target) as file:
            yield file
        WRITTEN.append(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CkptclampError(f"the report could not be written: {reason}", path=path) from error


@contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    temporary = target.with_name(f".{target.name[:64]}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
