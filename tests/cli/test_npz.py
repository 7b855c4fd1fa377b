"""NumPy archives as a user meets them: audited, projected, and loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Run

RULE = ("--max-norm", 1, "--axis", 0, "--tensors", "dense/kernel")


@pytest.fixture
def arrays() -> dict[str, Any]:
    """A kernel of two columns, of which the first is too long, and what stays as it is."""
    return {
        "dense/kernel": np.array([[3.0, 0.1], [4.0, 0.2]], np.float32),
        "dense/bias": np.array([np.nan, -0.0, 7.0]),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "labels": np.array(["cat", "dog"]),
        "step": np.array(12),
    }


def test_apply_changes_what_violates(run: Run, tmp_path: Path, arrays: dict[str, Any]):
    """The copy conforms, and `numpy.load` finds every other array bit for bit as it was."""
    np.savez(tmp_path / "m.npz", **arrays)
    assert run("audit", tmp_path / "m.npz", *RULE).returncode == 1
    done = run("apply", tmp_path / "m.npz", "-o", tmp_path / "fixed.npz", *RULE)
    assert done.returncode == 0, done.stderr
    assert run("audit", tmp_path / "fixed.npz", *RULE).returncode == 0
    with np.load(tmp_path / "fixed.npz") as fixed:
        assert list(fixed) == list(arrays)
        kernel = fixed["dense/kernel"]
        np.testing.assert_allclose(kernel, [[0.6, 0.1], [0.8, 0.2]], rtol=1e-6)
        for name in arrays.keys() - {"dense/kernel"}:
            assert fixed[name].dtype == arrays[name].dtype
            assert fixed[name].tobytes() == arrays[name].tobytes()


def test_a_deflated_archive_is_audited_and_its_hint_helps(
    run: Run, tmp_path: Path, arrays: dict[str, Any]
):
    """No copy is made of it; saved as the hint says, it can be projected."""
    np.savez_compressed(tmp_path / "m.npz", **arrays)
    assert run("audit", tmp_path / "m.npz", *RULE).returncode == 1
    for options in (("--dry-run",), ("-o", tmp_path / "fixed.npz")):
        done = run("apply", tmp_path / "m.npz", *options, *RULE)
        assert done.returncode == 5
        assert "numpy.savez('stored.npz', **numpy.load(FILE))" in done.stderr
    assert not (tmp_path / "fixed.npz").exists()
    np.savez(tmp_path / "stored.npz", **np.load(tmp_path / "m.npz"))
    done = run("apply", tmp_path / "stored.npz", "-o", tmp_path / "fixed.npz", *RULE)
    assert done.returncode == 0, done.stderr


def test_an_array_that_cannot_be_read_is_not_passed(
    run: Run, tmp_path: Path, arrays: dict[str, Any]
):
    """A rule for what is stored in Fortran order says what to do, and outranks a violation."""
    np.savez(tmp_path / "m.npz", **arrays)
    done = run("audit", tmp_path / "m.npz", "--max-norm", 99, "--axis", 0, "--tensors", "turned")
    assert done.returncode == 3
    assert "numpy.ascontiguousarray" in done.stdout + done.stderr


def test_a_pickle_is_never_loaded(run: Run, tmp_path: Path):
    """One line says which array it is."""
    np.savez(tmp_path / "m.npz", w=np.ones(2), meta=np.array({"a": 1}))
    done = run("audit", tmp_path / "m.npz", "--finite", "--tensors", "**")
    assert done.returncode == 3
    assert "meta.npy: holds Python objects" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
