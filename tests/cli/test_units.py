"""Units that are no axis of the tensor as it is stored: heads, experts, fused projections."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

RNG = np.random.default_rng(7)
HEADS, DIM, WIDTH = 8, 16, 64


def spec(path, text):
    """A spec at `path`."""
    path.write_text(f"version: 1\n{text}")
    return path


@pytest.fixture
def model(tmp_path):
    """A directory with fused weights, in which one head, one expert and all keys are too long."""
    q = RNG.normal(size=(HEADS, DIM, WIDTH)).astype(np.float32)
    q /= np.linalg.norm(q, axis=(1, 2), keepdims=True)
    q[3] *= 5
    experts = np.ones((4, 2, 10, 6), np.float32) / 8
    experts[1, 1] *= 7
    qkv = np.concatenate(
        [np.full((n, WIDTH), v, np.float32) for n, v in ((64, 0), (32, 1), (32, 0))]
    )
    save_file(
        {
            "q_proj.weight": q.reshape(HEADS * DIM, WIDTH),
            "o_proj.weight": np.ascontiguousarray(q.reshape(HEADS * DIM, WIDTH).T),
            "experts": experts.reshape(4, 20, 6),
            "qkv.weight": qkv,
        },
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": HEADS}))
    return tmp_path


RULES = """
split:
  - {tensors: qkv.weight, axis: 0, sizes: [64, 32, 32], names: [q, k, v]}
rules:
  - id: heads
    tensors: q_proj.weight
    constraint: MaxNorm
    max_value: 2
    units: (head dim) in -> head
    head: $num_attention_heads
  - id: columns
    tensors: o_proj.weight
    constraint: MaxNorm
    max_value: 2
    units: out (head dim) -> head
    head: 8
  - id: experts
    tensors: experts
    constraint: MaxNorm
    max_value: 2
    units: expert (two out) in -> expert two
    two: 2
  - {id: keys, tensors: qkv.weight.k, constraint: MaxNorm, max_value: 4, axis: 1}
  - {id: queries, tensors: qkv.weight.q, constraint: MaxNorm, max_value: 4, axis: 1}
"""


def test_fused_units_are_judged_one_by_one(run, model):
    """A head across rows or columns, an expert's half, a part of a fused projection."""
    rules = spec(model / "s.yaml", RULES)
    result = run("audit", model / "model.safetensors", "--spec", rules, "-f", "json")
    assert result.returncode == 1
    found = {r["rule"]: r for r in json.loads(result.stdout)["report"]["results"]}
    counts = {rule: (r["units"], r["violating"]) for rule, r in found.items()}
    assert counts == {
        "heads": (8, 1),
        "columns": (8, 1),
        "experts": (8, 1),
        "keys": (32, 32),
        "queries": (64, 0),
    }
    assert found["heads"]["worst"][0]["index"] == [3]
    assert found["heads"]["worst"][0]["measured"] == pytest.approx(5, rel=1e-6)
    assert found["experts"]["worst"][0]["index"] == [1, 1]
    assert found["keys"]["tensor"] == "qkv.weight.k"


def test_explain_says_what_a_unit_is(run, model):
    """In the names that the rule gives."""
    rules = spec(model / "s.yaml", RULES)
    result = run("explain", model / "model.safetensors", "--spec", rules)
    assert result.returncode == 0
    assert "one of 8 along head: dim x in = 16x64 = 1024 weights" in result.stdout
    assert "one of 4x2 = 8 along expert and two: out x in = 10x6 = 60 weights" in result.stdout
    assert "head = $num_attention_heads" in result.stdout
    assert "No rule governs" not in result.stdout


def test_apply_changes_these_units_alone(run, model):
    """Every byte of another head, expert or part is what it was."""
    rules, copy = spec(model / "s.yaml", RULES), model / "copy.safetensors"
    assert run("apply", model / "model.safetensors", "--spec", rules, "-o", copy).returncode == 0
    before, after = load_file(model / "model.safetensors"), load_file(copy)
    heads = [before["q_proj.weight"].reshape(HEADS, -1), after["q_proj.weight"].reshape(HEADS, -1)]
    same = (heads[0] == heads[1]).all(axis=1)
    assert same.tolist() == [i != 3 for i in range(HEADS)]
    assert np.linalg.norm(heads[1][3].astype(np.float64)) == pytest.approx(2, rel=1e-6)
    assert np.linalg.norm(heads[1][3].astype(np.float64)) <= 2
    np.testing.assert_array_equal(after["o_proj.weight"][:, :48], before["o_proj.weight"][:, :48])
    np.testing.assert_array_equal(after["qkv.weight"][:64], before["qkv.weight"][:64])
    assert np.linalg.norm(after["qkv.weight"][64:96], axis=1) == pytest.approx(4, rel=1e-6)
    assert run("audit", copy, "--spec", rules).returncode == 0


