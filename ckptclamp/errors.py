"""What goes wrong, in words: exceptions with their exit codes, notices, and untrusted text made safe.

    CkptclampError
    ├── UsageError            2  what was asked for makes no sense
    │   └── SpecError         2  a spec that cannot be understood, with every problem in it
    ├── UnreadableError       3  something could not be read or computed, so it could not be judged
    │   ├── NotACheckpointError   3  the bytes are no checkpoint that is known here
    │   ├── MissingError          3  there is nothing there
    │   ├── RefusedError          3  readable, but with two meanings, or a danger to the reader
    │   └── ChangedError          3  the file moved while it was being read
    ├── NothingEvaluatedError 4  nothing was judged at all
    └── NotWrittenError       5  a conforming copy could not be made; nothing was written

A message is one sentence that says what is wrong; `hint` says what to do. Where the file and the
tensor are known they are given apart, so that every report can place them. What a pass or a fail
alone would hide is no failure, but a `Notice`. Names and messages hold what files hold, so they are
shown only as `printable` makes them.
"""

from __future__ import annotations

import unicodedata
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

from ckptclamp.frozen import frozen

if TYPE_CHECKING:
    from os import PathLike


class ExitCode(IntEnum):
    """What the program returns; orthogonal to format and verbosity."""

    OK = 0
    VIOLATIONS = 1
    USAGE = 2
    INCOMPLETE = 3
    NOTHING_EVALUATED = 4
    NOT_WRITTEN = 5


class CkptclampError(Exception):
    """The root of the tree; `exit_code` is what the command line returns.

    `code` names the kind in reports: kebab-case, and never another meaning.
    """

    exit_code: ClassVar[int] = 3
    code: ClassVar[str] = "failed"

    def __init__(
        self,
        message: str,
        *,
        path: str | PathLike[str] | None = None,
        tensor: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = None if path is None else str(path)
        self.tensor = tensor
        self.hint = hint

    def __str__(self) -> str:
        """One line: file, tensor, what is wrong, what to do; untrusted names made printable."""
        place = [printable(part) for part in (self.path, self.tensor) if part is not None]
        return ": ".join([*place, _advice(self.message, self.hint)])


class UsageError(CkptclampError):
    """What the command line or the caller asks for makes no sense."""

    exit_code = 2
    code: ClassVar[str] = "usage"


@frozen
class SpecProblem:
    """One thing wrong in a spec: where (line and column count from 1), what, and what was meant."""

    message: str
    line: int | None = None
    column: int | None = None
    hint: str | None = None


class SpecError(UsageError):
    """A spec with problems; all of them are here, not only the first."""

    code: ClassVar[str] = "spec"

    def __init__(self, path: str, problems: tuple[SpecProblem, ...]) -> None:
        super().__init__(f"{plural(len(problems), 'problem')} in the spec", path=path)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self._line(problem) for problem in self.problems)

    def _line(self, problem: SpecProblem) -> str:
        numbers = [str(n) for n in (problem.line, problem.column) if n is not None]
        place = ":".join([printable(self.path or "spec"), *numbers])
        return f"{place}: {_advice(problem.message, problem.hint)}"


class Reason(str):
    """Why something is not evaluated: a sentence, with the `code` of its kind.

    Codes are kebab-case and never change their meaning; the catalogue of reports explains each.
    """

    __slots__ = ("code",)
    code: str

    def __new__(cls, code: str, sentence: str) -> Reason:
        """A reason of the kind `code`."""
        reason = super().__new__(cls, sentence)
        reason.code = code
        return reason

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override] # of both, not of a str
        return self.code, str(self)


class UnreadableError(CkptclampError):
    """A file, or a tensor in it, could not be read, or not be computed; a `Reason` says of what kind."""

    code: ClassVar[str] = "unreadable"

    @property
    def reason(self) -> Reason:
        """Why the tensor that it is about is not evaluated."""
        told = self.message
        return told if isinstance(told, Reason) else Reason("read-failed", told)


class MissingError(UnreadableError):
    """There is nothing at the place that was named."""


class NotACheckpointError(UnreadableError):
    """The bytes are no checkpoint of a format that is known here."""

    code: ClassVar[str] = "not-a-checkpoint"


class RefusedError(UnreadableError):
    """The file has two readings, reaches outside itself, or would cost too much to read."""

    code: ClassVar[str] = "refused"


class ChangedError(UnreadableError):
    """The file changed while it was being read."""

    code: ClassVar[str] = "changed"


class NothingEvaluatedError(CkptclampError):
    """Nothing was judged: no declared constraint and no spec, or a rule that matches nothing."""

    exit_code = 4
    code: ClassVar[str] = "nothing-evaluated"


class NotWrittenError(CkptclampError):
    """A conforming copy could not be made; the output is what it was before."""

    exit_code = 5
    code: ClassVar[str] = "not-written"


@frozen
class Notice:
    """Something that a pass or a fail alone would hide: a stable code, a sentence, and advice.

    `code` is kebab-case and never changes its meaning (``degenerate-axis``); `tensor` is the full
    name of the tensor it is about, if it is about one. Notices are warnings: `--strict` makes them
    fail the gate, unless `informational` says that nothing is wrong.
    """

    code: str
    message: str
    hint: str | None = None
    tensor: str | None = None
    informational: bool = False


def _advice(message: str, hint: str | None) -> str:
    said = printable(message, limit=None)
    return f"{said} ({printable(hint, limit=None)})" if hint else said


_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def plural(count: int, noun: str) -> str:
    """``1 unit``, ``2,304 units``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def printable(text: str, *, limit: int | None = 256) -> str:
    r"""Return `text` as one inert line.

    Control, format, surrogate, private-use and unassigned characters become ``\u{…}``. A second
    ``#`` in a row and a leading ``:`` are written that way too, because CI runners read commands in
    them. Text over `limit` characters keeps its two ends and gets a digest of the whole between.
    """
    if limit is None or len(text) <= limit:
        safe = _inert(text)
        if limit is None or len(safe) <= limit:
            return safe
    import hashlib  # only long names need it, and every start of the program would pay

    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    half = (limit - 12) // 2
    # Escaping never shortens, so the ends of the text make the ends of what is shown.
    return f"{_inert(text[:limit])[:half]}…{digest}…{_inert(text[-limit:])[-half:]}"


def _inert(text: str) -> str:
    plain = text.isascii() and text.isprintable()
    safe = text if plain else "".join(_escaped(char) for char in text)
    safe = safe.replace("##", r"#\u{23}")
    stripped = safe.lstrip()
    return r"\u{3a}" + stripped[1:] if stripped.startswith(":") else safe


def _escaped(char: str) -> str:
    if char.isascii() and char.isprintable():
        return char
    if unicodedata.category(char) in _UNSAFE_CATEGORIES:
        return f"\\u{{{ord(char):x}}}"
    return " " if unicodedata.category(char) == "Zs" else char
