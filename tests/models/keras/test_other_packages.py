"""Layers of QKeras, larq, TensorFlow Addons and TensorFlow Lattice are what live ones were seen to be.

`fixtures/third_party/record_layers.py` and `record_lattice.py` record them; no framework is needed here.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.constraints.registry import make
from ckptclamp.constraints.sets.orders import ORDERS
from ckptclamp.constraints.tolerance import trained_tolerance
from ckptclamp.models.keras.layers.packages import known_constraint, layer_names
from ckptclamp.models.keras.model import BoundModel
from ckptclamp.models.keras.tree import read_model, to_snake_case
from ckptclamp.plan.build import build_plan
from tests.models.keras.models import layer, legacy, sequential, v3
from tests.plan.checkpoints import Described, tensor

DIRECTORY = Path(__file__).parents[3] / "fixtures" / "third_party"
TABLE = json.loads((DIRECTORY / "layers.json").read_text())
ROWS = [
    pytest.param(row, id=f"{number}-{row['layer']['class_name']}")
    for number, row in enumerate(TABLE["layers"])
]
KERNELS = json.loads((DIRECTORY / "lattice.json").read_text())
LEFT_OUT = {
    "qkeras": {"QBidirectional"},
    "larq": {"QuantizerBase", "QuantizerBaseConv", "QuantizerDepthwiseBase", "QuantizerSeparableBase"},
    "tensorflow_lattice": {"Aggregation", "ParallelCombination", "RTL"},
    "tensorflow_addons": {"SpectralNormalization", "WeightNormalization"},
}  # fmt: skip
"""Wrappers and base classes, which stay a user's class: some compute with other weights than stored."""


@pytest.mark.parametrize("row", ROWS)
def test_variables_are_those_of_the_real_layer(row):
    """Names, order, arguments, shapes and trainable flags decide which tensor is judged."""
    found = read_model(row["layer"])
    assert (found.known, found.package, found.custom) == (True, row["package"], False)
    stored = row["variables"][: len(found.variables)]
    for variable, real in zip(found.variables, stored, strict=True):
        assert real["name"] in variable.names
        assert variable.trainable == real["trainable"]
        assert variable.agrees(tuple(real["shape"]))
        if row["layer"]["config"].get(variable.argument) is not None:
            assert variable.argument == real["argument"]
    assert not any(variable["argument"] for variable in row["variables"][len(found.variables) :])


@pytest.mark.parametrize("row", ROWS)
def test_every_constraint_of_a_live_variable_is_answered_for(row):
    """By an argument of the config, or by a setting that the layer's code reads."""
    found = read_model(row["layer"])
    implied = {one.variable for one in found.implied}
    for real in row["variables"]:
        if real["argument"] is None and real["constraint"] is not None:
            says_something = real["name"] in implied
            assert says_something or not _sets_anything(row["layer"]["config"])
    assert implied <= {real["name"] for real in row["variables"]}


def _sets_anything(config):
    saying = ("monotonicity", "monotonicities", "output_min", "output_max", "convexity")
    return any(config.get(setting) not in (None, "none") for setting in saying)


@pytest.mark.parametrize("package", LEFT_OUT)
def test_every_exported_class_is_known_or_left_out_on_purpose(package):
    """A class that nobody thought of would go on as a user's own."""
    unknown = set(TABLE["exported"][package]) - layer_names()
    assert unknown == LEFT_OUT[package] - {"SpectralNormalization"}  # Keras has one of that name


@pytest.mark.parametrize("case", KERNELS, ids=lambda case: case["layer"]["class_name"])
def test_kernels_that_tensorflow_lattice_leaves_alone_conform(case):
    """And where its own constraint moves a kernel, that kernel does not conform."""
    implied = read_model(case["layer"]).implied
    assert {one.variable for one in implied} <= {case["kernel"]}
    constraints = [_made(one.constraint) for one in implied]
    before, after = (np.array(case[key], np.float32) for key in ("before", "after"))
    assert all(_conforms(constraint, after) for constraint in constraints)
    conformed = all(_conforms(constraint, before) for constraint in constraints)
    assert conformed == (case["moved"] < 1e-6)


def _made(parsed):
    assert parsed.opaque is None
    order = ORDERS.get(parsed.builtin)
    return make(parsed.builtin, parsed.config) if order is None else order(**parsed.config)


def _conforms(constraint, kernel):
    if constraint.elementwise:
        low, high = constraint.bounds()
        return bool(((kernel >= low) & (kernel <= high)).all())
    constraint.check_shape(kernel.shape)
    moved = np.abs(constraint.apply(kernel) - kernel).max()
    return moved <= trained_tolerance(DTYPES["float32"]) * max(1.0, np.abs(kernel).max())


def test_both_answers_are_recorded():
    """Kernels that move and kernels that do not, or the comparison would say little."""
    moved = [case["moved"] > 1e-6 for case in KERNELS]
    assert True in moved
    assert False in moved


LINEAR = {"num_input_dims": 2, "units": 1, "monotonicities": ["increasing", "decreasing"]}


