"""What a checkpoint declares about itself, planned: judged, refused with a reason, or linted."""

from __future__ import annotations

import math
import sys

import pytest

from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.checkpoints.tensor import Role
from ckptclamp.constraints.sets.linear import Clip
from ckptclamp.constraints.sets.norms import MaxNorm, MinMaxNorm
from ckptclamp.constraints.sets.whole import RadialConstraint
from ckptclamp.errors import SpecError
from ckptclamp.plan import Origin
from ckptclamp.plan.build import build_plan
from ckptclamp.spec.loader import load_spec, spec_from_mapping
from tests.plan.checkpoints import dense, keras_model, max_norm

CENTER = {
    "module": "users_planned_pkg.own",
    "class_name": "CenterAround",
    "config": {"ref_value": 0.5},
    "registered_name": "pkg>CenterAround",
}


def spec_of(*rules, **rest):
    return spec_from_mapping({"version": 1, "rules": list(rules), **rest})


def matching_tensors(plan):
    return [(a.tensor.name, a.rule) for a in plan.assignments]


def test_declared_constraint():
    """What a model declares is planned under the layer's name, with its own axis."""
    plan = build_plan(dense(max_norm(3, axis=-2)), None)
    (assignment,) = plan.assignments
    assert assignment.tensor.name == "layers/dense/vars/0"
    assert assignment.label == "dense/kernel"
    assert assignment.rule == "dense.kernel_constraint"
    assert assignment.constraint == MaxNorm(3)
    assert assignment.axes == (0,)
    assert assignment.origin is Origin.DECLARED
    assert "Dense dense declares kernel_constraint" in assignment.why


def test_declared_can_be_ignored():
    """A spec may say that only its own rules count."""
    checkpoint = dense(max_norm(3))
    rule = {"tensors": "dense/bias", "constraint": "NonNeg"}
    assert len(build_plan(checkpoint, spec_of(rule)).assignments) == 2
    assert matching_tensors(build_plan(checkpoint, spec_of(rule, declared="ignore"))) == [
        ("layers/dense/vars/1", "rule-1")
    ]


@pytest.mark.parametrize("constraint", [max_norm(3), "unknown>Thing"])
def test_a_rule_does_not_share_the_id_of_a_declaration(tmp_path, constraint):
    """Baselines and ignore rules know a finding by tensor and rule, so that must be one finding."""
    path = tmp_path / "spec.yaml"
    rule = "  - {id: dense.kernel_constraint, tensors: dense/bias, constraint: NonNeg}\n"
    path.write_text("version: 1\nrules:\n" + rule)
    with pytest.raises(SpecError, match=r"dense\.kernel_constraint") as caught:
        build_plan(dense(constraint), load_spec(path))
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (3, 5)
    path.write_text("version: 1\ndeclared: ignore\nrules:\n" + rule)
    assert matching_tensors(build_plan(dense(constraint), load_spec(path))) == [
        ("layers/dense/vars/1", "dense.kernel_constraint")
    ]


def test_spec_tolerance_reaches_declared_constraints():
    """The spec's own tolerance is for what has no rule to state one."""
    plan = build_plan(dense(max_norm(3)), spec_of(tolerance=0.125))
    assert plan.assignments[0].tolerance == 0.125


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        (max_norm(3, axis=2), "axis 2 does not exist"),
        (max_norm(3, axis=[]), "axis"),
        (max_norm(-3), "negative"),
        (max_norm("x"), "not a number"),
        (max_norm(None), "not a number"),
        ("<lambda>", "lambda"),
        ("plainfn", "'plainfn' is not known here"),
        ({"class_name": "RadialConstraint", "config": {}}, "no square kernel"),
        (CENTER, "'pkg>CenterAround' is not known here"),
    ],
)
def test_declarations_that_cannot_be_judged(constraint, reason):
    """They make the audit incomplete, with the reason; they never pass and never crash."""
    plan = build_plan(dense(constraint), None)
    (entry,) = plan.not_evaluated
    assert reason in entry.reason
    assert entry.reason.code in {"unknown-constraint", "does-not-fit"}
    assert entry.rule == "dense.kernel_constraint"
    assert not plan.assignments


