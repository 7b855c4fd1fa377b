"""Rules from options: the same objects that a file makes."""

from __future__ import annotations

import pytest

from ckptclamp.errors import UsageError
from ckptclamp.spec.loader import spec_from_mapping
from ckptclamp.spec.model import Units
from ckptclamp.spec.rules import inline_spec


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"max_norm": 3.0}, {"id": "max-norm", "constraint": "MaxNorm", "max_value": 3}),
        (
            {"min_max_norm": (0.5, 1.0), "axis": (0, 1)},
            {
                "id": "min-max-norm",
                "constraint": "MinMaxNorm",
                "min_value": 0.5,
                "max_value": 1,
                "axis": [0, 1],
            },
        ),
        (
            {"unit_norm": True, "axis": "all"},
            {"id": "unit-norm", "constraint": "UnitNorm", "axis": None},
        ),
        (
            {"unit_norm": True, "unit_axis": (-1,)},
            {"id": "unit-norm", "constraint": "UnitNorm", "unit_axis": -1},
        ),
        ({"non_neg": True}, {"id": "non-neg", "constraint": "NonNeg"}),
        ({"clip": (-1.0, 1.0)}, {"id": "clip", "constraint": "Clip", "low": -1, "high": 1}),
        (
            {"max_norm": 3.0, "storage": "raw"},
            {"id": "max-norm", "constraint": "MaxNorm", "max_value": 3, "storage": "raw"},
        ),
        ({"center": 0.0}, {"id": "center", "constraint": "CenterAround", "ref_value": 0}),
    ],
)
def test_options_and_files_make_the_same_rule(options, rule):
    """There is one meaning, whichever door a rule comes through."""
    made = inline_spec(tensors=("**/kernel",), **options).rules
    read = spec_from_mapping({"version": 1, "rules": [{"tensors": "**/kernel", **rule}]}).rules
    assert made == read


def test_several_constraints_share_the_tensors():
    """Each option is a rule; the axis belongs to those that have one."""
    first, second = inline_spec(tensors=("a",), max_norm=2.0, non_neg=True, axis=(0,)).rules
    assert (first.id, first.units) == ("max-norm", Units(axis=(0,)))
    assert (second.id, second.units) == ("non-neg", Units())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no constraint"),
        ({"max_norm": -1.0}, "negative"),
        ({"clip": (1.0, 0.0)}, "greater"),
        ({"max_norm": float("nan")}, "NaN"),
        ({"max_norm": 1.0, "tensors": ("re:(",)}, "not closed"),
        ({"max_norm": 1.0, "tensors": ("!a",)}, "only exclusions"),
        ({"max_norm": 1.0, "axis": (0,), "unit_axis": (1,)}, "exclude"),
        ({"max_norm": 1.0, "unit_axis": "all"}, "each weight"),
        ({"non_neg": True, "axis": (0,)}, "no axis"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    """A usage error that says what is wrong."""
    with pytest.raises(UsageError, match=message):
        inline_spec(**{"tensors": ("a",), **options})


def test_zero_is_given():
    """A bound of 0 and a mean of 0 are values, not absences."""
    rules = inline_spec(tensors=("a",), max_norm=0.0, center=0.0).rules
    assert [rule.id for rule in rules] == ["max-norm", "center"]
