"""One report about several checkpoints: a section for each in every format, and one answer."""

import json
from dataclasses import fields, replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from jsonschema import Draft202012Validator

from ckptclamp.auditing.results import Summary
from ckptclamp.auditing.runs import Failure, Run, answers_of, checkpoint_of, outranking, subject
from ckptclamp.errors import ExitCode, UsageError
from ckptclamp.reports import REPORTERS, RenderOptions, render
from ckptclamp.reports.findings import Level, findings
from ckptclamp.reports.formats.json import load_document, read_report
from tests.reports import samples
from tests.reports import test_hostile_text as hostile
from tests.reports.test_sarif import oasis  # noqa: F401 - the judge of SARIF
from tests.reports.test_schema import schema

OPTIONS = RenderOptions()
EMPTY = Run(())
PASSING = Run((samples.CLEAN, samples.CLEAN))


@pytest.mark.parametrize(
    ("codes", "one"),
    [([0, 0], 0), ([0, 1], 1), ([1, 4], 4), ([4, 3], 3), ([3, 5], 5), ([5, 2], 2), ([], 4)],
)
def test_one_exit_code_by_the_documented_order(codes, one):
    """What could not be judged outranks what was; nothing at all has passed nothing."""
    assert outranking(map(ExitCode, codes)) == outranking(map(ExitCode, codes[::-1])) == one


def test_the_census_is_the_sum():
    """What one checkpoint counts is counted once."""
    counted = [subject(a).census for a in samples.RUN.answers if not isinstance(a, Failure)]
    for field in fields(Summary):
        total = sum(getattr(census, field.name) for census in counted)
        assert getattr(samples.RUN.census, field.name) == total


@pytest.mark.parametrize("format", REPORTERS)
def test_every_format_has_a_section_for_each(format):
    """No checkpoint is lost, and every failing one says why."""
    text = render(format, samples.RUN, OPTIONS)
    for answer in samples.RUN.answers:
        if format != "gitlab" or answer.exit_code:
            assert str(checkpoint_of(answer)) in text
    assert "12 bytes of text" in text


@pytest.mark.parametrize("run", [samples.RUN, EMPTY, PASSING])
def test_a_run_comes_back_from_json(run, tmp_path):
    """Other formats can be made of it later; each section is what a report of its own would be."""
    text = render("json", run, OPTIONS)
    back = load_document(text)
    assert render("json", back, OPTIONS) == text  # NaN is not equal to itself
    assert back.exit_code == run.exit_code
    document = json.loads(text)
    Draft202012Validator(schema("run")).validate(document)
    alone = [json.loads(render("json", answer, OPTIONS)) for answer in run.answers]
    assert document["checkpoints"] == alone
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UsageError, match="several checkpoints"):
        read_report(tmp_path / "report.json")


@pytest.mark.parametrize(
    "change",
    [
        {"exit_code": 0},
        {"census": None},
        {"checkpoints": {}},
        {"checkpoints": [{}]},
        {"notices": None},
        {"seconds": "long"},
        {"more": 1},
    ],
)
def test_a_run_that_contradicts_itself_is_refused(change):
    """An edited exit code would let a gate pass that was closed."""
    document = json.loads(render("json", samples.RUN, OPTIONS)) | change
    with pytest.raises(UsageError):
        load_document(json.dumps(document))


def test_findings_of_several_checkpoints_are_told_apart():
    """The same tensor under the same rule in two files, and one file judged twice, are two findings."""
    found = findings(samples.RUN, show_suppressed=True)
    assert len({finding.fingerprint for finding in found}) == len(found)
    again = findings(replace(samples.RUN, seconds=3.0), show_suppressed=True)
    assert [f.fingerprint for f in again] == [f.fingerprint for f in found]


def test_gitlab_keeps_every_entry():
    """Two entries of one fingerprint are one to it; a checkpoint may be judged twice."""
    entries = json.loads(render("gitlab", samples.RUN, OPTIONS))
    assert len({entry["fingerprint"] for entry in entries}) == len(entries)
    assert sum(entry["check_name"] == "suppressed" for entry in entries) == 2


@pytest.mark.parametrize("run", [samples.RUN, EMPTY, PASSING])
def test_sarif_is_one_run_with_an_invocation_for_each(run, oasis):  # noqa: F811
    """Forges keep one set of alerts for a run, so that those of a file that is gone are closed."""
    log = json.loads(render("sarif", run, OPTIONS))
    oasis.validate(log)
    (told,) = log["runs"]
    exits = [invocation["exitCode"] for invocation in told["invocations"]]
    assert exits == [answer.exit_code for answer in run.answers] or exits == [4]
    assert told["automationDetails"]["id"] == "ckptclamp/"
    hashes = [r["partialFingerprints"]["primaryLocationLineHash"] for r in told["results"]]
    assert len(set(hashes)) == len(hashes)
    names = {
        place["fullyQualifiedName"]
        for result in told["results"]
        for place in result["locations"][0].get("logicalLocations", [])
    }
    assert "models/eegnet.keras" in names or not told["results"]


def test_junit_has_a_suite_for_each_and_counts_all():
    """A dashboard sums what it is told."""
    root = ET.fromstring(render("junit", samples.RUN, OPTIONS))
    suites = root.findall("testsuite")
    assert [suite.get("name") for suite in suites] == list(
        map(checkpoint_of, answers_of(samples.RUN))
    )
    for name in ("tests", "failures", "errors", "skipped"):
        assert int(root.get(name, "")) == sum(int(suite.get(name, "")) for suite in suites)
    red = int(root.get("failures", "")) + int(root.get("errors", ""))
    assert red == sum(finding.level is Level.ERROR for finding in findings(samples.RUN))


def test_places_in_a_page_are_unique_and_links_lead_there():
    """Two checkpoints have rows of the same number."""
    ids: list[str | None] = []
    links: list[str] = []

    class Places(HTMLParser):
        def handle_starttag(self, tag, attrs):
            ids.extend(value for key, value in attrs if key == "id")
            links.extend(value for key, value in attrs if key == "href")

    Places().feed(render("html", samples.RUN, OPTIONS))
    assert len(set(ids)) == len(ids)
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_markdown_of_many_checkpoints_stays_under_the_limit():
    """GitHub drops a summary over 1 MiB altogether; what does not pass comes first."""
    bad = samples.many(300)
    run = Run((samples.CLEAN,) * 300 + (bad,) * 20)
    text = render("markdown", run, OPTIONS)
    assert len(text.encode()) < 1 << 20
    assert "more checkpoints left out for space" in text
    assert text.count("\n## `models/eegnet.keras`") == 100
    assert "exit 1`" in text[: text.index("exit 0`")]


def test_annotations_of_many_checkpoints_are_ten_at_most():
    """GitHub drops the eleventh; a line in the log for each checkpoint is no annotation."""
    text = render("github", Run((samples.many(50),) * 3), OPTIONS)
    assert text.count("::error ") == 10
    assert text.count("models/eegnet.keras: 50 results") == 3


@pytest.mark.parametrize("format", REPORTERS)
@pytest.mark.parametrize("name", hostile.NAMES)
def test_hostile_names_are_inert_in_runs(format, name):
    """A checkpoint's name stands in more places here."""
    text = render(format, Run((hostile.infected(name), samples.CLEAN)), OPTIONS)
    assert "\x1b" not in text
    commands = [line for line in text.splitlines() if line.lstrip().startswith("::")]
    assert format == "github" or not commands
    assert all(c.startswith(("::error ", "::warning ", "::notice ")) for c in commands)
