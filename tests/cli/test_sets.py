"""Every set of the README's table as a user meets it: what an audit says, what apply makes of it."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ckptclamp.checkpoints.dtypes import DTYPES
from tests.checkpoints.safetensors_files import serialised


@pytest.fixture
def audited(run, tmp_path):
    """Audit an array under one rule of a spec: the exit code, and the only result."""

    def audit(array, **rule):
        path = tmp_path / "model.safetensors"
        save_file({"w": np.asarray(array)}, path)
        spec = {"version": 1, "rules": [{"id": "set", "tensors": "w", **rule}]}
        (tmp_path / "spec.yaml").write_text(json.dumps(spec))
        answer = run("audit", path, "--spec", tmp_path / "spec.yaml", "-f", "json")
        (result,) = json.loads(answer.stdout)["report"]["results"]
        return answer.returncode, result

    return audit


@pytest.fixture
def applied(run, tmp_path):
    """Apply one rule of a spec: the new array, once an audit at tolerance 0 found it conforming."""

    def apply(array, **rule):
        path, out = tmp_path / "model.safetensors", tmp_path / "fixed.safetensors"
        save_file({"w": np.asarray(array)}, path)
        spec = tmp_path / "spec.yaml"
        spec.write_text(json.dumps({"version": 1, "rules": [{"tensors": "w", **rule}]}))
        answer = run("apply", path, "--spec", spec, "-o", out, "--force")
        assert answer.returncode == 0, answer.stdout + answer.stderr
        exactly = ("--tolerance", 0) if rule.get("tolerance") is None else ()
        again = run("audit", out, "--spec", spec, *exactly)
        assert again.returncode == 0, again.stdout
        return load_file(out)["w"]

    return apply


def test_finite_finds_each_weight_that_is_no_number(audited):
    """NaN and both infinities; the largest finite number is none of them."""
    array = np.array([[1, np.nan], [-np.inf, 3e38]], np.float32)
    code, result = audited(array, constraint="Finite")
    assert code == 1
    assert (result["units"], result["violating"], result["nonfinite"]) == (4, 2, 2)
    assert [unit["index"] for unit in result["worst"]] == [[0, 1], [1, 0]]
    code, result = audited(np.array([-3e38, 3e38], np.float32), constraint="Finite")
    assert (code, result["measured_max"]) == (0, pytest.approx(3e38))


def test_whole_numbers_and_masks_are_finite(audited):
    """A rule for every tensor of a model must not stumble over those that hold no floats."""
    for array in (np.array([1, -2]), np.array([True, False])):
        code, result = audited(array, constraint="Finite")
        assert (code, result["units"], result["violating"]) == (0, 2, 0)


def test_finite_cannot_be_made(run, tmp_path):
    """No number is nearest to NaN: apply writes nothing and says why; inline, as people type it."""
    path, out = tmp_path / "model.safetensors", tmp_path / "fixed.safetensors"
    save_file({"w": np.array([1, np.nan], np.float32), "v": np.ones(2, np.float32)}, path)
    answer = run("audit", path, "--finite", "--tensors", "**")
    assert answer.returncode == 1
    assert "w: 1 of 2 units violates Finite(); worst is unit 1: non-finite" in answer.stdout
    answer = run("apply", path, "--finite", "--tensors", "**", "-o", out)
    assert answer.returncode == 5
    assert "1 of 2 units is beyond fixing (no number is nearest to non-finite" in answer.stderr
    assert not out.exists()


def test_a_dead_unit(run, audited, applied, tmp_path):
    """A norm below the minimum is raised to it; a zero unit has no direction and is refused."""
    weak = np.array([[3, 4], [0.003, 0.004]], np.float32)
    code, result = audited(weak, constraint="MinNorm", min_value=1, unit_axis=0)
    assert (code, result["worst"][0]["index"]) == (1, [1])
    new = applied(weak, constraint="MinNorm", min_value=1, unit_axis=0)
    np.testing.assert_allclose(new, np.array([[3, 4], [0.6, 0.8]]), rtol=1e-6)
    path = tmp_path / "dead.safetensors"
    save_file({"w": np.zeros((1, 2), np.float32)}, path)
    rule = ["--min-norm", 1e-6, "--tensors", "w", "--unit-axis", 0]
    assert run("audit", path, *rule).returncode == 1
    answer = run("apply", path, *rule, "-o", tmp_path / "out.safetensors")
    assert answer.returncode == 5
    assert "zero vectors, which have no direction towards MinNorm(min_value=1e-06)" in answer.stderr


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_largest_magnitude(audited, applied, dtype):
    """A report of units, a projection of weights; 0.1 is what the dtype makes of it."""
    array = np.array([[0.05, -0.3], [0.1, 0.02]], dtype)
    code, result = audited(array, constraint="MaxLInfNorm", max_value=0.1, unit_axis=0, tolerance=0)
    assert (code, result["units"], result["violating"]) == (1, 2, 1)
    assert result["worst"][0]["measured"] == pytest.approx(0.3, rel=1e-3)
    new = applied(array, constraint="MaxLInfNorm", max_value=0.1, unit_axis=0)
    np.testing.assert_array_equal(new, np.clip(array, dtype(-0.1), dtype(0.1)))


def test_sums_of_magnitudes(audited, applied):
    """Soft thresholding: what is small becomes 0, what is large gets smaller by as much."""
    array = np.array([[3, -1, 0.25], [0.5, 0.25, 0]], np.float32)
    code, result = audited(array, constraint="MaxL1Norm", max_value=2, unit_axis=0)
    assert (code, result["violating"], result["worst"][0]["measured"]) == (1, 1, 4.25)
    new = applied(array, constraint="MaxL1Norm", max_value=2, unit_axis=0)
    np.testing.assert_allclose(new, np.array([[2, 0, 0], [0.5, 0.25, 0]]), rtol=1e-6)
    new = applied(array.T.copy(), constraint="MaxL1Norm", max_value=2, axis=0)
    np.testing.assert_allclose(new.T, np.array([[2, 0, 0], [0.5, 0.25, 0]]), rtol=1e-6)


def test_the_threshold_inline(run, tmp_path):
    """As people type it; `explain` says what must be in memory at once."""
    path, out = tmp_path / "model.safetensors", tmp_path / "fixed.safetensors"
    save_file({"w": np.random.default_rng(1).normal(size=(5, 400)).astype(np.float16)}, path)
    rule = ["--max-l1-norm", 30, "--tensors", "w", "--unit-axis", 0]
    told = run("explain", path, *rule).stdout
    assert "note: apply needs a whole unit in memory at once: 48.8 kB" in told
    (found,) = json.loads(run("explain", path, *rule, "-f", "json").stdout)["assignments"]
    assert found["at_once"] == {"what": "a whole unit", "audit": 0, "apply": 48_800}
    assert run("apply", path, *rule, "-o", out).returncode == 0
    assert run("audit", out, *rule, "--tolerance", 0).returncode == 0
    answer = run("apply", path, *rule, "-o", out, "--force", "--memory", 40000)
    assert answer.returncode == 3
    assert "one unit needs 48800 bytes at once, over the budget" in answer.stderr


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_that_sum_to_one(run, tmp_path, dtype):
    """A mixture's weights, also where no bfloat16 numbers sum to 1 by rounding to the nearest."""
    rows = np.random.default_rng(2).normal(size=(6, 50)).astype(DTYPES[dtype].numpy)
    path, out = tmp_path / "model.safetensors", tmp_path / "fixed.safetensors"
    path.write_bytes(serialised({"w": rows}))
    spec = tmp_path / "spec.yaml"
    rule = {"tensors": "w", "constraint": "Simplex", "unit_axis": 0}
    spec.write_text(json.dumps({"version": 1, "rules": [rule]}))
    before = run("audit", path, "--spec", spec)
    assert before.returncode == 1
    assert "6 of 6 units violate Simplex(total=1); worst is unit" in before.stdout
    assert ": sum or negative weight -" in before.stdout
    assert run("apply", path, "--spec", spec, "-o", out).returncode == 0
    report = run("audit", out, "--spec", spec, "-f", "json").stdout
    (result,) = json.loads(report)["report"]["results"]
    u = DTYPES[dtype].unit_roundoff
    assert abs(result["measured_min"] - 1) <= u
    assert abs(result["measured_max"] - 1) <= u