def test_unknown_custom_constraint_says_what_would_help():
    """The flag that would let it be judged is spelled out, for the class that the config names."""
    (entry,) = build_plan(dense(CENTER), None).not_evaluated
    assert entry.hint is not None
    assert "custom_objects" in entry.hint
    assert "--allow-import users_planned_pkg" in entry.hint
    assert "users_planned_pkg" not in sys.modules


@pytest.mark.parametrize("name", ["pkg>CenterAround", "CenterAround"])
def test_custom_object_from_the_spec(name):
    """A custom constraint that the spec maps takes its arguments from the declaration."""
    spec = spec_of(custom_objects={name: "CenterAround"})
    (assignment,) = build_plan(dense(CENTER), spec).assignments
    assert str(assignment.constraint) == "CenterAround(ref_value=0.5)"
    assert assignment.axes == (0, 1)


def test_custom_object_with_arguments():
    """A mapping with arguments stands for the declaration's own, whatever those are called."""
    declared = {"class_name": "pkg>WeightClip", "config": {"c": 0.5}}
    spec = spec_of(
        custom_objects={"pkg>WeightClip": {"constraint": "Clip", "low": -0.5, "high": 0.5}}
    )
    (assignment,) = build_plan(dense(declared), spec).assignments
    assert (assignment.constraint, assignment.axes) == (Clip(-0.5, 0.5), ())


def clip(value):
    """A user's constraint with one argument."""
    return {"class_name": "pkg>WeightClip", "config": {"clip_value": value}}


def two_clips(one, other):
    """Two layers that declare a user's constraint with different arguments."""
    return keras_model(
        ("Dense", "tight", {"units": 4, "kernel_constraint": clip(one)}, [(6, 4), (4,)]),
        ("Dense", "loose", {"units": 1, "kernel_constraint": clip(other)}, [(4, 1), (1,)]),
    )


@pytest.mark.parametrize(
    ("low", "high", "bounds"),
    [
        ("-$clip_value", "$clip_value", [(-0.25, 0.25), (-0.5, 0.5)]),
        ("-2*$clip_value", "0.5*$clip_value", [(-0.5, 0.125), (-1, 0.25)]),
        (0, "$clip_value", [(0, 0.25), (0, 0.5)]),
    ],
)
def test_a_mapping_takes_its_numbers_from_the_declared_config(low, high, bounds):
    """Layers that declare one class with different arguments are each held to their own."""
    meaning = {"constraint": "Clip", "low": low, "high": high}
    plan = build_plan(two_clips(0.25, 0.5), spec_of(custom_objects={"pkg>WeightClip": meaning}))
    assert [a.constraint for a in plan.assignments] == [Clip(*pair) for pair in bounds]
    assert not plan.notices
    assert "WeightClip(clip_value=0.25)" in plan.assignments[0].why


def test_a_mapping_that_ignores_an_argument_is_a_warning():
    """The model says another bound than the spec may: whoever wrote the spec has to know."""
    meaning = {"constraint": "Clip", "low": -0.5, "high": 0.5}
    plan = build_plan(two_clips(0.5, 0.5), spec_of(custom_objects={"pkg>WeightClip": meaning}))
    assert {notice.code for notice in plan.notices} == {"mapping-ignores-arguments"}
    assert "clip_value=0.5" in plan.notices[0].message
    assert not plan.notices[0].informational


def test_one_mapping_for_declarations_that_differ_is_an_error():
    """One fixed bound for two declared ones would pass what the tighter one forbids."""
    meaning = {"constraint": "Clip", "low": -0.5, "high": 0.5}
    with pytest.raises(SpecError, match=r"clip_value=0\.25.*clip_value=0\.5"):
        build_plan(two_clips(0.25, 0.5), spec_of(custom_objects={"pkg>WeightClip": meaning}))


