"""Numbers and words that every format shares."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.auditing.results import Verdict
from ckptclamp.errors import ExitCode, plural
from ckptclamp.plan import UnmatchedRule
from ckptclamp.reports.wording import (
    comparison,
    distinguishable,
    file_size,
    relative_excess,
    unit_index,
    verdict_sentence,
    worst_value,
)
from tests.reports import samples

NAN, INF = float("nan"), float("inf")


@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300))
def test_numbers_that_differ_are_shown_differently(value, bound):
    """ "1 > 1" would look like a fault of the program."""
    shown = distinguishable(value, bound)
    assert (shown[0] == shown[1]) == (value == bound)
    assert float(shown[0]) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    ("value", "bound", "words"),
    [
        (1.7320508, 1.0, "1.732 > 1"),
        (1.0000012, 1.0, "1.000001 > 1"),
        (-0.125, 0.0, "-0.125 < 0"),
        (INF, 2.0, "Infinity > 2"),
        (NAN, 2.0, "NaN, bound 2"),
        (5e-324, 0.0, "4.941e-324 > 0"),
    ],
)
def test_comparisons(value, bound, words):
    """What was measured stands beside the bound that it breaks."""
    assert comparison(value, bound) == words


@pytest.mark.parametrize(
    ("bound", "smallest", "largest", "words"),
    [
        ((None, 2.0), 0.1, 1.9, "1.9 ≤ 2"),
        ((None, 2.0), 0.1, 2.0, "2 ≤ 2"),
        ((None, 2.0), 0.1, 2.0000001, "2.0000001 ≈ 2"),
        ((0.0, None), 0.0, 5.0, "0 ≥ 0"),
        ((0.5, None), 0.4999999, 5.0, "0.4999999 ≈ 0.5"),
        ((1.0, 1.0), 0.9999999, 1.0, "0.9999999 ≈ 1"),
        ((1.0, 1.0), 1.0, 1.0, "1 = 1"),
        ((0.5, 1.0), 0.6, 0.9, "0.6 … 0.9 in [0.5, 1]"),
        ((None, None), -1.0, 1.0, "-1 … 1"),
    ],
)
def test_a_pass_tells_how_near_the_bound_it_came(bound, smallest, largest, words):
    """A pass by tolerance alone is told apart from a pass."""
    result = replace(samples.PASSING, bound=bound, measured_min=smallest, measured_max=largest)
    assert worst_value(result) == words


@pytest.mark.parametrize(
    ("bound", "smallest", "largest", "words"),
    [
        ((None, 0.5), 0.1, 2.0, "2 > 0.5"),
        ((0.0, None), -3.0, 5.0, "-3 < 0"),
        ((1.0, 1.0), 0.25, 1.5, "0.25 < 1"),
        ((0.5, 1.0), 0.25, 9.0, "9 > 1"),
    ],
)
def test_a_violation_of_which_no_unit_was_kept_is_none_by_tolerance(
    bound, smallest, largest, words
):
    """`--worst 0` lists no unit; what is outside must not look as if it were near enough."""
    result = replace(
        samples.PASSING,
        verdict=Verdict.VIOLATION,
        violating=1,
        bound=bound,
        measured_min=smallest,
        measured_max=largest,
    )
    assert worst_value(result) == words
    assert worst_value(replace(result, nonfinite=1)) == "non-finite"


def test_counts_are_words():
    """One unit, several units, and thousands that can be read."""
    assert [plural(n, "unit") for n in (0, 1, 2, 2304)] == [
        "0 units",
        "1 unit",
        "2 units",
        "2,304 units",
    ]


def test_excess_is_a_percentage_that_can_be_read():
    """Tiny and huge excesses both have few digits; none is made up where there is none."""
    values = (None, INF, NAN, 2.1e-6, 0.732, 92.3, 1e12)
    assert [relative_excess(value) for value in values] == [
        "-",
        "-",
        "-",
        "+0.00021 %",
        "+73.2 %",
        "+9,230 %",
        "+1e+14 %",
    ]


def test_indices_and_sizes():
    """Coordinates as NumPy takes them, bytes with a prefix."""
    assert [unit_index(index) for index in ((), (3,), (0, 17))] == ["whole tensor", "3", "(0, 17)"]
    assert [file_size(size) for size in (0, 999, 1000, 43_210, 999_999, 10**15)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "43.2 kB",
        "1.0 MB",
        "1.0 PB",
    ]


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (samples.CLEAN, "Pass: everything governed was evaluated and conforms"),
        (samples.VIOLATIONS, "Fail: violations found"),
        (samples.MIXED, "Fail: not everything could be evaluated"),
        (samples.EMPTY, "Fail: nothing was evaluated"),
        (
            replace(samples.CLEAN, unmatched=(UnmatchedRule("a"), UnmatchedRule("b"))),
            "Fail: 2 rules matched nothing",
        ),
        (
            replace(samples.CLEAN, results=(samples.WARNING,)),
            "Pass: violations found, none of them an error",
        ),
        (
            replace(samples.CLEAN, notices=samples.MIXED.notices, strict=True),
            "Fail: warnings, and this gate is strict",
        ),
        (
            replace(samples.CLEAN, results=(samples.SUPPRESSED,)),
            "Pass: conforms but for 1 suppressed violation",
        ),
    ],
)
def test_the_sentence_agrees_with_the_exit_code(report, says):
    """No report says pass when the program says otherwise."""
    assert verdict_sentence(report) == says
    assert says.startswith("Pass") == (report.exit_code is ExitCode.OK)
