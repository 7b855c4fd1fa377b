"""A Keras model is bound to its tensors once for each checkpoint, and never to an old config."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

from ckptclamp.models.keras.layouts.v3 import bind_v3
from ckptclamp.plan.build import build_plan
from ckptclamp.plan.tensors import all_names, keras_model
from ckptclamp.spec.loader import spec_from_mapping
from tests.plan.checkpoints import Described, dense, max_norm, tensor

RULES = {"version": 1, "rules": [{"id": "r", "tensors": "**/kernel", "constraint": "NonNeg"}]}


def test_one_binding_serves_rules_declarations_and_names(monkeypatch):
    """Binding ten thousand tensors takes a while; seven times that was the most of an audit."""
    made = []

    def counted(*args):
        made.append(args)
        return bind_v3(*args)

    monkeypatch.setattr("ckptclamp.models.keras.model.bind_v3", counted)
    checkpoint = dense(max_norm(1.0))
    plan = build_plan(checkpoint, spec_from_mapping(RULES))
    assert len(plan.assignments) == 2
    assert "dense/kernel" in all_names(checkpoint)["layers/dense/vars/0"]
    assert len(made) == 1


def test_a_config_that_is_assumed_later_is_bound_anew():
    """What was said without a config must not outlive it."""
    checkpoint = dense(max_norm(1.0))
    config = checkpoint.keras.config
    checkpoint.keras = replace(checkpoint.keras, config=None)
    before = keras_model(checkpoint)
    assert before is not None
    assert before.declarations == ()
    checkpoint.assume_config(config)
    after = keras_model(checkpoint)
    assert after is not None
    (declaration,) = after.declarations
    assert declaration.tensors == ("layers/dense/vars/0",)


def test_the_binding_goes_with_its_checkpoint():
    """A process that audits many checkpoints keeps the description of none."""
    checkpoint = dense(max_norm(1.0))
    bound = weakref.ref(keras_model(checkpoint))
    del checkpoint
    gc.collect()
    assert bound() is None


def test_other_formats_have_no_model():
    """Nothing of Keras is asked of them."""
    assert keras_model(Described([tensor("a.weight", 2, 2)])) is None
