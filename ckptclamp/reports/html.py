"""One self-contained page: no scripts, nothing fetched, readable on a phone and on paper.

A content security policy allows the page its own style sheet, by digest, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from itertools import count
from typing import TYPE_CHECKING

from ckptclamp.auditing.results import ApplyReport, AuditReport
from ckptclamp.errors import ExitCode, printable
from ckptclamp.reports.charts import axis_of, drawable, histogram_chart, strip_chart
from ckptclamp.reports.findings import Finding, Kind, findings, subject, worst_first
from ckptclamp.reports.markup import append, element, page
from ckptclamp.reports.wording import (
    LEGEND,
    beside,
    census_line,
    file_path,
    file_size,
    headline,
    number,
    plural,
    relative_excess,
    sentence,
    shape_words,
    tensor_name,
    unit_index,
    unit_sentence,
    units_cells,
    verdict_word,
    worst_value,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from xml.etree.ElementTree import Element

    from ckptclamp.auditing.results import CheckpointSummary, Result, TensorChange, WorstUnit
    from ckptclamp.engine.histogram import Histogram
    from ckptclamp.reports.markup import Child
    from ckptclamp.reports.options import RenderOptions

_MOST_FINDINGS = 200
_MOST_RESULTS = 2000
_MOST_CHANGES = 200
_MOST_FILES = 8

_BANNERS = {ExitCode.OK: "pass", ExitCode.VIOLATIONS: "violation"}


def render(report: AuditReport | ApplyReport, options: RenderOptions) -> str:
    """Return the page."""
    audit = subject(report)
    writer = _Writer(options)
    style = resources.files("ckptclamp.reports").joinpath("style.css").read_text("utf-8")
    title = f"ckptclamp: {printable(audit.checkpoint.path)}"
    body = [writer.banner(report, audit), *writer.sections(report, audit)]
    root = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_policy(style)),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="referrer", content="no-referrer"),
            element("title", title),
            element("style", style),
        ),
        element("body", body[0], element("main", *body[1:]), _footer(audit)),
        lang="en",
    )
    return page(root)


def _policy(style: str) -> str:
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


class _Writer:
    """The parts of one page; it numbers what they refer to."""

    def __init__(self, options: RenderOptions) -> None:
        self.options = options
        self.ids = count()

    def banner(self, report: AuditReport | ApplyReport, audit: AuditReport) -> Element:
        return element(
            "header",
            element("h1", headline(report)),
            element("p", element("code", file_path(audit.checkpoint.path))),
            element("p", census_line(audit, report.exit_code), class_="census"),
            _facts(report, audit),
            class_=f"banner {_banner(report)}",
        )

    def sections(self, report: AuditReport | ApplyReport, audit: AuditReport) -> Iterator[Element]:
        shown = _shown(audit.results)
        if shown:
            yield self._strip(audit, shown)
        if isinstance(report, ApplyReport):
            yield self._changes(report)
        found = findings(report, show_suppressed=self.options.show_suppressed)
        if found:
            yield self._findings(found)
        if shown:
            yield self._results(audit, shown)

    def _strip(self, audit: AuditReport, shown: dict[int, Result]) -> Element:
        fallback = f"r{next(iter(shown))}"
        pairs = [
            (result, f"r{i}" if i in shown else fallback) for i, result in enumerate(audit.results)
        ]
        keys = {
            "pass": "conforms",
            "violation": "violation, filled by the share of units outside",
            "not-evaluated": "not evaluated",
            "suppressed": "suppressed",
        }
        legend = [
            element("span", element("span", class_=f"key {kind}"), words)
            for kind, words in keys.items()
        ]
        return element(
            "section",
            element("h2", "Where in the model"),
            strip_chart(pairs, self.ids),
            element("div", *legend, class_="legend"),
        )

    def _findings(self, found: Sequence[Finding]) -> Element:
        told = found[:_MOST_FINDINGS]
        return element(
            "section",
            element("h2", "Findings, worst first"),
            *(self._card(finding) for finding in told),
            _left_out(len(found) - len(told), "finding"),
        )

    def _card(self, finding: Finding) -> Element:
        result = finding.result
        subject_ = element("code", finding.tensor) if finding.tensor else None
        return element(
            "article",
            element("h3", f"{finding.level}[", element("code", finding.code), "] ", subject_),
            element("p", finding.message),
            element("p", f"Help: {finding.help}") if finding.help else None,
            self._evidence(result) if result and finding.kind is Kind.VIOLATION else None,
            element("p", "at ", element("code", str(finding.place)), class_="muted")
            if finding.place.line is not None
            else None,
            class_=f"card {finding.level.value}",
        )

    def _evidence(self, result: Result) -> Element:
        """Why it is a violation: the histogram, what a unit is, the worst units."""
        drawn = drawable(result)
        chart = histogram_chart(result, self.ids) if drawn else None
        unit = f"A unit is {unit_sentence(result)}." if result.unit_words else ""
        facts = f"{shape_words(result.shape)}, {printable(result.dtype)}. {unit}"
        broken = plural(result.nonfinite, "unit")
        facts += (
            f" {broken} with non-finite weights, not drawn." if drawn and result.nonfinite else ""
        )
        mend = f" No projection can mend {plural(result.unmendable, 'unit')}."
        return element(
            "div",
            element(
                "div",
                chart,
                element("p", facts + (mend if result.unmendable else ""), class_="muted"),
            ),
            _worst_table(result, self.options.max_worst),
            class_="sides",
        )

    def _results(self, audit: AuditReport, shown: dict[int, Result]) -> Element:
        heads = ("tensor", "rule", "units", "violating", "worst", "verdict", "measured")
        head = element("tr", *(element("th", head, scope="col") for head in heads))
        rows = [self._row(f"r{i}", result) for i, result in shown.items()]
        return element(
            "section",
            element("h2", "All results, in the order of the file"),
            _left_out(len(audit.results) - len(shown), "result"),
            element("table", element("thead", head), element("tbody", *rows), class_="results"),
            element("p", LEGEND, class_="muted"),
        )

    def _row(self, place: str, result: Result) -> Element:
        units, violating = units_cells(result)
        chart = histogram_chart(result, self.ids) if drawable(result) else None
        rule = element("div", element("code", printable(result.constraint)), class_="muted")
        return element(
            "tr",
            element("td", _name(tensor_name(result))),
            element("td", printable(result.rule), rule),
            element("td", units, class_="number", data_label="units"),
            element("td", violating, class_="number", data_label="violating"),
            element("td", worst_value(result), data_label="worst"),
            element("td", _badge(result)),
            element("td", chart) if chart is not None else element("td", class_="empty"),
            id=place,
        )

    def _changes(self, report: ApplyReport) -> Element:
        told = report.changes[:_MOST_CHANGES]
        if report.after is None:
            words = "A dry run: nothing was written. This is what would change."
        else:
            words = "The copy was read back and audited as written; the counts above are of it."
        return element(
            "section",
            element("h2", "Changes"),
            element("p", words),
            element("p", "Nothing had to change.") if not told else None,
            *(self._change(report, change) for change in told),
            _left_out(len(report.changes) - len(told), "changed tensor"),
        )

    def _change(self, report: ApplyReport, change: TensorChange) -> Element:
        words = (
            f"{change.changed:,} of {plural(change.units, 'unit')} rewritten; the largest change "
            f"of a weight is {100 * change.largest_change:.3g} % of the largest in its unit."
        )
        after = report.after.results if report.after else ()
        charts = [
            self._before_and_after(before, _same(before, after))
            for before in report.before.results
            if before.tensor == change.tensor and drawable(before)
        ]
        return element(
            "article",
            element("h3", element("code", printable(change.label or change.tensor))),
            element("p", words),
            *charts,
            class_="card",
        )

    def _before_and_after(self, before: Result, after: Result | None) -> Element:
        both = [r for r in (before, after) if r is not None and drawable(r)]
        axis = axis_of([_histogram(result) for result in both], before.bound)
        figures = [
            element(
                "figure",
                histogram_chart(result, self.ids, axis=axis, words=words),
                element(
                    "figcaption",
                    f"{words}: {result.violating:,} of {plural(result.units, 'unit')} outside ",
                    element("code", printable(result.constraint)),
                ),
            )
            for result, words in zip(both, ("Before", "After"), strict=False)
        ]
        return element("div", *figures, class_="sides")


def _name(text: str) -> Element:
    """A tensor's name, which may be broken after a slash."""
    first, *rest = text.split("/")
    made = element("code", first)
    for part in rest:
        append(made, "/")
        append(made, element("wbr"))
        append(made, part)
    return made