def test_a_sum_that_bytes_cannot_reach(run, tmp_path):
    """Whole numbers never sum to 164.5, the largest is at its end: that is said, and nothing written."""
    save_file({"w": np.array([[-33, 90, -62, -36]], np.int8)}, tmp_path / "model.safetensors")
    rule = {"constraint": "Simplex", "total": 164.5, "unit_axis": 0, "storage": "raw"}
    spec = tmp_path / "spec.yaml"
    spec.write_text(json.dumps({"version": 1, "rules": [{"tensors": "w", **rule}]}))
    out = tmp_path / "out.safetensors"
    answer = run("apply", tmp_path / "model.safetensors", "--spec", spec, "-o", out)
    assert (answer.returncode, out.exists()) == (5, False), answer.stderr
    assert "still outside Simplex" in answer.stderr


def test_few_weights(audited, applied):
    """The largest stay as they are, to the bit."""
    array = np.array([[3, -1, 0.1, 0.5], [0.5, 0, 0, 0.1]], np.float32)
    code, result = audited(array, constraint="MaxNonZero", max_nonzero=2, unit_axis=0)
    assert (code, result["violating"], result["worst"][0]["measured"]) == (1, 1, 4)
    new = applied(array, constraint="MaxNonZero", max_nonzero=2, unit_axis=0)
    np.testing.assert_array_equal(new, np.array([[3, -1, 0, 0], array[1]], np.float32))


