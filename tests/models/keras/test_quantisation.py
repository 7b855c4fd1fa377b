"""The weight that a quantised layer computes with, found exactly or refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.checkpoints.tensor import Unreadable
from ckptclamp.models.keras.dequantised import Dequantised
from ckptclamp.models.keras.model import BoundModel
from tests.models.keras.models import dense, layer, max_norm, sequential, tensors, v3

KERNEL = "layers/dense/vars/0"


def policy(mode):
    return {"class_name": "QuantizedDTypePolicy", "config": {"mode": mode}}


def built(units=6, inputs=4, mode="int8", **config):
    """A Dense layer that knows how it was built."""
    item = dense(units=units, dtype=policy(mode), kernel_constraint=max_norm(), **config)
    return {**item, "build_config": {"input_shape": [None, inputs]}}


def found(config, stored):
    """What the one quantised tensor of a file stands for; `stored` are shapes and dtypes by name."""
    model, described = v3(sequential(config), {name: shape for name, (shape, _) in stored.items()})
    for name, (shape, dtype) in stored.items():
        described |= tensors({name: shape}, dtype)
    (weight,) = BoundModel(model, described).dequantised.values()
    return weight


def dense_file(kernel, *rest, dtype="int8"):
    """The variables of one Dense layer with a bias, in order."""
    rows = {KERNEL: (kernel, dtype), "layers/dense/vars/1": ((6,), "float32")}
    return rows | {f"layers/dense/vars/{n}": row for n, row in enumerate(rest, start=2)}


@pytest.fixture(scope="module")
def expected(pytestconfig):
    with np.load(pytestconfig.rootpath / "fixtures" / "quantised" / "expected.npz") as file:
        return dict(file)


@pytest.mark.parametrize(
    "name",
    [
        "int8.keras",
        "int4.h5",
        "int4_channels.keras",
        "int4_blocks.keras",
        "int4_keras_3_11.keras",
    ],
)
def test_real_files(pytestconfig, expected, name):
    """Every weight is, to the last bit or two, the one that Keras computes with."""
    with open_checkpoint(pytestconfig.rootpath / "fixtures" / "quantised" / name) as file:
        assert file.keras is not None
        weights = BoundModel(file.keras, file.tensors).dequantised
        labels = BoundModel(file.keras, file.tensors).labels
        judged = {labels[n]: t for n, t in weights.items() if isinstance(t.storage, Dequantised)}
        wanted = {k.partition("|")[2]: v for k, v in expected.items() if k.startswith(f"{name}|")}
        if name == "int4.h5":
            del wanted["out_of/kernel"]
        assert judged.keys() == wanted.keys()
        for label, weight in judged.items():
            got = file.read(weight, tuple((0, extent) for extent in weight.shape))
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, wanted[label], rtol=3e-7, atol=0, err_msg=label)


def test_a_shape_that_nothing_tells(pytestconfig):
    """A packed kernel of three axes cannot be unfolded where the config lacks two of their sizes."""
    with open_checkpoint(pytestconfig.rootpath / "fixtures" / "quantised" / "int4.h5") as file:
        assert file.keras is not None
        weights = BoundModel(file.keras, file.tensors).dequantised
    storage = weights["model_weights/out_of/out_of/kernel"].storage
    assert isinstance(storage, Unreadable)
    assert "shape" in storage.reason


def test_int8():
    """Scales for each output, and the float32 weight in place of the integers."""
    weight = found(built(), dense_file((4, 6), ((6,), "float32")))
    assert (weight.name, weight.shape, str(weight.dtype)) == (KERNEL, (4, 6), "float32")
    assert isinstance(weight.storage, Dequantised)
    assert [part.name for part in weight.storage.parts] == [KERNEL, "layers/dense/vars/2"]


SCALES = ((6,), "float32")
BLOCKS = ((2, 6), "float32")


@pytest.mark.parametrize(
    ("config", "stored", "word"),
    [
        (built(), dense_file((4, 6)), "no scales"),
        (built(), dense_file((4, 6), ((5,), "float32")), "5 scales"),
        (built(), dense_file((4, 6), ((6,), "int8")), "scales are int8"),
        (built(), dense_file((4, 6), SCALES, dtype="uint8"), "uint8"),
        (built(), dense_file((4, 6), SCALES, dtype="float32"), "float32"),
        (built(), dense_file((5, 6), SCALES), "shape"),
        (built(mode="int4"), dense_file((4, 6), SCALES), "packed"),
        (built(mode="int4"), dense_file((4, 3)), "no scales"),
        (built(mode="int4"), dense_file((4, 3), BLOCKS), "zero points"),
        (
            built(mode="int4"),
            dense_file((4, 3), BLOCKS, ((1, 6), "int8"), ((4,), "float32")),
            "do not fit",
        ),
        (
            built(mode="int4"),
            dense_file((4, 3), BLOCKS, ((2, 6), "int8"), ((3,), "float32")),
            "do not fit",
        ),
        (
            built(mode="int4"),
            dense_file((4, 3), BLOCKS, ((2, 6), "uint8"), ((4,), "float32")),
            "zero points",
        ),
        (
            built(mode="int4"),
            dense_file((4, 3), BLOCKS, ((2, 6), "int8"), ((4,), "complex64")),
            "groups are complex64",
        ),
        (built(mode="ternary"), dense_file((4, 2), SCALES), "ternary"),
    ],
)
def test_what_does_not_fit_is_not_guessed(config, stored, word):
    """A weight computed from the wrong parts would be judged as if it were the model's."""
    weight = found(config, stored)
    assert isinstance(weight.storage, Unreadable)
    assert word in weight.storage.reason


def test_a_layer_that_keras_does_not_quantise():
    """Integers in a convolution are somebody else's invention."""
    config = layer("Conv1D", "conv", filters=2, kernel_size=[3], kernel_constraint=max_norm())
    stored = {
        "layers/conv1d/vars/0": ((3, 4, 2), "int8"),
        "layers/conv1d/vars/1": ((2,), "float32"),
        "layers/conv1d/vars/2": ((2,), "float32"),
    }
    weight = found(config, stored)
    assert isinstance(weight.storage, Unreadable)
    assert "Conv1D" in weight.storage.reason


@pytest.mark.parametrize("mode", ["awq/4/128", "gptq/4/128"])
def test_modes_that_replace_the_kernel(mode):
    """They store it after the bias, and how is not known here; it is named all the same."""
    stored = {
        "layers/dense/vars/0": ((6,), "float32"),
        "layers/dense/vars/1": ((3, 4), "uint8"),
        "layers/dense/vars/2": ((6, 1), "float32"),
    }
    weight = found(built(mode=mode), stored)
    assert weight.name == "layers/dense/vars/1"
    assert isinstance(weight.storage, Unreadable)
    assert mode[:3] in weight.storage.reason


def test_scales_in_another_order_than_the_weights():
    """int8 scales follow the output's axes; where the kernel has them otherwise nothing is guessed."""
    config = layer(
        "EinsumDense",
        "e",
        equation="abc,dce->abed",
        output_shape=[None, 3, 2],
        dtype=policy("int8"),
        kernel_constraint=max_norm(),
    )
    stored = {
        "layers/einsum_dense/vars/0": ((2, 4, 3), "int8"),
        "layers/einsum_dense/vars/1": ((1, 1, 3, 2), "float32"),
    }
    weight = found(config, stored)
    assert isinstance(weight.storage, Unreadable)
    assert "order" in weight.storage.reason
