"""A mapping is exact or it is not made, and no declared constraint passes unseen."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptclamp.errors import RefusedError
from ckptclamp.models.keras.declarations import undeclared_notices
from ckptclamp.models.keras.model import BoundModel
from tests.models.keras.models import dense, layer, legacy, max_norm, sequential, tensors, v3

KERNEL, BIAS = {"layers/dense/vars/0": (4, 3)}, {"layers/dense/vars/1": (3,)}


def only(found):
    (declaration,) = found
    return declaration


def test_a_plain_layer_is_mapped():
    """The simplest case names the tensor, the layer, the argument and a friendly label."""
    model, stored = v3(sequential(dense(kernel_constraint=max_norm())), KERNEL | BIAS)
    declaration = only(BoundModel(model, stored).declarations)
    assert declaration.tensors == ("layers/dense/vars/0",)
    assert declaration.labels == ("dense/kernel",)
    assert (declaration.layer, declaration.layer_class) == ("dense", "Dense")
    assert declaration.not_evaluated is None
    assert BoundModel(model, stored).labels == {
        "layers/dense/vars/0": "dense/kernel",
        "layers/dense/vars/1": "dense/bias",
    }


@pytest.mark.parametrize(
    ("shapes", "word"),
    [
        ({"layers/dense/vars/0": (4, 5)} | BIAS, "shape"),
        ({"layers/dense/vars/0": (4, 3, 1)} | BIAS, "shape"),
        (KERNEL, "variables"),
        (KERNEL | BIAS | {"layers/dense/vars/2": (3,)}, "variables"),
        ({"layers/dense_1/vars/0": (4, 3), "layers/dense_1/vars/1": (3,)}, "groups"),
        (KERNEL | BIAS | {"layers/dense_1/vars/0": (3, 3)}, "groups"),
        ({"other/dense/vars/0": (4, 3), "other/dense/vars/1": (3,)}, "list of layers"),
        ({}, "list of layers"),
    ],
)
def test_a_file_that_disagrees_with_the_config_is_not_judged(shapes, word):
    """Weights of another model must never be measured under this model's constraints."""
    model, stored = v3(sequential(dense(kernel_constraint=max_norm())), shapes)
    declaration = only(BoundModel(model, stored).declarations)
    assert declaration.tensors == ()
    assert declaration.not_evaluated is not None
    assert word in declaration.not_evaluated
    assert declaration.hint


def test_the_name_that_the_file_gives_a_group_must_be_the_layers():
    """Keras 3.6 and later prove the counter right or wrong."""
    config = sequential(dense("mine", kernel_constraint=max_norm()))
    right = v3(config, KERNEL | BIAS, names={"layers/dense": "mine"})
    wrong = v3(config, KERNEL | BIAS, names={"layers/dense": "theirs"})
    assert only(BoundModel(*right).declarations).tensors
    refused = only(BoundModel(*wrong).declarations)
    assert not refused.tensors
    assert "theirs" in str(refused.not_evaluated)


def cells(*settings):
    """An RNN of cells that all have one name, and its variables."""
    inner = [layer("LSTMCell", "c", units=4, **own) for own in settings]
    stacked = layer("StackedRNNCells", "stacked", cells=inner)
    config = sequential(layer("RNN", "r", cell=stacked))
    shapes: dict[str, tuple[int, ...]] = {}
    for number, rows in enumerate((3, 4)):
        group = "layers/rnn/cell/cells/lstm_cell" + (f"_{number}" if number else "")
        shapes |= {f"{group}/vars/{i}": s for i, s in enumerate([(rows, 16), (4, 16), (16,)])}
    return v3(config, shapes, names={"layers/rnn": None, "layers/rnn/cell": None})


def test_layers_of_one_name_share_their_labels():
    """A pattern means both; what shows or writes one tensor alone uses its full name."""
    model, stored = cells({}, {"kernel_constraint": max_norm()})
    labels = BoundModel(model, stored).labels
    assert [labels[name] for name in stored] == [
        f"r/stacked/c/{name}" for name in ("kernel", "recurrent_kernel", "bias")
    ] * 2
    assert BoundModel(model, stored).distinct_labels == {}
    declaration = only(BoundModel(model, stored).declarations)
    assert declaration.tensors == ("layers/rnn/cell/cells/lstm_cell_1/vars/0",)
    assert declaration.labels == (None,)


