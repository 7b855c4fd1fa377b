"""What is alike is told once, and nothing is lost in it."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ckptclamp.reports.names import merged, template


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["layers.0.w", "layers.1.w", "layers.2.w"], "layers.{0…2}.w"),
        (["dense_1/kernel", "dense_3/kernel"], "dense_{1, 3}/kernel"),
        ([f"b.{n}" for n in (0, 2, 4, 6, 20)], "b.{5 of 0…20}"),
        (["a.0.x.1", "a.0.x.2"], "a.0.x.{1, 2}"),
        (["one"], "one"),
    ],
)
def test_numbers_are_told_as_ranges(names, told):
    """A reader sees which blocks are meant."""
    assert merged(names) == told


def test_a_number_inside_a_word_is_part_of_it():
    """conv2d and conv3d are different things."""
    assert template("conv2d") != template("conv3d")
    assert template("conv2d_1") == template("conv2d_2")


@given(st.lists(st.from_regex(r"[a-z]{1,3}(\.[0-9]{1,3}){1,2}", fullmatch=True), min_size=1))
def test_any_names_of_one_template_merge(names):
    """No combination of numbers is too odd."""
    alike = [name for name in names if template(name) == template(names[0])]
    assert merged(alike).split(".")[0] == names[0].split(".")[0]


@pytest.fixture
def large(tmp_path):
    """A model of fifty blocks, and rules for it."""
    rng = np.random.default_rng(0)
    shapes = {"attn.q_proj": (8, 8), "attn.k_proj": (4, 8), "mlp.up_proj": (16, 8), "norm": (8,)}
    weights = {
        f"model.layers.{layer}.{name}.weight": rng.standard_normal(shape).astype(np.float32)
        for layer in range(50)
        for name, shape in shapes.items()
    }
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "spec.yaml").write_text(
        "version: 1\nrules:\n"
        "  - {id: rows, tensors: 're:.*_proj\\.weight', constraint: MaxNorm, max_value: 9, axis: 1}\n"
    )
    return tmp_path


def test_an_explanation_of_a_large_model_can_be_read(run, large):
    """Two hundred tensors under one rule are three paragraphs."""
    arguments = ("explain", "model.safetensors", "--spec", "spec.yaml")
    text = run(*arguments, cwd=large).stdout
    assert len(text.splitlines()) < 40
    assert "model.layers.{0…49}.attn.k_proj.weight (50 tensors)\n  rule: rows: MaxNorm" in text
    assert "  unit: one of 4 rows (first axis): 8 weights" in text
    assert "  model.layers.{0…49}.norm.weight (50 tensors)" in text
    whole = run(*arguments, "-v", cwd=large).stdout
    assert len(re.findall(r"^  rule: rows", whole, re.MULTILINE)) == 150
    document = json.loads(run(*arguments, "-f", "json", cwd=large).stdout)
    assert len(document["assignments"]) == 150


@pytest.mark.parametrize("norms", [(), ("--norms",)])
def test_an_inspection_of_a_large_model_can_be_read(run, large, norms):
    """Blocks that are alike are a line, with what their norms span; `-v` lists each."""
    text = run("inspect", "model.safetensors", *norms, cwd=large).stdout
    assert len(text.splitlines()) < 20
    assert "model.layers.{0…49}.attn.q_proj.weight (50)" in text
    whole = run("inspect", "model.safetensors", *norms, "-v", cwd=large).stdout
    assert len(re.findall(r"^model\.layers", whole, re.MULTILINE)) == 200


def test_norms_of_alike_tensors_are_those_of_all(run, large):
    """The smallest is the smallest of all, and so are the largest and the mean."""
    document = json.loads(
        run("inspect", "model.safetensors", "--norms", "-f", "json", cwd=large).stdout
    )
    norms = [t["norms"] for t in document["tensors"] if t["name"].endswith("k_proj.weight")]
    text = run("inspect", "model.safetensors", "--norms", cwd=large).stdout
    (row,) = [line.split() for line in text.splitlines() if "k_proj" in line]
    *_, units, smallest, mean, largest = row
    assert units == "200"
    assert float(smallest) == pytest.approx(min(n["minimum"] for n in norms), rel=1e-3)
    assert float(mean) == pytest.approx(np.mean([n["mean"] for n in norms]), rel=1e-3)
    assert float(largest) == pytest.approx(max(n["maximum"] for n in norms), rel=1e-3)


def test_leading_zeros_are_part_of_a_number():
    """0.1 and 0.001 are two numbers; told as one they must not become the same."""
    assert merged(["min_0.1/kernel", "min_0.001/kernel"]) == "min_0.{001, 1}/kernel"
