"""What a pair forgives: the caller's word, the rule's, the spec's, or what the producer tells."""

from __future__ import annotations

import pytest

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.constraints.sets.norms import UnitNorm
from ckptclamp.constraints.tolerance import History, cast_tolerance, derived_tolerance
from ckptclamp.errors import UsageError
from ckptclamp.plan import Assignment
from ckptclamp.plan.build import build_plan
from ckptclamp.spec.loader import spec_from_mapping
from ckptclamp.spec.model import Leeway, ZeroUnits
from tests.plan.checkpoints import Described, keras_model, max_norm, tensor

HALF = DTYPES["bfloat16"]
UNIT_ROWS = {"tensors": "w", "constraint": "UnitNorm", "unit_axis": 0}


def planned(checkpoint, *rules, caller=None, **others) -> Assignment:
    """The one pair that is judged."""
    spec = spec_from_mapping({"version": 1, "rules": list(rules), **others})
    (assignment,) = build_plan(checkpoint, spec, caller=caller).assignments
    return assignment


def stored(dtype="bfloat16"):
    """A matrix of 8 rows of 768 weights, of which nobody says where it comes from."""
    return Described([tensor("w", 8, 768, dtype=dtype)])


def keras(policy, dtype="bfloat16"):
    """A Dense layer under a policy, whose kernel the file holds as `dtype`."""
    settings = {"units": 8, "use_bias": False, "kernel_constraint": max_norm(1), "dtype": policy}
    checkpoint = keras_model(("Dense", "dense", settings, []))
    kernel = tensor("layers/dense/vars/0", 768, 8, dtype=dtype)
    return Described([kernel], checkpoint.keras)


def test_what_nobody_tells_about_was_cast():
    """Mixed precision keeps float32 weights: a narrow file is a cast of them."""
    assignment = planned(stored(), UNIT_ROWS)
    assert (assignment.tolerance, assignment.history) == (cast_tolerance(HALF, 768), History.CAST)
    assert assignment.shortfall == UnitNorm().shortfall()


@pytest.mark.parametrize(
    ("policy", "history"),
    [
        ("bfloat16", History.TRAINED),
        ({"class_name": "DTypePolicy", "config": {"name": "bfloat16"}}, History.TRAINED),
        ("float32", History.CAST),
        ({"class_name": "DTypePolicy", "config": {"name": "mixed_bfloat16"}}, History.CAST),
        (None, History.TRAINED),
        ({"config": {"name": ["bfloat16"]}}, History.TRAINED),
        ("nonsense", History.TRAINED),
        (17, History.TRAINED),
    ],
)
def test_keras_trained_what_it_stores_unless_its_config_says_otherwise(policy, history):
    """A variable is stored in its own dtype; a file in another one was cast by somebody else."""
    assignment = planned(keras(policy))
    assert assignment.history == history
    assert assignment.tolerance == derived_tolerance(history, HALF, 768)


def test_the_nearest_word_counts():
    """Caller before rule before spec, for each of the three by itself."""
    rule = UNIT_ROWS | {"tolerance": "trained", "epsilon": 1e-4}
    spec = {"tolerance": 0.25, "epsilon": 1e-3, "zero_units": "allow"}
    of_rule = planned(stored(), rule, **spec)
    assert (of_rule.history, of_rule.constraint.epsilon) == (History.TRAINED, 1e-4)
    assert of_rule.allow_zero
    of_spec = planned(stored(), UNIT_ROWS, **spec)
    assert (of_spec.tolerance, of_spec.history, of_spec.constraint.epsilon) == (0.25, None, 1e-3)
    caller = Leeway(tolerance=History.CAST, epsilon=0.0, zero_units=ZeroUnits.VIOLATION)
    of_caller = planned(stored(), rule, caller=caller, **spec)
    assert (of_caller.history, of_caller.shortfall) == (History.CAST, 0.0)
    assert not of_caller.allow_zero


def test_auto_takes_back_what_the_spec_says():
    """A rule can ask for what the producer tells, under a spec that states a number."""
    rule = UNIT_ROWS | {"tolerance": "auto"}
    assert planned(stored(), rule, tolerance=0.25).history is History.CAST


def test_a_spec_speaks_for_declarations_too():
    """What has no rule of its own is judged as the spec says at its top."""
    assignment = planned(keras("bfloat16"), tolerance="cast", zero_units="allow")
    assert (assignment.history, assignment.allow_zero) == (History.CAST, True)


@pytest.mark.parametrize("tolerance", [0, 0.0, 0.01])
def test_a_number_is_all_that_is_forgiven(tolerance):
    """No epsilon is added to it; zero is the bound itself."""
    assignment = planned(stored(), UNIT_ROWS | {"tolerance": tolerance})
    assert (assignment.tolerance, assignment.shortfall, assignment.history) == (tolerance, 0, None)
    assert assignment.projection_tolerance == tolerance


@pytest.mark.parametrize("tolerance", ["auto", "cast", "trained"])
def test_a_copy_is_not_forgiven_what_a_model_cannot_help(tolerance):
    """Whatever was done to the weights: a copy is brought onto the bound where it can be."""
    rule = {"tensors": "w", "constraint": "MaxNorm", "max_value": 1, "unit_axis": 0}
    assert planned(stored(), rule | {"tolerance": tolerance}).projection_tolerance == 0.0


def test_single_weights_have_no_size_to_cancel_errors_in():
    """What is no norm of many roundings is forgiven a whole one."""
    rule = {"tensors": "w", "constraint": "Clip", "low": -1, "high": 1}
    assert planned(stored(), rule).tolerance == cast_tolerance(HALF, 1)


@pytest.mark.parametrize(
    "bad",
    [
        {"tolerance": "castt"},
        {"tolerance": 1},
        {"epsilon": -1e-7},
        {"epsilon": float("nan")},
        {"epsilon": "1e-7"},
        {"zero_units": "alow"},
    ],
)
def test_what_makes_no_sense_is_refused(bad):
    """From Python, too."""
    with pytest.raises(UsageError, match=r"makes no sense|must be a number|is no '(castt|alow)'"):
        Leeway(**bad)
