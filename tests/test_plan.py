"""The plan: what is judged, what cannot be, what matches nothing, and what must be said."""

from __future__ import annotations

import sys

import pytest

from ckptclamp.checkpoints.description import Role, Unreadable
from ckptclamp.checkpoints.registry import open_checkpoint
from ckptclamp.constraints.elementwise import Clip, NonNeg
from ckptclamp.constraints.norms import MaxNorm
from ckptclamp.constraints.tolerance import auto_tolerance
from ckptclamp.errors import SpecError, UsageError
from ckptclamp.plan import build_plan
from ckptclamp.results import Origin
from ckptclamp.spec.inline import inline_spec
from ckptclamp.spec.loader import load_spec, spec_from_mapping
from ckptclamp.spec.model import Severity
from tests.planning.checkpoints import Described, keras_model, tensor

CENTER = {
    "module": "users_planned_pkg.own",
    "class_name": "CenterAround",
    "config": {"ref_value": 0.5},
    "registered_name": "pkg>CenterAround",
}


def max_norm(value, axis=0):
    return {
        "module": "keras.constraints",
        "class_name": "MaxNorm",
        "config": {"max_value": value, "axis": axis},
        "registered_name": None,
    }


def spec_of(*rules, **rest):
    return spec_from_mapping({"version": 1, "rules": list(rules), **rest})


def governed(plan):
    return [(a.tensor.name, a.rule) for a in plan.assignments]


def dense(constraint, shape=(8, 4), argument="kernel_constraint"):
    return keras_model(
        ("Dense", "dense", {"units": shape[-1], argument: constraint}, [shape, shape[-1:]])
    )


def test_rules_meet_tensors():
    """Every tensor under every rule that matches it, in the order of the rules, then of the file."""
    checkpoint = Described(
        [tensor("a/kernel", 4, 2), tensor("a/bias", 2), tensor("b/kernel", 4, 2)]
    )
    plan = build_plan(
        checkpoint,
        spec_of(
            {"id": "one", "tensors": "**", "constraint": "NonNeg"},
            {"id": "two", "tensors": ["**/kernel", "!b/**"], "constraint": "MaxNorm", "axis": 1},
        ),
    )
    assert governed(plan) == [
        ("a/kernel", "one"),
        ("a/bias", "one"),
        ("b/kernel", "one"),
        ("a/kernel", "two"),
    ]
    first, last = plan.assignments[0], plan.assignments[-1]
    assert (first.axes, first.constraint) == ((), NonNeg())
    assert (last.axes, last.constraint, last.origin) == ((1,), MaxNorm(2), Origin.SPEC)
    assert "**/kernel" in last.why


def test_labels_and_aliases_are_names_too():
    """A Keras tensor is matched by what a person calls it, and shown so."""
    plan = build_plan(dense(None), spec_of({"tensors": "dense/kernel", "constraint": "NonNeg"}))
    assert governed(plan) == [("layers/dense/vars/0", "rule-1")]
    assert plan.assignments[0].label == "dense/kernel"
    aliased = Described([tensor("x/0", 2, aliases=("embed/table",))])
    assert governed(build_plan(aliased, spec_of({"tensors": "embed/*", "constraint": "NonNeg"})))


def test_rule_without_a_match():
    """A rule that governs nothing fails the audit, unless it says that it need not match."""
    plan = build_plan(
        Described([tensor("a", 2)]),
        spec_of(
            {"id": "lost", "tensors": "b", "constraint": "NonNeg"},
            {"id": "maybe", "tensors": "b", "constraint": "NonNeg", "required": False},
        ),
    )
    assert plan.unmatched == ("lost",)
    (notice,) = plan.notices
    assert (notice.code, notice.informational) == ("no-match", True)
    assert "maybe" in notice.message


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**", ["w"]),
        ("*/w", []),
        ("optimizer/**", ["optimizer/w/m"]),
        ("opt*/**", []),
        ("re:optimizer/.*", ["optimizer/w/m"]),
        ("rng/state", ["rng/state"]),
        ("rng/*", []),
    ],
)
def test_only_weights_unless_named(pattern, expected):
    """Optimizer slots and generator state have weights' shapes, and are not what a rule means."""
    checkpoint = Described(
        [
            tensor("w", 4, 2),
            tensor("optimizer/w/m", 4, 2, role=Role.OPTIMIZER),
            tensor("rng/state", 2, role=Role.STATE),
        ]
    )
    plan = build_plan(checkpoint, spec_of({"tensors": pattern, "constraint": "NonNeg"}))
    assert [a.tensor.name for a in plan.assignments] == expected


