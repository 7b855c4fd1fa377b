"""Weights of which a part is itself computed from parts, as a user audits them and has them changed."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from tests.checkpoints.safetensors_files import serialised

LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}


def with_adapter(folder, parts, module="l.", shape=(32, 64), **config):
    """A file of a base in these parts and an adapter of it; returned are its path and B·A alpha / r."""
    random = np.random.default_rng(9)
    down, up = (random.normal(size=s).astype(np.float32) for s in ((4, shape[1]), (shape[0], 4)))
    factors = {f"{module}lora_A.weight": down, f"{module}lora_B.weight": up}
    path = folder / "adapter_model.safetensors"
    path.write_bytes(serialised(parts | factors))
    (folder / "adapter_config.json").write_text(json.dumps(LORA | config))
    return path, 2 * up.astype(np.float64) @ down.astype(np.float64)


def bases_by_norms(prefix):
    """A base with a length and directions, and one that is divided by its singular value; and the weights."""
    random = np.random.default_rng(4)
    directions = random.normal(size=(32, 64)).astype(np.float32)
    lengths = np.linspace(1, 2, 32, dtype=np.float32)[:, None]
    wide = directions.astype(np.float64)
    left, _, right = np.linalg.svd(wide, full_matrices=False)
    u, v = left[:, 0].astype(np.float32), right[0].astype(np.float32)
    sigma = u.astype(np.float64) @ wide @ v.astype(np.float64)
    return {
        "weight-normalised": (
            {f"{prefix}weight_g": lengths, f"{prefix}weight_v": directions},
            lengths * wide / np.linalg.norm(wide, axis=1, keepdims=True),
        ),
        "spectrally normalised": (
            {f"{prefix}weight_orig": directions, f"{prefix}weight_u": u, f"{prefix}weight_v": v},
            wide / sigma,
        ),
    }


@pytest.mark.parametrize("family", ["weight-normalised", "spectrally normalised"])
def test_lengths_of_what_has_lengths_itself_are_computed(run, tmp_path, family):
    """DoRA on a weight that takes a pass of its own; an answer, not a wait without an end."""
    parts, _ = bases_by_norms("l.")[family]
    lengths = {"l.lora_magnitude_vector": np.arange(1, 33, dtype=np.float32)}
    path, _ = with_adapter(tmp_path, parts | lengths, use_dora=True)
    rule = ("--max-norm", 31.5, "--unit-axis", 0, "--tensors", "l.weight", "-f", "json")
    answer = run("audit", path, *rule)
    assert answer.returncode == 1, answer.stderr
    (result,) = json.loads(answer.stdout)["report"]["results"]
    assert result["violating"] == 1
    assert result["measured_max"] == pytest.approx(32, rel=1e-9)


def test_norms_are_those_of_what_was_written(run, tmp_path):
    """A rule moves the directions first, then another one the weight that they are of."""
    random = np.random.default_rng(0)
    name = "l.parametrizations.weight.original"
    parts = {
        f"{name}0": np.abs(random.normal(size=(8, 1)).astype(np.float32)) * 2 + 1,
        f"{name}1": random.normal(size=(8, 6)).astype(np.float32) * 3,
    }
    path, copy = tmp_path / "m.safetensors", tmp_path / "copy.safetensors"
    path.write_bytes(serialised(parts))
    rule = {"constraint": "MaxNorm", "max_value": 1, "axis": 1}
    spec = tmp_path / "spec.json"
    rules = [rule | {"tensors": "l.weight"}, rule | {"tensors": f"{name}1", "storage": "raw"}]
    spec.write_text(json.dumps({"version": 1, "rules": rules}))
    answer = run("apply", path, "--spec", spec, "-o", copy)
    assert answer.returncode == 0, answer.stderr
    with safe_open(copy, "numpy") as file:
        lengths = file.get_tensor(f"{name}0")
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def parametrised(prefix):
    """Lengths and directions as torch's parametrizations call them; and the weight."""
    (parts, weight) = bases_by_norms(prefix)["weight-normalised"]
    names = {"weight_g": "original0", "weight_v": "original1"}
    return {
        f"{prefix}parametrizations.weight.{names[name.removeprefix(prefix)]}": part
        for name, part in parts.items()
    }, weight


def pruned(prefix):
    """An original and a mask; and the weight."""
    random = np.random.default_rng(5)
    original = random.normal(size=(32, 64)).astype(np.float32)
    mask = (random.random((32, 64)) < 0.5).astype(np.float32)
    return {f"{prefix}weight_orig": original, f"{prefix}weight_mask": mask}, original * mask


def in_float8(prefix):
    """Codes with a scale for each row; and the weight."""
    random = np.random.default_rng(6)
    codes = random.normal(size=(32, 64)).astype(ml_dtypes.float8_e4m3fn)
    scales = np.full((32, 1), 0.01, np.float32)
    parts = {f"{prefix}weight": codes, f"{prefix}weight_scale": scales}
    return parts, codes.astype(np.float64) * scales.astype(np.float64)


BASES = {
    "weight-normalised": lambda prefix: bases_by_norms(prefix)["weight-normalised"],
    "spectrally normalised": lambda prefix: bases_by_norms(prefix)["spectrally normalised"],
    "parametrised": parametrised,
    "pruned": pruned,
    "float8": in_float8,
}


