"""The shipped table of layer variables is what real Keras 3 and tf_keras layers were seen to create.

`fixtures/zoo/make_constraint_table.py` records the layers; nothing here needs a framework.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckptclamp.models.keras.layers import FAMILIES
from ckptclamp.models.keras.layers.others import DATA_DEPENDENT, WEIGHTLESS
from ckptclamp.models.keras.tree import read_model

TABLE = json.loads(
    (Path(__file__).parents[3] / "fixtures" / "zoo" / "constraint_table.json").read_text()
)
ROWS = [
    pytest.param(row, id=f"{framework}-{number}-{row['layer']['class_name']}")
    for framework, part in TABLE.items()
    for number, row in enumerate(part["layers"])
]
ABSTRACT = {"Layer", "AbstractRNNCell"}
WITHOUT_EFFECT = {
    ("tf_keras", "DepthwiseConv1D", "kernel_constraint"),
    ("tf_keras", "DepthwiseConv2D", "kernel_constraint"),
    ("tf_keras", "SeparableConv1D", "kernel_constraint"),
    ("tf_keras", "SeparableConv2D", "kernel_constraint"),
}


def tells_its_input(row):
    """Whether the config has the input shape, and the sizes depend on nothing else."""
    layer = row["layer"]
    return bool(layer.get("build_config")) and "LocallyConnected" not in layer["class_name"]


@pytest.mark.parametrize("row", ROWS)
def test_variables_are_those_of_the_real_layer(row):
    """Names, order, arguments, shapes and trainable flags decide which tensor is judged."""
    layer = read_model(row["layer"])
    stored = [variable for variable in row["variables"] if "state" not in variable["name"]]
    assert len(layer.variables) == len(stored)
    for variable, real in zip(layer.variables, stored, strict=True):
        assert real["name"] in variable.names
        assert variable.argument == real["argument"]
        assert variable.trainable == real["trainable"]
        assert variable.shape is not None
        assert len(variable.shape) == len(real["shape"])
        for size, real_size in zip(variable.shape, real["shape"], strict=True):
            assert size in (None, real_size)


@pytest.mark.parametrize("row", [row for row in ROWS if tells_its_input(row.values[0])])
def test_known_input_shapes_leave_no_size_open(row):
    """A size that could be checked and is not would let another tensor pass for this one."""
    layer = read_model(row["layer"])
    assert all(None not in (variable.shape or ()) for variable in layer.variables)


@pytest.mark.parametrize("framework", TABLE)
def test_every_exported_layer_class_is_known(framework):
    """A class that nobody thought of would be taken for a user's own."""
    known = FAMILIES.keys() | WEIGHTLESS | DATA_DEPENDENT | ABSTRACT
    assert set(TABLE[framework]["exported"]) - known == set()


@pytest.mark.parametrize("framework", TABLE)
def test_every_constraint_argument_was_seen_at_work(framework):
    """Each class and argument of the framework constrains a variable, or is known to do nothing."""
    seen = {
        (row["layer"]["class_name"], variable["argument"])
        for row in TABLE[framework]["layers"]
        for variable in row["variables"]
    } | {
        ("GroupedQueryAttention", "kernel_constraint"),
        ("GroupedQueryAttention", "bias_constraint"),
    }
    cells = {"SimpleRNNCell", "GRUCell", "LSTMCell"}
    for name, arguments in TABLE[framework]["accepting"].items():
        for argument in arguments:
            owner = name.removesuffix("Cell") if name in cells else name
            effective = (owner, argument) in seen
            assert effective != ((framework, name, argument) in WITHOUT_EFFECT)
