"""Weights that a file calls otherwise than its config calls the layers: order decides, or nobody."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.models.keras.model import BoundModel
from tests.models.keras.models import dense, layer, legacy, max_norm, sequential

SUFFIXED = {"w11_5/kernel:0": (4, 3), "w11_5/bias:0": (3,)}


def found_in(model, stored):
    """What each declaration governs, or why not."""
    declarations = BoundModel(model, stored).declarations
    return {d.layer: d.not_evaluated or d.tensors for d in declarations}


def renamed(*names, **settings):
    """Layers called a and b in the config, whose weights the file calls otherwise."""
    inner = [dense(name, use_bias=False, kernel_constraint=max_norm(), **settings) for name in "ab"]
    rows = {f"{name}/kernel:0": (3, 3) for name in names}
    return legacy(sequential(sequential(*inner, name="inner")), {"inner": rows}, "3.15.1")


def test_layers_that_were_renamed_after_building():
    """The file's own config and one order that fits: what Keras would load into each layer."""
    model, stored = renamed("b", "a")
    assert found_in(model, stored) == {
        "inner/a": ("model_weights/inner/b/kernel:0",),
        "inner/b": ("model_weights/inner/a/kernel:0",),
    }
    notices = [d.notices[0].code for d in BoundModel(model, stored).declarations]
    assert notices == ["decided-by-order"] * 2
    assert all(not d.notices for d in BoundModel(*renamed("a", "b")).declarations)


def test_a_config_from_elsewhere_is_believed_only_with_the_names():
    """It may be another model's, and the help says what to give; of a file's own nobody gives another."""
    model, stored = renamed("b", "a")
    given = BoundModel(replace(model, config_given=True), stored).declarations
    assert all("by name it does not" in str(d.not_evaluated) for d in given)
    assert {d.hint for d in given} == {"give the config that was saved with these weights"}
    own = BoundModel(*renamed("a")).declarations
    assert all(d.not_evaluated for d in own)
    assert {d.hint for d in own} == {"write a rule that names the tensor"}


def test_two_orders_that_both_fit_and_no_names():
    """Nothing tells who wrote the file, and so whether a frozen layer's weights came last."""
    inner = [
        dense("a", use_bias=False, trainable=False, kernel_constraint=max_norm()),
        dense("b", use_bias=False, kernel_constraint=max_norm()),
    ]
    rows = {"x/kernel:0": (3, 3), "y/kernel:0": (3, 3)}
    frozen = sequential(*inner, name="inner")
    frozen["config"]["trainable"] = False
    model, stored = legacy(sequential(frozen), {"inner": rows}, None)
    assert all("more than one way" in str(reason) for reason in found_in(model, stored).values())
    known = legacy(sequential(frozen), {"inner": rows}, "3.15.1")
    assert found_in(*known)["inner/a"] == ("model_weights/inner/x/kernel:0",)


@pytest.mark.parametrize(
    ("other", "rows", "count"),
    [
        (layer("Lambda", "lam"), SUFFIXED, 1),
        (layer("Mine", "m", module="m", registered_name="p>Mine"), SUFFIXED, 1),
        (layer("Mine", "m", module="m"), {**SUFFIXED, "m/kernel:0": (4, 3)}, 0),
        (layer("Mine", "m", module="m"), {"w11_5/kernel:0": (4, 3)}, 0),
        (layer("Mine", "m", module="m"), {"w11_5/kernel:0": (4, 3), "x/scale:0": (3,)}, 0),
        (dense("w11", kernel_constraint=max_norm()), SUFFIXED, 0),
    ],
)
def test_a_suffix_beside_layers_of_unknown_weights(other, rows, count):
    """If the known layers' weights are all that there are, the others have none; else it is a doubt."""
    config = sequential(
        sequential(other, dense("w11", kernel_constraint=max_norm()), name="psi"),
    )
    if other["class_name"] == "Dense":
        config["config"]["layers"][0]["config"]["layers"].append(layer("Lambda", "lam"))
    found = BoundModel(*legacy(config, {"psi": rows}, "2.15.0")).declarations
    told = [d.tensors for d in found if d.not_evaluated is None]
    assert told == [("model_weights/psi/w11_5/kernel:0",)] * count


