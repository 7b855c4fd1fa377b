"""The preset health: what is true of every sound checkpoint, asked without a spec."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

RNG = np.random.default_rng(11)


def weights(*shape, dtype=np.float32):
    """Weights of a sound matrix."""
    return RNG.normal(size=shape).astype(dtype)


@pytest.fixture
def model(tmp_path):
    """Write a checkpoint of these tensors, with this config beside it, and return its path."""

    def write(tensors, config=None):
        path = tmp_path / "model.safetensors"
        save_file({"sound.weight": weights(4, 4), **tensors}, path, metadata={"format": "pt"})
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        return path

    return write


def health(run, path, *more):
    """The exit code of an audit, and what did not pass: (tensor, rule)."""
    result = run("audit", path, "--preset", "health", "-f", "json", *more)
    rows = json.loads(result.stdout)["report"]["results"]
    return result.returncode, [(r["tensor"], r["rule"]) for r in rows if r["verdict"] != "pass"]


def with_weight(value, dtype=np.float32):
    """A matrix with one weight of `value`."""
    matrix = weights(8, 8, dtype=dtype)
    matrix[3, 5] = value
    return matrix


def test_a_sound_checkpoint_passes(run, model):
    """Floats of every width; what holds no real numbers is passed by."""
    path = model(
        {
            "half.weight": weights(4, 4, dtype=np.float16),
            "bfloat.weight": weights(4, 4, dtype=ml_dtypes.bfloat16),
            "scalar": np.zeros((), np.float32),
            "position_ids": np.arange(8),
            "mask": np.ones((2, 2), bool),
            "empty": np.zeros((0, 4), np.float32),
        }
    )
    assert health(run, path) == (0, [])


@pytest.mark.parametrize(
    "matrix",
    [
        pytest.param(with_weight(np.nan), id="NaN"),
        pytest.param(with_weight(np.inf), id="infinity"),
        pytest.param(with_weight(-np.inf, ml_dtypes.bfloat16), id="bfloat16"),
        pytest.param(with_weight(np.nan, ml_dtypes.float8_e4m3fn), id="float8"),
        pytest.param(np.zeros((4, 4), np.float32), id="zeros"),
        pytest.param(np.full((4, 4), 0.5, np.float16), id="one value"),
        pytest.param(np.full((4, 4), np.nan, np.float32), id="all NaN"),
    ],
)
def test_a_matrix_that_is_not_sound_fails(run, model, matrix):
    """It is a violation, named, and the others pass."""
    assert health(run, model({"w": matrix})) == (1, [("w", "health/weights")])


def test_complex_weights_are_not_passed_by(run, model):
    """They could be NaN, and nothing here looks."""
    path = model({"freqs_cis": np.array([[1 + 2j, np.nan]], np.complex64)})
    assert health(run, path) == (3, [("freqs_cis", "health/weights")])


def test_no_option_is_offered_that_would_not_help(run, model):
    """A matrix of zeros is dead, whatever a rule about norms may except."""
    result = run("audit", model({"w": np.zeros((4, 4), np.float32)}), "--preset", "health")
    assert result.returncode == 1
    assert "zero-units" not in result.stdout


def test_a_vector_of_one_value_is_a_warning(run, model):
    """Norms begin as ones and biases as zeros; a NaN in one is an error all the same."""
    path = model({"bias": np.zeros(8, np.float32)})
    assert health(run, path) == (0, [("bias", "health/varied")])
    assert health(run, path, "--strict")[0] == 1
    path = model({"bias": np.array([0, np.nan], np.float32)})
    assert health(run, path)[0] == 1


@pytest.mark.parametrize(
    ("config", "fails"),
    [
        (None, False),
        ({"torch_dtype": "float16"}, True),
        ({"dtype": "float16"}, True),
        ({"text_config": {"dtype": "float16"}}, True),
        ({"torch_dtype": "bfloat16"}, False),
        ({"torch_dtype": "auto"}, False),
    ],
)
def test_no_weight_is_beyond_what_the_model_computes_with(run, model, config, fails):
    """70,000 is infinite in float16."""
    found = health(run, model({"w": with_weight(-7e4)}, config))
    assert found == ((1, [("w", "health/weights")]) if fails else (0, []))


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_scales_are_positive_and_finite(run, model, value):
    """A scale that is not would make zeros, other signs or no numbers of all its weights."""
    scales = np.ones((2, 2), np.float32)
    scales[1, 0] = value
    codes = weights(256, 256).astype(ml_dtypes.float8_e4m3fn)
    code, found = health(run, model({"l.weight": codes, "l.weight_scale_inv": scales}))
    assert code in (1, 3)
    assert ("l.weight_scale_inv", "health/scales") in found


@pytest.mark.parametrize(
    "tensors",
    [
        {"l.weight_scale_inv": np.ones((1, 1), np.float32)},
        {"l.qweight": np.ones((4, 4), np.int32), "l.qzeros": np.ones((1, 4), np.int32)},
        {"l.weight_packed": np.ones((4, 4), np.int32), "l.weight_shape": np.array([4, 32])},
    ],
)
def test_a_scale_and_a_weight_need_each_other(run, model, tensors):
    """What is incomplete is never a pass."""
    assert health(run, model(tensors))[0] in (1, 3)


def test_tied_tensors_that_differ_fail(run, model):
    """The config says that they are one weight."""
    path = model(
        {"lm_head.weight": weights(8, 4), "model.embed_tokens.weight": weights(8, 4)},
        {"tie_word_embeddings": True},
    )
    assert health(run, path) == (1, [("model.embed_tokens.weight", "health/tied")])


def test_it_stands_beside_other_rules(run, model, tmp_path):
    """In a spec, with its own rules; an ignore rule may name one of the preset."""
    spec = tmp_path / "s.yaml"
    spec.write_text(
        "version: 1\npreset: health\n"
        "rules: [{id: small, tensors: w, constraint: MaxLInfNorm, max_value: 1, axis: 0}]\n"
        "ignore: [{rules: health/weights, tensors: z, reason: unused}]\n"
    )
    path = model({"w": 9 * weights(8, 8), "z": np.zeros((4, 4), np.float32)})
    result = run("audit", path, "--spec", spec, "-f", "json")
    rows = json.loads(result.stdout)["report"]["results"]
    assert result.returncode == 1
    assert [r["rule"] for r in rows if r["verdict"] == "violation" and not r["suppressed"]] == [
        "small"
    ]


def test_keras_files_are_judged_too(run, fixtures):
    """Besides what the model declares."""
    code, found = health(run, fixtures / "eegnet_drifted.keras")
    assert code == 1
    assert {rule.partition("/")[0] for _, rule in found}.isdisjoint({"health"})


def test_an_audit_of_nothing_names_it(run, model):
    """Exit 4 says what helps at once."""
    result = run("audit", model({}))
    assert result.returncode == 4
    assert "--preset health" in result.stdout


def test_apply_does_not_mend_what_is_not_sound(run, model, tmp_path):
    """There is no nearest sound weight; nothing is written."""
    path, copy = model({"w": with_weight(np.nan)}), tmp_path / "copy.safetensors"
    result = run("apply", path, "--preset", "health", "-o", copy)
    assert result.returncode == 5
    assert not copy.exists()


def test_a_weight_in_parts_lies_within_float32(run, model):
    """Nothing computes float8 in more; without a config no dtype of the model is stated."""
    codes = np.arange(1, 17, dtype=np.float32).reshape(4, 4).astype(ml_dtypes.float8_e4m3fn)
    for scale, failing in ((1e37, []), (1e38, [("l.weight", "health/weights")])):
        scales = np.full((1, 1), scale, np.float32)
        path = model({"l.weight": codes.view(np.uint8), "l.weight_scale_inv": scales})
        raw = path.read_bytes()  # safetensors for NumPy writes no float8
        at = raw.index(b'"l.weight":{"dtype":"U8"') + len(b'"l.weight":{"dtype":"')
        header = int.from_bytes(raw[:8], "little")
        longer = raw[:at] + b"F8_E4M3" + raw[at + 2 :]
        path.write_bytes((header + 5).to_bytes(8, "little") + longer[8:])
        assert health(run, path)[1] == failing


def test_what_the_config_ties_and_one_of_is_in_parts_is_no_pass(run, model):
    """Whether they are equal is not known."""
    tensors = {
        "embed_tokens.weight": weights(4, 4),
        "lm_head.weight": np.arange(16, dtype=np.int8).reshape(4, 4),
        "lm_head.weight_scale": np.ones((4, 1), np.float32),
    }
    path = model(tensors, {"tie_word_embeddings": True})
    assert health(run, path) == (3, [("embed_tokens.weight", "health/tied")])
    assert health(run, model(tensors, {"tie_word_embeddings": False})) == (0, [])
