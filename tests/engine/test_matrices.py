"""Matrices in files: stacks of them, any dtype, tried as stored before they are written."""

from __future__ import annotations

import numpy as np
import pytest

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.constraints.base import Statistic
from ckptclamp.constraints.sets.matrices import Orthonormal, SpectralNorm
from ckptclamp.constraints.sets.subspaces import LowerTriangular, Symmetric
from ckptclamp.constraints.tolerance import trained_tolerance
from ckptclamp.engine.measure.requests import Batch, Failed
from ckptclamp.engine.project.matrices import measure_matrices, project_matrices
from ckptclamp.errors import UnreadableError
from tests.engine.raw import InMemory

MEMORY = 1 << 26
FLOATS = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn"]


def measured(reader, axes, constraint, memory=MEMORY):
    (answer,) = measure_matrices(reader, reader.tensors["w"], axes, constraint, memory)
    return answer


def project(copy, axes, constraint, tolerance=0.0, memory=MEMORY):
    return project_matrices(copy, copy.tensors["w"], axes, constraint, tolerance, memory=memory)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_stack_is_judged_matrix_by_matrix(kept):
    """Along any axis; units come in the order of the index."""
    matrices = np.random.default_rng(0).normal(size=(4, 3, 5))
    stack = np.moveaxis(matrices, 0, kept)
    axes = tuple(axis for axis in range(3) if axis != kept)
    answer = measured(InMemory(w=stack), axes, SpectralNorm(1))
    assert isinstance(answer, Batch)
    assert answer.units == ((0, 4),)
    expected = [np.linalg.norm(matrix, 2) for matrix in matrices]
    np.testing.assert_allclose(answer.statistics[Statistic.UPPER], expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (1, 9), (12, 12)])
def test_a_spectral_norm_is_reached_as_stored(dtype, shape):
    """At tolerance 0, though rounding moves every singular value; others keep their bits."""
    array = np.random.default_rng(1).normal(size=(2, *shape)).astype(DTYPES[dtype].numpy)
    norms = [np.linalg.norm(matrix.astype(float), 2) for matrix in array]
    bound = float(np.mean(norms))
    copy = InMemory(w=array)
    done = project(copy, (1, 2), SpectralNorm(bound))
    assert (done.units, done.changed, done.left) == (2, 1, 0)
    after = copy.arrays["w"].astype(float)
    large = int(np.argmax(norms))
    assert np.linalg.norm(after[large], 2) <= bound
    near = max(4 * DTYPES[dtype].unit_roundoff, 1e-11)
    assert np.linalg.norm(after[large], 2) >= bound * (1 - near)
    np.testing.assert_array_equal(after[1 - large], array[1 - large].astype(float))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(30, 6), (6, 30), (9, 9)])
def test_orthonormal_within_the_tolerance_of_the_dtype(dtype, shape):
    """What storage can hold; a second projection changes nothing."""
    array = np.random.default_rng(2).normal(size=shape).astype(DTYPES[dtype].numpy)
    tolerance = trained_tolerance(DTYPES[dtype])
    copy = InMemory(w=array)
    done = project(copy, (0, 1), Orthonormal(), tolerance)
    assert (done.changed, done.left) == (1, 0)
    q = copy.arrays["w"].astype(float)
    gram = q.T @ q if shape[0] >= shape[1] else q @ q.T
    assert np.abs(gram - np.eye(len(gram))).max() <= 2 * tolerance
    assert project(copy, (0, 1), Orthonormal(), tolerance).changed == 0


def test_mirror_images_are_read_before_either_is_written():
    """Boxes of a large matrix depend on each other: its copy is symmetric to the bit."""
    array = np.random.default_rng(3).normal(size=(1200, 1200)).astype(np.float16)
    copy = InMemory(w=array)
    assert project(copy, (0, 1), Symmetric(), memory=1 << 28).changed == 1
    after = copy.arrays["w"]
    np.testing.assert_array_equal(after, after.T)
    mean = (array.astype(float) + array.T.astype(float)) / 2
    np.testing.assert_array_equal(after, mean.astype(np.float16))


def test_weights_that_do_not_move_keep_their_bits():
    """The sign of a zero too; a matrix inside is not written to."""
    array = np.array([[[-0.0, 5.0], [1.0, 2.0]], [[1.0, -0.0], [1.0, 1.0]]], np.float32)
    copy = InMemory(w=array)
    done = project(copy, (1, 2), LowerTriangular())
    assert (done.units, done.changed, done.left, done.largest_change) == (2, 1, 0, 1.0)
    assert copy.written == ["w"]
    expected = array.copy()
    expected[0, 0, 1] = 0
    assert copy.arrays["w"].tobytes() == expected.tobytes()


def test_a_weight_that_is_not_finite_is_counted_and_left():
    """No spectrum is asked of it; the matrix violates and keeps its bytes."""
    array = np.array([[np.nan, 3.0], [np.inf, 0.0]], np.float32)
    copy = InMemory(w=array)
    answer = measured(copy, (0, 1), SpectralNorm(9))
    assert isinstance(answer, Batch)
    assert answer.statistics.nonfinite.tolist() == [2]
    done = project(copy, (0, 1), SpectralNorm(1))
    assert (done.changed, done.left) == (0, 1)
    assert not copy.written


def test_what_has_no_room_is_refused():
    """The Gram matrix of the shorter side decides, not the tensor."""
    copy = InMemory(w=np.ones((300, 200), np.float32))
    answer = measured(copy, (0, 1), SpectralNorm(9), memory=6_000_000)
    assert isinstance(answer, Failed)
    assert "over the budget" in answer.reason
    with pytest.raises(UnreadableError, match="over the budget"):
        project(copy, (0, 1), SpectralNorm(9), memory=6_000_000)


def test_a_matrix_without_full_rank_is_left():
    """It has no nearest orthonormal matrix."""
    copy = InMemory(w=np.ones((4, 3), np.float32))
    done = project(copy, (0, 1), Orthonormal(), 1e-6)
    assert (done.changed, done.left) == (0, 1)
    assert not copy.written
