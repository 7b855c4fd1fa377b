"""Every format by its name; a format is imported when it is rendered."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from ckptclamp.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptclamp.auditing.results import ApplyReport, AuditReport
    from ckptclamp.reports.options import RenderOptions


class Render(Protocol):
    """What a format module offers: the whole report as text that ends with a line break."""

    def __call__(self, report: AuditReport | ApplyReport, options: RenderOptions) -> str:
        """Render `report`."""


class Stream(Protocol):
    """What a format module may offer as well: the same text, piece by piece."""

    def __call__(self, report: AuditReport | ApplyReport, options: RenderOptions) -> Iterable[str]:
        """Render `report`."""


@dataclass(frozen=True, slots=True)
class Reporter:
    """One format: its name, and what it is for in a few words."""

    name: str
    summary: str

    def render(self, report: AuditReport | ApplyReport, options: RenderOptions) -> str:
        """Render `report` in this format."""
        module = import_module(f"ckptclamp.reports.{self.name}")
        return cast("Render", module.render)(report, options)

    def stream(self, report: AuditReport | ApplyReport, options: RenderOptions) -> Iterable[str]:
        """Return what `render` does in pieces: rendered as they are taken, if the format can do so."""
        module = import_module(f"ckptclamp.reports.{self.name}")
        if hasattr(module, "stream"):
            return cast("Stream", module.stream)(report, options)
        return (cast("Render", module.render)(report, options),)


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


def render(name: str, report: AuditReport | ApplyReport, options: RenderOptions) -> str:
    """Render `report` in the format called `name`; text that ends with a line break."""
    return reporter_named(name).render(report, options)
