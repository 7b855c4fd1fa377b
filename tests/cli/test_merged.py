"""An adapter is judged together with its base as the model that both make."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.checkpoints.safetensors_files import serialised

INNER = "base_model.model."
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
ROWS = ("--max-norm", 1, "--unit-axis", 0)


def constant(value, *shape):
    """An array of one value."""
    return np.full(shape, value, np.float32)


def merging(tmp_path, held, base=None, **stated):
    """An adapter of `q` that holds some tensors besides, and the base, of a small norm each."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({**LORA, **stated}))
    factors = {"q.lora_A.weight": constant(0.01, 2, 4), "q.lora_B.weight": constant(0.01, 4, 2)}
    path = folder / "adapter_model.safetensors"
    path.write_bytes(
        serialised({INNER + name: array for name, array in {**factors, **held}.items()})
    )
    small = {f"{name}.weight": constant(0.1, 4, 4) for name in ("q", "head", "embed")}
    other = tmp_path / "base.safetensors"
    other.write_bytes(serialised(base or small))
    return path, other


@pytest.mark.parametrize(
    ("saved", "weight"),
    [
        ("head.weight", "head.weight"),
        ("head.modules_to_save.default.weight", "head.weight"),
        ("embed.base_layer.weight", "embed.weight"),
        ("new.weight", "new.weight"),
    ],
)
def test_what_an_adapter_holds_whole_is_judged_instead_of_the_base(run, tmp_path, saved, weight):
    """peft loads it over what the base has; by its name in the adapter it is matched, too."""
    path, base = merging(tmp_path, {saved: constant(50, 4, 4)})
    answer = run("audit", path, "--base", base, *ROWS, "--tensors", "*.weight", "-f", "json")
    assert answer.returncode == 1, answer.stderr
    results = json.loads(answer.stdout)["report"]["results"]
    measured = {result["tensor"]: result["measured_max"] for result in results}
    small = {name: pytest.approx(0.2, rel=1e-2) for name in measured}
    assert measured == {**small, weight: 100}
    assert {"q.weight", "head.weight", "embed.weight"} <= measured.keys()
    by_own_name = ("--tensors", INNER + saved)
    assert run("audit", path, "--base", base, *ROWS, *by_own_name).returncode == 1


@pytest.mark.parametrize("saved", ["embed.base_layer.weight", "embed.weight"])
def test_an_update_is_added_to_the_embedding_that_was_saved_with_it(run, tmp_path, saved):
    """Not to that of the base, of which nothing is left; an embedding's factors are the other way round."""
    held = {
        "embed.lora_embedding_A": constant(1, 2, 4),
        "embed.lora_embedding_B": constant(1, 4, 2),
        saved: constant(50, 4, 4),
    }
    path, base = merging(tmp_path, held)
    answer = run("audit", path, "--base", base, *ROWS, "--tensors", "embed.weight", "-f", "json")
    assert answer.returncode == 1, answer.stderr
    (result,) = json.loads(answer.stdout)["report"]["results"]
    assert result["measured_max"] == 104


def test_codes_of_the_base_count_no_more_where_the_adapter_holds_the_weight(run, tmp_path):
    """Nor do their scales."""
    base = {
        "q.weight": constant(0.1, 4, 4),
        "head.weight": np.ones((4, 4), np.int8),
        "head.weight_scale": constant(1000, 1),
    }
    path, base = merging(tmp_path, {"head.weight": constant(0.25, 4, 4)}, base)
    answer = run("audit", path, "--base", base, *ROWS, "--tensors", "**")
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("changed", ["embed.token_adapter.trainable_tokens_delta", "q.gate"])
def test_what_changes_the_base_in_an_unknown_way_is_refused(run, tmp_path, changed):
    """The base's weight is not what the model computes with."""
    path, base = merging(tmp_path, {changed: constant(0.01, 4, 4)})
    answer = run("audit", path, "--base", base, *ROWS, "--tensors", "*.weight")
    assert answer.returncode == 3
    assert f"what it does to {changed.partition('.')[0]}.weight" in answer.stderr


def test_a_weight_that_an_adapter_holds_twice_is_refused(run, tmp_path):
    """Which of them is loaded depends on their order."""
    held = {"head.weight": constant(0, 4, 4), "head.modules_to_save.weight": constant(0, 4, 4)}
    path, base = merging(tmp_path, held)
    answer = run("audit", path, "--base", base, *ROWS, "--tensors", "*.weight")
    assert answer.returncode == 3
    assert "it holds this weight twice" in answer.stderr


def test_explain_promises_no_projection_of_an_adapter_with_its_base(run, tmp_path):
    """Apply refuses it, in the same words."""
    path, base = merging(tmp_path, {})
    rule = ("--base", base, *ROWS, "--tensors", "q.weight")
    refusal = "an adapter is not projected together with its base"
    shown = run("explain", path, *rule).stdout
    assert refusal in shown
    assert "a projection" not in shown
    answer = run("apply", path, *rule, "-o", tmp_path / "copy.safetensors")
    assert (answer.returncode, refusal in answer.stderr) == (2, True)


@pytest.mark.parametrize("learnt", ["ia3_l", "oft_r.weight", "vera_lambda_b", "fourierft_spectrum"])
def test_what_other_adapters_learn_makes_another_weight(run, tmp_path, learnt):
    """Beside the base weight of the same file, as in the base of another."""
    wrapped = {"q.base_layer.weight": constant(0.1, 4, 4), f"q.{learnt}": constant(50, 4)}
    path = tmp_path / "model.safetensors"
    path.write_bytes(serialised(wrapped))
    alone = run("audit", path, *ROWS, "--tensors", "**.weight")
    adapter, base = merging(tmp_path, {f"k.{learnt}": constant(50, 4)}, {
        "q.weight": constant(0.1, 4, 4), "k.weight": constant(0.1, 4, 4)
    })  # fmt: skip
    merged = run("audit", adapter, "--base", base, *ROWS, "--tensors", "k.weight")
    for answer in (alone, merged):
        assert answer.returncode == 3, answer.stdout + answer.stderr
        assert f"{learnt} does to it is not known here" in answer.stdout


@pytest.mark.parametrize(
    "stated",
    [
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": ["loftq"]},
        {"alora_invocation_tokens": [5]},
    ],
)
def test_an_adapter_of_another_base_than_the_one_that_is_stored_is_no_pass(run, tmp_path, stated):
    """PiSSA and its kin take the factors that they begin with out of the base, also when they are loaded."""
    path, base = merging(tmp_path, {}, **stated)
    rule = (*ROWS, "--tensors", "q.weight", "--base", base)
    answer = run("audit", path, *rule)
    assert answer.returncode == 3
    assert "adapter_config.json says" in answer.stdout
    (path.parent / "adapter_config.json").write_text(
        json.dumps({**LORA, "init_lora_weights": True})
    )
    assert run("audit", path, *rule).returncode == 0
