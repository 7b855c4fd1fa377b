"""A weight in parts is judged as the model computes with it, and never changed by accident."""

from __future__ import annotations

import hashlib
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from tests.checkpoints.safetensors_files import serialised

ROWS = ["--max-norm", 1, "--unit-axis", 0]


def written(tmp_path, arrays):
    """A file of these tensors."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(serialised(arrays))
    return path


def ones(*shape, dtype=np.float32):
    """Numbers that are 1."""
    return np.ones(shape, dtype)


BLOCKS = {
    "l.weight": (ones(4, 4) / 64).astype(ml_dtypes.float8_e4m3fn),
    "l.weight_scale_inv": 1000 * ones(1, 1),
}
NORMED = {"c.weight_g": 5 * ones(4, 1), "c.weight_v": ones(4, 16) / 10}


@pytest.mark.parametrize(
    ("arrays", "norm", "more"),
    [(BLOCKS, 31.25, []), (NORMED, 5, ["--clip", 0, 1])],
    ids=["float8", "weight norm"],
)
def test_what_is_stored_would_pass_and_the_weight_does_not(run, tmp_path, arrays, norm, more):
    """The scale, or the length, counts; so the copy that an unaware tool would write is refused.

    With a scale of 1000, float8 has nothing between 0 and 1.95.
    """
    path = written(tmp_path, arrays)
    answer = run("audit", path, *ROWS, "--tensors", "**", "-f", "json")
    assert answer.returncode == 1, answer.stderr
    (result,) = json.loads(answer.stdout)["report"]["results"]
    assert result["measured_max"] == pytest.approx(norm, rel=1e-6)
    assert result["violating"] == 4
    before = path.read_bytes()
    copy = tmp_path / "copy.safetensors"
    refused = run("apply", path, *(more or ROWS), "--tensors", "**", "-o", copy)
    assert refused.returncode == 5
    assert ("only c.weight_g is ever changed" if more else "near to what they") in refused.stderr
    assert not copy.exists()
    assert path.read_bytes() == before


def test_a_part_alone_is_no_weight_and_the_weight_is_named(run, tmp_path):
    """A pattern that matches a part only says so, and what it may have meant."""
    path = written(tmp_path, NORMED)
    answer = run("audit", path, *ROWS, "--tensors", "*.weight_v")
    assert answer.returncode == 3
    assert "it holds the directions of weight-normalised c.weight" in answer.stdout
    assert "a rule that matches c.weight judges the weight" in answer.stdout
    assert run("audit", path, *ROWS, "--tensors", "*.weight_v", "--storage", "raw").returncode == 0


def test_raw_storage_means_what_the_file_holds(run, tmp_path):
    """There is no tensor of the weight's name, so that a raw rule for it matches nothing."""
    path = written(tmp_path, NORMED)
    raw = [*ROWS, "--storage", "raw", "--tensors"]
    assert run("audit", path, *raw, "c.weight").returncode == 4
    assert run("audit", written(tmp_path, BLOCKS), *raw, "l.weight").returncode == 0


def test_plain_weights_beside_a_conforming_one_in_parts_are_mended(run, tmp_path):
    """What conforms needs no change; its parts stay, byte for byte."""
    small = {**NORMED, "c.weight_g": ones(4, 1) / 2}
    path = written(tmp_path, {**small, "p.weight": 2 * ones(2, 4)})
    copy = tmp_path / "copy.safetensors"
    answer = run("apply", path, *ROWS, "--tensors", "**weight", "-o", copy)
    assert answer.returncode == 0, answer.stderr
    assert run("audit", copy, *ROWS, "--tensors", "**weight", "--tolerance", 0).returncode == 0
    old, new = path.read_bytes(), copy.read_bytes()
    assert old[:-32] == new[:-32]
    assert old[-32:] != new[-32:]


def test_explain_tells_which_parts_make_a_weight(run, tmp_path):
    """Somebody who knows the format recognises it, and no part is listed as governed by nothing."""
    answer = run("explain", written(tmp_path, BLOCKS), *ROWS, "--tensors", "*.weight")
    assert answer.returncode == 0
    assert "float8_e4m3fn codes l.weight and scales l.weight_scale_inv" in answer.stdout
    assert "No rule governs" not in answer.stdout


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        (
            "gptq_v2",
            "4-bit GPTQ codes q_proj.qweight, zero points q_proj.qzeros and scales q_proj.scales, by "
            "group in q_proj.g_idx",
        ),
        (
            "awq",
            "4-bit AWQ codes q.qweight, zero points q.qzeros and scales q.scales, one for 1 x 16 weights",
        ),
        (
            "bitsandbytes_4bit",
            "nf4 codes nf4_nested.weight and maxima nf4_nested.weight.absmax, one for 64 weights, "
            "quantised themselves",
        ),
        (
            "lora",
            "factors base_model.model.q_proj.lora_B.weight · base_model.model.q_proj.lora_A.weight "
            "times 4",
        ),
        (
            "compressed_packed",
            "8-bit codes eight.weight_packed and scales eight.weight_scale, one for 1 x 64 weights",
        ),
    ],
)
def test_explain_says_what_each_part_is(run, fixtures, folder, words):
    """In the words of those who know the format, of files that its own library wrote."""
    whole = ["--max-norm", 9, "--axis", "all", "--tensors", "**"]
    answer = run("explain", fixtures / "effective" / folder, *whole)
    assert answer.returncode == 0, answer.stderr
    assert f"; from {words}" in answer.stdout
    assert ", computed in float64\n" in answer.stdout


