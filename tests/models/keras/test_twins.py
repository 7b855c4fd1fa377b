"""Which tensors are certainly copies of one variable."""

from __future__ import annotations

import pytest

from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.models.keras.model import BoundModel
from tests.models.keras.models import dense, layer, legacy, max_norm, sequential, v3

ROWS = {"kernel": (3, 3), "bias": (3,)}


def towers(*layers):
    """Models called one, two and so on, around a layer each."""
    names = ("one", "two", "three")
    named = zip(names, layers, strict=False)
    return sequential(*(sequential(inner, name=name) for name, inner in named))


def shared(identity=None):
    item = dense("twice", kernel_constraint=max_norm())
    return item if identity is None else {**item, "shared_object_id": identity}


def stored(*prefixes):
    """What a file lists for towers whose weights' names have these prefixes."""
    names = ("one", "two", "three")
    return {
        name: {f"{prefix}/{variable}": shape for variable, shape in ROWS.items()}
        for name, prefix in zip(names, prefixes, strict=False)
    }


def pairs(config, rows):
    return BoundModel(*legacy(config, rows, "2.15.0")).tied


@pytest.mark.parametrize(("name", "count"), [("one_layer", 2), ("torn", 2), ("two_layers", 0)])
def test_real_files(pytestconfig, name, count):
    """tf_keras gives a layer that it met before a number, and two layers of one name none."""
    with open_checkpoint(pytestconfig.rootpath / "fixtures" / "shared" / f"{name}.h5") as file:
        assert file.keras is not None
        found = BoundModel(file.keras, file.tensors).tied
    both = tuple(
        tuple(f"model_weights/{tower}/twice/{variable}:0" for tower in ("one", "two"))
        for variable in ("kernel", "bias")
    )
    assert found == both[:count]


def test_the_last_copy_counts():
    """Of three copies each of the first two is paired with the last."""
    found = pairs(towers(shared(), shared(7), shared(7)), stored("twice", "twice", "twice"))
    assert [tuple(name.split("/")[1] for name in pair) for pair in found[::2]] == [
        ("one", "three"),
        ("two", "three"),
    ]


@pytest.mark.parametrize(
    ("layers", "prefixes"),
    [
        ((shared(), shared()), ("twice", "twice")),
        ((shared(), shared(), shared(7)), ("twice", "twice", "twice")),
        ((shared(), shared(7), shared(8)), ("twice", "twice", "twice")),
        ((shared(), shared()), ("one/twice", "two/twice")),
        ((shared(), dense("other", kernel_constraint=max_norm())), ("twice", "other")),
    ],
)
def test_what_may_be_two_layers_is_no_pair(layers, prefixes):
    """A name and settings can be shared by two layers; a difference between them is none of ours."""
    assert pairs(towers(*layers), stored(*prefixes)) == ()


def test_the_name_of_another_place_tells():
    """Keras 3 names variables by where they were made: here both by the second model."""
    found = pairs(towers(shared(), shared()), stored("two/twice", "two/twice"))
    assert found[0] == (
        "model_weights/one/two/twice/kernel",
        "model_weights/two/two/twice/kernel",
    )


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("version", ["2.21.0", "3.12.0"])
def test_a_layer_beside_a_model_with_one_of_its_name(version, last):
    """Both make an ``own/kernel``, which is the name of neither's place but of the layer itself."""
    own = dense("own", kernel_constraint=max_norm())
    inner = sequential(own, name="inner")
    rows = {f"own/{variable}": shape for variable, shape in ROWS.items()}
    config = sequential(*((inner, own) if last else (own, inner)))
    assert BoundModel(*legacy(config, {"inner": rows, "own": rows}, version)).tied == ()


def test_a_name_that_both_places_explain():
    """A model within the first tower is called as the second tower is."""
    config = sequential(
        sequential(sequential(shared(), name="two"), name="one"), sequential(shared(), name="two")
    )
    assert pairs(config, stored("two/twice", "two/twice")) == ()


def test_a_wrapper_that_keeps_a_copy():
    """SpectralNormalization saves the kernel of its layer as its own too, and loads that first."""
    wrapper = layer("SpectralNormalization", "sn", layer=shared())
    group = "layers/spectral_normalization"
    shapes = {
        f"{group}/vars/0": (3, 3),
        f"{group}/vars/1": (1, 3),
        f"{group}/layer/vars/0": (3, 3),
        f"{group}/layer/vars/1": (3,),
    }
    found = BoundModel(*v3(sequential(wrapper), shapes)).tied
    assert found == ((f"{group}/vars/0", f"{group}/layer/vars/0"),)


def test_a_file_without_a_config_has_none():
    """Nothing says what its tensors are."""
    assert BoundModel(*v3(None, {"layers/dense/vars/0": (3, 3)})).tied == ()
