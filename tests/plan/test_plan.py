"""The plan: what is judged, what cannot be, what matches nothing, and what must be said."""

from __future__ import annotations

import pytest

from ckptclamp.checkpoints.tensor import Role, Unreadable
from ckptclamp.constraints.sets.linear import Clip, NonNeg
from ckptclamp.constraints.sets.norms import MaxNorm
from ckptclamp.constraints.tolerance import cast_tolerance
from ckptclamp.errors import SpecError, UsageError
from ckptclamp.plan import Origin, UnmatchedRule
from ckptclamp.plan.build import build_plan
from ckptclamp.spec.loader import load_spec, spec_from_mapping
from ckptclamp.spec.model import Leeway, Severity
from ckptclamp.spec.rules import inline_spec
from tests.plan.checkpoints import Described, dense, keras_model, tensor


def spec_of(*rules, **rest):
    return spec_from_mapping({"version": 1, "rules": list(rules), **rest})


def matching_tensors(plan):
    return [(a.tensor.name, a.rule) for a in plan.assignments]


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
    assert matching_tensors(plan) == [
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
    assert matching_tensors(plan) == [("layers/dense/vars/0", "rule-1")]
    assert plan.assignments[0].label == "dense/kernel"
    aliased = Described([tensor("x/0", 2, aliases=("embed/table",))])
    assert matching_tensors(
        build_plan(aliased, spec_of({"tensors": "embed/*", "constraint": "NonNeg"}))
    )


def test_tensors_of_one_label_are_all_matched():
    """Layers of one name are no reason to pass them by; which is which only their full names tell."""
    shapes = [(4, 4), (4,)]
    dense_layer = ("Dense", "twin", {"units": 4}, shapes)
    plan = build_plan(
        keras_model(dense_layer, dense_layer, ("Dense", "other", {"units": 4}, shapes)),
        spec_of({"tensors": "**/kernel", "constraint": "NonNeg"}),
    )
    assert [(a.tensor.name, a.label) for a in plan.assignments] == [
        ("layers/dense/vars/0", None),
        ("layers/dense_1/vars/0", None),
        ("layers/dense_2/vars/0", "other/kernel"),
    ]


def test_a_misspelt_tensor_is_suggested():
    """A rule that matches nothing tells which name is nearest to what it says."""
    plan = build_plan(
        Described([tensor("encoder/kernel", 2), tensor("bias", 2)]),
        spec_of({"id": "lost", "tensors": ["!x", "encoder/kernal"], "constraint": "NonNeg"}),
    )
    (unmatched,) = plan.unmatched
    assert unmatched.meant == "encoder/kernel"


def test_rule_without_a_match():
    """A rule that governs nothing fails the audit, unless it says that it need not match."""
    plan = build_plan(
        Described([tensor("a", 2)]),
        spec_of(
            {"id": "lost", "tensors": "b", "constraint": "NonNeg"},
            {"id": "maybe", "tensors": "b", "constraint": "NonNeg", "required": False},
        ),
    )
    assert plan.unmatched == (UnmatchedRule("lost", ("b",), None, None),)
    (notice,) = plan.notices
    assert (notice.code, notice.informational) == ("no-match", True)
    assert "maybe" in notice.message


def test_a_pattern_without_a_match():
    """One of several names may be misspelt; that the others match does not hide it."""
    checkpoint = Described([tensor("weight", 2), tensor("bias", 2), tensor("scale", 2)])
    names = ["bias", "wieght", "sc*", "!scale", "!nothing"]
    plan = build_plan(checkpoint, spec_of({"tensors": names, "constraint": "NonNeg"}))
    (notice,) = plan.notices
    assert (notice.code, notice.informational) == ("pattern-matches-nothing", False)
    assert "wieght" in notice.message
    assert "weight" in (notice.hint or "")
    optional = {"tensors": names, "constraint": "NonNeg", "required": False}
    assert not build_plan(checkpoint, spec_of(optional)).notices


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("a.*.{q_prj,k_proj,v_proj}.weight", ["a.*.q_prj.weight"]),
        ("{a,b}.*.{q_proj,out,up}.weight", []),
        ("{a,c}.0.{q_proj,{k,v}_proj}.weight", ["c.0.{q_proj,{k,v}_proj}.weight"]),
        ("[a{]{.,/}0.q_proj.weight", ["[a{]/0.q_proj.weight"]),
        ("{re:a,!a,a}.0.q_proj.weight", []),
        ("{a.0.q_proj.weight,}", []),
        ("{nothing,none}", None),
    ],
)
def test_a_choice_of_a_brace_without_a_match(pattern: str, told: list[str] | None):
    """A misspelt choice is told as a misspelt pattern is; not which of two braces' choices go together."""
    names = [f"a.0.{name}.weight" for name in ("q_proj", "k_proj", "v_proj")]
    names += [f"b.0.{name}.weight" for name in ("up", "out")]
    checkpoint = Described([tensor(name, 2) for name in names])
    plan = build_plan(checkpoint, spec_of({"tensors": pattern, "constraint": "NonNeg"}))
    assert bool(plan.unmatched) == (told is None)
    found = [n for n in plan.notices if n.code == "pattern-matches-nothing"]
    assert len(found) == len(told or ())
    for notice, words in zip(found, told or (), strict=True):
        assert f"no tensor matches {words}, though" in notice.message
    optional = {"tensors": pattern, "constraint": "NonNeg", "required": False}
    notices = build_plan(checkpoint, spec_of(optional)).notices
    assert all(notice.code == "no-match" for notice in notices)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**", ["w"]),
        ("*/w", []),
        ("optimizer/**", ["optimizer/w/m"]),
        ("opt*/**", []),
        ("re:optimizer/.*", ["optimizer/w/m"]),
        (["**", "!optimizer/none"], ["w"]),
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
    assert "[1, 2, 3]" in second.hint
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
    assert tolerances == [*(cast_tolerance(d, 1) for d in dtypes if d), 0.25, 0.25]
    overridden = build_plan(checkpoint, spec_of(*rules), caller=Leeway(tolerance=0.0)).assignments
    assert {a.tolerance for a in overridden} == {0.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_bad_tolerance_is_refused(bad):
    """A tolerance that would let everything pass, or nothing be compared, is an error."""
    with pytest.raises(UsageError, match="tolerance"):
        Leeway(tolerance=bad)


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


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("**/weight", "**.weight"),
        ("*.weight", "**.weight"),
        ("*/weight", "**.weight"),
        ("model.layers.*.weight", "model.layers.**.weight"),
    ],
)
def test_a_glob_for_the_names_of_another_producer_is_told(pattern, meant):
    """PyTorch's names have dots where Keras' have slashes."""
    checkpoint = Described([tensor("model.layers.0.mlp.weight", 4, 4)])
    rule = {"tensors": pattern, "constraint": "MaxNorm", "max_value": 1, "axis": 0}
    plan = build_plan(checkpoint, spec_from_mapping({"version": 1, "rules": [rule]}))
    assert [unmatched.meant for unmatched in plan.unmatched] == [meant]


def test_a_star_that_ends_at_a_dot_is_told():
    """A rule that means every weight and governs one would pass a gate for the wrong reason."""
    names = ("head.weight", "layers.0.mlp.weight", "layers.1.mlp.weight", "layers.0.bias")
    checkpoint = Described([tensor(name, 4) for name in names])
    found = build_plan(checkpoint, spec_of({"tensors": "*.weight", "constraint": "NonNeg"}))
    (notice,) = [n for n in found.notices if n.code == "star-ends-at-dot"]
    assert notice.informational
    assert "matches 1 tensor" in notice.message
    assert notice.hint == "**.weight would match 2 more"
    for pattern in ("**.weight", "layers.*.mlp.weight", "head.weight"):
        rule = {"tensors": pattern, "constraint": "NonNeg"}
        assert not build_plan(checkpoint, spec_of(rule)).notices
