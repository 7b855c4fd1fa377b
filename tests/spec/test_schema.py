"""The JSON Schema says what the loader says, about everything that a schema can say."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.errors import SpecError
from ckptclamp.spec.loader import spec_from_mapping
from ckptclamp.spec.schema import json_schema

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")

SCHEMA = json_schema()

GOOD = {
    "version": 1,
    "declared": "audit",
    "tolerance": "auto",
    "epsilon": 1e-5,
    "zero_units": "violation",
    "projection": "exact",
    "preset": "health",
    "rules": [
        {"tensors": "**/kernel", "constraint": "MaxNorm", "max_value": 2, "axis": [0, 1, 2]},
        {
            "id": "second",
            "tensors": ["a", "!b"],
            "constraint": {"class_name": "MaxNorm", "config": {"max_value": 2, "axis": 0}},
            "tolerance": 0.01,
            "epsilon": 0,
            "zero_units": "allow",
            "severity": "warning",
            "required": False,
            "storage": "raw",
        },
        {"tensors": "re:.*", "constraint": "Clip", "low": -1, "high": 1.5},
        {"tensors": "x", "constraint": "UnitNorm", "unit_axis": -1},
        {"tensors": "x", "constraint": "MaxNorm", "axis": None},
        {
            "tensors": "x",
            "constraint": "UnitNorm",
            "units": "(head dim) in -> head",
            "head": "$num_attention_heads",
        },
    ],
    "split": [{"tensors": "x", "axis": 0, "sizes": [2, "$rest"], "names": ["q", "k"]}],
    "custom_objects": {
        "A": "NonNeg",
        "B": {"class_name": "NonNeg", "config": None},
        "C": {"constraint": "Clip", "low": 0, "high": 1},
    },
    "custom_layers": {
        "A": "unconstrained",
        "B": {"like": "Conv2D"},
        "C": {"kernel_constraint": ["kernel", "vars/0"], "bias_constraint": "bias"},
    },
    "ignore": [{"tensors": "x", "rules": ["second"], "reason": "y", "expires": "2030-01-31"}],
}


def schema_accepts(data):
    validator = jsonschema.Draft202012Validator(
        SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    return validator.is_valid(data)


def loader_accepts(data):
    try:
        spec_from_mapping(data)
    except SpecError:
        return False
    return True


def places(value, path=()):
    """Every place in a document, the whole of it first."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield from places(item, (*path, key))


def replaced(path, value):
    """The good spec with one value replaced, or removed if it is Ellipsis."""
    if not path:
        return value
    data = copy.deepcopy(GOOD)
    inside: Any = data
    for key in path[:-1]:
        inside = inside[key]
    if value is ...:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return data


# Inside a constraint's config, and for values whose meaning is the constraint's (a name, a pattern,
# a bound), the loader knows more than a schema can.
SHALLOW = [p for p in places(GOOD) if "config" not in p]
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        0.5,
        7,
        "x",
        "auto",
        "error",
        "2030-12-31",
        "",
        [],
        ["x"],
        [0],
        [0, 0],
        {},
        ...,
    ]
)


def test_schema_is_a_schema():
    """It is valid itself, and of the draft that it names."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$schema"]


def test_both_accept_everything_that_can_be_said():
    """The one spec in which every key stands."""
    assert schema_accepts(GOOD)
    assert loader_accepts(GOOD)


@given(st.sampled_from(SHALLOW), VALUES)
def test_what_the_loader_accepts_the_schema_accepts(path, value):
    """An editor never marks as wrong what the program reads."""
    data = replaced(path, value)
    if loader_accepts(data):
        assert schema_accepts(data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), ...),
        (("version",), 2),
        (("declared",), "maybe"),
        (("tolerance",), -1),
        (("tolerance",), 1),
        (("tolerance",), None),
        (("tolerance",), "castt"),
        (("epsilon",), -1e-7),
        (("epsilon",), 1),
        (("epsilon",), None),
        (("epsilon",), "1e-7"),
        (("zero_units",), "ignore"),
        (("zero_units",), True),
        (("zero_units",), None),
        (("rules",), None),
        (("rules", 0), 3),
        (("rules", 0, "tensors"), ...),
        (("rules", 0, "tensors"), []),
        (("rules", 0, "constraint"), ...),
        (("rules", 0, "constraint"), 3),
        (("rules", 0, "max_value"), "2"),
        (("rules", 0, "max_value"), None),
        (("rules", 0, "max_value"), True),
        (("rules", 0, "axis"), []),
        (("rules", 0, "axis"), "0"),
        (("rules", 3, "unit_axis"), None),
        (("rules", 0, "extra"), 1),
        (("rules", 1, "constraint", "class_name"), ...),
        (("rules", 1, "constraint", "extra"), 1),
        (("rules", 1, "severity"), "fatal"),
        (("rules", 1, "required"), "yes"),
        (("rules", 1, "storage"), "stored"),
        (("rules", 1, "id"), None),
        (("ignore", 0, "reason"), ...),
        (("ignore", 0, "expires"), "tomorrow"),
        (("custom_objects", "A"), 3),
        (("custom_layers", "A"), "constrained"),
        (("custom_layers", "A"), {}),
        (("custom_layers", "B", "like"), 3),
        (("custom_layers", "B", "kernel_constraint"), "kernel"),
        (("custom_layers", "C", "kernel_constraint"), []),
        (("custom_layers", "C", "bias_constraint"), 1),
        (("extra",), 1),
    ],
)
def test_structural_mistakes_are_refused_by_both(path, value):
    """What is wrong in form is wrong already in the editor."""
    data = replaced(path, value)
    assert not schema_accepts(data)
    assert not loader_accepts(data)


def test_editors_have_something_to_show():
    """Every key of a rule has a title and a description, and constraints are offered by name."""
    for name in ("RuleForm", "IgnoreForm", "SerialisedForm"):
        for key, field in SCHEMA["$defs"][name]["properties"].items():
            assert field.get("description"), key
            assert field.get("title"), key
    assert "MinMaxNorm" in str(SCHEMA["$defs"]["RuleForm"]["properties"]["constraint"])