def test_two_in_four(audited, applied):
    """Along the axis that a kernel of sparse tensor cores wants; rows that conform stay."""
    array = np.array([[1, 2, 3, 4, 0, 0, 0, 1], [1, 1, 0, 0, 1, 0, 1, 0]], np.float32)
    rule = {"constraint": "Sparsity", "max_nonzero": 2, "group": 4, "unit_axis": 0}
    code, result = audited(array, **rule)
    assert (code, result["units"], result["violating"]) == (1, 2, 1)
    assert (result["worst"][0]["index"], result["worst"][0]["measured"]) == ([0], 4)
    new = applied(array, **rule)
    expected = np.array([[0, 0, 3, 4, 0, 0, 0, 1], array[1]], np.float32)
    np.testing.assert_array_equal(new, expected)
    assert audited(expected, **rule)[0] == 0


def test_nothing_is_said_of_how_it_is_computed(run, tmp_path):
    """NumPy's warnings about NaN that signals, infinity, or a unit of zeros never reach a user."""
    weights = {"zeros": np.zeros((2, 64), np.float32), "nan": np.ones((3, 4), np.float32)}
    weights["nan"].view(np.uint32)[0, 0] = 0x7FA00000
    weights["nan"][1, 0] = np.inf
    save_file(weights, tmp_path / "model.safetensors")
    rules = [
        {"tensors": "zeros", "constraint": "Simplex", "unit_axis": 0},
        {"tensors": "nan", "constraint": "Sparsity", "max_nonzero": 2, "group": 4, "unit_axis": 0},
        {"tensors": "nan", "constraint": "Orthonormal"},
    ]
    (tmp_path / "spec.yaml").write_text(json.dumps({"version": 1, "rules": rules}))
    options = ("--spec", tmp_path / "spec.yaml", "-o", tmp_path / "out", "--allow-remaining")
    answer = run("apply", tmp_path / "model.safetensors", *options)
    assert (answer.returncode, "Warning" in answer.stderr) == (1, False), answer.stderr


