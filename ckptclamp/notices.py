"""What a user must be told beside the verdicts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
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
