"""An index that leaves out what a shard holds: told, judged under the rules, and kept in the copy."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.checkpoints.safetensors_files import write_set

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def left_out(index, *names):
    """Take `names` out of the index."""
    document = json.loads(index.read_text())
    for name in names:
        del document["weight_map"][name]
    index.write_text(json.dumps(document))


@pytest.fixture
def index(tmp_path):
    """A set of two shards whose index does not list ``b.weight``, whose row norms are 4."""
    shards = {
        ONE: {"a.weight": np.ones((2, 4), np.float32), "b.weight": np.full((2, 4), 2, np.float32)},
        TWO: {"c.weight": np.ones((3, 4), np.float32)},
    }
    path = write_set(tmp_path, shards)
    left_out(path, "b.weight")
    return path


def test_it_is_a_warning_and_fails_only_with_strict(run, index):
    """What goes by the index does not load it, so a gate may pass, and says what it saw."""
    rule = ["--max-norm", 5, "--axis", 1, "--tensors", "**"]
    done = run("audit", index, *rule)
    assert done.returncode == 0, done.stderr
    assert "does not list" in done.stdout
    assert "b.weight" in done.stdout
    assert "3 tensors" in done.stdout
    assert run("audit", index, *rule, "--strict").returncode == 1
    assert "b.weight" in run("inspect", index).stdout


def test_the_rules_that_match_it_judge_it(run, index):
    """A model that loads it all the same computes with it."""
    done = run("audit", index, "--max-norm", 3, "--axis", 1, "--tensors", "**", "--format", "json")
    assert done.returncode == 1
    verdicts = {r["tensor"]: r["verdict"] for r in json.loads(done.stdout)["report"]["results"]}
    assert verdicts == {"a.weight": "pass", "b.weight": "violation", "c.weight": "pass"}


@pytest.mark.parametrize(("pattern", "norm"), [("a.*", 4.0), ("**", 1.0)])
def test_a_copy_keeps_it_unless_a_rule_governs_it(run, index, tmp_path, pattern, norm):
    """It is weights like others: byte for byte there, or projected, and the index stays as it is."""
    copy = tmp_path / "copy"
    rule = ["--max-norm", 1, "--axis", 1, "--tensors", pattern]
    done = run("apply", index, *rule, "-o", copy)
    assert done.returncode == 0, done.stderr
    assert (copy / index.name).read_bytes() == index.read_bytes()
    written = load_file(copy / ONE)
    assert np.linalg.norm(written["b.weight"], axis=1) == pytest.approx(norm)
    assert np.linalg.norm(written["a.weight"], axis=1) == pytest.approx(1.0)


def test_a_weight_that_is_listed_by_half_is_not_evaluated(run, tmp_path):
    """Without its scale, what goes by the index loads other weights than those in the shards."""
    shards = {
        ONE: {
            "l.weight": np.full((4, 4), 8, np.float32).astype(ml_dtypes.float8_e4m3fn),
            "l.weight_scale_inv": np.ones((1, 1), np.float32),
        },
        TWO: {"c.weight": np.ones((3, 4), np.float32)},
    }
    path = write_set(tmp_path, shards)
    rule = ["--max-norm", 99, "--axis", 1, "--tensors", "**"]
    assert run("audit", path, *rule).returncode == 0
    left_out(path, "l.weight_scale_inv")
    done = run("audit", path, *rule)
    assert done.returncode == 3
    assert "does not list l.weight_scale_inv" in done.stdout