def test_windows_wrote_backslashes():
    """TF on Windows named a top-level group with a backslash in it."""
    shapes = {
        "_layer_checkpoint_dependencies\\dense/vars/0": (4, 3),
        "_layer_checkpoint_dependencies\\dense/vars/1": (3,),
    }
    model, stored = v3(sequential(dense(kernel_constraint=max_norm())), shapes)
    assert only(BoundModel(model, stored).declarations).tensors == (next(iter(shapes)),)


def test_two_readings_of_slashes_are_refused():
    """Two groups that differ only in slashes could each be the layer's."""
    shapes = KERNEL | BIAS | {"layers\\dense/vars/0": (4, 3)}
    model, stored = v3(sequential(dense(kernel_constraint=max_norm())), shapes)
    assert only(BoundModel(model, stored).declarations).not_evaluated


@pytest.mark.parametrize(
    "custom",
    [
        layer(
            "Dense", "d", module="mine", registered_name="pkg>Dense", kernel_constraint=max_norm()
        ),
        layer("Dense", "d", module=None, registered_name="Dense", kernel_constraint=max_norm()),
        layer("QDense", "d", module="q", registered_name="q>QDense", kernel_constraint=max_norm()),
        layer("Mine", "d", module="m", registered_name="p>Mine", settings={"inner": [max_norm()]}),
        layer("Mine", "d", module="m", registered_name="p>Mine", any_constraint="non_neg"),
        layer("Mine", "d", module="m", registered_name="p>Mine", constraint="non_neg"),
        {"class_name": "pkg>Dense", "config": {"name": "d", "kernel_constraint": max_norm()}},
    ],
)
def test_constraints_of_a_users_layer_are_seen_but_not_guessed(custom):
    """A user's layer may put its weights anywhere: say so, never skip it, never guess."""
    model, stored = v3(sequential(custom), KERNEL | BIAS)
    declaration = only(BoundModel(model, stored).declarations)
    assert not declaration.tensors
    assert declaration.not_evaluated
    assert "custom-layers" in {
        notice.code for notice in undeclared_notices(BoundModel(model, stored).layers)
    }


@pytest.mark.parametrize("odd", ["x", 5, [1], {}, {"class_name": "LSTM"}, False])
@pytest.mark.parametrize("key", ["layer", "backward_layer"])
def test_a_bidirectional_of_what_is_no_layer(key, odd):
    """What it declares cannot be read, which is no crash and no pass."""
    inner = {"layer": layer("LSTM", "lstm", units=2), key: odd}
    model, stored = v3(sequential(layer("Bidirectional", "b", **inner)), {})
    declaration = only(BoundModel(model, stored).declarations)
    assert declaration.argument == key
    assert "no serialised layer" in str(declaration.not_evaluated)
    assert BoundModel(model, stored).labels == {}