def test_inspect_lists_the_weight_and_its_norms(run, tmp_path):
    """A name that no tensor of the file has is listed where norms are asked for."""
    path = written(tmp_path, NORMED)
    tensors = json.loads(run("inspect", path, "--norms", "-f", "json").stdout)["tensors"]
    (weight,) = [tensor for tensor in tensors if tensor["name"] == "c.weight"]
    assert weight["norms"]["maximum"] == pytest.approx(5, rel=1e-6)
    assert "c.weight_v" in weight["place"]


@pytest.mark.parametrize(
    "more",
    [
        {"l.weight_scale": ones(1)},
        {"l.weight_scale_inv": 0 * ones(1, 1)},
        {"l.weight_scale_inv": -ones(1, 1)},
        {"l.weight_scale_inv": ones(3, 3)},
        {"l.weight_scale_inv": ones(1, 1).astype(np.int64)},
        {"l.weight": ones(4, 4)},
        {"l.weight_g": ones(4, 1), "l.weight_v": ones(4, 4)},
    ],
    ids=["two families", "zero", "negative", "shape", "dtype", "no codes", "weight norm as well"],
)
def test_what_does_not_fit_together_is_not_evaluated(run, tmp_path, more):
    """Neither is judged in silence, and nothing is written."""
    path = written(tmp_path, {**BLOCKS, **more})
    rule = ["--max-norm", 1e9, "--axis", "all", "--tensors", "**"]
    answer = run("audit", path, *rule)
    assert answer.returncode == 3, answer.stdout
    assert "Traceback" not in answer.stderr
    copy = tmp_path / "copy.safetensors"
    assert run("apply", path, *rule, "-o", copy).returncode in (3, 5)
    assert not copy.exists()


def adapter(tmp_path, config):
    """One pair of factors whose product is 6 everywhere, with a config beside it."""
    factors = {"q.lora_A.weight": ones(2, 4), "q.lora_B.weight": 3 * ones(5, 2)}
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(config)
    return written(tmp_path, factors)


GOOD = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


def test_an_update_is_judged_with_its_scale(run, tmp_path):
    """alpha / r times B·A, under a name that no rule about the weight means."""
    path = adapter(tmp_path, json.dumps(GOOD))
    answer = run("audit", path, *ROWS, "--tensors", "*.delta_weight", "-f", "json")
    assert answer.returncode == 1
    (result,) = json.loads(answer.stdout)["report"]["results"]
    assert result["measured_max"] == 24  # 2 * 6 over four inputs
    assert run("audit", path, *ROWS, "--tensors", "q.weight").returncode == 4
    assert run("audit", tmp_path, *ROWS, "--tensors", "**.weight").returncode == 3


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "no adapter_config.json"),
        ("{", "adapter_config.json"),
        ("[]", "adapter_config.json"),
        ('{"r": 2, "r": 2}', "twice"),
        (json.dumps({**GOOD, "peft_type": "IA3"}), "not one of LoRA"),
        (json.dumps({**GOOD, "r": 3}), "states a rank of 3"),
        (json.dumps({**GOOD, "r": True}), "no usable r"),
        (json.dumps({**GOOD, "lora_alpha": "4"}), "no usable lora_alpha"),
        (json.dumps({**GOOD, "use_dora": True}), "whether it is DoRA"),
        (json.dumps({**GOOD, "fan_in_fan_out": True}), "fan_in_fan_out"),
        (json.dumps({**GOOD, "rank_pattern": [1]}), "no usable rank_pattern"),
        (json.dumps({**GOOD, "alpha_pattern": {"(q+)\\1": 1}}), "no pattern that is understood"),
        (json.dumps({**GOOD, "alpha_pattern": {"(q": 1}}), "no pattern that is understood"),
        (json.dumps({**GOOD, "alpha_pattern": {"q++": 1}}), "no pattern that is understood"),
        (json.dumps({**GOOD, "alpha_pattern": {"(?i)Q": 1}}), "no pattern that is understood"),
        (json.dumps({**GOOD, "alpha_pattern": {"(?!k)q": 1}}), "no pattern that is understood"),
        ('{"peft_type": "LORA", "r": 2, "lora_alpha": Infinity}', "not finite"),
        (json.dumps({**GOOD, "lora_alpha": 0}), "is 0"),
    ],
)
def test_an_adapter_whose_scale_is_not_known_is_not_evaluated(run, tmp_path, config, words):
    """The config is read as data, strictly; what is odd about it is the reason."""
    answer = run("audit", adapter(tmp_path, config), *ROWS, "--tensors", "**")
    assert answer.returncode == 3, answer.stderr
    assert words in answer.stdout
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("pattern", "norm"),
    [
        ("q", 48),
        ("^q", 48),
        ("k|q", 48),
        ("(layers.[0-9]+.)?q", 48),
        (r"[kqv](?:_proj)?$", 48),
        ("(q+)+$", 48),
        ("w|k", 24),
        ("model.q", 24),
        ("q.+", 24),
    ],
)
def test_alpha_is_that_of_the_first_pattern_that_matches(run, tmp_path, pattern, norm):
    """peft takes the keys for regular expressions."""
    config = json.dumps({**GOOD, "alpha_pattern": {pattern: 8, ".*": 4}})
    answer = run(
        "audit", adapter(tmp_path, config), *ROWS, "--tensors", "*.delta_weight", "-f", "json"
    )
    (result,) = json.loads(answer.stdout)["report"]["results"]
    assert result["measured_max"] == norm


