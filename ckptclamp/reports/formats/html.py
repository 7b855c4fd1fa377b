"""One self-contained page: no scripts, nothing fetched, readable on a phone and on paper.

A content security policy allows the page its own style sheet, by digest, and nothing else. The page
is `page.html.jinja`, which escapes every text; what stands in it is chosen here.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from itertools import count
from typing import TYPE_CHECKING, Any

from ckptclamp.auditing.results import ApplyReport
from ckptclamp.auditing.runs import Failure, Run, answers_of, checkpoint_of, subject, version_of
from ckptclamp.errors import ExitCode, plural, printable
from ckptclamp.reports import wording
from ckptclamp.reports.findings import findings, worst_first
from ckptclamp.reports.formats.charts import Plot, axis_of, drawable, histogram_plot, strip
from ckptclamp.reports.headlines import answer_line, headline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptclamp.auditing.results import Result, TensorChange
    from ckptclamp.auditing.runs import Answer, Document
    from ckptclamp.reports import RenderOptions

_MOST_FINDINGS = 200
_MOST_RESULTS = 2000
_MOST_CHANGES = 200
_MOST_FILES = 8

_BANNERS = {ExitCode.OK: "pass", ExitCode.VIOLATIONS: "violation"}


def render(report: Document, options: RenderOptions) -> str:
    """Return the page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ckptclamp.reports.formats", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(words=wording, headline=headline, answer_line=answer_line)
    environment.globals.update(plot_of=_plot, next=next, ids=count())
    environment.globals.update(options=options, most_files=_MOST_FILES)
    return environment.get_template("page.html.jinja").render(_content(report, options))


def _content(document: Document, options: RenderOptions) -> dict[str, Any]:
    """What the template shows: what is said of all, and each answer by itself."""
    style = resources.files("ckptclamp.reports.formats").joinpath("style.css").read_text("utf-8")
    several = isinstance(document, Run)
    answers = answers_of(document)
    parts = [
        _part(answer, options, f"c{i}-" if several else "", max(len(answers), 1))
        for i, answer in enumerate(answers)
    ]
    path = plural(len(answers), "checkpoint") if several else parts[0]["path"]
    return {
        "report": document,
        "several": several,
        "answers": parts,
        "own": [f for f in findings(document) if f.checkpoint is None] if several else [],
        "style": style,
        "policy": _policy(style),
        "banner": _banner(document),
        "path": path,
        "title": printable(path),
        "version": version_of(document),
    }


def _part(answer: Answer, options: RenderOptions, prefix: str, count: int) -> dict[str, Any]:
    """One answer of `count`; places in it begin with `prefix`."""
    most = max(1, _MOST_FINDINGS // count)
    found = findings(answer, show_suppressed=options.show_suppressed)
    part: dict[str, Any] = {
        "report": answer,
        "prefix": prefix,
        "path": wording.file_path(checkpoint_of(answer) or "no checkpoint"),
        "banner": _banner(answer),
        "audit": None,
        "changes": None,
        "shown": {},
        "strip": None,
        "findings": found[:most],
        "findings_left_out": max(0, len(found) - most),
    }
    if isinstance(answer, Failure):
        return part
    results = subject(answer).results
    shown = _shown(results, max(1, _MOST_RESULTS // count))
    return part | {
        "audit": subject(answer),
        "changes": list(_changes(answer)) if isinstance(answer, ApplyReport) else None,
        "shown": shown,
        "strip": _strip(results, shown, prefix),
    }


def _policy(style: str) -> str:
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _banner(report: Document) -> str:
    if isinstance(report, ApplyReport) and report.after is None:
        return "dry-run"
    return _BANNERS.get(report.exit_code, "not-evaluated")


def _shown(results: Sequence[Result], most: int) -> dict[int, Result]:
    """The results that there is room for, the worst `most` of them, in file order by their index."""
    if len(results) <= most:
        return dict(enumerate(results))
    kept = {id(result) for result in worst_first(results)[:most]}
    return {i: result for i, result in enumerate(results) if id(result) in kept}


def _strip(results: Sequence[Result], shown: dict[int, Result], prefix: str) -> Plot | None:
    """All results; a cell whose result has no row links to the first one that has."""
    if not shown:
        return None
    first = next(iter(shown))
    return strip([(r, f"{prefix}r{i if i in shown else first}") for i, r in enumerate(results)])


def _plot(result: Result) -> Plot | None:
    return histogram_plot(result) if drawable(result) else None


_Pair = list[tuple[str, "Result", Plot]]
"""Before and after, each with its result; only before where the other cannot be drawn."""


def _changes(report: ApplyReport) -> Iterator[tuple[TensorChange, list[_Pair]]]:
    after = report.after.results if report.after else ()
    for change in report.changes[:_MOST_CHANGES]:
        yield (
            change,
            [
                _before_and_after(before, after)
                for before in report.before.results
                if before.tensor == change.tensor and drawable(before)
            ],
        )


def _before_and_after(before: Result, results: Sequence[Result]) -> _Pair:
    """The plots of one tensor under one rule, on one axis."""
    same = (r for r in results if (r.tensor, r.rule) == (before.tensor, before.rule))
    both = [r for r in (before, next(same, None)) if r is not None and drawable(r)]
    axis = axis_of([r.histogram for r in both if r.histogram], before.bound)
    return [
        (when, result, histogram_plot(result, axis, when))
        for when, result in zip(("Before", "After"), both, strict=False)
    ]
