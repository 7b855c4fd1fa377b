"""What is told first, and what a finding is known by."""

from dataclasses import replace
from pathlib import Path

import pytest

from ckptclamp.auditing.results import WorstUnit
from ckptclamp.errors import Notice
from ckptclamp.plan import UnmatchedRule
from ckptclamp.reports.findings import Kind, Level, Place, findings
from tests.reports import samples


def violation(name, excess, **changes):
    """A violation of one unit that is `excess` outside."""
    worst = (WorstUnit((0,), 2.0, 1.0, 1.0, excess),)
    return replace(samples.VIOLATING, tensor=name, label=None, worst=worst, **changes)


def report_of(*results, **changes):
    """A report of these results alone."""
    return replace(samples.EMPTY, results=results, **changes)


def test_worst_comes_first():
    """Ten annotations and 5,000 results are all that some readers keep: they must be the worst."""
    report = report_of(
        violation("a", 0.1),
        violation("b", 0.5),
        violation("not-finite", None, nonfinite=1),
        replace(samples.NOT_EVALUATED, notices=()),
        samples.PASSING,
        violation("c", 0.3),
        samples.WARNING,
    )
    assert [f.tensor for f in findings(report)] == [
        "not-finite",
        "b",
        "c",
        "a",
        "separable_conv2d/pointwise_kernel",
        "dense_1/kernel",
    ]


def test_fingerprints_outlive_numbers():
    """A trend view knows a finding again although its numbers have changed."""
    before = findings(report_of(violation("a", 0.1)))
    after = findings(report_of(violation("a", 0.7, units=99, violating=50)))
    assert [f.fingerprint for f in before] == [f.fingerprint for f in after]


def test_fingerprints_differ_by_tensor_rule_and_kind():
    """Two findings are never taken for one."""
    report = report_of(
        violation("a", 0.1),
        violation("b", 0.1),
        violation("a", 0.1, rule="other"),
        violation("a", 0.1),
        unmatched=(UnmatchedRule("other"), UnmatchedRule("other")),
        notices=(Notice("x", "one"), Notice("x", "two"), Notice("x", "one", tensor="a")),
    )
    prints = [f.fingerprint for f in findings(report)]
    assert len(set(prints)) == len(prints) == 9


def test_spec_rules_are_placed_at_their_line():
    """A click on a finding leads to the rule that it breaks."""
    (finding,) = findings(report_of(violation("a", 0.1, location="dir/a:b.yaml:12:5")))
    assert finding.place == Place("dir/a:b.yaml", 12, 5)


@pytest.mark.parametrize("location", [None, "", "spec.yaml", "spec.yaml:0:1", "a:b:c", "x:1"])
def test_a_place_without_a_line_is_the_checkpoint(location):
    """What names no line never becomes a broken one."""
    (finding,) = findings(report_of(violation("a", 0.1, location=location)))
    assert finding.place == Place("models/eegnet.keras")


def test_declared_constraints_are_placed_at_the_checkpoint():
    """A place inside a model config is no file of the repository."""
    found = findings(report_of(samples.NOT_EVALUATED))
    assert found[0].place == Place("models/eegnet.keras")


def test_paths_are_told_from_the_repository():
    """GitHub and GitLab find a file only by its path in the repository."""
    base = Path("/repo")
    assert Place("spec.yaml").relative_to(base, base) == "spec.yaml"
    assert Place("./a/../spec.yaml").relative_to(base, base) == "spec.yaml"
    assert Place("/repo/a/spec.yaml").relative_to(base, base) == "a/spec.yaml"
    assert Place("/elsewhere/spec.yaml").relative_to(base, base) == "/elsewhere/spec.yaml"
    assert Place("../spec.yaml").relative_to(base, base) == "/spec.yaml"
    assert Place("../spec.yaml").relative_to(base, base / "a") == "spec.yaml"
    assert Place("spec.yaml").relative_to(base, base / "a") == "a/spec.yaml"


def test_levels_follow_severity():
    """An error is loud, a warning less so, and what was not evaluated is never quiet."""
    by_kind = {(f.kind, f.level) for f in findings(samples.MIXED, show_suppressed=True)}
    assert by_kind == {
        (Kind.VIOLATION, Level.ERROR),
        (Kind.VIOLATION, Level.WARNING),
        (Kind.VIOLATION, Level.NOTE),
        (Kind.NOT_EVALUATED, Level.ERROR),
        (Kind.UNMATCHED, Level.ERROR),
        (Kind.NOTICE, Level.WARNING),
        (Kind.NOTICE, Level.NOTE),
    }


def test_an_apply_tells_of_the_copy():
    """After an apply the findings are those that remain, not those that were mended."""
    assert [f.kind for f in findings(samples.APPLIED)] == [Kind.NOTICE]
    assert findings(samples.DRY_RUN)[0].kind is Kind.VIOLATION
