"""Ignore rules: a decision with a reason, told every time, and never wider than it says."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.gate.conftest import SPEC


def ignoring(**entry):
    """The spec with one ignore rule."""
    members = "".join(f"    {key}: {json.dumps(value)}\n" for key, value in entry.items())
    return SPEC + "ignore:\n  -" + members[3:]


GATE = ("audit", "model.safetensors", "--spec", "spec.yaml")


@pytest.mark.parametrize(
    ("entry", "exit_code"),
    [
        ({"tensors": "a.*", "rules": "bounded", "reason": "frozen"}, 0),
        ({"tensors": "a.*", "reason": "frozen"}, 0),
        ({"rules": "bou*", "reason": "frozen"}, 0),
        ({"tensors": "a.*", "reason": "frozen", "expires": "2999-12-31"}, 0),
        ({"tensors": "a.*", "reason": "frozen", "expires": "2020-12-31"}, 1),
        ({"tensors": "b.*", "reason": "frozen"}, 1),
        ({"tensors": "a.*", "rules": "other", "reason": "frozen"}, 1),
        ({"tensors": "a.*"}, 2),
        ({"tensors": "a.*", "reason": ""}, 2),
        ({"tensors": "a.*", "reason": " \t "}, 2),
    ],
)
def test_an_ignore_rule_covers_what_it_names_while_it_lasts(run, save, folder, entry, exit_code):
    """Both the tensor and the rule must match, the reason is a must, and the date counts."""
    save(a=[2.0], b=[0.5])
    (folder / "spec.yaml").write_text(ignoring(**entry))
    assert run(*GATE).returncode == exit_code


def test_what_is_ignored_is_counted_and_shown_on_request(run, save, folder):
    """Nobody can be unaware that something is tolerated, and why."""
    save(a=[2.0], b=[0.5])
    (folder / "spec.yaml").write_text(ignoring(tensors="a.*", reason="the teacher is frozen"))
    assert "1 suppressed" in run(*GATE).stdout
    assert "the teacher is frozen" in run(*GATE, "--show-suppressed").stdout
    document = json.loads(run(*GATE, "-f", "json").stdout)
    (suppressed,) = [r["suppressed"] for r in document["report"]["results"] if r["suppressed"]]
    assert suppressed == {"by": "spec", "reason": "the teacher is frozen", "expires": None}


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ({"tensors": "b.*", "reason": "frozen"}, "ignore-unused"),
        ({"tensors": "a.*", "reason": "frozen", "expires": "2020-12-31"}, "ignore-expired"),
    ],
)
def test_ignore_rules_that_do_nothing_are_told(run, save, folder, entry, code):
    """A rule that lies about must not wait for the day on which it hides something."""
    save(a=[2.0], b=[0.5])
    (folder / "spec.yaml").write_text(ignoring(**entry))
    assert code in run(*GATE).stdout


def test_non_finite_weights_are_not_covered(run, save, folder):
    """Who accepted a norm did not accept a NaN."""
    path = save(a=[2.0, 0.5])
    (folder / "spec.yaml").write_text(ignoring(tensors="a.*", reason="frozen"))
    assert run(*GATE).returncode == 0
    weights = load_file(path)["a.weight"].copy()
    weights[1, 1] = np.inf
    save_file({"a.weight": weights}, path)
    done = run(*GATE)
    assert done.returncode == 1
    assert "ignore-nonfinite" in done.stdout


def test_what_cannot_be_evaluated_is_not_covered(run, folder):
    """An ignore rule is about weights that were looked at."""
    save_file({"a.weight": np.ones((2, 2), bool), "b.weight": np.ones((2, 1))}, "model.safetensors")
    (folder / "spec.yaml").write_text(ignoring(tensors="a.*", reason="frozen"))
    assert run(*GATE).returncode == 3


def test_apply_leaves_alone_what_is_accepted(run, save, folder):
    """The copy differs from its original only where the gate would fail."""
    path = save(a=[2.0, 0.5], b=[3.0, 0.5])
    (folder / "spec.yaml").write_text(ignoring(tensors="a.*", reason="frozen"))
    done = run("apply", path, "--spec", "spec.yaml", "-o", "copy.safetensors")
    assert done.returncode == 0, done.stderr
    before, after = load_file(path), load_file(folder / "copy.safetensors")
    assert np.array_equal(before["a.weight"], after["a.weight"])
    assert np.linalg.norm(after["b.weight"], axis=1).max() <= 1.0
    audited = run("audit", "copy.safetensors", "--spec", "spec.yaml")
    assert audited.returncode == 0
    assert "1 suppressed" in audited.stdout


@pytest.mark.parametrize(
    ("patterns", "exit_code"),
    [
        (["g/*"], 0),
        (["g/hard"], 0),
        (["g/own"], 0),
        (["g/*", "!g/hard"], 1),
        (["g/hard", "!g/own"], 1),
    ],
)
def test_an_alias_counts_as_a_name(run, folder, patterns, exit_code):
    """A list means here what it means in a rule: what one name excludes, another does not accept."""
    with h5py.File(folder / "m.h5", "w") as file:
        file["g/own"] = np.full((2, 4), 2.0, np.float32)
        file["g/hard"] = file["g/own"]
    spec = ignoring(tensors=patterns, reason="frozen").replace('"*.weight"', '"g/hard"')
    (folder / "spec.yaml").write_text(spec)
    assert run("audit", "m.h5", "--spec", "spec.yaml").returncode == exit_code
