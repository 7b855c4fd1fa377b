"""What CI systems make of a report: JUnit, GitHub, GitLab and Markdown."""

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ckptclamp.plan import UnmatchedRule
from ckptclamp.reports import RenderOptions, render, repository_root
from ckptclamp.reports.findings import findings
from ckptclamp.reports.formats import github, gitlab, junit, markdown
from tests.reports import samples

OPTIONS = RenderOptions(base=Path.cwd())
MARKDOWN_LIMIT = 1 << 20


def suite_of(report):
    """The testcases of a report's JUnit XML by (rule, tensor)."""
    root = ET.fromstring(junit.render(report, OPTIONS))
    (suite,) = root
    cases = {(c.get("classname"), c.get("name")): c for c in suite.iter("testcase")}
    assert suite.get("tests") == str(len(cases))
    for outcome in ("failure", "error", "skipped"):
        count = len(suite.findall(f"testcase/{outcome}"))
        assert suite.get({"failure": "failures", "error": "errors"}.get(outcome, outcome)) == str(
            count
        )
    return cases


def test_every_tensor_and_rule_is_a_testcase():
    """A test that passed must be seen to have run."""
    cases = suite_of(samples.MIXED)
    for result in samples.MIXED.results:
        assert (result.rule, result.tensor) in cases
    passed = cases["bounded-filters", "layers/conv2d/vars/0"]
    assert list(passed) == []
    failed = cases["bounded-filters", "layers/depthwise_conv2d/vars/0"]
    assert [child.tag for child in failed] == ["failure"]
    assert (failed.get("file"), failed.get("line")) == ("spec.yaml", "9")


def test_what_could_not_be_judged_is_an_error_with_its_reason():
    """A skipped test reads green in CI."""
    cases = suite_of(samples.MIXED)
    error = cases[samples.NOT_EVALUATED.rule, samples.NOT_EVALUATED.tensor].find("error")
    assert error is not None
    assert "our_pkg>Sparse is not known here" in error.get("message")
    assert cases["embeddings", "matches a tensor"].find("error") is not None


JUNIT_CASES = [*samples.REPORTS.values(), replace(samples.MIXED, strict=True)]


@pytest.mark.parametrize("report", JUNIT_CASES)
def test_junit_is_red_once_for_each_finding_that_fails(report):
    """Who counts red testcases counts findings: no other is made up, none is told twice."""
    root = ET.fromstring(junit.render(report, OPTIONS))
    red = [c for c in root.iter("testcase") if {child.tag for child in c} & {"failure", "error"}]
    levels = {"error", "warning"} if getattr(report, "strict", False) else {"error"}
    assert len(red) == sum(finding.level in levels for finding in findings(report))
    assert int(root.get("failures", "")) + int(root.get("errors", "")) == len(red)


@pytest.mark.parametrize(
    "report",
    [
        samples.MIXED,
        samples.CLEAN,
        samples.VIOLATIONS,
        samples.EMPTY,
        replace(samples.CLEAN, results=(samples.WARNING,)),
        replace(samples.CLEAN, results=(samples.WARNING,), strict=True),
        replace(samples.CLEAN, results=(samples.PASSING, samples.SUPPRESSED)),
        replace(samples.CLEAN, unmatched=(UnmatchedRule("rule"),)),
        replace(samples.CLEAN, results=(samples.NOT_EVALUATED,)),
        replace(samples.CLEAN, notices=samples.MIXED.notices),
        replace(samples.CLEAN, notices=samples.MIXED.notices, strict=True),
        samples.APPLIED,
    ],
)
def test_junit_is_red_exactly_when_the_exit_code_is_not_zero(report):
    """Two answers to one question would make one of them a lie."""
    root = ET.fromstring(junit.render(report, OPTIONS))
    red = bool(root.findall(".//failure") or root.findall(".//error"))
    assert red == (report.exit_code != 0)


def commands(text):
    """What the runner makes of annotations: (command, properties, message)."""
    found = re.findall(r"^::(\w+) (.*?)::(.*)$", text, re.MULTILINE)
    return [
        (name, dict(pair.split("=", 1) for pair in properties.split(",")), message)
        for name, properties, message in found
    ]


def test_annotations_point_at_the_rule():
    """An annotation appears in the diff beside the rule's line."""
    first = commands(github.render(samples.VIOLATIONS, OPTIONS))[0]
    assert first[0] == "error"
    assert first[1] == {
        "file": "spec.yaml",
        "line": "9",
        "col": "5",
        "title": "ckptclamp%3A bounded-filters",
    }
    assert first[2].startswith("depthwise_conv2d/kernel: 7 of 16 units violate")
    assert "+73.2 %25" in first[2]