def test_a_mapping_that_uses_one_argument_may_leave_another():
    """What layers differ in may mean nothing for the bound; that it is ignored is said."""
    tagged = [{"class_name": "pkg>C", "config": {"c": c, "tag": c}} for c in (1, 2)]
    checkpoint = keras_model(
        *(
            ("Dense", f"d{i}", {"units": 2, "kernel_constraint": own}, [(2, 2), (2,)])
            for i, own in enumerate(tagged)
        )
    )
    meaning = {"constraint": "Clip", "low": 0, "high": "$c"}
    plan = build_plan(checkpoint, spec_of(custom_objects={"pkg>C": meaning}))
    assert [a.constraint for a in plan.assignments] == [Clip(0, 1), Clip(0, 2)]
    assert [n.code for n in plan.notices] == ["mapping-ignores-arguments"] * 2


@pytest.mark.parametrize("value", [None, "x", True, math.nan, 10**400, [1], {}])
def test_a_mapping_that_asks_for_what_is_no_number(value):
    """No number is made up, and none that a file holds ends the program."""
    meaning = {"constraint": "Clip", "low": "-2*$clip_value", "high": 1}
    plan = build_plan(dense(clip(value)), spec_of(custom_objects={"pkg>WeightClip": meaning}))
    (entry,) = plan.not_evaluated
    assert "$clip_value" in entry.reason
    assert "clip_value" in (entry.hint or "")


def test_a_factor_makes_no_bound_infinite():
    """A bound beyond all numbers would pass everything."""
    meaning = {"constraint": "Clip", "low": 0, "high": "9*$clip_value"}
    plan = build_plan(dense(clip(1e308)), spec_of(custom_objects={"pkg>WeightClip": meaning}))
    assert "too large" in plan.not_evaluated[0].reason
    assert not plan.assignments


def test_a_mapping_that_asks_for_what_the_config_lacks():
    """A misspelt argument is no bound of nothing."""
    meaning = {"constraint": "Clip", "low": "-$bound", "high": 1}
    plan = build_plan(dense(clip(0.5)), spec_of(custom_objects={"pkg>WeightClip": meaning}))
    (entry,) = plan.not_evaluated
    assert "bound" in entry.reason
    assert "clip_value" in (entry.hint or "")


@pytest.mark.parametrize("value", ["clip_value", "$a+$b", "2$a", "$a*2", "--$a", "$", "1e3*$a"])
def test_references_know_a_sign_and_one_factor(value):
    """What is richer is refused, with its place."""
    with pytest.raises(SpecError, match="expected a number"):
        spec_of(custom_objects={"c": {"constraint": "Clip", "low": value}})


RING = {"module": "own", "class_name": "Ring", "config": {}, "registered_name": "pkg>Ring"}
RING_OF_AXIS_1 = {**RING, "config": {"axis": 1}}


@pytest.mark.parametrize(
    ("declared", "meaning", "axes"),
    [
        (RING, {"constraint": "MaxNorm", "max_value": 2, "axis": 1}, (1,)),
        (RING, {"constraint": "MaxNorm", "max_value": 2, "unit_axis": 0}, (1,)),
        (RING, {"constraint": "MaxNorm", "max_value": 2, "axis": None}, (0, 1)),
        (RING, {"class_name": "MaxNorm", "config": {"max_value": 2, "axis": 1}}, (1,)),
        (RING, {"constraint": {"class_name": "MaxNorm", "config": {"axis": 1}}}, (1,)),
        (RING_OF_AXIS_1, {"constraint": "MaxNorm", "max_value": 2}, (1,)),
        (RING_OF_AXIS_1, {"constraint": "MaxNorm", "max_value": 2, "axis": 0}, (0,)),
        (RING, {"constraint": "MaxNorm", "max_value": 2}, (0,)),
    ],
)
def test_units_of_a_custom_object(declared, meaning, axes):
    """The spec's axes, or else those of the model's config, or else what a rule without any means."""
    spec = spec_of(custom_objects={"pkg>Ring": meaning})
    (assignment,) = build_plan(dense(declared), spec).assignments
    assert assignment.axes == axes


