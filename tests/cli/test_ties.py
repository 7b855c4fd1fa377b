"""Weights that a checkpoint holds under several names stay the same under all of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

RULE = ("--max-norm", 3, "--unit-axis", 0, "--tensors", "model.embed_tokens.weight")
EMBEDDING = np.random.default_rng(3).normal(size=(32, 16)).astype(np.float32) * 2


@pytest.fixture
def model(tmp_path):
    """Write a model of one file with these tensors and this config, and return its path."""

    def write(tensors, config=None):
        path = tmp_path / "model.safetensors"
        save_file(tensors, path, metadata={"format": "pt"})
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        return path

    return write


def audited(run, path):
    """What an audit of the embedding judges, and the codes of its notices."""
    result = run("audit", path, *RULE, "-f", "json")
    report = json.loads(result.stdout)["report"]
    return [r["tensor"] for r in report["results"]], [n["code"] for n in report["notices"]]


@pytest.mark.parametrize("config", [None, {"tie_word_embeddings": True}])
def test_equal_matrices_are_projected_alike(run, model, tmp_path, config):
    """Whether the config says so or their bytes do."""
    path = model(
        {"lm_head.weight": EMBEDDING, "model.embed_tokens.weight": EMBEDDING.copy()}, config
    )
    assert audited(run, path) == (["model.embed_tokens.weight", "lm_head.weight"], [])
    copy = tmp_path / "copy.safetensors"
    assert run("apply", path, *RULE, "-o", copy).returncode == 0
    after = load_file(copy)
    assert after["lm_head.weight"].tobytes() == after["model.embed_tokens.weight"].tobytes()
    assert np.linalg.norm(after["lm_head.weight"].astype(np.float64), axis=1).max() <= 3
    assert "tied to model.embed_tokens.weight" in run("explain", path, *RULE).stdout


def test_what_the_config_ties_and_differs_is_a_warning(run, model):
    """Which of them counts is said; a strict gate fails by it."""
    path = model(
        {"lm_head.weight": EMBEDDING / 8, "model.embed_tokens.weight": EMBEDDING / 9},
        {"text_config": {"tie_word_embeddings": True}},
    )
    assert audited(run, path) == (
        ["model.embed_tokens.weight", "lm_head.weight"],
        ["shared-twice"],
    )
    assert run("audit", path, *RULE).returncode == 0
    assert run("audit", path, *RULE, "--strict").returncode == 1


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(EMBEDDING * 0.5, id="other bytes"),
        pytest.param(EMBEDDING.reshape(16, 32), id="another shape"),
        pytest.param(np.concatenate([EMBEDDING[:31], EMBEDDING[:1]]), id="another last row"),
    ],
)
def test_other_matrices_are_left_alone(run, model, other):
    """Only the same bytes under the same shape are one weight."""
    path = model({"lm_head.weight": other, "model.embed_tokens.weight": EMBEDDING})
    assert audited(run, path) == (["model.embed_tokens.weight"], [])


def test_weights_that_are_equal_by_how_they_begin_are_not_tied(run, model):
    """Vectors, and matrices of one number."""
    ones = np.ones((4, 4), np.float32)
    path = model({"a": ones, "b": ones.copy(), "c": ones[0].copy(), "d": ones[1].copy()})
    for name in ("a", "c"):
        result = run("audit", path, "--clip", 0, 2, "--tensors", name, "-f", "json")
        assert [r["tensor"] for r in json.loads(result.stdout)["report"]["results"]] == [name]


def test_rules_of_both_govern_both(run, model, tmp_path):
    """What one of them must satisfy, the other does."""
    path = model({"a": EMBEDDING, "b": EMBEDDING.copy(), "c": EMBEDDING.copy()})
    spec, copy = tmp_path / "s.yaml", tmp_path / "copy.safetensors"
    spec.write_text(
        "version: 1\n"
        "rules:\n"
        "  - {id: rows, tensors: a, constraint: MaxNorm, max_value: 3, axis: 1}\n"
        "  - {id: low, tensors: b, constraint: Clip, low: -0.5, high: 9}\n"
    )
    assert run("apply", path, "--spec", spec, "-o", copy).returncode == 0
    after = load_file(copy)
    assert after["a"].tobytes() == after["b"].tobytes() == after["c"].tobytes()
    assert after["a"].min() >= -0.5
    assert np.linalg.norm(after["a"].astype(np.float64), axis=1).max() <= 3


def test_parts_of_tied_weights_are_tied(run, model, tmp_path):
    """A part of one is that part of the other."""
    path = model({"a": EMBEDDING, "b": EMBEDDING.copy()})
    spec, copy = tmp_path / "s.yaml", tmp_path / "copy.safetensors"
    spec.write_text(
        "version: 1\n"
        "split: [{tensors: a, axis: 0, sizes: [8, 24], names: [first, rest]}]\n"
        "rules: [{tensors: a.first, constraint: MaxNorm, max_value: 1, axis: 1}]\n"
    )
    assert run("apply", path, "--spec", spec, "-o", copy).returncode == 0
    after = load_file(copy)
    assert after["a"].tobytes() == after["b"].tobytes()
    np.testing.assert_array_equal(after["b"][8:], EMBEDDING[8:])
    assert np.linalg.norm(after["b"][:8].astype(np.float64), axis=1).max() <= 1


@pytest.mark.parametrize("asked", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_rule_about_one_of_two_that_are_tied_and_not_alike_is_no_pass(run, model, asked):
    """A quantised head may stand in the place of the embedding, or the embedding in its."""
    tensors = {
        "model.embed_tokens.weight": np.full((4, 4), 0.1, np.float32),
        "lm_head.weight": np.ones((4, 4), np.int8),
        "lm_head.weight_scale": np.full((4, 1), 0.1, np.float32),
    }
    path = model(tensors, {"tie_word_embeddings": True})
    rule = ("--max-norm", 1, "--unit-axis", 0, "--tensors")
    answer = run("audit", path, *rule, asked, "-f", "json")
    assert answer.returncode == 3
    results = json.loads(answer.stdout)["report"]["results"]
    verdicts = {result["tensor"]: result["verdict"] for result in results}
    (other,) = verdicts.keys() - {asked}
    assert verdicts == {asked: "pass", other: "not-evaluated"}
    assert run("audit", path, *rule, "**.weight").returncode == 0
    assert run("audit", model(tensors, {}), *rule, asked).returncode == 0