def _banner(report: AuditReport | ApplyReport) -> str:
    if isinstance(report, ApplyReport) and report.after is None:
        return "dry-run"
    return _BANNERS.get(report.exit_code, "not-evaluated")


def _histogram(result: Result) -> Histogram:
    assert result.histogram is not None
    return result.histogram


def _same(before: Result, results: Sequence[Result]) -> Result | None:
    """The result of the same tensor and rule."""
    pairs = (r for r in results if (r.tensor, r.rule) == (before.tensor, before.rule))
    return next(pairs, None)


def _shown(results: Sequence[Result]) -> dict[int, Result]:
    """The results that the page has room for, the worst of them, in file order by their index."""
    if len(results) <= _MOST_RESULTS:
        return dict(enumerate(results))
    kept = {id(result) for result in worst_first(results)[:_MOST_RESULTS]}
    return {i: result for i, result in enumerate(results) if id(result) in kept}


def _facts(report: AuditReport | ApplyReport, audit: AuditReport) -> Element:
    entries: list[Child] = []
    for name, value in _fact_pairs(report, audit):
        entries += [element("dt", name), element("dd", value)]
    return element("dl", *entries, class_="facts")


def _fact_pairs(
    report: AuditReport | ApplyReport, audit: AuditReport
) -> Iterator[tuple[str, Child]]:
    summary = audit.checkpoint
    size = file_size(sum(file.size for file in summary.files))
    about = [printable(summary.format), plural(summary.tensors, "tensor"), size]
    yield "checkpoint", ", ".join([*about, printable(summary.producer or "")]).rstrip(", ")
    yield from _digests(summary, "sha256")
    if isinstance(report, ApplyReport):
        yield "projection", printable(report.projection)
    if isinstance(report, ApplyReport) and report.after is not None:
        yield "made from", element("code", file_path(report.before.checkpoint.path))
        yield from _digests(report.before.checkpoint, "its sha256")
    if audit.spec_path is not None:
        yield "spec", element("code", file_path(audit.spec_path))
    if audit.spec_sha256:
        yield "spec sha256", element("code", printable(audit.spec_sha256))
    for name, value in sorted(audit.parameters.items()):
        yield printable(name), sentence(value)