def test_an_unknown_layer_with_several_layers_inside():
    """In which order its code made them is nowhere written."""
    inside = {
        name: dense(name, use_bias=False, kernel_constraint=max_norm()) for name in ("one", "two")
    }
    own = layer("Mine", "m", module="m", registered_name="p>Mine", **inside)
    rows = {"x/kernel:0": (3, 3), "y/kernel:0": (3, 3)}
    model, stored = legacy(sequential(sequential(own, name="inner")), {"inner": rows}, "3.9.0")
    assert all(isinstance(reason, str) for reason in found_in(model, stored).values())
    named = {"one/kernel:0": (3, 3), "two/kernel:0": (3, 3)}
    model, stored = legacy(sequential(sequential(own, name="inner")), {"inner": named}, "3.9.0")
    assert found_in(model, stored)["inner/m/two"] == ("model_weights/inner/two/kernel:0",)


@pytest.mark.parametrize("names", [("x", "y"), ("b", "a")])
def test_a_users_model_may_keep_another_order(names):
    """Where names contradict the list in its config, they are the better witness."""
    inner = [dense(name, use_bias=False, kernel_constraint=max_norm()) for name in "ab"]
    own = layer("Mine", "inner", module="m", registered_name="p>Mine", layers=inner)
    rows = {f"{name}/kernel:0": (3, 3) for name in names}
    model, stored = legacy(sequential(own), {"inner": rows}, "3.9.0")
    told = {"inner/a": "x", "inner/b": "y"} if "x" in names else {"inner/a": "a", "inner/b": "b"}
    assert found_in(model, stored) == {
        path: (f"model_weights/inner/{name}/kernel:0",) for path, name in told.items()
    }


def top_level(*names, groups, **settings):
    layers = [dense(name, kernel_constraint=max_norm(), **settings) for name in names]
    rows = {group: {"kernel": (4, 3), "bias": (3,)} for group in groups}
    return legacy(sequential(*layers), {**rows, "dropout": {}}, "3.15.1")


def test_groups_that_are_called_otherwise():
    """The next layer with weights has the next group with weights."""
    assert found_in(*top_level("w1", "w2", groups=["w1_3", "w2_3"])) == {
        "w1": ("model_weights/w1_3/kernel",),
        "w2": ("model_weights/w2_3/kernel",),
    }


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (("w1", "w2"), ["w1_3", "w2_3", "w3"]),
        (("w1", "w2"), ["w2", "w1_3"]),
        (("w1", "w2", "w3"), ["w1_3", "w2_3"]),
    ],
)
def test_groups_that_order_does_not_tell(names, groups):
    """Another number of groups, or a name that stands elsewhere."""
    found = found_in(*top_level(*names, groups=groups))
    assert not any(isinstance(answer, tuple) and "_3" in answer[0] for answer in found.values())


def test_groups_of_a_config_from_elsewhere():
    """Names are all that says that it is this model's."""
    model, stored = top_level("w1", "w2", groups=["w1_3", "w2_3"])
    given = BoundModel(replace(model, config_given=True), stored).declarations
    assert all("has no weights for the layer" in str(d.not_evaluated) for d in given)


def test_a_file_of_keras(pytestconfig):
    """Keras 3 saved it after two layers of a nested model had been renamed."""
    path = pytestconfig.rootpath / "fixtures" / "third_party" / "renamed_nested.h5"
    with open_checkpoint(path) as file:
        assert file.keras is not None
        assert found_in(file.keras, file.tensors) == {
            "inner/b": ("model_weights/inner/a/kernel",),
            "inner/a": ("model_weights/inner/b/kernel",),
        }
