"""Sets of matrices: what is measured, what is proven, and that no point of the set is nearer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.constraints.base import Statistic, UnitStatistics
from ckptclamp.constraints.sets.matrices import Orthonormal, SpectralNorm
from ckptclamp.constraints.sets.subspaces import LowerTriangular, Symmetric, UpperTriangular
from ckptclamp.constraints.sets.whole import Derived
from ckptclamp.errors import UnreadableError, UsageError

PLENTY = 1 << 30
SEEDS = st.integers(0, 10_000)
SIDES = st.integers(1, 9)


def held(array):
    """A matrix that is in memory."""
    return Derived(array.shape, lambda part: array[part].copy())


def whole(matrix):
    """All of a matrix, part by part."""
    rows, columns = matrix.shape
    return matrix.read((slice(0, rows), slice(0, columns)))


def random(seed, rows, columns):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, columns)) * 10.0 ** rng.integers(-3, 3)


def judged(constraint, array, tolerance=0.0):
    """Whether a matrix lies outside."""
    values = {key: np.array([value]) for key, value in constraint.measure(held(array)).items()}
    statistics = UnitStatistics(array.size, values, np.zeros(1, np.int64))
    return bool(constraint.judge(statistics).violates(tolerance)[0])


@given(SEEDS, SIDES, SIDES)
def test_the_bounds_hold_and_are_close(seed, rows, columns):
    """The largest singular value, by another algorithm, lies between them."""
    array = random(seed, rows, columns)
    found = SpectralNorm(1).measure(held(array))
    exact = float(np.linalg.svd(array, compute_uv=False)[0])
    assert found[Statistic.LOWER] <= exact * (1 + 1e-14)
    assert found[Statistic.UPPER] >= exact * (1 - 1e-14)
    assert found[Statistic.UPPER] - found[Statistic.LOWER] <= 1e-11 * exact


def test_no_start_vector_is_blind_to_it():
    """A power iteration from a vector of ones would never see the larger singular value."""
    ones = np.ones(8) / np.sqrt(8)
    other = np.tile([1.0, -1.0], 4) / np.sqrt(8)
    array = np.outer(ones, ones) + 3 * np.outer(other, other)
    assert judged(SpectralNorm(2), array)
    assert not judged(SpectralNorm(3.0001), array)


@given(SEEDS, SIDES, SIDES, st.floats(0.1, 0.99))
def test_no_matrix_of_small_spectral_norm_is_nearer(seed, rows, columns, share):
    """The variational inequality of a convex set, and the singular values clipped by SVD."""
    array, other = random(seed, rows, columns), random(seed + 1, rows, columns)
    left, values, right = np.linalg.svd(array, full_matrices=False)
    bound = share * values[0]
    point = whole(SpectralNorm(bound).nearest(held(array), 1.0, PLENTY))
    expected = (left * np.minimum(values, bound)) @ right
    np.testing.assert_allclose(point, expected, atol=1e-12 * values[0])
    other *= bound / np.linalg.norm(other, 2)
    assert np.sum((array - point) * (other - point)) <= 1e-9 * values[0] ** 2
    inside = whole(SpectralNorm(bound).nearest(held(array), 1 - 1e-6, PLENTY))
    assert not judged(SpectralNorm(bound), inside)


@given(SEEDS, SIDES, SIDES)
def test_no_orthonormal_matrix_is_nearer(seed, rows, columns):
    """Nearer than the Q of any QR; and at rest in the set."""
    array = random(seed, rows, columns)
    constraint = Orthonormal()
    point = whole(constraint.nearest(held(array), 1.0, PLENTY))
    assert not judged(constraint, point, 1e-13)
    tall = random(seed + 1, max(rows, columns), min(rows, columns))
    other = np.linalg.qr(tall)[0]
    other = other if rows >= columns else other.T
    distances = [np.linalg.norm(array - matrix) for matrix in (point, other)]
    assert distances[0] <= distances[1] * (1 + 1e-12)


@given(SEEDS, SIDES, SIDES)
def test_the_polar_factor_without_the_whole_matrix(seed, rows, columns):
    """By the Gram matrix it is the same, as far as the singular values are not far apart."""
    array = random(seed, rows, columns)
    values = np.linalg.svd(array, compute_uv=False)
    small, large = (
        whole(Orthonormal().nearest(held(array), 1.0, memory)) for memory in (0, PLENTY)
    )
    if values[-1] > 1e-3 * values[0]:
        np.testing.assert_allclose(small, large, atol=1e-8)
        assert not judged(Orthonormal(), small, 1e-13)


@pytest.mark.parametrize("memory", [0, PLENTY])
def test_a_matrix_without_full_rank_has_no_nearest_point(memory):
    """All completions are equally near; it is left."""
    array = np.outer(np.arange(1.0, 6), np.arange(1.0, 4))
    np.testing.assert_array_equal(whole(Orthonormal().nearest(held(array), 1.0, memory)), array)


@given(SEEDS, SIDES)
def test_the_mean_with_the_transpose(seed, side):
    """Symmetric to the last bit; what moves is at a right angle to all symmetric matrices."""
    array, other = random(seed, side, side), random(seed + 1, side, side)
    point = whole(Symmetric().nearest(held(array), 1.0, 0))
    np.testing.assert_array_equal(point, point.T)
    assert not judged(Symmetric(), point)
    assert (
        abs(np.sum((array - point) * (other + other.T)))
        <= 1e-12 * np.abs(array).max() * np.abs(other).sum()
    )
    assert judged(Symmetric(), array) == bool((array != array.T).any())


@given(SEEDS, SIDES, SIDES, st.data())
def test_triangles(seed, rows, columns, data):
    """NumPy's own, of any shape, in whatever part it is read."""
    array = random(seed, rows, columns)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, rows), st.integers(0, rows))))
    left, right = sorted(data.draw(st.tuples(st.integers(0, columns), st.integers(0, columns))))
    part = (slice(start, stop), slice(left, right))
    for constraint, expected in ((LowerTriangular(), np.tril), (UpperTriangular(), np.triu)):
        point = constraint.nearest(held(array), 1.0, 0)
        np.testing.assert_array_equal(point.read(part), expected(array)[part])
        assert not judged(constraint, whole(point))
        assert judged(constraint, array) == bool((expected(array) != array).any())


