"""Reports and units on their way out: several at once, each file whole or not at all."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptclamp.errors import CkptclampError, UsageError
from ckptclamp.reports.formats import reporter_named

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO, TextIO

    from ckptclamp.auditing.results import WorstUnit
    from ckptclamp.reports.findings import Report
    from ckptclamp.reports.formats import RenderOptions

STDOUT = "-"

UNITS = "units"
"""Not a rendering of a report: every violating unit, written while the audit runs (`units_file`)."""


@dataclass(frozen=True, slots=True)
class Output:
    """One report to write: a format's name, and a path or ``-`` for standard output."""

    format: str
    path: str


def parse_outputs(texts: Sequence[str]) -> list[Output]:
    """Read several ``FORMAT=PATH``; worth doing before a long audit whose report they are.

    Raises:
        UsageError: one has no ``=`` or an unknown format, its path cannot be a file, or two of
            them name one place.
    """
    outputs = [_parse_output(text) for text in texts]
    _check_distinct(outputs)
    return outputs


def _check_distinct(outputs: Sequence[Output]) -> None:
    seen: set[str] = set()
    for output in outputs:
        place = output.path if output.path == STDOUT else os.path.realpath(output.path)
        if place in seen:
            raise UsageError("two reports would be written to the same place", path=output.path)
        seen.add(place)


def _parse_output(text: str) -> Output:
    name, separator, path = text.partition("=")
    if not separator or not path:
        raise UsageError(f"{text!r} is not FORMAT=PATH", hint="for example json=report.json")
    if name != UNITS:
        reporter_named(name)
    elif path == STDOUT:
        raise UsageError("units are written to a file", hint="for example units=units.jsonl")
    if path != STDOUT:
        check_place(Path(path))
    return Output(name, path)


def check_place(path: Path) -> None:
    """Find out before the work whether a file can be written at `path`.

    Raises:
        UsageError: its directory does not exist, or a directory stands there.
    """
    if not path.absolute().parent.is_dir():
        raise UsageError("the directory for this file does not exist", path=path)
    if path.is_dir():
        raise UsageError("a directory would be replaced by this file", path=path)


def write_reports(
    report: Report,
    outputs: Sequence[Output],
    options: RenderOptions,
    stdout: TextIO | None = None,
) -> None:
    """Render `report` for every one of `outputs`, then write them.

    All are rendered before the first is written, but for JSON, which grows with the checkpoint and
    is written as it is rendered. A file gets its name when it is whole; what was there before stays
    until then. `options` hold for standard output; what goes to a file has neither colours nor a
    width, and is whole where standard output is to be quiet.

    Raises:
        UsageError: two outputs name one place.
        CkptclampError: a report could not be written (exit 3).
    """
    _check_distinct(outputs)
    rendered_later = [output for output in outputs if output.format != UNITS]
    plain = replace(options, width=None, color=False, verbose=max(options.verbose, 0))
    rendered = [
        reporter_named(o.format).stream(report, options if o.path == STDOUT else plain)
        for o in rendered_later
    ]
    for output, pieces in zip(rendered_later, rendered, strict=True):
        if output.path == STDOUT:
            for text in pieces:
                write_stream(text, stdout or sys.stdout)
            (stdout or sys.stdout).flush()
        else:
            with whole_file(Path(output.path)) as file:
                file.writelines(text.encode() for text in pieces)


def write_stream(text: str, stream: TextIO) -> None:
    """Write `text`, with escapes for characters that the stream's encoding lacks."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def write_whole(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all; see `whole_file`."""
    with whole_file(path) as file:
        file.write(text.encode())


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


class UnitsWriter:
    """Writes every violating unit to an open file as JSON Lines, while the audit runs.

    A report keeps the worst few units of a tensor; whoever needs all of them asks for this file. One
    line is one unit: ``{"tensor", "rule", "index", "measured", "bound", "distance", "excess",
    "nonfinite", "zero"}``, with numbers as in the JSON report.
    """

    def __init__(self, file: BinaryIO) -> None:
        from ckptclamp.auditing.results import WorstUnit
        from ckptclamp.reports.codec import codec, json_text

        self._file = file
        self._text, self._unit, self._json = codec(str).encode, codec(WorstUnit).encode, json_text

    def write(self, tensor: str, rule: str, unit: WorstUnit) -> None:
        """Write one violating unit of `tensor` under `rule`, both by their full names."""
        named = {"tensor": self._text(tensor), "rule": self._text(rule)}
        line = self._json(named | self._unit(unit))
        self._file.write(line.encode() + b"\n")


@contextmanager
def units_file(path: Path) -> Iterator[UnitsWriter]:
    """A writer whose file appears at `path` when the block ends well, and not at all otherwise.

    Raises:
        CkptclampError: the file could not be written (exit 3).
    """
    with whole_file(path) as file:
        yield UnitsWriter(file)
