"""A declaration that cannot be judged, and somebody's rule over the tensor that it is about."""

from __future__ import annotations

import pytest

from ckptclamp.plan.build import build_plan
from ckptclamp.spec.loader import spec_from_mapping
from tests.plan.checkpoints import Described, dense, keras_model, tensor

UNKNOWN = {"class_name": "pkg>Mystery", "config": {"c": 1}}


def plan(checkpoint, *rules, **rest):
    return build_plan(checkpoint, spec_from_mapping({"version": 1, "rules": list(rules), **rest}))


def rule(tensors, **settings):
    return {"id": "mine", "tensors": tensors, "constraint": "NonNeg", **settings}


def notices(found):
    return [notice for notice in found.notices if notice.code == "settled-by-rule"]


def users_layer():
    """A layer of a user's class with two weights that the v3 layout numbers."""
    checkpoint = keras_model(("Own", "own", {"kernel_constraint": UNKNOWN}, [(8, 4), (4,)]))
    entries = checkpoint.keras.config["config"]["layers"]
    entries[0] |= {"module": "m", "registered_name": "pkg>Own"}
    return checkpoint


@pytest.mark.parametrize("pattern", ["dense/kernel", "dense/*", "layers/dense/vars/0"])
def test_a_rule_over_the_tensor_settles_it(pattern):
    """Whoever names the tensor has answered for it; the report says so, and why."""
    found = plan(dense(UNKNOWN), rule(pattern))
    assert found.not_evaluated == ()
    assert "mine" in {assignment.rule for assignment in found.assignments}
    (notice,) = notices(found)
    assert notice.informational
    assert "dense.kernel_constraint (pkg>Mystery)" in notice.message
    assert "rule mine" in notice.message
    assert "is not known here" in notice.message
    assert notice.tensor == "layers/dense/vars/0"


@pytest.mark.parametrize("pattern", ["**", "**/kernel", "*/kernel", "layers/**", "re:.*kernel"])
def test_a_rule_over_anything_settles_it_with_a_warning(pattern):
    """It may never have been meant for this layer."""
    (notice,) = notices(plan(dense(UNKNOWN), rule(pattern)))
    assert not notice.informational
    assert notice.hint


@pytest.mark.parametrize("pattern", ["dense/bias", "other/kernel"])
def test_a_rule_over_another_tensor_does_not(pattern):
    """Nothing looked at the tensor that the declaration is about."""
    found = plan(dense(UNKNOWN), rule(pattern, required=False))
    assert len(found.not_evaluated) == 1
    assert notices(found) == []


def test_what_can_be_judged_is_judged():
    """A rule beside it changes nothing."""
    found = plan(dense({"class_name": "UnitNorm", "config": {}}), rule("dense/kernel"))
    assert [a.rule for a in found.assignments] == ["mine", "dense.kernel_constraint"]
    assert notices(found) == []


def test_what_a_rule_states_as_it_is_declared_is_judged_once():
    """Else every finding would come in two; what differs in anything is judged by itself."""
    declared = {"class_name": "NonNeg", "config": {}}
    (pair,) = plan(dense(declared), rule("dense/kernel")).assignments
    assert pair.rule == "mine"
    assert pair.why.endswith("; the model declares it, too")
    for differing in ({"severity": "warning"}, {"tolerance": 0.5}, {"zero_units": "allow"}):
        assert len(plan(dense(declared), rule("dense/kernel", **differing)).assignments) == 2


def test_a_preset_settles_nothing():
    """That all weights are finite is no answer to a constraint of one layer."""
    found = plan(dense(UNKNOWN), rule("dense/bias"), preset="health")
    assert len(found.not_evaluated) == 1
    assert notices(found) == []


def test_a_users_layer_needs_a_rule_over_all_that_may_be_meant():
    """Which of its weights is the kernel is not known where files number them."""
    assert len(plan(users_layer(), rule("own/vars/0")).not_evaluated) == 1
    found = plan(users_layer(), rule("own/**"))
    assert found.not_evaluated == ()
    assert len(notices(found)) == 1
    both = plan(
        users_layer(),
        rule("own/vars/0"),
        ignore=[{"tensors": "own/vars/1", "reason": "a bias"}],
    )
    assert both.not_evaluated == ()
    assert "an ignore rule (a bias)" in notices(both)[0].message


@pytest.mark.parametrize(
    "ignoring",
    [
        {"rules": "own.kernel_constraint"},
        {"tensors": "own/**"},
        {"tensors": "own/**", "rules": "own.*"},
        {"rules": "own.kernel_constraint", "expires": "2999-01-01"},
    ],
)
def test_an_ignore_rule_settles_it(ignoring):
    """By the declaration's id, or over its tensors, with the reason that it gives."""
    found = plan(users_layer(), ignore=[{**ignoring, "reason": "looked at by hand"}])
    assert found.not_evaluated == ()
    assert len(found.settling) == 1
    (notice,) = notices(found)
    assert notice.informational
    assert "looked at by hand" in notice.message


@pytest.mark.parametrize(
    "ignoring",
    [
        {"rules": "own.bias_constraint"},
        {"tensors": "own/vars/1"},
        {"rules": "own.kernel_constraint", "expires": "2000-01-01"},
        {"tensors": "own/**", "rules": "mine"},
    ],
)
def test_an_ignore_rule_that_does_not_cover_it(ignoring):
    """Another finding, a part of the tensors, or a day that has passed."""
    found = plan(users_layer(), ignore=[{**ignoring, "reason": "x"}])
    assert len(found.not_evaluated) == 1
    assert found.settling == ()


def test_an_ignore_rule_over_anything_is_a_warning():
    """It was probably about violations."""
    (notice,) = notices(plan(dense(UNKNOWN), ignore=[{"tensors": "**/kernel", "reason": "x"}]))
    assert not notice.informational


def test_a_tensor_that_cannot_be_read_is_not_settled():
    """No rule makes a weight known that is not, and none looks at it either."""
    whole = dense({"class_name": "NonNeg", "config": {}})
    odd = [
        tensor(name, *t.shape, dtype="strange") if name.endswith("0") else t
        for name, t in whole.tensors.items()
    ]
    found = plan(
        Described(odd, whole.keras),
        rule("dense/kernel"),
        ignore=[{"rules": "dense.kernel_constraint", "reason": "x"}],
    )
    assert [entry.rule for entry in found.not_evaluated] == ["mine", "dense.kernel_constraint"]


def test_what_a_class_is_like_reaches_rules_and_declarations():
    """Labels and declarations follow what the spec says of a user's class."""
    spec = {
        "custom_layers": {"Own": {"like": "Dense"}},
        "custom_objects": {"pkg>Mystery": {"constraint": "Clip", "low": "-$c", "high": "$c"}},
    }
    found = plan(users_layer(), rule("own/bias"), **spec)
    assert [(a.tensor.name, a.rule) for a in found.assignments] == [
        ("layers/own/vars/1", "mine"),
        ("layers/own/vars/0", "own.kernel_constraint"),
    ]
    assert found.notices == ()


def test_a_spec_does_not_outlive_its_plan():
    """The same open checkpoint is planned anew under another spec."""
    checkpoint = users_layer()
    told = {
        "custom_layers": {"Own": {"like": "Dense"}},
        "custom_objects": {"pkg>Mystery": "NonNeg"},
    }
    assert plan(checkpoint, **told).not_evaluated
    assert len(plan(checkpoint).not_evaluated) == 1
    assert "custom-layers" in {notice.code for notice in plan(checkpoint).notices}