@pytest.mark.parametrize("pattern", ["**", "l.weight"])
@pytest.mark.parametrize("prefix", ["l.", "l.base_layer."])
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_an_adapter_is_added_to_a_base_in_parts(run, tmp_path, base, prefix, pattern):
    """However they are called, beside the factors or in the module that peft wraps."""
    parts, weight = base(prefix)
    path, update = with_adapter(tmp_path, parts)
    rule = ("--max-norm", 1e-9, "--unit-axis", 0, "--tensors", pattern, "-f", "json")
    answer = run("audit", path, *rule)
    assert answer.returncode == 1, answer.stderr
    (result,) = json.loads(answer.stdout)["report"]["results"]
    assert result["tensor"] == "l.weight"
    norms = np.linalg.norm(weight + update, axis=1)
    assert result["measured_max"] == pytest.approx(norms.max(), rel=1e-6)


@pytest.mark.parametrize(
    "parts",
    [
        {"l.base_layer.parametrizations.weight.original": np.ones((32, 64), np.float32)},
        {
            "l.weight": np.ones((32, 64), np.float32),
            "l.base_layer.weight": np.ones((32, 64), np.float32),
        },
    ],
    ids=["unknown parametrisation", "two bases"],
)
def test_a_base_that_nothing_can_be_added_to_is_not_evaluated(run, tmp_path, parts):
    """The base alone is not what the model computes with."""
    path, _ = with_adapter(tmp_path, parts)
    answer = run("audit", path, "--max-norm", 1e9, "--unit-axis", 0, "--tensors", "**")
    assert answer.returncode == 3, answer.stdout
    assert "l.weight" in answer.stdout


def test_an_adapter_is_merged_with_a_parametrised_base_of_another_file(run, tmp_path):
    """As peft names its factors, and torch the parts."""
    parts, weight = parametrised("l.")
    base = tmp_path / "base.safetensors"
    base.write_bytes(serialised(parts))
    folder = tmp_path / "adapter"
    folder.mkdir()
    path, update = with_adapter(folder, {}, module="base_model.model.l.")
    rule = ("--max-norm", 1e-9, "--unit-axis", 0, "--tensors", "**", "-f", "json")
    answer = run("audit", path, "--base", base, *rule)
    assert answer.returncode == 1, answer.stderr
    (result,) = json.loads(answer.stdout)["report"]["results"]
    norms = np.linalg.norm(weight + update, axis=1)
    assert result["measured_max"] == pytest.approx(norms.max(), rel=1e-6)


def test_rules_of_a_weight_and_of_its_parts_take_turns(run, tmp_path):
    """Rows of A become longer, and so does the update, which conformed: its rows in B make up for it."""
    random = np.random.default_rng(2)
    sizes = {"A": (4, 64), "B": (32, 4)}
    factors = {
        f"l.lora_{side}.weight": random.normal(size=size).astype(np.float32)
        for side, size in sizes.items()
    }
    factors["l.lora_A.weight"] /= 1000
    path, copy = tmp_path / "adapter_model.safetensors", tmp_path / "copy.safetensors"
    path.write_bytes(serialised(factors))
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA))
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "version: 1\nrules:\n"
        "  - {id: u, tensors: '**.delta_weight', constraint: MaxNorm, max_value: 0.5, unit_axis: 0}\n"
        "  - {id: a, tensors: '**.lora_A.weight', constraint: UnitNorm, unit_axis: 0, storage: raw}\n"
    )
    before = json.loads(run("audit", path, "--spec", spec, "-f", "json").stdout)["report"][
        "results"
    ]
    assert [result["verdict"] for result in before] == ["pass", "violation"]
    answer = run("apply", path, "--spec", spec, "-o", copy)
    assert answer.returncode == 0, answer.stderr
    assert run("audit", copy, "--spec", spec).returncode == 0
    with safe_open(copy, "numpy") as file:
        down, up = (file.get_tensor(f"l.lora_{side}.weight") for side in "AB")
    np.testing.assert_allclose(np.linalg.norm(down, axis=1), 1, rtol=1e-6)
    norms = np.linalg.norm(2 * up.astype(np.float64) @ down.astype(np.float64), axis=1)
    assert (norms <= 0.5).all()
    assert norms.max() > 0.5 * (1 - 1e-6)


def test_rules_of_a_weight_and_of_its_parts_that_exclude_each_other_are_told(run, tmp_path):
    """No copy, and a reason that is about the rules."""
    random = np.random.default_rng(2)
    parts: dict[str, np.ndarray] = {"l.weight_g": np.full((8, 1), 5, np.float32)}
    parts["l.weight_v"] = random.normal(size=(8, 16)).astype(np.float32)
    path, copy = tmp_path / "model.safetensors", tmp_path / "copy.safetensors"
    path.write_bytes(serialised(parts))
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "version: 1\nrules:\n"
        "  - {id: w, tensors: '**.weight', constraint: MaxNorm, max_value: 1, unit_axis: 0}\n"
        "  - {id: g, tensors: '**.weight_g', constraint: Clip, low: 2, high: 3, storage: raw}\n"
    )
    answer = run("apply", path, "--spec", spec, "-o", copy)
    assert answer.returncode == 5
    assert "exclude each other" in answer.stderr
    assert not copy.exists()
