"""What stands where a report would be when there is none: every format says what happened."""

import json
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from jsonschema import Draft202012Validator

from ckptclamp.auditing.runs import Failure, Problem
from ckptclamp.errors import ExitCode, RefusedError, UsageError
from ckptclamp.reports import REPORTERS, RenderOptions, render
from ckptclamp.reports.formats.json import load_document, read_report
from tests.reports import samples
from tests.reports import test_hostile_text as hostile
from tests.reports.test_sarif import oasis  # noqa: F401 - the judge of SARIF
from tests.reports.test_schema import schema

OPTIONS = RenderOptions()


@pytest.mark.parametrize("format", REPORTERS)
@pytest.mark.parametrize("name", samples.FAILURES)
def test_every_format_says_what_is_wrong(format, name):
    """A reader of one format alone learns of every problem, and that there is no answer."""
    failure = samples.FAILURES[name]
    text = render(format, failure, OPTIONS).replace("&#39;", "'").replace("\\u0027", "'")
    for problem in failure.problems:
        assert problem.message in text
    exit_code = int(failure.exit_code)
    assert any(f"exit {exit_code}" in text or f'"{key}": {exit_code}' in text for key in KEYS) or (
        format in ("junit", "gitlab")
    )


KEYS = ("exit_code", "exitCode")


@pytest.mark.parametrize("name", samples.FAILURES)
def test_a_failure_is_an_annotation_at_its_place(name):
    """The line of the spec, where there is one."""
    text = render("github", samples.FAILURES[name], OPTIONS)
    assert text.count("::error ") == len(samples.FAILURES[name].problems)
    assert ("file=spec.yaml,line=6,col=5," in text) == (name == "spec")
    assert ("file=" in text) == (name != "helpless")


@pytest.mark.parametrize("name", samples.FAILURES)
def test_a_failure_is_an_error_case_in_junit(name):
    """One for each problem, and nothing that reads as a pass."""
    root = ET.fromstring(render("junit", samples.FAILURES[name], OPTIONS))
    cases = list(root.iter("testcase"))
    assert len(cases) == len(root.findall(".//error")) == len(samples.FAILURES[name].problems)
    assert root.get("errors") == root.get("tests") == str(len(cases))


@pytest.mark.parametrize("name", samples.FAILURES)
def test_a_failure_is_told_by_the_invocation_in_sarif(name, oasis):  # noqa: F811
    """No result is made up, and the run is not successful."""
    failure = samples.FAILURES[name]
    log = json.loads(render("sarif", failure, OPTIONS))
    oasis.validate(log)
    (run,) = log["runs"]
    (invocation,) = run["invocations"]
    assert run["results"] == []
    assert invocation["executionSuccessful"] is False
    assert invocation["exitCode"] == failure.exit_code
    told = [n for n in invocation["toolExecutionNotifications"] if "descriptor" in n]
    assert len(told) == len(failure.problems)
    assert {n["descriptor"]["id"] for n in told} == {failure.code}
    (kind,) = run["tool"]["driver"]["notifications"]
    assert kind["helpUri"].endswith(f"#{failure.code}")


@pytest.mark.parametrize("name", samples.FAILURES)
def test_a_failure_comes_back_from_json(name, tmp_path):
    """Other formats can be made of it later, and its schema knows every field."""
    failure = samples.FAILURES[name]
    text = render("json", failure, OPTIONS)
    assert load_document(text) == failure
    Draft202012Validator(schema("failure")).validate(json.loads(text))
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(UsageError, match="tells of a failure"):
        read_report(tmp_path / "report.json")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"exit_code": 0}, UsageError),
        ({"exit_code": 1}, UsageError),
        ({"exit_code": 9}, UsageError),
        ({"problems": []}, UsageError),
        ({"problems": [{}]}, UsageError),
        ({"more": 1}, UsageError),
        ({"code": float("nan")}, RefusedError),
    ],
)
def test_what_is_no_failure_is_refused(change, error):
    """A failure that says that all is well would be taken for a pass."""
    document = json.loads(render("json", samples.FAILED, OPTIONS)) | change
    with pytest.raises(error):
        load_document(json.dumps(document))


@pytest.mark.parametrize("format", REPORTERS)
@pytest.mark.parametrize("name", hostile.NAMES)
def test_hostile_names_are_inert_in_failures(format, name):
    """The names of files and tensors come from strangers here too."""
    problem = Problem(name, name, 1, 1, name, name)
    failure = replace(samples.FAILED, checkpoint=name, problems=(problem,))
    text = render(format, failure, OPTIONS)
    assert "\x1b" not in text
    assert "##" not in text.replace("### Findings", "").replace("## ckptclamp", "")
    commands = [line for line in text.splitlines() if line.lstrip().startswith("::")]
    assert len(commands) == (1 if format == "github" else 0)
    assert "<script" not in text or format in (
        "json",
        "gitlab",
        "sarif",
        "text",
        "github",
        "markdown",
    )


def test_schemas_name_every_field():
    """A field that is added must be published in the same change."""
    document = schema("failure")
    fields = set(Failure.__dataclass_fields__)
    assert set(document["properties"]) == fields | {"schema"}
    assert set(document["$defs"]["problem"]["properties"]) == set(Problem.__dataclass_fields__)
    allowed = set(document["properties"]["exit_code"]["enum"])
    assert allowed == {int(c) for c in ExitCode} - {ExitCode.OK, ExitCode.VIOLATIONS}
