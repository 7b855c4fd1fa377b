"""A rule must not pass a weight by in silence only because nothing tells what it is called."""

from __future__ import annotations

import pytest

from ckptclamp.plan.build import build_plan
from ckptclamp.spec.loader import spec_from_mapping
from tests.plan.checkpoints import Described, keras_model

SHAPES = [(4, 4), (4,)]
DENSE = ("Dense", "plain", {"units": 4}, SHAPES)
MINE = ("MyDense", "mine", {"units": 4}, SHAPES)
KERNEL, BIAS = "layers/my_dense/vars/0", "layers/my_dense/vars/1"


def warnings(checkpoint: Described, *rules):
    spec = {"version": 1, "rules": [{"constraint": "NonNeg", **rule} for rule in rules]}
    plan = build_plan(checkpoint, spec_from_mapping(spec))
    return [notice for notice in plan.notices if notice.code == "unnamed-weights"]


@pytest.mark.parametrize(
    "tensors",
    ["**/kernel", ["**/kernel", "!**/bias"], "re:.*/(kernel|embeddings)", "**/*kernel", "**/ker*"],
)
def test_a_users_layer_beside_one_of_keras(tensors):
    """One warning for all of them, which tells the names that a rule can use."""
    (notice,) = warnings(keras_model(DENSE, MINE), {"id": "by-name", "tensors": tensors})
    assert not notice.informational
    assert KERNEL in notice.message
    assert "by-name" in notice.message


@pytest.mark.parametrize(
    "tensors",
    ["**", "plain/kernel", "plain/*", ["**/kernel", KERNEL], ["**/kernel", "mine/vars/0"]],
)
def test_a_rule_that_leaves_nothing_open(tensors):
    """It means another layer, or says which weight of this one it means."""
    assert warnings(keras_model(DENSE, MINE), {"tensors": tensors}) == []


def test_exclusion_by_the_names_there_are():
    """Whoever says that the layer is not meant is not asked again."""
    rule = {"tensors": ["**/kernel", "!mine/**"]}
    assert warnings(keras_model(DENSE, MINE), rule) == []


def test_another_rule_does_not_answer_for_this_one():
    """A rule about everything says nothing of whether kernels were meant."""
    rules = {"id": "all", "tensors": "**"}, {"id": "kernels", "tensors": "**/kernel"}
    (notice,) = warnings(keras_model(DENSE, MINE), *rules)
    assert notice.message.endswith("kernels")


def test_statistics_are_no_weights_that_a_rule_misses():
    """The mean of a Normalization layer is no kernel, whatever it is called."""
    layer = ("Normalization", "norm", {"axis": -1}, [(4,), (4,)])
    assert warnings(keras_model(DENSE, layer), {"tensors": "**/kernel"}) == []


def test_weights_that_do_not_fit_the_config():
    """A layer of Keras' own that cannot be mapped has no names either."""
    odd = ("Dense", "odd", {"units": 5}, SHAPES)
    convolution = ("Conv1D", "conv", {"filters": 4, "kernel_size": 1}, [(1, 4, 4), (4,)])
    rule = {"tensors": "**/kernel"}
    (notice,) = warnings(keras_model(convolution, odd), rule)
    assert "layers/dense/vars/0" in notice.message


def test_without_a_config_or_rules_there_is_nothing_to_tell():
    """No config names any weight, and no rule asks for one."""
    checkpoint = keras_model(DENSE, MINE)
    assert warnings(checkpoint) == []
    assert checkpoint.keras is not None
    bare = Described(checkpoint.tensors.values())
    assert warnings(bare, {"tensors": "layers/**"}) == []