@pytest.mark.parametrize("shape", [(8100, 130), (130, 8100)])
def test_large_matrices_are_cut(shape):
    """Whatever is measured of the parts is that of the whole."""
    array = np.random.default_rng(0).normal(size=shape)
    parts = list(SpectralNorm(1).parts(shape))
    assert len(parts) > 1
    found = SpectralNorm(1).measure(held(array))
    exact = np.linalg.norm(array, 2)
    assert found[Statistic.LOWER] <= exact <= found[Statistic.UPPER]
    assert found[Statistic.UPPER] - found[Statistic.LOWER] < 1e-8 * exact
    lower = LowerTriangular().measure(held(array))[Statistic.OWN]
    assert lower == np.abs(np.triu(array, 1)).max()


def test_a_large_square_is_cut_into_pairs():
    """Each box comes with its mirror image, and every weight comes once."""
    side = 2500
    seen = np.zeros((side, side), np.int8)
    for parts in Symmetric().parts((side, side)):
        for part in parts:
            seen[part] += 1
    assert (seen == 1).all()
    array = np.ones((side, side))
    array[10, 2400] = 3
    assert Symmetric().measure(held(array)) == {Statistic.OWN: 2, Statistic.MAX_ABS: 3}


def test_squares_beyond_float64():
    """A norm that is too large to be squared is no number to judge by; one too small is bounded."""
    with pytest.raises(UnreadableError, match="beyond float64"):
        SpectralNorm(1).measure(held(np.full((2, 2), 1e200)))
    tiny = SpectralNorm(1).measure(held(np.full((2, 2), 1e-200)))
    assert tiny[Statistic.LOWER] <= 2e-200 <= tiny[Statistic.UPPER] < 1e-150


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (lambda: SpectralNorm(0), "positive"),
        (lambda: SpectralNorm(np.inf), "positive and finite"),
        (lambda: Orthonormal().check_unit((2, 2, 2)), "a unit of 3 axes is no matrix"),
        (lambda: Symmetric().check_unit((2, 3)), "2x3 is not square"),
    ],
)
def test_what_is_no_such_set(refused, words):
    """Refused where the rule is written, not by a number that means nothing."""
    with pytest.raises(UsageError, match=words):
        refused()


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-160, 1e-155, 1e140])
def test_bounds_hold_at_the_ends_of_float64(scale):
    """Where squares leave the range, the bounds are wide, but are found and hold."""
    array = np.outer([1, 2, 2], [3, 4]) * scale
    found = SpectralNorm(1).measure(held(array))
    exact = 15 * scale
    assert found[Statistic.LOWER] <= exact * (1 + 1e-14) <= found[Statistic.UPPER] * (1 + 2e-14)
    assert not judged(SpectralNorm(max(found[Statistic.UPPER], 1e-150)), array)
