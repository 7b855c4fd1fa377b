"""The master report: lossless, strict, and stable."""

import json
import math
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptclamp.auditing.results import ApplyReport, AuditReport, Result, WorstUnit
from ckptclamp.engine.histogram import Histogram
from ckptclamp.errors import RefusedError, UsageError
from ckptclamp.reports import Output, RenderOptions, write_reports
from ckptclamp.reports.formats.json import load_document, render
from tests.reports import samples

OPTIONS = RenderOptions()
st.register_type_strategy(
    Histogram,
    st.lists(st.floats(allow_nan=False, allow_infinity=False), unique=True)
    .filter(lambda edges: len(edges) != 1)
    .map(lambda edges: Histogram(tuple(sorted(edges)), (1,) * (len(edges) - 1))),
)
AUDITS = st.builds(
    AuditReport,
    results=st.lists(st.from_type(Result), max_size=3).map(tuple),
    parameters=st.dictionaries(st.text(), st.text(), max_size=3),
)
APPLIES = st.builds(ApplyReport, before=AUDITS, after=st.none() | AUDITS)


def rendered(report):
    """The document of `report` as a plain JSON parser sees it."""
    return json.loads(render(report, OPTIONS))


def changed(document, path, value):
    """`document` with the value at dotted `path` replaced, as text."""
    *parents, last = path.split(".")
    place = document
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[last] = value
    return json.dumps(document)


@pytest.mark.parametrize("name", ["clean", "violations", "empty", "applied", "dry-run"])
def test_samples_come_back_equal(name):
    """`ckptclamp report` remakes every format from JSON, so nothing may be lost in it."""
    report = samples.REPORTS[name]
    assert load_document(render(report, OPTIONS)) == report


@settings(max_examples=60, deadline=None)
@given(AUDITS)
def test_any_audit_comes_back_equal(report):
    """Every field of every value, NaN and all of Unicode, survives the way through JSON."""
    assert repr(load_document(render(report, OPTIONS))) == repr(report)


@settings(max_examples=20, deadline=None)
@given(APPLIES)
def test_any_apply_comes_back_equal(report):
    """The same for an apply."""
    assert repr(load_document(render(report, OPTIONS).encode())) == repr(report)


def test_nan_is_kept_as_a_string():
    """JSON has no NaN; a reader must still see that a weight was one."""
    back = load_document(render(samples.MIXED, OPTIONS))
    assert isinstance(back, AuditReport)
    assert math.isnan(back.results[2].worst[0].measured)
    assert rendered(samples.MIXED)["report"]["results"][2]["worst"][0]["measured"] == "NaN"
    assert render(back, OPTIONS) == render(samples.MIXED, OPTIONS)


def test_infinities_keep_their_sign():
    """The two infinities are told apart."""
    unit = WorstUnit((0,), math.inf, -math.inf, math.inf, None)
    report = replace(samples.VIOLATIONS, results=(replace(samples.VIOLATING, worst=(unit,)),))
    assert load_document(render(report, OPTIONS)) == report


def test_exit_code_and_census_are_stated():
    """A consumer reads the answer without adding up results."""
    document = rendered(samples.MIXED)
    assert document["schema"] == "ckptclamp-report-1"
    assert document["exit_code"] == 3
    assert document["census"]["not_evaluated"] == 1


def test_text_that_is_not_unicode_is_still_json_for_every_parser():
    """Lone surrogates make strict parsers refuse a whole report; they are written as escapes."""
    report = replace(samples.CLEAN, spec_path="spec\udcff.yaml")
    text = render(report, OPTIONS)
    assert json.loads(text)["report"]["spec_path"] == r"spec\u{dcff}.yaml"
    assert render(load_document(text), OPTIONS) == text


