"""Models and layers that a user's class holds in its settings, and what somebody says of such classes."""

from __future__ import annotations

import pytest

from ckptclamp.models.keras.declarations import undeclared_notices
from ckptclamp.models.keras.model import BoundModel
from ckptclamp.spec.model import CustomLayer
from tests.models.keras.models import dense, layer, legacy, max_norm, sequential, v3

KERNEL, BIAS = (4, 3), (3,)


def gan(**settings):
    generator = sequential(dense("g", kernel_constraint=max_norm()), name="gen")
    return layer("GAN", "gan", None, "p>GAN", generator=generator, **settings)


def stored_at(place):
    return {f"{place}/layers/dense/vars/0": KERNEL, f"{place}/layers/dense/vars/1": BIAS}


def only(file, custom_layers=None):
    model, stored = file
    (declaration,) = BoundModel(model, stored, custom_layers).declarations
    return declaration


@pytest.mark.parametrize("place", ["generator", "_generator"])
def test_a_model_in_an_attribute_of_its_setting(place):
    """Users keep what they are given under its own name, and the v3 layout says where."""
    found = only(v3(gan(), stored_at(place), names={place: None}))
    assert (found.layer, found.tensors) == ("gen/g", (f"{place}/layers/dense/vars/0",))
    assert found.labels == ("gen/g/kernel",)


@pytest.mark.parametrize("place", ["net", "layers/sequential"])
def test_a_model_in_another_attribute_by_its_name(place):
    """Keras 3.6 and later write which layer a group belongs to."""
    found = only(v3(gan(), stored_at(place), names={place: "gen"}))
    assert found.tensors == (f"{place}/layers/dense/vars/0",)


@pytest.mark.parametrize(
    ("shapes", "names"),
    [
        (stored_at("net"), {"net": None}),
        (stored_at("net") | stored_at("other"), {"net": "gen", "other": "gen"}),
        (stored_at("generator"), {"generator": "another"}),
        ({"generator/layers/dense/vars/0": (5, 5), "generator/layers/dense/vars/1": (3,)}, {}),
        ({}, {}),
    ],
)
def test_a_model_that_is_nowhere_to_be_found(shapes, names):
    """No group of its name, several, or one that is not the config's: named, and not evaluated."""
    found = only(v3(gan(), shapes, names={"generator": None, **names} if shapes else None))
    assert found.layer == "gen/g"
    assert found.not_evaluated


def test_models_in_a_list_are_told_in_words():
    """Which part of which model is meant, though only its code can read that setting."""
    towers = [sequential(dense("t", kernel_constraint=max_norm()), name="tower")]
    found = only(v3(layer("Own", "own", None, "p>Own", towers=towers), {}))
    assert found.layer == "Own"
    assert found.not_evaluated == (
        "kernel_constraint of the Dense 't' in the Sequential 'tower' is a setting of Own that only "
        "its code can read"
    )


@pytest.mark.parametrize("value", [{"class_name": "Zeros", "config": {}}, {"layers": []}, "Dense"])
def test_settings_that_hold_no_layer(value):
    """An initialiser has a class and a config, too."""
    own = layer("Own", "own", None, "p>Own", start=value)
    assert [inner.class_name for inner in BoundModel(*v3(sequential(own), {})).layers] == [
        "Sequential",
        "Own",
    ]


OWN = layer("Conv", "c", "m", "my>Conv", units=3, use_bias=True, kernel_constraint=max_norm())
LIKE = {"my>Conv": CustomLayer(like="Dense")}
V3 = {"layers/conv/vars/0": KERNEL, "layers/conv/vars/1": BIAS}
LEGACY = {"c": {"c/kernel:0": KERNEL, "c/bias:0": BIAS}}


@pytest.mark.parametrize("name", ["my>Conv", "Conv"])
def test_a_class_that_is_like_another(name):
    """Its variables are that one's, in that order, with that one's names."""
    told = {name: CustomLayer(like="Dense")}
    model, stored = v3(sequential(OWN), V3)
    assert only((model, stored), told).tensors == ("layers/conv/vars/0",)
    assert BoundModel(model, stored, told).labels["layers/conv/vars/1"] == "c/bias"
    assert only(legacy(sequential(OWN), LEGACY), told).tensors == ("model_weights/c/c/kernel:0",)
    assert undeclared_notices(BoundModel(model, stored, told).layers, told) == ()


@pytest.mark.parametrize(
    "shapes",
    [
        {"layers/conv/vars/0": KERNEL},
        V3 | {"layers/conv/vars/2": (3,)},
        {"layers/conv/vars/0": BIAS, "layers/conv/vars/1": KERNEL},
    ],
)
def test_a_class_that_is_not_like_the_other_after_all(shapes):
    """Number and shapes must agree, as for Keras' own."""
    assert only(v3(sequential(OWN), shapes), LIKE).not_evaluated


BOTH = {"Conv": CustomLayer(weights={"kernel_constraint": ("kernel", "vars/0")})}


def test_weights_that_somebody_names():
    """By their names, or by their numbers where the layout has no names."""
    assert only(v3(sequential(OWN), V3), BOTH).tensors == ("layers/conv/vars/0",)
    assert only(legacy(sequential(OWN), LEGACY), BOTH).tensors == ("model_weights/c/c/kernel:0",)
    inner = {"layers/conv/inner/vars/1": KERNEL, "layers/conv/inner/vars/0": BIAS}
    told = {"Conv": CustomLayer(weights={"kernel_constraint": ("inner/vars/1",)})}
    model, stored = v3(sequential(OWN), inner, names={"layers/conv": None})
    assert only((model, stored), told).tensors == ("layers/conv/inner/vars/1",)


@pytest.mark.parametrize(
    ("weights", "word"),
    [
        ({"kernel_constraint": ("vars/7",)}, "number 7"),
        ({"kernel_constraint": ("kernel",)}, "names no weight"),
        ({"bias_constraint": ("vars/1",)}, "names no weight"),
        ({"kernel_constraint": ("nowhere/vars/0",)}, "no group"),
    ],
)
def test_weights_that_are_not_there(weights, word):
    """A misspelt name judges nothing, and is no pass."""
    found = only(v3(sequential(OWN), V3), {"Conv": CustomLayer(weights=weights)})
    assert word in str(found.not_evaluated)


def test_a_name_that_no_weight_of_a_legacy_file_has():
    """The same where files have names."""
    told = {"Conv": CustomLayer(weights={"kernel_constraint": ("kernle",)})}
    assert only(legacy(sequential(OWN), LEGACY), told).not_evaluated


def test_keras_own_classes_are_what_they_are():
    """What a spec says of a class of that name is about a user's."""
    model, stored = v3(sequential(dense(kernel_constraint=max_norm())), {})
    told = {"Dense": CustomLayer(like="LSTM")}
    bound = BoundModel(model, stored, told)
    assert [v.name for v in bound.layers[1].variables] == ["kernel", "bias"]
    assert [n.code for n in undeclared_notices(bound.layers, told)] == ["no-such-layer"]