def _digests(summary: CheckpointSummary, name: str) -> Iterator[tuple[str, Child]]:
    for file in summary.files[:_MOST_FILES]:
        if file.sha256:
            which = "" if len(summary.files) == 1 else f" of {printable(file.path)}"
            yield name + which, element("code", printable(file.sha256))


def _left_out(rest: int, noun: str) -> Element | None:
    if not rest:
        return None
    return element("p", f"{plural(rest, f'more {noun}')}, less bad, left out of this page.")


def _worst_table(result: Result, most: int) -> Element | None:
    worst = result.worst[:most]
    if not worst:
        return None
    heads = ("unit", "measured", "bound", "excess")
    rest = result.violating - len(worst)
    return element(
        "div",
        element(
            "table",
            element(
                "thead",
                element("tr", *(element("th", h, scope="col", class_="number") for h in heads)),
            ),
            element("tbody", *(_worst_row(unit) for unit in worst)),
            class_="worst",
        ),
        element("p", f"and {plural(rest, 'more violating unit')}", class_="muted")
        if rest > 0
        else None,
    )


def _worst_row(unit: WorstUnit) -> Element:
    measured, bound = beside(unit.measured, unit.bound)
    if unit.nonfinite:
        measured, bound = f"{unit.nonfinite:,} non-finite", number(unit.bound)
    cells = (unit_index(unit.index), measured, bound, relative_excess(unit.excess))
    return element("tr", *(element("td", cell, class_="number") for cell in cells))


def _badge(result: Result) -> Element:
    word = verdict_word(result)
    kind = word if word in ("warning", "suppressed") else result.verdict.value
    return element("span", word, class_=f"badge {kind}")


def _footer(audit: AuditReport) -> Element:
    walls = ", ".join(printable(wall) for wall in audit.checkpoint.isolation) or "none"
    return element(
        "footer",
        f"ckptclamp {printable(audit.tool_version)}; the file was parsed behind: {walls}; "
        f"{audit.seconds:.2f} s. A norm within its bound says nothing of a model's other properties.",
    )