def test_a_nan_is_no_zero(audited):
    """A group of which one weight is no number is not sparse: it violates, and counts as such."""
    array = np.array([[np.nan, 0, 0, 0], [0, 0, 0, 1]], np.float32)
    rule = {"constraint": "Sparsity", "max_nonzero": 2, "group": 4, "unit_axis": 0}
    code, result = audited(array, **rule)
    assert (code, result["violating"], result["nonfinite"], result["unmendable"]) == (1, 1, 1, 1)


def test_a_spectral_norm(run, audited, applied, tmp_path):
    """What Frobenius norms cannot tell: a matrix of rank 1 is stretched in one direction only."""
    array = (np.outer([1, 2, 2], [3, 4]) / 5).astype(np.float32)  # 3, and 0
    rule = {"constraint": "SpectralNorm", "max_value": 2}
    code, result = audited(array, **rule)
    assert (code, result["units"]) == (1, 1)
    assert result["worst"][0]["measured"] == pytest.approx(3, rel=1e-6)
    assert audited(array, constraint="SpectralNorm", max_value=3.001)[0] == 0
    np.testing.assert_allclose(applied(array, **rule), array * 2 / 3, rtol=1e-6)
    answer = run("explain", tmp_path / "model.safetensors", "--spec", tmp_path / "spec.yaml")
    assert "unit: the whole tensor: 3x2 = 6 weights" in answer.stdout
    assert "measured: largest singular value ≤ 2" in answer.stdout
    assert (
        "note: a Gram matrix must be in memory: 128 B for an audit, 160 B for an apply"
        in answer.stdout
    )
    answer = run("audit", tmp_path / "model.safetensors", "--spec", tmp_path / "spec.yaml")
    told = "worst is the whole tensor: largest singular value 3 > 2 (+50 %)"
    assert told in answer.stdout


def test_a_spectral_norm_that_is_not_decided(run, audited, tmp_path):
    """Bounds on both sides of the bound prove nothing: not evaluated, and apply writes nothing."""
    small = np.array([[0.6, 0.8], [-0.8, 0.6]])
    rule = {"constraint": "SpectralNorm", "max_value": 1}
    assert audited(small, **rule, tolerance=0)[0] == 1  # exact arithmetic decides it
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(200, 200)))[0]
    code, result = audited(turn, **rule, tolerance=0)
    assert (code, result["verdict"]) == (3, "not-evaluated")
    assert "and so does the bound" in result["reason"]
    answer = run("apply", tmp_path / "model.safetensors", "--spec", tmp_path / "spec.yaml",
                 "-o", tmp_path / "out.safetensors")  # fmt: skip
    assert answer.returncode == 3
    assert not (tmp_path / "out.safetensors").exists()
    assert audited(turn, **rule)[0] == 0


@pytest.mark.parametrize("shape", [(2, 8, 3), (2, 3, 8)])
def test_a_stack_of_orthonormal_matrices(audited, applied, shape):
    """Experts: each is a matrix of its own, with orthonormal rows or columns, whichever are fewer."""
    array = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    rule = {"constraint": "Orthonormal", "unit_axis": 0, "tolerance": 1e-6}
    code, result = audited(array, **rule)
    assert (code, result["units"], result["violating"]) == (1, 2, 2)
    new = applied(array, **rule)
    for matrix, before in zip(new, array, strict=True):
        left, _, right = np.linalg.svd(before, full_matrices=False)
        np.testing.assert_allclose(matrix, left @ right, atol=1e-6)


def test_a_kernel_is_no_matrix(run, tmp_path):
    """Which axes make rows is not guessed: a usage error, with what to say."""
    path = tmp_path / "model.safetensors"
    save_file({"w": np.ones((3, 3, 2), np.float32)}, path)
    spec = tmp_path / "spec.yaml"
    spec.write_text("version: 1\nrules: [{tensors: w, constraint: Orthonormal}]\n")
    answer = run("audit", path, "--spec", spec)
    assert answer.returncode == 2
    assert "w of shape 3x3x2: a unit of 3 axes is no matrix" in answer.stderr
    assert "unit_axis names the axes" in answer.stderr


