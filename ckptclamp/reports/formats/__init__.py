"""Every format by its name, and how a report is shown; a format is imported when it is rendered."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptclamp.reports.findings import Report

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


@dataclass(frozen=True, slots=True)
class Reporter:
    """One format: its name, which is that of its module here, and what it is for in a few words."""

    name: str
    summary: str

    def render(self, report: Report, options: RenderOptions) -> str:
        """Render `report` in this format: text that ends with a line break."""
        return "".join(self.stream(report, options))

    def stream(self, report: Report, options: RenderOptions) -> Iterable[str]:
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


def render(name: str, report: Report, options: RenderOptions) -> str:
    """Render `report` in the format called `name`; text that ends with a line break."""
    return reporter_named(name).render(report, options)