@pytest.mark.parametrize(
    ("unjudged", "reason"),
    [
        (tensor("w", 2, dtype="mystery"), "mystery is not known"),
        (tensor("w", 2, dtype="bool"), "no real numbers"),
        (tensor("w", 2, dtype="complex64"), "no real numbers"),
        (tensor("w", 0, 4), "no weights"),
        (tensor("w", 2, storage=Unreadable("an unknown filter")), "an unknown filter"),
    ],
)
@pytest.mark.parametrize("constraint", ["NonNeg", "MaxNorm"])
def test_what_cannot_be_judged_is_not_evaluated(unjudged, reason, constraint):
    """A governed tensor that holds no numbers to judge is said to be so, never passed over."""
    plan = build_plan(Described([unjudged]), spec_of({"tensors": "w", "constraint": constraint}))
    (entry,) = plan.not_evaluated
    assert reason in entry.reason
    assert (entry.subject, entry.rule, entry.tensor) == ("w", "rule-1", unjudged)
    assert not plan.assignments
    assert not plan.unmatched


def test_axis_out_of_range_is_a_spec_error(tmp_path):
    """A wrong axis stops everything: tensor, shape and the rule's place, of all rules at once."""
    path = tmp_path / "spec.yaml"
    path.write_text(
        "version: 1\nrules:\n"
        "  - {tensors: '**', constraint: MaxNorm, axis: 2}\n"
        "  - {tensors: conv, constraint: MaxNorm}\n"
        "  - {tensors: a, constraint: NonNeg, axis: 0}\n"
    )
    checkpoint = Described([tensor("a", 4, 2), tensor("b", 3), tensor("conv", 3, 3, 4, 8)])
    with pytest.raises(SpecError) as caught:
        build_plan(checkpoint, load_spec(path))
    first, second, third = caught.value.problems
    assert [p.line for p in caught.value.problems] == [3, 4, 5]
    assert "a of shape 4x2 (and 1 more): axis 2 does not exist" in first.message
    assert "conv of shape 3x3x4x8" in second.message
    assert second.hint is not None
    assert "[0, 1, 2]" in second.hint
    assert "has no axis" in third.message


def test_inline_rules_have_no_place():
    """Rules from options fail in the same words, without a line."""
    with pytest.raises(SpecError, match="axis 5 does not exist"):
        build_plan(
            Described([tensor("a", 4, 2)]), inline_spec(tensors=("a",), max_norm=1.0, axis=(5,))
        )