def test_the_config_of_modelopt_tells_of_codes_too(run, tmp_path):
    """Where config.json says nothing of quantisation, ``hf_quant_config.json`` may."""
    path = written(tmp_path, {"l.codes": ones(4, 4, dtype=np.int8), "b.weight": ones(2, 2)})
    clip = ["--clip", 0, 5, "--tensors", "**"]
    assert run("audit", path, *clip).returncode == 0
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    stated = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "W4A8"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(stated))
    answer = run("audit", path, *clip)
    assert answer.returncode == 3
    assert "W4A8" in answer.stdout


def test_the_lengths_of_a_weight_norm_are_projected_in_its_place(run, tmp_path):
    """Where a unit's norm is stored, projecting it is projecting the unit: nothing else changes."""
    lengths = np.array([[5], [-3], [0.5], [1]], np.float32)
    arrays = {"a.bias": 9 * ones(3), **NORMED, "c.weight_g": lengths, "d.weight": ones(2, 4)}
    path, copy = written(tmp_path, arrays), tmp_path / "copy.safetensors"
    rule = [*ROWS, "--tensors", "*.weight"]
    shown = run("explain", path, *rule)
    assert "a projection multiplies c.weight_g alone" in shown.stdout
    assert run("apply", path, *rule, "-o", copy).returncode == 0
    with safe_open(copy, "numpy") as file:
        lengths = file.get_tensor("c.weight_g").reshape(-1)
        np.testing.assert_allclose(lengths, np.array([1, -1, 0.5, 1]), rtol=1e-7)
        np.testing.assert_array_equal(file.get_tensor("c.weight_v"), arrays["c.weight_v"])
        np.testing.assert_array_equal(file.get_tensor("a.bias"), arrays["a.bias"])
        assert file.get_tensor("d.weight")[0, 0] == 0.5
    assert run("audit", copy, *rule).returncode == 0
    whole = run(
        "apply", path, "--max-norm", 1, "--axis", "all", "--tensors", "c.weight", "-o", copy
    )
    assert whole.returncode in (2, 5)
    columns = ["--max-norm", 0.1, "--unit-axis", 1, "--tensors", "c.weight"]
    assert run("apply", path, *columns, "-o", tmp_path / "other").returncode == 5
    assert not (tmp_path / "other").exists()


def test_a_rule_about_single_weights_is_not_mended_by_lengths(run, tmp_path):
    """No length brings one weight of a unit into an interval without moving the others."""
    path, copy = written(tmp_path, NORMED), tmp_path / "copy.safetensors"
    answer = run("apply", path, "--clip", 0, 1, "--tensors", "*.weight", "-o", copy)
    assert answer.returncode == 5
    assert not copy.exists()


def test_a_first_spec_has_rules_for_weights_in_parts(run, tmp_path):
    """`init` bounds what the model computes with, and leaves the parts out."""
    path, spec = written(tmp_path, {**BLOCKS, **NORMED}), tmp_path / "spec.yaml"
    assert run("init", path, "-o", spec, "--no-schema").returncode == 0
    text = spec.read_text()
    assert text.count("- id:") == 2
    assert "max_value: 34.38" in text
    assert "c.weight_g: it holds the norms of weight-normalised c.weight" in text
    assert run("audit", path, "--spec", spec, "--strict").returncode == 0


