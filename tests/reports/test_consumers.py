"""What reads our reports reads them right: a JUnit parser and a Markdown renderer of other people."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped
from markdown_it import MarkdownIt

from ckptclamp.auditing.runs import subject
from ckptclamp.reports import RenderOptions
from ckptclamp.reports.formats import junit, markdown
from tests.reports import samples
from tests.reports import test_hostile_text as hostile

OPTIONS = RenderOptions(show_suppressed=True, verbose=1)


@pytest.mark.parametrize("name", samples.REPORTS)
def test_a_junit_parser_counts_what_the_audit_counted(name):
    """A dashboard shows the census of the report: no testcase is lost and none has another outcome."""
    report = samples.REPORTS[name]
    parsed = JUnitXml.fromstring(junit.render(report, OPTIONS).encode())
    cases = [case for suite in parsed for case in suite]
    parsed.update_statistics()
    outcomes = [type(case.result[0]) if case.result else None for case in cases]
    census = subject(report).census
    rules = {result.rule for result in subject(report).results}
    rows = [o for case, o in zip(cases, outcomes, strict=True) if case.classname in rules]
    assert len(rows) == census.results
    assert rows.count(Skipped) == census.suppressed
    assert rows.count(Error) == census.not_evaluated
    red = any(outcome in (Failure, Error) for outcome in outcomes)
    assert red == (subject(report).exit_code != 0)  # a dry run tells of what it would mend
    assert parsed.tests == len(cases)


@pytest.mark.parametrize("name", hostile.NAMES)
def test_a_junit_parser_reads_hostile_names(name):
    """No name makes XML that a parser refuses, or hides a testcase."""
    parsed = JUnitXml.fromstring(junit.render(hostile.infected(name), OPTIONS).encode())
    assert sum(len(suite) for suite in parsed) == 5


class Rendered(HTMLParser):
    """The elements of rendered Markdown, and how many cells each table row has."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags = set()
        self.rows = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1


def rendered(report):
    """A step summary as a reader sees it: HTML that stands in Markdown is kept, as GitHub does."""
    renderer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return Rendered(renderer.render(markdown.render(report, OPTIONS)))


@pytest.mark.parametrize("name", samples.REPORTS)
def test_a_markdown_renderer_shows_the_table(name):
    """A row for each result that is told, as wide as the heading."""
    report = samples.REPORTS[name]
    page = rendered(report)
    assert len(set(page.rows)) <= 2
    if subject(report).results:
        assert "table" in page.tags


@pytest.mark.parametrize("name", hostile.NAMES)
def test_a_markdown_renderer_makes_nothing_of_hostile_names(name):
    """No link, no picture, no element of a stranger, no further cells; on a page that many see."""
    page = rendered(hostile.infected(name))
    ours = set(rendered(hostile.infected("harmless")).tags)
    assert page.tags <= ours | {"em"}
    assert not page.tags & {"a", "img", "script", "title", "style"}
    assert page.rows == rendered(hostile.infected("harmless")).rows