@pytest.mark.parametrize(
    ("axis", "reason"), [([7, 8], "axis 7 does not exist"), ([0, 0], "one axis twice")]
)
def test_axes_of_a_custom_object_that_the_tensor_lacks(axis, reason):
    """An axis that nobody has is no reason to judge something else."""
    meaning = {"class_name": "MaxNorm", "config": {"max_value": 2, "axis": axis}}
    (entry,) = build_plan(dense(RING), spec_of(custom_objects={"pkg>Ring": meaning})).not_evaluated
    assert reason in entry.reason


def test_a_custom_object_goes_before_a_class_of_keras():
    """As in Keras: whoever registers a class under the name of a built-in one means theirs."""
    bare = {"class_name": "NonNeg", "config": {}}
    spec = spec_of(custom_objects={"NonNeg": {"constraint": "Clip", "low": 5, "high": 6}})
    (assignment,) = build_plan(dense(bare), spec).assignments
    assert assignment.constraint == Clip(5, 6)
    (other,) = build_plan(dense(max_norm(3, axis=1)), spec).assignments
    assert (other.constraint, other.axes) == (MaxNorm(3), (1,))
    clipped = spec_of(custom_objects={"MaxNorm": {"constraint": "Clip", "low": 5, "high": 6}})
    (elementwise,) = build_plan(dense(max_norm(3, axis=1)), clipped).assignments
    assert (elementwise.constraint, elementwise.axes) == (Clip(5, 6), ())


def test_declared_custom_class_is_imported_only_if_allowed(tmp_path, monkeypatch):
    """A checkpoint names its class; only the caller's word imports it."""
    package = tmp_path / "users_planned_pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "own.py").write_text(
        "from ckptclamp.constraints.sets.linear import CenterAround as Base\n"
        "class CenterAround(Base):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert not build_plan(dense(CENTER), None, allow_import={"other"}).assignments
        assert "users_planned_pkg" not in sys.modules
        plan = build_plan(dense(CENTER), None, allow_import={"users_planned_pkg"})
        assert plan.assignments[0].constraint.get_config() == {"ref_value": 0.5}
    finally:
        for name in [n for n in sys.modules if n.startswith("users_planned_pkg")]:
            del sys.modules[name]


def test_base_class_constrains_nothing():
    """Keras' no-op entry is no constraint to pass or fail, and is mentioned."""
    noop = {**max_norm(0), "class_name": "Constraint", "config": {}}
    plan = build_plan(dense(noop), None)
    assert not plan.assignments
    assert not plan.not_evaluated
    assert "constrains-nothing" in [n.code for n in plan.notices]


RADIAL = {"module": "keras.constraints", "class_name": "RadialConstraint", "config": {}}


def conv(constraint):
    """A model of one Conv2D layer with a constraint on its kernel of shape (3, 3, 2, 4)."""
    settings = {"filters": 4, "kernel_size": [3, 3], "use_bias": False}
    return keras_model(
        ("Conv2D", "conv", {**settings, "kernel_constraint": constraint}, [(3, 3, 2, 4)])
    )


def test_a_declared_radial_constraint_is_only_audited():
    """Keras' formula goes on moving kernels that conform, so no copy is changed unasked."""
    (declared,) = build_plan(conv(RADIAL), None).assignments
    assert declared.constraint == RadialConstraint()
    assert declared.unprojected is not None
    assert "a rule of the spec" in declared.unprojected
    rule = {"tensors": "conv/kernel", "constraint": "RadialConstraint"}
    (asked,) = build_plan(conv(RADIAL), spec_of(rule)).assignments
    assert (asked.origin, asked.unprojected) == (Origin.SPEC, None)


