"""Names from strangers are inert in every format, and every format parses back."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckptclamp.auditing.results import (
    ApplyReport,
    CheckpointSummary,
    FileDigest,
    Suppressed,
    TensorChange,
)
from ckptclamp.errors import Notice
from ckptclamp.plan import Origin, UnmatchedRule
from ckptclamp.reports import REPORTERS, RenderOptions, render
from tests.reports import samples

OPTIONS = RenderOptions(show_suppressed=True, verbose=1)
NAMES = [
    "\x1b[2J\x1b]0;title\x07",
    "a\x00b",
    "::error::fooled",
    "\n::error::fooled",
    "  ::stop-commands::x",
    "x\r::set-output name=a::b",
    "##[error]fooled",
    "a ##vso[task.complete result=Succeeded;]",
    "###[group]",
    "##teamcity[testFailed]",
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    '" onload="alert(1)',
    "]]>",
    "-->",
    "<!DOCTYPE x [<!ENTITY a 'b'>]>&a;",
    "`",
    "```\n# heading\n```",
    "a|b|c",
    "\\|",
    "[click](javascript:alert(1))",
    "![x](http://example.invalid/x.png)",
    "@everyone #1",
    "</details>",
    "\u202egnp.exe",
    "\u2066\u2069\u200b\ufeff",
    "\ud800",
    "\udcff",
    "line\u2028separator\u2029",
    "next\x85line",
    "\uffff\ufffe",
    "\U000e0001tag",
    "[red]markup[/red]",
    "=cmd|' /C calc'!A0",
    "%0A::error::x",
    "%s%n{0}{x}",
    "../../etc/passwd",
    "a" * 100_000,
    "\u202e" * 10_000,
    "",
    " ",
]


def infected(name):
    """An apply report in which every text that a stranger can choose is `name`."""
    notice = Notice(name, name, hint=name, tensor=name)
    result = replace(
        samples.VIOLATING,
        tensor=name,
        label=name,
        rule=name,
        constraint=name,
        dtype=name,
        unit_words=name,
        location=f"{name}:3:5",
        why=name,
        hint=name,
        notices=(notice,),
    )
    audit = replace(
        samples.VIOLATIONS,
        checkpoint=CheckpointSummary(name, name, (FileDigest(name, 1, name),), 1, name, (name,)),
        results=(
            result,
            replace(result, suppressed=Suppressed(name, name, name)),
            replace(samples.NOT_EVALUATED, tensor=name, reason=name, hint=name),
            replace(result, origin=Origin.DECLARED, location=name, label=None),
        ),
        unmatched=(UnmatchedRule(name, (name,), None, name),),
        notices=(notice,),
        spec_path=name,
        spec_sha256=name,
        parameters={name: name},
        tool_version=name,
    )
    change = TensorChange(name, 2, 1, 0.5, (name,), name)
    return ApplyReport(audit, (change,), audit, name, name, (notice,))


def check_inert(text):
    """What no format may hold: signs that terminals and CI runners obey, or that hide text."""
    for line in re.split("[\n\r]", text):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", line)
        assert not re.search("[\u2066-\u2069\u200b-\u200f\ufeff\ufffe\uffff\ud800-\udfff]", line)
        assert "##[" not in line
        assert "##vso" not in line
        assert "##teamcity" not in line
    assert "\r" not in text
    text.encode("utf-8")


class Strict(HTMLParser):
    """Collects tags and attributes as an independent parser sees them."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags = set()
        self.attributes = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def check_text(text):
    """No line is a workflow command."""
    assert not [line for line in text.splitlines() if line.lstrip().startswith("::")]


def check_json(text):
    """JSON, in ASCII so that no reader's encoding matters."""
    assert text.isascii()
    json.loads(text)


def check_junit(text):
    """Well-formed, with one testcase a result and one for the gate."""
    root = ET.fromstring(text)
    assert len(root.findall(".//testcase")) == 5


def check_github(text):
    """At most ten commands, all of them ours, and one plain line."""
    *commands, census = text.splitlines()
    assert len(commands) <= 10
    for command in commands:
        assert re.match(r"::(error|warning|notice) (\w+=[^:,]*,?)+::", command)
    assert census.endswith("exit 3")


def check_gitlab(text):
    """A list of entries with one path each."""
    check_json(text)
    assert all(isinstance(entry["location"]["path"], str) for entry in json.loads(text))


def check_sarif(text):
    """Every URI is made of the characters that URIs have."""
    check_json(text)
    uris = re.findall(r'"uri": "([^"]*)"', text)
    assert uris
    assert all(re.fullmatch(r"[A-Za-z0-9._~/%:-]+", uri) for uri in uris)


def check_markdown(text):
    """Outside code spans there is nothing of the name: no links, tags, or further cells."""
    for line in text.splitlines():
        bare = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "CODE", line)
        assert not re.search(r"script|example\.invalid|javascript|everyone|onerror", bare)
        assert "`" not in bare
        if line.startswith("|"):
            assert line.count("|") in (6, 8)
    assert text.count("<details>") == text.count("\n</details>") == 1


def check_html(text):
    """Only our own elements and attributes."""
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert not parser.tags & {"script", "img", "iframe", "x"}
    assert not [name for name in parser.attributes if name.startswith("on") or name == "src"]
    assert text.count("<style>") == text.count("</style>") == 1


CHECKS = {
    "text": check_text,
    "json": check_json,
    "sarif": check_sarif,
    "junit": check_junit,
    "markdown": check_markdown,
    "github": check_github,
    "gitlab": check_gitlab,
    "html": check_html,
}


def test_every_format_is_checked():
    """A new format must say how it is kept inert."""
    assert CHECKS.keys() == REPORTERS.keys()


@pytest.mark.parametrize("format_", REPORTERS)
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:24])
def test_hostile_names_are_inert(format_, name):
    """The worst names that we know, in every place that a stranger can reach."""
    text = render(format_, infected(name), OPTIONS)
    check_inert(text)
    CHECKS[format_](text)


@pytest.mark.parametrize("format_", [name for name in REPORTERS if name != "json"])
def test_a_long_name_does_not_make_a_long_report(format_):
    """A name of megabytes in forty places would be a report that nothing opens."""
    assert len(render(format_, infected("n" * 2_000_000), OPTIONS)) < 400_000


@pytest.mark.parametrize("format_", REPORTERS)
@settings(max_examples=25, deadline=None)
@example("#" * 9)
@example("``` `` `")
@given(st.text(st.characters(), max_size=40))
def test_any_text_is_inert(format_, name):
    """Names that nobody thought of."""
    text = render(format_, infected(name), OPTIONS)
    check_inert(text)
    CHECKS[format_](text)