def test_one_line_for_each_result():
    """Reports are compared with line tools: a changed result changes one line."""
    before = render(samples.MIXED, OPTIONS).splitlines()
    worse = replace(samples.PASSING, measured_max=1.98)
    after = render(
        replace(samples.MIXED, results=(worse, *samples.MIXED.results[1:])), OPTIONS
    ).splitlines()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("schema", "ckptclamp-report-2", "$.schema"),
        ("kind", "inspect", "$.kind"),
        ("kind", "apply", "$.report"),
        ("exit_code", 0, "$.exit_code is not that of its results"),
        ("census.violations", 0, "$.census is not that of its results"),
        ("extra", 1, "'extra'"),
        ("report.results.1.verdict", "fine", "$.report.results[1].verdict"),
        ("report.results.1.units", 2.5, "$.report.results[1].units"),
        ("report.results.1.units", True, "$.report.results[1].units"),
        ("report.results.1.tensor", None, "$.report.results[1].tensor"),
        ("report.results.1.tolerance", "tiny", "$.report.results[1].tolerance"),
        ("report.results.1.tolerance", 10**400, "$.report.results[1].tolerance"),
        ("report.results.1.bound", [1], "$.report.results[1].bound"),
        ("report.results.1.histogram.counts", [1], "$.report.results[1].histogram"),
        ("report.results.1.histogram.edges", [0, "Infinity"], "$.report.results[1].histogram"),
        ("report.results.1.surprise", 1, "'surprise'"),
        ("report.results", {}, "$.report.results"),
        ("report.parameters", [], "$.report.parameters"),
        ("report", None, "$.report"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(path, value, says):
    """A report that was edited, or is of another version, is never half understood."""
    with pytest.raises(UsageError) as caught:
        load_document(changed(rendered(samples.VIOLATIONS), path, value))
    assert says in str(caught.value)


def test_a_report_of_an_earlier_release_is_read():
    """It lacks what was not counted yet, and what it counted must still be right."""
    result = replace(samples.PASSING, within_tolerance=3)
    document = rendered(replace(samples.CLEAN, results=(result,)))
    assert document["census"].pop("within_tolerance") == 3
    del document["census"]["zero_allowed"]
    read = load_document(json.dumps(document))
    assert isinstance(read, AuditReport)
    assert read.census.within_tolerance == 3
    document["census"]["units"] += 1
    with pytest.raises(UsageError, match="census"):
        load_document(json.dumps(document))


def test_a_field_without_default_must_be_there():
    """A result without a verdict is no result."""
    document = rendered(samples.VIOLATIONS)
    del document["report"]["results"][0]["verdict"]
    with pytest.raises(UsageError, match="lacks verdict"):
        load_document(json.dumps(document))


def test_fields_with_defaults_may_be_missing():
    """A report of an earlier release, which lacked a newer field, is still read."""
    document = rendered(samples.VIOLATIONS)
    del document["report"]["seconds"]
    back = load_document(json.dumps(document))
    assert back == replace(samples.VIOLATIONS, seconds=0.0)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 10_000, '{"a": 1, "a": 2}', '{"a": NaN}', "\udcff"]
)
def test_broken_json_is_one_clear_error(text):
    """What is no JSON, or is JSON with two readings, is refused without a traceback."""
    with pytest.raises(RefusedError):
        load_document(text)


def test_other_json_is_no_report():
    """A JSON file that is something else is told apart from a broken one."""
    for text in ("[]", "1", "null", "{}"):
        with pytest.raises(UsageError, match="ckptclamp-report-1"):
            load_document(text, path="other.json")


def test_a_large_report_is_never_whole_in_memory(tmp_path):
    """A hundred thousand violating tensors are a hundred megabytes of JSON; they are written as they come."""
    report = samples.many(5000)
    path = tmp_path / "report.json"
    tracemalloc.start()
    try:
        write_reports(report, [Output("json", str(path))], OPTIONS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 4_000_000
    assert peak < 2_000_000
    assert path.read_text() == render(report, OPTIONS)