NON_NEG = {"class_name": "NonNeg", "config": {}}


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"limit": NON_NEG}, "limit"),
        ({"limit": {**NON_NEG, "module": "keras.src.constraints.constraints"}}, "limit"),
        ({"limit": {**NON_NEG, "module": "tensorflow.keras.constraints"}}, "limit"),
        ({"limit": {**NON_NEG, "module": "tf_keras.src.constraints"}}, "limit"),
        (
            {"limit": {"module": "tensorflow.python.keras.constraints", "class_name": "X"}},
            "limit",
        ),
        ({"limits": [1, [NON_NEG]]}, "limits[1][0]"),
        ({"limits": {"w": {**NON_NEG, "class_name": "my>MaxNorm"}}}, "limits.w"),
        ({"constraints": ["non_neg"]}, "constraints[0]"),
        ({"constraints": [{"name": "MaxNorm", "m": 2}]}, "constraints[0]"),
        ({"constraints": {"w": "non_neg"}}, "constraints.w"),
        ({"constraints": {"w": {"class_name": "my>Clip", "config": {}}}}, "constraints.w"),
        ({"inner": {"kernelConstraint": "mine"}}, "inner.kernelConstraint"),
    ],
)
def test_constraints_in_any_setting_of_a_users_layer(settings, argument):
    """Every generation's form is seen, at any depth and under any name."""
    own = layer("Mine", "m", module="m", registered_name="p>Mine", **settings)
    declaration = only(BoundModel(*v3(sequential(own), {})).declarations)
    assert declaration.argument == argument
    assert declaration.not_evaluated


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "non_neg", "names": ["max_norm"], "inner": {"name": "maxnorm", "units": 2}},
        {"inner": layer("UnitNorm", "n", module="m", registered_name="p>UnitNorm")},
        {"activation": {"class_name": "ReLU", "config": {}, "module": "keras.layers"}},
        {"constraints": {}, "constraint": None, "limits": []},
    ],
)
def test_what_only_looks_like_a_constraint(settings):
    """A word, a layer's name or class may be like a constraint's, and is none."""
    own = layer("Mine", "m", module="m", registered_name="p>Mine", **settings)
    assert BoundModel(*v3(sequential(own), {})).declarations == ()


def test_a_wrapper_of_the_users_own_is_followed_by_its_attribute():
    """What a custom wrapper holds in `layer` is a layer of Keras', stored under that name."""
    inner = dense("inner", kernel_constraint=max_norm())
    wrapper = layer("Mine", "w", module="m", registered_name="p>Mine", layer=inner)
    shapes = {
        "layers/mine/vars/0": (1,),
        "layers/mine/layer/vars/0": (4, 3),
        "layers/mine/layer/vars/1": (3,),
    }
    declaration = only(BoundModel(*v3(sequential(wrapper), shapes)).declarations)
    assert declaration.tensors == ("layers/mine/layer/vars/0",)
    assert declaration.labels == ("w/inner/kernel",)


def test_a_users_bidirectional_is_not_keras_own():
    """Which of its settings are layers is known to its code; no constraint in them is lost."""
    both = {
        "layer": layer("LSTM", "lstm", units=2),
        "backward_layer": layer("LSTM", "back", units=2, kernel_constraint=max_norm()),
    }
    own = layer("Bidirectional", "b", module="m", registered_name="p>Bidirectional", **both)
    declaration = only(BoundModel(*v3(sequential(own), {})).declarations)
    assert declaration.argument == "backward_layer.config.kernel_constraint"
    assert declaration.not_evaluated


@pytest.mark.parametrize(
    ("class_name", "config"),
    [
        ("Dense", {"units": 3, "use_bias": False, "bias_constraint": max_norm()}),
        ("SeparableConv2D", {"filters": 3, "kernel_constraint": max_norm()}),
        ("LayerNormalization", {"scale": False, "center": False, "gamma_constraint": max_norm()}),
    ],
)
def test_a_constraint_without_a_variable_says_that_it_governs_nothing(class_name, config):
    """Silence would read as a pass."""
    model, stored = v3(sequential(layer(class_name, "x", **config)), KERNEL)
    declaration = only(BoundModel(model, stored).declarations)
    assert declaration.tensors == ()
    assert declaration.not_evaluated is None
    assert [notice.code for notice in declaration.notices] == ["governs-nothing"]


def test_a_frozen_layer_is_judged_with_a_notice():
    """Keras constrains no frozen layer; the weights are what they are all the same."""
    inner = sequential(dense("a", kernel_constraint=max_norm()), name="inner")
    inner["config"]["trainable"] = False
    shapes = {f"layers/sequential/{name}": shape for name, shape in (KERNEL | BIAS).items()}
    model, stored = v3(sequential(inner), shapes, names={"layers/sequential": "inner"})
    declaration = only(BoundModel(model, stored).declarations)
    assert declaration.tensors == ("layers/sequential/layers/dense/vars/0",)
    assert [notice.code for notice in declaration.notices] == ["never-ran"]


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "int8_from_float32",
        {
            "module": "keras",
            "class_name": "QuantizedDTypePolicy",
            "config": {"mode": "int8", "source_name": "float32"},
        },
    ],
)
def test_a_quantised_kernel_never_had_its_constraint(dtype):
    """Keras drops it there and keeps it in the config; the stored dtype tells even where that does not."""
    config = sequential(
        dense(dtype=dtype, kernel_constraint=max_norm(), bias_constraint=max_norm())
    )
    model, stored = v3(config, KERNEL | BIAS | {"layers/dense/vars/2": (3,)})
    stored |= tensors(KERNEL, "int8")
    kernel, bias = BoundModel(model, stored).declarations
    assert kernel.tensors == ("layers/dense/vars/0",)
    assert [notice.code for notice in kernel.notices] == ["never-ran"]
    assert "int8" in kernel.notices[0].message
    assert bias.tensors == ("layers/dense/vars/1",)
    assert bias.notices == ()