def test_a_users_class_of_a_builtin_name_is_not_the_builtin():
    """Keras writes no module for it, and it may do anything."""
    own = {"module": None, "class_name": "MaxNorm", "config": {"max_value": 2}}
    (entry,) = build_plan(dense({**own, "registered_name": "MaxNorm"}), None).not_evaluated
    assert "custom constraint 'MaxNorm'" in entry.reason


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        (max_norm(math.inf), MaxNorm(math.inf)),
        (
            {
                **max_norm(0),
                "class_name": "MinMaxNorm",
                "config": {"min_value": 0, "max_value": 0, "rate": 1.0, "axis": 0},
            },
            MinMaxNorm(0, 0),
        ),
    ],
)
def test_bounds_at_the_edge_are_judged(constraint, expected):
    """No bound at all, and nothing but zeros: both are legal, and Keras writes both."""
    (assignment,) = build_plan(dense(constraint), None).assignments
    assert assignment.constraint == expected


def test_one_bad_declaration_does_not_hide_the_others():
    """Each layer is answered for by itself."""
    checkpoint = keras_model(
        ("Dense", "bad", {"units": 4, "kernel_constraint": max_norm(-1)}, [(8, 4), (4,)]),
        ("Dense", "good", {"units": 2, "kernel_constraint": max_norm(1)}, [(4, 2), (2,)]),
    )
    plan = build_plan(checkpoint, None)
    assert [a.rule for a in plan.assignments] == ["good.kernel_constraint"]
    assert [e.rule for e in plan.not_evaluated] == ["bad.kernel_constraint"]


def test_the_same_tensor_by_two_doors():
    """A rule and a declaration about one tensor are two questions, unless they ask the same."""
    rule = {"tensors": "dense/kernel", "constraint": "MaxNorm", "axis": 0}
    for bound, asked in ((2, [Origin.SPEC, Origin.DECLARED]), (3, [Origin.SPEC])):
        plan = build_plan(dense(max_norm(3)), spec_of({**rule, "max_value": bound}))
        assert [a.origin for a in plan.assignments] == asked


@pytest.mark.parametrize(
    ("layer", "argument", "settings", "shape", "code"),
    [
        (
            "Conv2D",
            "kernel_constraint",
            {"filters": 8, "kernel_size": [3, 3]},
            (3, 3, 4, 8),
            "suspicious-axis",
        ),
        (
            "Conv2D",
            "kernel_constraint",
            {"filters": 8, "kernel_size": [1, 1]},
            (1, 1, 4, 8),
            "degenerate-axis",
        ),
        (
            "Embedding",
            "embeddings_constraint",
            {"input_dim": 9, "output_dim": 4},
            (9, 4),
            "suspicious-axis",
        ),
        ("Dense", "kernel_constraint", {"units": 4}, (8, 4), None),
    ],
)
def test_declared_axes_are_linted(layer, argument, settings, shape, code):
    """Keras' default axis on a layer that it does not fit is the oldest mistake; it is named."""
    settings = {**settings, argument: max_norm(1), "use_bias": False}
    if layer == "Embedding":
        del settings["use_bias"]
    (assignment,) = build_plan(keras_model((layer, "layer", settings, [shape])), None).assignments
    assert [n.code for n in assignment.notices] == ([code] if code else [])
    assert (assignment.meant is not None) == (code == "degenerate-axis")


@pytest.mark.parametrize("name", ["builtin_constraints.keras", "builtin_constraints.h5"])
def test_real_file(request, name):
    """A model that Keras wrote: every declared constraint finds its tensor, and none is left over."""
    with open_checkpoint(request.config.rootpath / "fixtures" / "conforming" / name) as checkpoint:
        plan = build_plan(checkpoint, None)
    assert not plan.not_evaluated
    kinds = {type(a.constraint).__name__ for a in plan.assignments}
    assert kinds == {"MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"}
    assert all(a.tensor.role is Role.WEIGHT and a.label for a in plan.assignments)