def test_tolerance_is_the_callers_or_the_rules_or_the_dtypes():
    """The nearest word counts, and without one the storage dtype decides."""
    checkpoint = Described([tensor("half", 2, dtype="float16"), tensor("full", 2)])
    rules = (
        {"tensors": "*", "constraint": "NonNeg"},
        {"tensors": "*", "constraint": "NonNeg", "tolerance": 0.25},
    )
    tolerances = [a.tolerance for a in build_plan(checkpoint, spec_of(*rules)).assignments]
    dtypes = [checkpoint.tensors[name].dtype for name in ("half", "full")]
    assert tolerances == [*(auto_tolerance(d) for d in dtypes if d), 0.25, 0.25]
    overridden = build_plan(checkpoint, spec_of(*rules), tolerance=0.0).assignments
    assert {a.tolerance for a in overridden} == {0.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_bad_tolerance_is_refused(bad):
    """A tolerance that would let everything pass, or nothing be compared, is an error."""
    with pytest.raises(UsageError, match="tolerance"):
        build_plan(Described([tensor("a", 2)]), None, tolerance=bad)


def test_bounds_are_those_of_the_storage_dtype():
    """What was clipped at 0.1 in float16 is judged by float16's 0.1."""
    plan = build_plan(
        Described([tensor("a", 2, dtype="float16")]),
        spec_of({"tensors": "a", "constraint": "Clip", "low": -0.1, "high": 0.1}),
    )
    assert plan.assignments[0].constraint == Clip(-0.0999755859375, 0.0999755859375)


def test_default_axis_of_a_matrix_is_told():
    """Nothing is wrong with it, but a reader can see what a unit is."""
    plan = build_plan(
        Described([tensor("a", 4, 2)]), spec_of({"tensors": "a", "constraint": "MaxNorm"})
    )
    (assignment,) = plan.assignments
    assert assignment.axes == (0,)
    assert [n.code for n in assignment.notices] == ["default-axis"]


def test_vacuous_rule_is_warned_about():
    """A rule whose norms span single weights says so, and what is to be measured instead."""
    plan = build_plan(
        Described([tensor("a", 1, 1, 8, 4)]),
        spec_of({"tensors": "a", "constraint": "MaxNorm", "axis": 0}),
    )
    (assignment,) = plan.assignments
    assert [n.code for n in assignment.notices] == ["degenerate-axis"]
    assert assignment.meant == (0, 1, 2)


def test_severity_and_place_go_with_the_rule(tmp_path):
    """A report can point at the line that asked for it."""
    path = tmp_path / "spec.yaml"
    path.write_text(
        "version: 1\nrules:\n  - {tensors: '*', constraint: NonNeg, severity: warning}\n"
    )
    plan = build_plan(Described([tensor("a", 2), tensor("b", 2, dtype="bool")]), load_spec(path))
    (judged,), (refused,) = plan.assignments, plan.not_evaluated
    assert judged.severity is refused.severity is Severity.WARNING
    assert judged.location == refused.location == f"{path}:3:5"


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
    assert governed(build_plan(checkpoint, spec_of(rule, declared="ignore"))) == [
        ("layers/dense/vars/1", "rule-1")
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
        ({"class_name": "RadialConstraint", "config": {}}, "no projection"),
        (CENTER, "'pkg>CenterAround' is not known here"),
    ],
)
def test_declarations_that_cannot_be_judged(constraint, reason):
    """They make the audit incomplete, with the reason; they never pass and never crash."""
    plan = build_plan(dense(constraint), None)
    (entry,) = plan.not_evaluated
    assert reason in entry.reason
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


def test_declared_custom_class_is_imported_only_if_allowed(tmp_path, monkeypatch):
    """A checkpoint names its class; only the caller's word imports it."""
    package = tmp_path / "users_planned_pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "own.py").write_text(
        "from ckptclamp.constraints.center import CenterAround as Base\n"
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
    """A rule and a declaration about one tensor are two questions, and both are answered."""
    plan = build_plan(
        dense(max_norm(3)),
        spec_of({"tensors": "dense/kernel", "constraint": "MaxNorm", "max_value": 3, "axis": 0}),
    )
    assert [a.origin for a in plan.assignments] == [Origin.SPEC, Origin.DECLARED]


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


def test_no_spec_and_nothing_declared_is_an_empty_plan():
    """Which the audit answers by its own exit code, for nothing was judged."""
    plan = build_plan(Described([tensor("a", 2)]), None)
    assert not plan.assignments
    assert not plan.not_evaluated


def test_many_tensors_and_rules():
    """Planning 100,000 tensors under 100 rules gives every pair that matches, and only those."""
    checkpoint = Described(
        [tensor(f"block_{i % 1000}/dense_{i}/kernel", 4, 2) for i in range(100_000)]
    )
    rules = [{"tensors": f"block_{i}/*/kernel", "constraint": "NonNeg"} for i in range(100)]
    plan = build_plan(checkpoint, spec_of(*rules))
    assert len(plan.assignments) == 100 * 100
    assert {a.rule for a in plan.assignments} == {f"rule-{i + 1}" for i in range(100)}


@pytest.mark.parametrize("name", ["builtin_constraints.keras", "builtin_constraints.h5"])
def test_real_file(request, name):
    """A model that Keras wrote: every declared constraint finds its tensor, and none is left over."""
    with open_checkpoint(request.config.rootpath / "fixtures" / "conforming" / name) as checkpoint:
        plan = build_plan(checkpoint, None)
    assert not plan.not_evaluated
    kinds = {type(a.constraint).__name__ for a in plan.assignments}
    assert kinds == {"MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"}
    assert all(a.tensor.role is Role.WEIGHT and a.label for a in plan.assignments)
