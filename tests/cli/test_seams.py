"""Where features meet: ties beside parts of weights, raw parts, presets, ignore rules and baselines."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

RNG = np.random.default_rng(5)
MATRIX = RNG.normal(size=(8, 8)).astype(np.float32) * 3
CODES = RNG.normal(size=(128, 128)).astype(ml_dtypes.float8_e4m3fn)


@pytest.fixture
def model(tmp_path):
    """Write a checkpoint, a spec and perhaps a config in one directory, and return their paths."""

    def write(tensors, spec="", config=None):
        path, rules = tmp_path / "model.safetensors", tmp_path / "s.yaml"
        save_file(tensors, path, metadata={"format": "pt"})
        rules.write_text(f"version: 1\n{spec}")
        if config is not None:
            text = config if isinstance(config, str) else json.dumps(config)
            (tmp_path / "config.json").write_text(text)
        return path, rules

    return write


def rows(result):
    """What a JSON report says of each tensor."""
    found = json.loads(result.stdout)["report"]["results"]
    return {(r["tensor"], r["rule"]): r["verdict"] for r in found}


def test_a_base_weight_of_an_adapter_is_tied_to_nothing(run, model, tmp_path):
    """Its bytes are no weight that the model computes with, so that no rule about another changes them."""
    factors = {
        "q.lora_A.weight": np.ones((2, 8), np.float32),
        "q.lora_B.weight": np.ones((8, 2), np.float32),
    }
    path, spec = model(
        {"k.weight": MATRIX, "q.weight": MATRIX.copy(), **factors},
        "rules: [{tensors: k.weight, constraint: MaxNorm, max_value: 1, axis: 1}]",
    )
    copy = tmp_path / "copy.safetensors"
    assert run("apply", path, "--spec", spec, "-o", copy).returncode == 0
    np.testing.assert_array_equal(load_file(copy)["q.weight"], MATRIX)


def test_codes_of_two_weights_are_not_tied(run, model):
    """Equal codes with other scales are other weights."""
    scale = np.full((1, 1), 0.001, np.float32)
    path, spec = model(
        {
            "a.weight": CODES,
            "a.weight_scale_inv": scale,
            "b.weight": CODES.copy(),
            "b.weight_scale_inv": 1000 * scale,
        },
        "rules: [{id: r, tensors: a.weight, constraint: MaxNorm, max_value: 1, axis: 1}]",
    )
    result = run("audit", path, "--spec", spec, "-f", "json")
    assert (result.returncode, rows(result)) == (0, {("a.weight", "r"): "pass"})


def test_a_raw_part_of_codes_is_judged_raw(run, model):
    """As the whole is: by the numbers that are stored."""
    path, spec = model(
        {"a.weight": CODES, "a.weight_scale_inv": np.full((1, 1), 0.001, np.float32)},
        "split: [{tensors: a.weight, axis: 0, sizes: [64, 64], names: [q, k]}]\n"
        "rules: [{id: r, tensors: a.weight.q, constraint: MaxNorm, max_value: 1, axis: 1, storage: raw}]",
    )
    result = run("audit", path, "--spec", spec, "-f", "json")
    assert (result.returncode, rows(result)) == (1, {("a.weight.q", "r"): "violation"})


def test_a_part_of_codes_is_forgiven_what_the_whole_is(run, model):
    """Both were rounded relative to the largest weight that shares their scale."""
    path, spec = model(
        {"a.weight": CODES, "a.weight_scale_inv": np.full((1, 1), 0.001, np.float32)},
        "split: [{tensors: a.weight, axis: 0, sizes: [64, 64], names: [q, k]}]\n"
        "rules: [{id: whole, tensors: a.weight, constraint: MaxNorm, max_value: 9, axis: 1},"
        " {id: part, tensors: a.weight.q, constraint: MaxNorm, max_value: 9, axis: 1}]",
    )
    found = json.loads(run("explain", path, "--spec", spec, "-f", "json").stdout)["assignments"]
    whole, part = ({a["rule"]: a["tolerance"] for a in found}[rule] for rule in ("whole", "part"))
    assert whole == part


def test_every_part_of_a_tied_tensor_is_governed(run, model, tmp_path):
    """Also where the split names one of the two only."""
    path, spec = model(
        {"a": MATRIX, "b": MATRIX.copy()},
        "split: [{tensors: a, axis: 0, sizes: [4, 4], names: [q, k]}]\n"
        "rules: [{tensors: 'a.*', constraint: MaxNorm, max_value: 1, axis: 1}]",
    )
    copy = tmp_path / "copy.safetensors"
    assert run("apply", path, "--spec", spec, "-o", copy).returncode == 0
    after = load_file(copy)
    assert after["a"].tobytes() == after["b"].tobytes()
    assert np.linalg.norm(after["b"].astype(np.float64), axis=1).max() <= 1


def test_what_a_projection_makes_equal_is_not_tied_by_it(run, model, tmp_path):
    """The copy is planned as its original was."""
    path, spec = model(
        {"a": MATRIX, "b": 4 * MATRIX},
        "rules: [{tensors: a, constraint: MaxNorm, max_value: 1, axis: 1},"
        " {tensors: b, constraint: MaxNorm, max_value: 1, axis: 1}]",
    )
    copy = tmp_path / "copy.safetensors"
    assert run("apply", path, "--spec", spec, "-o", copy).returncode == 0


def test_an_ignore_rule_for_one_of_two_tied_tensors_is_refused(run, model, tmp_path):
    """A copy in which one is projected would untie them."""
    path, spec = model(
        {"lm_head.weight": MATRIX, "model.embed_tokens.weight": MATRIX.copy()},
        "rules: [{tensors: '**embed_tokens.weight', constraint: MaxNorm, max_value: 1, axis: 1}]\n"
        "ignore: [{tensors: lm_head.weight, reason: known}]",
        {"tie_word_embeddings": True},
    )
    copy = tmp_path / "copy.safetensors"
    result = run("apply", path, "--spec", spec, "-o", copy)
    assert result.returncode == 5
    assert "ignore both or neither" in result.stderr
    assert not copy.exists()


def test_an_ignore_rule_for_a_part_of_one_of_two_tied_tensors_is_refused(run, model, tmp_path):
    """A part that is left alone would untie the whole; the same part of both may be."""
    split = "split: [{tensors: a, axis: 0, sizes: [4, 4], names: [q, k]}]\n"
    rules = "rules: [{tensors: 'a.*', constraint: MaxNorm, max_value: 1, axis: 1}]\n"
    tensors, copy = {"a": MATRIX, "b": MATRIX.copy()}, tmp_path / "copy.safetensors"
    path, spec = model(tensors, f"{split}{rules}ignore: [{{tensors: a.q, reason: known}}]")
    result = run("apply", path, "--spec", spec, "-o", copy)
    assert result.returncode == 5
    assert "(b.q)" in result.stderr
    path, spec = model(tensors, f"{split}{rules}ignore: [{{tensors: [a.q, b.q], reason: known}}]")
    assert run("apply", path, "--spec", spec, "-o", copy).returncode == 0
    after = load_file(copy)
    assert after["a"].tobytes() == after["b"].tobytes()
    np.testing.assert_array_equal(after["a"][:4], MATRIX[:4])


def test_what_is_not_projected_is_not_untied(run, model, tmp_path):
    """The accepted one of two that differ already stays, and so does its like, which conforms."""
    path, spec = model(
        {"lm_head.weight": MATRIX, "model.embed_tokens.weight": MATRIX / 100, "w": 2 * MATRIX},
        "rules: [{tensors: '**', constraint: MaxNorm, max_value: 1, axis: 1}]\n"
        "ignore: [{tensors: lm_head.weight, reason: known}]",
        {"tie_word_embeddings": True},
    )
    copy = tmp_path / "copy.safetensors"
    assert run("apply", path, "--spec", spec, "-o", copy).returncode == 0
    np.testing.assert_array_equal(load_file(copy)["lm_head.weight"], MATRIX)


@pytest.mark.parametrize("config", ["{", '{"torch_dtype": 1e999}'])
def test_health_is_not_known_where_the_config_cannot_be_read(run, model, config):
    """What it says of ties and dtypes was not looked at: never a green tick."""
    path, _ = model({"w": MATRIX}, config=config)
    result = run("audit", path, "--preset", "health")
    assert result.returncode == 3
    assert "is not known" in result.stdout


def test_tied_tensors_that_differ_can_be_baselined_and_are_not_mended(run, model, tmp_path):
    """They have no bound and no worst unit."""
    path, _ = model(
        {"lm_head.weight": MATRIX, "model.embed_tokens.weight": 2 * MATRIX},
        config={"tie_word_embeddings": True},
    )
    known, copy = tmp_path / "known.json", tmp_path / "copy.safetensors"
    health = ("--preset", "health")
    assert run("audit", path, *health, "--write-baseline", known).returncode in (0, 1)
    assert run("audit", path, *health, "--baseline", known).returncode == 0
    for projection in ("exact", "keras"):
        result = run("apply", path, *health, "--projection", projection, "-o", copy)
        assert result.returncode == 5
        assert "internal error" not in result.stderr


def test_zero_units_of_a_simplex_are_left(run, model, tmp_path):
    """As under any constraint that can tell them."""
    rows = np.abs(MATRIX)
    rows[2] = 0
    path, spec = model(
        {"w": rows},
        "rules: [{tensors: w, constraint: Simplex, total: 1, unit_axis: 0, zero_units: allow}]",
    )
    copy = tmp_path / "copy.safetensors"
    assert run("apply", path, "--spec", spec, "-o", copy).returncode == 0
    assert not load_file(copy)["w"][2].any()


def test_a_factor_beyond_float64_is_not_computed(run, model):
    """An adapter's config may hold any number."""
    path, spec = model(
        {
            "q.lora_A.weight": np.ones((2, 8), np.float32),
            "q.lora_B.weight": np.ones((8, 2), np.float32),
        },
        "rules: [{tensors: '**', constraint: Finite}]",
    )
    config = path.with_name("adapter_config.json")
    config.write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 1' + "0" * 400 + "}")
    result = run("audit", path, "--spec", spec)
    assert result.returncode == 3
    assert "internal error" not in result.stderr