@pytest.mark.parametrize("count", [9, 10, 11, 500])
def test_annotations_are_ten_at_most_and_none_is_lost_silently(count):
    """GitHub drops the eleventh; the tenth says how many there are."""
    found = commands(github.render(samples.many(count), OPTIONS))
    assert len(found) == min(count, 10)
    if count > 10:
        assert found[0][2].startswith(f"layers/block_{count - 1}/")
        assert found[-1][2].startswith(f"{count - 9} more findings")


def test_annotations_end_with_the_census():
    """The log shows the whole answer even where annotations are hidden."""
    assert github.render(samples.CLEAN, OPTIONS) == (
        "1 result: 1 pass, 0 violations, 0 not evaluated; exit 0\n"
    )


def test_gitlab_entries_have_what_gitlab_requires():
    """GitLab ignores a whole report in which one entry lacks a field."""
    entries = json.loads(gitlab.render(samples.MIXED, OPTIONS))
    assert len(entries) == 9  # eight findings, and the count of what is suppressed
    for entry in entries:
        assert entry["description"]
        assert entry["check_name"]
        assert re.fullmatch("[0-9a-f]{64}", entry["fingerprint"])
        assert entry["severity"] in {"info", "minor", "major", "critical", "blocker"}
        assert not entry["location"]["path"].startswith(("/", "./"))
        assert entry["location"]["lines"]["begin"] >= 1
    assert len({entry["fingerprint"] for entry in entries}) == len(entries)


def test_gitlab_counts_what_it_leaves_out():
    """The worst 5,000 are listed and one entry stands for the others."""
    entries = json.loads(gitlab.render(samples.many(5100), OPTIONS))
    assert len(entries) == 5001
    assert "block_5099/" in entries[0]["description"]
    assert entries[-1]["description"].startswith("models/eegnet.keras") is False
    assert entries[-1]["description"].startswith("100 more findings")


def test_markdown_says_the_answer_first():
    """A step summary is read from its first line."""
    lines = markdown.render(samples.MIXED, OPTIONS).splitlines()
    assert lines[0] == "## ckptclamp: Fail: not everything could be evaluated"
    assert lines[2].endswith("exit 3")
    assert markdown.render(samples.CLEAN, OPTIONS).startswith(
        "## ckptclamp: Pass: everything governed was evaluated and conforms\n"
    )


def test_markdown_of_an_apply_tells_changes_and_copy():
    """A reviewer sees what was rewritten, and that the copy was audited."""
    text = markdown.render(samples.APPLIED, OPTIONS)
    assert "| `depthwise_conv2d/kernel` | `bounded-filters` | 16 | 7 | 42.3 % |" in text
    assert "The copy is `models/eegnet.clamped.keras`" in text
    assert "nothing was written" in markdown.render(samples.DRY_RUN, OPTIONS)


def test_markdown_stays_under_the_limit_and_says_what_it_left_out():
    """GitHub drops a summary over 1 MiB altogether."""
    count = 6000
    text = markdown.render(samples.many(count), OPTIONS)
    assert len(text.encode()) < MARKDOWN_LIMIT
    shown = text.count("| error |")
    assert shown > 500
    assert f"… {count - shown:,} more findings, left out for space" in text
    assert text.index("block_5999/") < text.index("block_5998/")


@pytest.mark.parametrize("text", ["a", "`", "``a`", " a", "", "a|b", "\\|", "`|`", "a\nb"])
def test_a_code_span_holds_its_text(text):
    """A fence longer than any run of backticks, no bar, no line break."""
    span = markdown.code(text)
    match = re.fullmatch(r"(`+)(.*[^`]|)\1", span)
    assert match
    assert match[1] not in re.findall("`+", match[2])
    assert "|" not in span
    assert "\n" not in span


@pytest.mark.parametrize("variable", [None, "GITHUB_WORKSPACE", "CI_PROJECT_DIR"])
def test_paths_are_those_from_the_root_of_the_repository(tmp_path, monkeypatch, variable):
    """A job that audits in a folder of its own still points at files that the forge knows."""
    for name in ("GITHUB_WORKSPACE", "CI_PROJECT_DIR"):
        monkeypatch.delenv(name, raising=False)
    repository, inner = tmp_path / "repository", tmp_path / "repository" / "sub" / "deeper"
    inner.mkdir(parents=True)
    if variable is None:
        (repository / ".git").write_text("gitdir: elsewhere")
    else:
        (inner / ".git").mkdir()
        monkeypatch.setenv(variable, str(repository))
    monkeypatch.chdir(inner)
    for name in ("sarif", "github", "gitlab", "junit"):
        assert "sub/deeper/spec.yaml" in render(name, samples.VIOLATIONS, RenderOptions())


def test_a_checkout_elsewhere_is_no_root(tmp_path, monkeypatch):
    """Outside of every repository paths are those from the working directory."""
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / "other"))
    monkeypatch.delenv("CI_PROJECT_DIR", raising=False)
    assert repository_root(tmp_path) == tmp_path
