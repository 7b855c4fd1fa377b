"""How a report is shown; nothing here changes what it says."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

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
    max_findings: int = 50
    base: Path = field(default_factory=lambda: repository_root(Path.cwd()))
    start: Path = field(default_factory=Path.cwd)
