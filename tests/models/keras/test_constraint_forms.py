"""Every serialised form of every Keras generation is read as what Keras would make of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.models.keras.constraints import parse_constraint


def keras_3(name, registered=None, module="keras.constraints", **config):
    return {
        "module": module,
        "class_name": name,
        "config": config,
        "registered_name": registered,
    }


@pytest.mark.parametrize(
    "serialised",
    [
        {"name": "MaxNorm", "m": 3, "axis": 1},
        {"class_name": "MaxNorm", "config": {"max_value": 3, "axis": 1}},
        {"class_name": "MaxNorm", "config": {"m": 3, "axis": [1]}},
        {"class_name": "max_norm", "config": {"max_value": 3, "axis": 1}},
        keras_3("MaxNorm", max_value=3, axis=1),
        keras_3("MaxNorm", registered="MaxNorm", max_value=3, axis=1),
        keras_3("MaxNorm", module="keras.src.constraints.constraints", max_value=3, axis=1),
        keras_3("MaxNorm", module="tf_keras.constraints", max_value=3, axis=1),
        {**keras_3("MaxNorm", max_value=3, axis=1), "shared_object_id": 4},
    ],
)
def test_one_constraint_reads_alike_in_every_generation(serialised):
    """A file's age must not change what its MaxNorm means."""
    parsed = parse_constraint(serialised)
    assert (parsed.builtin, dict(parsed.config), parsed.axis) == ("MaxNorm", {"max_value": 3}, (1,))
    assert parsed.custom is None
    assert parsed.opaque is None


@pytest.mark.parametrize(
    ("serialised", "builtin", "config", "axis"),
    [
        ("non_neg", "NonNeg", {}, None),
        ("nonneg", "NonNeg", {}, None),
        ("NonNeg", "NonNeg", {}, None),
        ("maxnorm", "MaxNorm", {"max_value": 2}, (0,)),
        ("unitnorm", "UnitNorm", {}, (0,)),
        ("min_max_norm", "MinMaxNorm", {"min_value": 0.0, "max_value": 1.0, "rate": 1.0}, (0,)),
        ("radial_constraint", "RadialConstraint", {}, None),
        ("constraint", "Constraint", {}, None),
        (keras_3("Constraint"), "Constraint", {}, None),
        (keras_3("RadialConstraint"), "RadialConstraint", {}, None),
        (
            {"name": "MinMaxNorm", "low": 0.5, "high": 1.5, "rate": 1, "axis": 0},
            "MinMaxNorm",
            {"min_value": 0.5, "max_value": 1.5, "rate": 1},
            (0,),
        ),
        (keras_3("MaxNorm", max_value=math.inf, axis=None), "MaxNorm", {"max_value": math.inf}, "whole"),
        (keras_3("MaxNorm", max_value=2, axis=[0, -1]), "MaxNorm", {"max_value": 2}, (0, -1)),
        ({"class_name": "UnitNorm", "config": None}, "UnitNorm", {}, (0,)),
    ],
)  # fmt: skip
def test_builtin_forms(serialised, builtin, config, axis):
    """Aliases, defaults and argument names of old generations become Keras 3's."""
    parsed = parse_constraint(serialised)
    assert (parsed.builtin, dict(parsed.config), parsed.axis) == (builtin, config, axis)


@pytest.mark.parametrize(
    ("serialised", "custom"),
    [
        (keras_3("MaxNorm", registered="MaxNorm", module=None, max_value=2), "MaxNorm"),
        (keras_3("MaxNorm", registered="pkg>MaxNorm", max_value=2), "pkg>MaxNorm"),
        (keras_3("MaxNorm", module="my.constraints", max_value=2), "MaxNorm"),
        (keras_3("MaxNorm", module="keras.constraints_of_mine", max_value=2), "MaxNorm"),
        ({"class_name": "pkg>MaxNorm", "config": {"max_value": 2}}, "pkg>MaxNorm"),
        ({"class_name": "WeightClip", "config": {"name": "WeightClip", "c": 0.499}}, "WeightClip"),
        ({"name": "Theirs", "k": 1}, "Theirs"),
        ("pkg>regfn", "pkg>regfn"),
        (keras_3("function", registered="function", module="builtins") | {"config": "fn"}, "fn"),
        ({"class_name": "our_pkg.constraints:CenterAround", "config": {}}, "our_pkg.constraints:CenterAround"),
    ],
)  # fmt: skip
def test_a_users_class_is_never_taken_for_a_builtin_one(serialised, custom):
    """A user's MaxNorm may do anything; judging it as Keras' own would be a false pass."""
    parsed = parse_constraint(serialised)
    assert parsed.builtin is None
    assert parsed.custom == custom


@pytest.mark.parametrize(
    "serialised",
    [
        "<lambda>",
        {"class_name": "__lambda__", "config": {"value": ["4wEAAAA=", None, None]}},
        {"module": "builtins", "class_name": "function", "config": None, "registered_name": "function"},
        {"class_name": 3, "config": {}},
        {"config": {"max_value": 2}},
        {"class_name": "MaxNorm", "config": [2]},
        {"class_name": "MaxNorm", "config": {"max_value": "2"}},
        {"class_name": "MaxNorm", "config": {"max_value": True}},
        {"class_name": "MaxNorm", "config": {"max_value": None}},
        {"class_name": "MaxNorm", "config": {"axis": "0"}},
        {"class_name": "MaxNorm", "config": {"axis": [0, 1.0]}},
        {"class_name": "MaxNorm", "config": {"max_valeu": 2}},
        {"class_name": "NonNeg", "config": {"axis": 0}},
        [{"class_name": "MaxNorm", "config": {}}],
        3,
        None,
    ],
)  # fmt: skip
def test_what_cannot_be_known_says_why(serialised):
    """A form that makes no sense is neither a built-in nor a custom constraint, and gives a reason."""
    parsed = parse_constraint(serialised)
    assert parsed.opaque
    assert parsed.builtin is None
    assert parsed.custom is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["MaxNorm", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["class_name", "config", "module", "registered_name", "name", "axis", "m"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_answered(serialised):
    """Whatever a file holds there, the answer is exactly one of built-in, custom and opaque."""
    parsed = parse_constraint(serialised)
    answers = [parsed.builtin, parsed.custom, parsed.opaque]
    assert sum(answer is not None for answer in answers) == 1
