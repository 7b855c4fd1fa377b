"""How a report is shown; nothing here changes what it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """What a reader chose about the look of a report.

    Attributes:
        width: columns of the terminal; ``None`` where the output is no terminal, and then no name
            is shortened.
        color: whether text may hold ANSI colours.
        verbose: -1 the census alone, 0 the report, 1 also why each rule governs its tensor.
        show_suppressed: whether suppressed violations are listed; they are counted always.
        max_worst: how many violating units are shown for one result.
        max_findings: how many findings the text tells at length; the table has them all.
        base: what paths in SARIF, GitHub and GitLab reports are relative to, the repository's root.
    """

    width: int | None = None
    color: bool = False
    verbose: int = 0
    show_suppressed: bool = False
    max_worst: int = 5
    max_findings: int = 50
    base: Path = field(default_factory=Path.cwd)