def test_symmetric_and_triangular(audited, applied):
    """Storage rounds equal numbers alike, and a zero is a zero."""
    array = np.array([[1, 2.5], [0.25, 4]], np.float16)
    code, result = audited(array, constraint="Symmetric")
    assert (code, result["worst"][0]["measured"]) == (1, 2.25)
    np.testing.assert_array_equal(
        applied(array, constraint="Symmetric"), np.array([[1, 1.375], [1.375, 4]], np.float16)
    )
    for name, keep in (("LowerTriangular", np.tril), ("UpperTriangular", np.triu)):
        assert audited(array, constraint=name)[0] == 1
        np.testing.assert_array_equal(applied(array, constraint=name), keep(array))
        assert audited(keep(array), constraint=name)[0] == 0


@pytest.mark.parametrize(
    "rule",
    [
        {"constraint": "MaxL1Norm", "max_value": 3, "axis": 0},
        {"constraint": "Sparsity", "max_nonzero": 1, "group": 3, "unit_axis": 0},
        {"constraint": "Symmetric"},
        {"constraint": "SpectralNorm", "max_value": 4},
    ],
    ids=lambda rule: rule["constraint"],
)
def test_compressed_chunks(run, tmp_path, rule):
    """Units and matrices lie across the chunks of an HDF5 file; the copy is audited as stored."""
    path, out, spec = (tmp_path / name for name in ("model.h5", "fixed.h5", "spec.yaml"))
    array = np.random.default_rng(6).normal(size=(30, 30)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file.create_dataset("w", data=array, chunks=(7, 11), compression="gzip")
        file.create_dataset("v", data=array[0])
    spec.write_text(json.dumps({"version": 1, "rules": [{"tensors": "w", **rule}]}))
    assert run("audit", path, "--spec", spec).returncode == 1
    answer = run("apply", path, "--spec", spec, "-o", out)
    assert answer.returncode == 0, answer.stderr
    assert run("audit", out, "--spec", spec, "--tolerance", 0).returncode == 0
    with h5py.File(out) as file:
        assert (file["w"][()] != array).any()
        np.testing.assert_array_equal(file["v"][()], array[0])


def test_keras_projection_is_the_exact_one(run, tmp_path):
    """Keras has no formula for these sets, and a gate must not be left open for that."""
    path, out = tmp_path / "model.safetensors", tmp_path / "fixed.safetensors"
    save_file({"w": np.ones((4, 3), np.float32)}, path)
    rule = ["--max-l1-norm", 2, "--axis", 0, "--tensors", "w"]
    assert run("apply", path, *rule, "-o", out, "--projection", "keras").returncode == 0
    np.testing.assert_allclose(load_file(out)["w"], np.full((4, 3), 0.5), rtol=1e-6)


def test_a_dry_run_tells_what_would_change(run, tmp_path):
    """Nothing is written, and the count is that of the real run."""
    path = tmp_path / "model.safetensors"
    save_file({"w": np.array([[3, 1], [0.5, 0.5]], np.float32)}, path)
    rule = ["--max-l1-norm", 2, "--unit-axis", 0, "--tensors", "w", "--dry-run"]
    answer = run("apply", path, *rule)
    assert answer.returncode == 0
    assert "1 unit in 1 tensor would change" in answer.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["MaxL1Norm", "MaxNonZero"])
def test_a_scalar_is_a_unit(applied, name):
    """The whole of a tensor without axes."""
    bound = {"max_value": 2} if name == "MaxL1Norm" else {"max_nonzero": 0}
    new = applied(np.array(-3, np.float32), constraint=name, **bound)
    assert float(new) == pytest.approx(-2 if name == "MaxL1Norm" else 0)