def test_a_number_of_a_config_that_is_not_there_is_an_error(run, model, tmp_path_factory):
    """A copy without its config has no such unit; nothing is guessed."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "model.safetensors"
    elsewhere.write_bytes((model / "model.safetensors").read_bytes())
    result = run("audit", elsewhere, "--spec", spec(model / "s.yaml", RULES))
    assert result.returncode == 2
    assert "$num_attention_heads is a number of the model's config.json" in result.stderr


@pytest.mark.parametrize("filters", [{}, {"compression": "gzip", "shuffle": True}])
def test_chunked_datasets_are_changed_under_other_axes(run, tmp_path, filters):
    """A unit may lie across chunks, and a chunk across units."""
    values = RNG.normal(size=(24, 10)).astype(np.float32)
    path, copy = tmp_path / "w.h5", tmp_path / "copy.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("w", data=values, chunks=(5, 4), **filters)
    rules = spec(
        tmp_path / "s.yaml",
        "rules: [{tensors: w, constraint: MaxNorm, max_value: 5, units: (a b) c -> b, b: 6}]",
    )
    assert run("audit", path, "--spec", rules).returncode == 1
    assert run("apply", path, "--spec", rules, "-o", copy).returncode == 0
    with h5py.File(copy) as file:
        after = file["w"][...].astype(np.float64)
    norms = np.sqrt((after.reshape(4, 6, 10) ** 2).sum(axis=(0, 2)))
    assert norms.max() <= 5
    was = np.sqrt((values.astype(np.float64).reshape(4, 6, 10) ** 2).sum(axis=(0, 2)))
    expected = values.reshape(4, 6, 10) * np.minimum(1, 5 / was)[None, :, None]
    np.testing.assert_allclose(after.reshape(4, 6, 10), expected, rtol=1e-6)


def test_rules_of_a_whole_and_of_its_part_take_turns(run, model):
    """Both hold in the copy, and the whole is not judged by what it was before."""
    rules = spec(
        model / "s.yaml",
        """
split: [{tensors: qkv.weight, axis: 0, sizes: [64, 32, 32], names: [q, k, v]}]
rules:
  - {id: all, tensors: qkv.weight, constraint: MaxNorm, max_value: 3, axis: 0}
  - {id: keys, tensors: qkv.weight.k, constraint: MaxNorm, max_value: 2, axis: 1}
""",
    )
    copy = model / "copy.safetensors"
    result = run("apply", model / "model.safetensors", "--spec", rules, "-o", copy)
    assert result.returncode == 0
    after = load_file(copy)["qkv.weight"].astype(np.float64)
    assert np.linalg.norm(after, axis=0).max() <= 3
    assert np.linalg.norm(after[64:96], axis=1).max() <= 2


def test_a_rule_that_matches_the_whole_is_not_about_its_parts(run, model):
    """`**` judges each weight once."""
    rules = spec(
        model / "s.yaml",
        """
split: [{tensors: qkv.weight, axis: 0, sizes: [64, 32, 32], names: [q, k, v]}]
rules: [{tensors: "**", constraint: Clip, low: -1, high: 1}]
""",
    )
    result = run("audit", model / "model.safetensors", "--spec", rules, "-f", "json")
    assert [r["tensor"] for r in json.loads(result.stdout)["report"]["results"]] == [
        "experts",
        "o_proj.weight",
        "q_proj.weight",
        "qkv.weight",
    ]


RULE = "rules: [{tensors: q_proj.weight, constraint: MaxNorm, max_value: 2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{RULE}, units: (head dim) in -> head, haed: 8}}]", "unknown key 'haed'"),
        (f"{RULE}, units: (head dim) in -> head, head: 0}}]", "head: expected how many"),
        (f"{RULE}, units: (head dim) in -> head, head: heads}}]", "head: expected how many"),
        (f"{RULE}, units: (head dim) in -> head, head: 7}}]", "does not fit its axis of 128"),
        (f"{RULE}, units: (head dim) in -> head, axis: 0, head: 8}}]", "exclude each other"),
        (f"{RULE}, head: 8}}]", "unknown key 'head'"),
        (f"{RULE}, units: (head dim in -> head}}]", "not closed"),
        ("rules: [{tensors: experts, constraint: NonNeg, units: a b c -> a}]", "has no axis"),
        (
            f"split: [{{tensors: nothing, axis: 0, sizes: [1], names: [a]}}]\n{RULE}, axis: 0}}]",
            "matches no tensor",
        ),
        (
            "split: [{tensors: qkv.weight, axis: 0, sizes: [64, 32], names: [q, k]}]\n"
            f"{RULE}, axis: 0}}]",
            "sum to 96, and axis 0 has 128",
        ),
        (
            "split: [{tensors: qkv.weight, axis: 0, sizes: [64, 64], names: [q, q]}]\n"
            f"{RULE}, axis: 0}}]",
            "one name is there twice",
        ),
        (
            "split: [{tensors: qkv.weight, axis: 0, sizes: [64, 64], names: [q]}]\n"
            f"{RULE}, axis: 0}}]",
            "1 names for 2 sizes",
        ),
        (
            "split: [{tensors: qkv.weight, axis: 0, sizes: [128], names: ['a/b']}]\n"
            f"{RULE}, axis: 0}}]",
            "is no name",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(run, model, text, message):
    """In one line with the place, and exit 2."""
    result = run("audit", model / "model.safetensors", "--spec", spec(model / "s.yaml", text))
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2
