"""Reports on their way out: several at once, each file whole or not at all."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptclamp.errors import CkptclampError, UsageError
from ckptclamp.reports.registry import reporter_named

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from ckptclamp.reports.options import RenderOptions
    from ckptclamp.results import ApplyReport, AuditReport

STDOUT = "-"


@dataclass(frozen=True, slots=True)
class Output:
    """One report to write: a format's name, and a path or ``-`` for standard output."""

    format: str
    path: str


def parse_output(text: str) -> Output:
    """Read ``FORMAT=PATH``.

    Raises:
        UsageError: it has no ``=``, the format is unknown, or the path cannot be a file.
    """
    name, separator, path = text.partition("=")
    if not separator or not path:
        raise UsageError(f"{text!r} is not FORMAT=PATH", hint="for example json=report.json")
    reporter_named(name)
    if path != STDOUT and not Path(path).absolute().parent.is_dir():
        raise UsageError("the directory for this report does not exist", path=path)
    if path != STDOUT and Path(path).is_dir():
        raise UsageError("this report would replace a directory", path=path)
    return Output(name, path)


def check_distinct(outputs: Sequence[Output]) -> None:
    """Raise `UsageError` if two reports would be written to the same place."""
    seen: set[str] = set()
    for output in outputs:
        place = output.path if output.path == STDOUT else os.path.realpath(output.path)
        if place in seen:
            raise UsageError("two reports would be written to the same place", path=output.path)
        seen.add(place)


def write_reports(
    outputs: Sequence[Output],
    report: AuditReport | ApplyReport,
    options: RenderOptions,
    stdout: TextIO | None = None,
) -> None:
    """Render `report` in every format of `outputs`, then write them.

    All are rendered before the first is written. A file gets its name when it is whole; what was
    there before stays until then. `options` hold for standard output; what goes to a file has
    neither colours nor a width.

    Raises:
        UsageError: a format is unknown, or two outputs name one place.
        CkptclampError: a report could not be written (exit 3).
    """
    check_distinct(outputs)
    plain = replace(options, width=None, color=False)
    rendered = [
        reporter_named(o.format).render(report, options if o.path == STDOUT else plain)
        for o in outputs
    ]
    for output, text in zip(outputs, rendered, strict=True):
        if output.path == STDOUT:
            write_stream(text, stdout or sys.stdout)
        else:
            write_whole(Path(output.path), text)


def write_stream(text: str, stream: TextIO) -> None:
    """Write `text`, with escapes for characters that the stream's encoding lacks, and flush."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def write_whole(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all.

    A symbolic link is followed; what is no regular file (a pipe, ``/dev/null``) is written to
    directly, since it cannot be replaced.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8", newline="\n")
        else:
            _replace(target, text.encode())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CkptclampError(f"the report could not be written: {reason}", path=path) from error


def _replace(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".{target.name[:64]}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