def test_legacy_weights_are_taken_by_order_not_by_name():
    """TF makes the names of nested weights unique by numbers that the config does not have."""
    names = ["w11", "w2", "w101"]
    inner = sequential(
        *[dense(name, use_bias=False, kernel_constraint=max_norm()) for name in names], name="psi"
    )
    rows = {f"psi/{name}_1/kernel:0": (3, 3) for name in names}
    model, stored = legacy(sequential(inner), {"psi": rows}, version="2.10.0")
    found = [declaration.tensors for declaration in BoundModel(model, stored).declarations]
    assert found == [(f"model_weights/psi/psi/{name}_1/kernel:0",) for name in names]


@pytest.mark.parametrize(
    "rows",
    [
        {"a/bias:0": (3, 3), "b/kernel:0": (3, 3)},
        {"a/kernel:0": (3, 4), "b/kernel:0": (3, 3)},
        {"a/kernel:0": (3, 3)},
        {},
    ],
)
def test_legacy_weights_that_contradict_the_config_are_not_judged(rows):
    """Order, kinds, shapes and number must all agree."""
    inner = sequential(
        *[dense(name, use_bias=False, kernel_constraint=max_norm()) for name in "ab"], name="inner"
    )
    for declaration in BoundModel(
        *legacy(sequential(inner), {"inner": rows}, "2.4.0")
    ).declarations:
        assert declaration.not_evaluated
        assert not declaration.tensors


def test_a_layer_that_a_legacy_file_holds_twice_is_judged_twice():
    """Keras loads the last copy; both are named, and what they may be is said."""
    towers = [
        sequential(dense("shared", use_bias=False, kernel_constraint=max_norm()), name=name)
        for name in ("one", "two")
    ]
    rows = {name: {"shared/kernel": (3, 3)} for name in ("one", "two")}
    first, second = BoundModel(*legacy(sequential(*towers), rows, "3.9.0")).declarations
    assert first.tensors == ("model_weights/one/shared/kernel",)
    assert second.tensors == ("model_weights/two/shared/kernel",)
    assert [notice.code for notice in second.notices] == ["shared-twice"]


def test_a_users_layer_beside_others_in_a_legacy_group():
    """How many weights it has is unknown, so its neighbours are found by their full names only."""
    inner = sequential(
        layer("Mine", "m", module="m", registered_name="p>Mine"),
        dense("a", kernel_constraint=max_norm()),
        name="inner",
    )
    rows = {"inner/m/kernel": (4, 3), "inner/a/kernel": (4, 3), "inner/a/bias": (3,)}
    found = only(BoundModel(*legacy(sequential(inner), {"inner": rows}, "3.9.0")).declarations)
    assert found.tensors == ("model_weights/inner/inner/a/kernel",)
    nameless = {f"x{number}/{name}": shape for number, (name, shape) in enumerate(rows.items())}
    nameless = {name.replace("/a/", "/"): shape for name, shape in nameless.items()}
    refused = only(
        BoundModel(*legacy(sequential(inner), {"inner": nameless}, "3.9.0")).declarations
    )
    assert refused.not_evaluated


