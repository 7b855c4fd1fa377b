"""Every way in which ckptclamp can fail, each with the exit code that it means.

    CkptclampError
    ├── UsageError            2  what was asked for makes no sense
    │   └── SpecError         2  a spec that cannot be understood, with every problem in it
    ├── UnreadableError       3  something could not be read, so it could not be judged
    │   ├── NotACheckpointError   3  the bytes are no checkpoint that is known here
    │   ├── RefusedError          3  readable, but with two meanings, or a danger to the reader
    │   └── ChangedError          3  the file moved while it was being read
    ├── NothingEvaluatedError 4  nothing was judged at all
    └── NotWrittenError       5  a conforming copy could not be made; nothing was written

A message is one sentence that says what is wrong; `hint` says what to do. Where the file and the
tensor are known they are given apart, so that every report can place them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ckptclamp.printable import printable

if TYPE_CHECKING:
    from os import PathLike


class CkptclampError(Exception):
    """The root of the tree; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 3

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
        sentence = ": ".join([*place, printable(self.message, limit=None)])
        return f"{sentence} ({printable(self.hint, limit=None)})" if self.hint else sentence


class UsageError(CkptclampError):
    """What the command line or the caller asks for makes no sense."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class SpecProblem:
    """One thing wrong in a spec: where (line and column count from 1), what, and what was meant."""

    message: str
    line: int | None = None
    column: int | None = None
    hint: str | None = None


class SpecError(UsageError):
    """A spec with problems; all of them are here, not only the first."""

    def __init__(self, path: str, problems: tuple[SpecProblem, ...]) -> None:
        super().__init__(f"{len(problems)} problem(s) in the spec", path=path)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self._line(problem) for problem in self.problems)

    def _line(self, problem: SpecProblem) -> str:
        numbers = [str(n) for n in (problem.line, problem.column) if n is not None]
        place = ":".join([printable(self.path or "spec"), *numbers])
        hint = f" ({printable(problem.hint, limit=None)})" if problem.hint else ""
        return f"{place}: {printable(problem.message, limit=None)}{hint}"


class UnreadableError(CkptclampError):
    """A file, or a tensor in it, could not be read."""


class NotACheckpointError(UnreadableError):
    """The bytes are no checkpoint of a format that is known here."""


class RefusedError(UnreadableError):
    """The file has two readings, reaches outside itself, or would cost too much to read."""


class ChangedError(UnreadableError):
    """The file changed while it was being read."""


class NothingEvaluatedError(CkptclampError):
    """Nothing was judged: no declared constraint and no spec, or a rule that matches nothing."""

    exit_code = 4


class NotWrittenError(CkptclampError):
    """A conforming copy could not be made; the output is what it was before."""

    exit_code = 5