def test_a_class_that_does_not_say_whose_it_is():
    """Before Keras 2.13 only the settings tell it from a user's class of the same name."""
    theirs = {"class_name": "Linear", "config": {"name": "x", **LINEAR}}
    assert read_model(theirs).package == "tensorflow_lattice"
    own = {"class_name": "Linear", "config": {"name": "x", "units": 1}}
    assert read_model(own).custom
    elsewhere = {**theirs, "module": "mine", "registered_name": "Linear"}
    assert read_model(elsewhere).custom
    quantised = {"class_name": "QDense", "config": {"name": "q", "kernel_quantizer": None}}
    assert read_model(quantised).package == "qkeras"
    assert read_model({"class_name": "QDense", "config": {"name": "q"}}).custom


def clip(module="qkeras.qlayers", **config):
    return {"module": module, "class_name": "Clip", "config": config, "registered_name": "Clip"}


def test_their_own_constraints():
    """QKeras' Clip and larq's WeightClip are boxes; the same name of anybody else is not known."""
    parsed = known_constraint(clip(min_value=-2, max_value=1), None)
    assert (parsed.builtin, parsed.config) == ("Clip", {"low": -2, "high": 1})
    assert known_constraint(clip("mine", min_value=0, max_value=1), "qkeras").custom == "Clip"
    nameless = {"class_name": "WeightClip", "config": {"clip_value": 0.5}}
    assert known_constraint(nameless, "larq").config == {"low": -0.5, "high": 0.5}
    assert known_constraint(nameless, None).custom == "WeightClip"
    odd = {**nameless, "config": {"clip_value": "1"}}
    assert known_constraint(odd, "larq").opaque


@pytest.mark.parametrize(
    ("odd", "reasons"),
    [
        ({"monotonicities": ["upwards", 1]}, ["make no sense"]),
        ({"monotonicities": [1]}, ["make no sense"]),
        ({"lattice_sizes": [2, 1]}, ["make no sense"]),
        ({"output_min": "0"}, ["make no sense"]),
        ({"edgeworth_trusts": [[0, 1, "positive"]]}, ["edgeworth_trusts"]),
        ({"unimodalities": ["none", "valley"]}, ["unimodalities"]),
        ({"unimodalities": ["none", 0]}, []),
    ],
)
def test_what_is_known_by_name_only(odd, reasons):
    """It is named and not evaluated, and nothing beside it is lost."""
    config = {"lattice_sizes": [2, 2], "monotonicities": [1, 0], "units": 1, **odd}
    item = layer("Lattice", "x", "tensorflow_lattice.layers", "Lattice", output_max=1.0, **config)
    model, stored = v3(sequential(item), {"layers/lattice/vars/0": (4, 1)})
    found = BoundModel(model, stored).declarations
    refused = [
        declaration.not_evaluated or "" for declaration in found if declaration.not_evaluated
    ]
    assert len(refused) == len(reasons)
    assert all(reason in text for reason, text in zip(reasons, refused, strict=True))
    assert len(found) > len(reasons) or "output_min" in odd or "lattice_sizes" in odd


@pytest.mark.parametrize("bound", ["output_min", "output_max"])
def test_a_bound_of_zero_is_one(bound):
    """Zero says nothing of a monotonicity, and something of a bound."""
    config = {"lattice_sizes": 2, "num_terms": 2, "units": 1, "monotonicities": [0, 0], bound: 0.0}
    row = layer(
        "KroneckerFactoredLattice",
        "x",
        "tensorflow_lattice.layers",
        "KroneckerFactoredLattice",
        **config,
    )
    (implied,) = read_model(row).implied
    assert (implied.setting, bool(implied.constraint.opaque)) == (bound, True)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 10**400) | st.floats() | st.sampled_from(["", "1", "none"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)  # fmt: skip
SETTINGS = [
    "lattice_sizes", "monotonicities", "monotonicity", "output_min", "output_max", "clamp_min", "units",
    "clamp_max", "input_keypoints", "num_buckets", "num_input_dims", "is_cyclic", "impute_missing",
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["Lattice", "PWLCalibration", "CategoricalCalibration", "Linear", "CDF"]),
    st.dictionaries(st.sampled_from(SETTINGS), ODD, max_size=6),
)
def test_any_settings_are_answered_for(name, odd):
    """They are planned, or refused with a reason; none of them stops the rest."""
    item = layer(name, "x", "tensorflow_lattice.layers", name, **odd)
    group = f"layers/{to_snake_case(name)}/vars"
    config = sequential(item, layer("Dense", "d", units=3, kernel_constraint="non_neg"))
    model, _ = v3(config, {f"{group}/0": (4, 1), "layers/dense/vars/0": (4, 3)})
    stored = [tensor(f"{group}/0", 4, 1), tensor("layers/dense/vars/0", 4, 3)]
    plan = build_plan(Described([*stored, tensor("layers/dense/vars/1", 3)], model), None)
    assert plan.assignments[-1].rule == "d.kernel_constraint"
    assert all(entry.reason for entry in plan.not_evaluated)


def test_further_variables_of_quantisers():
    """A metric or a quantiser may keep some of its own after the layer's."""
    item = layer(
        "QuantDense", "q", "larq.layers", "QuantDense", units=3, kernel_constraint="non_neg"
    )
    rows = {"q/kernel:0": (4, 3), "q/bias:0": (3,), "q/kernel_quantizer/state:0": (4, 3)}
    (declaration,) = BoundModel(*legacy(sequential(item), {"q": rows}, "2.15.0")).declarations
    assert declaration.tensors == ("model_weights/q/q/kernel:0",)
    assert declaration.labels == ("q/kernel",)