def test_keras_1_names_and_arguments():
    """Keras 1 lists layers without a model around them, and calls weights W and b."""
    config = [
        {
            "class_name": "Dense",
            "config": {
                "name": "dense_1",
                "output_dim": 3,
                "input_dim": 4,
                "bias": True,
                "W_constraint": {"name": "MaxNorm", "m": 2, "axis": 0},
                "b_constraint": {"name": "NonNeg"},
            },
        }
    ]
    rows = {"dense_1_W:0": (4, 3), "dense_1_b:0": (3,)}
    model, stored = legacy({"class_name": "Sequential", "config": config}, {"dense_1": rows})
    kernel, bias = BoundModel(model, stored).declarations
    assert kernel.tensors == ("model_weights/dense_1/dense_1_W:0",)
    assert bias.tensors == ("model_weights/dense_1/dense_1_b:0",)


def test_a_subclassed_model_says_that_its_config_is_silent():
    """No declaration and no word would look like a model without constraints."""
    config = {
        "module": "m",
        "class_name": "Mine",
        "config": {"units": 3},
        "registered_name": "p>Mine",
    }
    model, stored = v3(config, KERNEL)
    assert BoundModel(model, stored).declarations == ()
    assert [notice.code for notice in undeclared_notices(BoundModel(model, stored).layers)] == [
        "config-lists-no-layers"
    ]


def test_somebody_may_say_that_a_class_sets_no_constraint():
    """A warning that nobody can answer would only teach to ignore warnings."""
    model, stored = v3(
        sequential(layer("Mine", "d", module="m", registered_name="p>Mine")), KERNEL | BIAS
    )
    layers = BoundModel(model, stored).layers
    (warning,) = undeclared_notices(layers)
    assert (warning.code, warning.informational) == ("custom-layers", False)
    assert undeclared_notices(layers, {"p>Mine"}) == undeclared_notices(layers, {"Mine"}) == ()
    misspelt = undeclared_notices(layers, {"Mien"})
    assert [notice.code for notice in misspelt] == ["no-such-layer", "custom-layers"]
    assert not any(notice.informational for notice in misspelt)


def test_without_a_config_nothing_is_declared_and_files_names_serve():
    """A weights-only file since Keras 3.6 still names its layers."""
    model, stored = v3(None, KERNEL | BIAS, names={"layers/dense": "mine"})
    assert BoundModel(model, stored).declarations == ()
    assert undeclared_notices(BoundModel(model, stored).layers) == ()
    assert BoundModel(model, stored).labels["layers/dense/vars/0"] == "mine/vars/0"


def test_absurd_nesting_is_refused():
    """A config must not be able to exhaust the stack."""
    config = sequential(dense())
    for _ in range(100):
        config = sequential(config)
    with pytest.raises(RefusedError, match="deeper"):
        BoundModel(*v3(config, KERNEL))


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.floats()
    | st.sampled_from(["Dense", "x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["class_name", "config", "name", "layers", "a"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
SETTINGS = [
    "units", "filters", "kernel_size", "use_bias", "axis", "equation", "output_shape", "bias_axes",
    "dtype", "layer", "cell", "cells", "layers", "backward_layer", "name", "trainable", "lora_rank",
]  # fmt: skip
CLASSES = [
    "Dense", "EinsumDense", "Conv2D", "BatchNormalization", "PReLU", "GRU", "RNN", "Bidirectional",
    "MultiHeadAttention", "SpectralNormalization", "StackedRNNCells", "Sequential", "Functional",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(CLASSES), st.dictionaries(st.sampled_from(SETTINGS), JUNK, max_size=5), JUNK)
def test_any_config_is_answered_for(class_name, config, build):
    """Odd settings never crash, and the constraint beside them is always answered for."""
    item = layer(class_name, "dense", kernel_constraint=max_norm())
    item["config"].update(config)
    item["build_config"] = build
    for model, stored in (
        v3(sequential(item), KERNEL | BIAS),
        legacy(sequential(item), {"dense": {"dense/kernel": (4, 3), "dense/bias": (3,)}}),
    ):
        bound = BoundModel(model, stored)
        found = [d for d in bound.declarations if d.argument == "kernel_constraint"]
        assert found
        for declaration in found:
            assert declaration.tensors or declaration.not_evaluated or declaration.notices
        assert set(bound.labels) <= set(stored)
        undeclared_notices(bound.layers)