def test_an_ignore_rule_means_a_weight_by_its_own_name(run, tmp_path):
    """What is accepted is named as it is judged, though no tensor of the file is called so."""
    spec = tmp_path / "spec.yaml"
    rule = "{id: r, tensors: '*.weight', constraint: MaxNorm, max_value: 1, unit_axis: 0}"
    ignored = "{rules: r, tensors: c.weight, reason: known}"
    spec.write_text(f"version: 1\nrules:\n  - {rule}\nignore:\n  - {ignored}\n")
    assert run("audit", written(tmp_path, NORMED), "--spec", spec).returncode == 0


def test_parts_in_several_shards_make_one_weight(run, tmp_path):
    """Codes in one file, their scale in the next."""
    weight_map: dict[str, str] = {}
    for number, (name, array) in enumerate(BLOCKS.items(), 1):
        shard = f"model-0000{number}-of-00002.safetensors"
        (tmp_path / shard).write_bytes(serialised({name: array}))
        weight_map[name] = shard
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    answer = run("audit", tmp_path, *ROWS, "--tensors", "**")
    assert answer.returncode == 1
    assert "31.25 > 1" in answer.stdout


def based(tmp_path, weight, adapter="base_model.model.q", **others):
    """An adapter in a directory of its own, and a base of one weight."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({**GOOD, **others}))
    factors = {"lora_A.weight": ones(2, 4), "lora_B.weight": 3 * ones(5, 2)}
    if others.get("use_dora"):
        factors["lora_magnitude_vector"] = np.arange(5, dtype=np.float32)
    path = folder / "adapter_model.safetensors"
    path.write_bytes(serialised({f"{adapter}.{name}": array for name, array in factors.items()}))
    return path, written(tmp_path, {"q.weight": weight, "k.weight": ones(2, 2)})


@pytest.mark.parametrize(("more", "norm"), [({}, 4), ({"use_dora": True}, 4)])
def test_an_adapter_and_its_base_are_judged_as_one_model(run, tmp_path, more, norm):
    """W - 12 + 12 is small though neither W nor the update is; DoRA has the length that is stored."""
    path, base = based(tmp_path, -10 * ones(5, 4), **more)
    rule = [*ROWS, "--tensors", "*.weight", "--base", base]
    answer = run("audit", path, *rule, "-f", "json")
    assert answer.returncode == 1, answer.stderr
    results = json.loads(answer.stdout)["report"]["results"]
    measured = {result["tensor"]: result["measured_max"] for result in results}
    assert measured == {"q.weight": norm, "k.weight": pytest.approx(2**0.5)}
    config = hashlib.sha256((path.parent / "adapter_config.json").read_bytes()).hexdigest()
    parameters = json.loads(answer.stdout)["report"]["parameters"]
    assert parameters["adapter_config.json"] == f"sha256:{config}"
    assert parameters["base"] == base.name
    shown = run("explain", path, *rule)
    assert "from base weight q.weight and factors" in shown.stdout


def test_the_report_names_the_config_of_the_base(run, tmp_path):
    """It may decide what a unit is."""
    path, base = based(tmp_path, ones(5, 4))
    config = base.with_name("config.json")
    config.write_text('{"heads": 2}')
    spec = tmp_path / "s.yaml"
    spec.write_text(
        "version: 1\nrules: [{tensors: q.weight, constraint: MaxNorm, max_value: 99, "
        "units: out (head dim) -> head, head: $heads}]\n"
    )
    answer = run("audit", path, "--spec", spec, "--base", base, "-f", "json")
    assert answer.returncode == 0, answer.stderr
    parameters = json.loads(answer.stdout)["report"]["parameters"]
    digest = hashlib.sha256(config.read_bytes()).hexdigest()
    assert parameters["config.json"] == f"sha256:{digest}"


def test_a_base_that_does_not_fit_is_no_pass(run, tmp_path):
    """An update without a weight, a base in codes, a base of another shape or that is no checkpoint."""
    path, base = based(tmp_path, ones(4, 5))
    rule = ["--max-norm", 1e9, "--axis", "all", "--tensors", "**"]
    assert run("audit", path, *rule, "--base", base).returncode == 3
    other = tmp_path / "other.safetensors"
    other.write_bytes(serialised({"x.weight": ones(5, 4)}))
    answer = run("audit", path, *rule, "--base", other)
    assert answer.returncode == 2
    assert "holds no weight for this update" in answer.stderr
    codes = {**BLOCKS, "q.weight": ones(5, 4, dtype=ml_dtypes.float8_e4m3fn)}
    other.write_bytes(serialised(codes))
    assert run("audit", path, *rule, "--base", other).returncode == 3
    assert run("audit", path, *rule, "--base", path).returncode == 3
    assert run("audit", path, *rule, "--base", tmp_path / "none").returncode == 3
