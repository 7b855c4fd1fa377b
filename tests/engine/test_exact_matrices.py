"""Sets of matrices, and radial kernels: verdicts and copies against rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ckptclamp.auditing.options import Reporting, Running
from ckptclamp.auditing.verdicts import judge
from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.constraints.sets.matrices import Orthonormal, SpectralNorm
from ckptclamp.constraints.sets.orders import RowSigns
from ckptclamp.constraints.sets.subspaces import LowerTriangular, Symmetric, UpperTriangular
from ckptclamp.constraints.sets.whole import RadialConstraint
from ckptclamp.engine.project.matrices import project_matrices
from ckptclamp.engine.project.whole import project_whole
from ckptclamp.plan import Assignment, Origin
from tests.auditing.test_exact_verdicts import judged
from tests.engine.raw import InMemory
from tests.engine.test_nearest import FLOATS

MEMORY = 1 << 28
SIGNED = [name for name in FLOATS if name != "float8_e8m0fnu"]
ULPS = st.integers(-3, 3)
TOLERANCES = st.sampled_from([0.0, 2e-6, 0.01])


def rational(array):
    """Stored weights as nested lists of rationals."""
    return [[Fraction(float(x)) for x in row] for row in array.astype(np.float64)]


def gram_of(array):
    """The exact Gram matrix of the shorter side."""
    rows = rational(array if array.shape[0] < array.shape[1] else array.T)
    return [[sum(a * b for a, b in zip(p, q, strict=True)) for q in rows] for p in rows]


def largest_eigenvalue(gram):
    """Of a 1x1 or 2x2 matrix of rationals: its trace and the discriminant, λ = (t + √d) / 2."""
    if len(gram) == 1:
        return gram[0][0], Fraction(0), 1
    (a, b), (_, c) = gram
    return a + c, (a - c) ** 2 + 4 * b * b, 2


def exceeds(gram, limit):
    """Whether the largest eigenvalue is above a rational, by the definition."""
    trace, discriminant, parts = largest_eigenvalue(gram)
    rest = parts * limit - trace
    return rest < 0 or discriminant > rest * rest


@st.composite
def matrices(draw, names=SIGNED, most_rows=2):
    dtype = DTYPES[draw(st.sampled_from(names))].numpy
    shape = draw(st.tuples(st.integers(1, most_rows), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["normal", "equal", "signs", "rows"]))
    array = rng.standard_normal(shape)
    if kind == "equal":
        array = np.full(shape, 0.7)
    elif kind == "signs":
        array = rng.choice([-0.5, 0.5], shape)
    elif kind == "rows":
        array /= np.linalg.norm(array, axis=1, keepdims=True)
    array = array.astype(dtype)
    return array.T.copy() if draw(st.booleans()) else array


@settings(max_examples=300, deadline=None)
@given(matrices(), TOLERANCES, ULPS)
def test_a_verdict_on_a_spectral_norm_is_the_true_one(array, tolerance, ulps):
    """The limit is put within a few ulps of the largest singular value."""
    gram = gram_of(array)
    value = float(np.linalg.svd(array.astype(np.float64), compute_uv=False)[0])
    bound = value / (1 + tolerance) * (1 + ulps * 2.0**-53)
    assume(bound > 0)
    limits = [(Fraction(bound) * (1 + Fraction(t))) ** 2 for t in (tolerance, 0.0)]
    outside, beyond = (int(exceeds(gram, limit)) for limit in limits)
    assert judged(array, (0, 1), SpectralNorm(bound), tolerance) == (outside, beyond - outside)


@settings(max_examples=100, deadline=None)
@given(matrices(most_rows=12), st.floats(0.2, 0.99))
def test_a_spectral_norm_is_kept_exactly(array, share):
    """No unit vector is longer than the bound, as rationals; an eigenvector is where it would be."""
    wide = array.astype(np.float64)
    value = float(np.linalg.svd(wide, compute_uv=False)[0])
    assume(value > 0)
    copy = InMemory(w=array)
    constraint = SpectralNorm(share * value)
    done = project_matrices(copy, copy.tensors["w"], (0, 1), constraint, 0.0, memory=MEMORY)
    assert done.left == 0
    after = copy.arrays["w"]
    vector = [Fraction(float(x)) for x in np.linalg.svd(after.astype(np.float64))[2][0]]
    image = [sum(a * b for a, b in zip(row, vector, strict=True)) for row in rational(after)]
    length = sum(x * x for x in vector)
    assert sum(x * x for x in image) <= Fraction(constraint.max_value) ** 2 * length
    assert judged(after, (0, 1), constraint, 0.0) == (0, 0)


@settings(max_examples=300, deadline=None)
@given(matrices(most_rows=4), TOLERANCES, ULPS)
def test_a_verdict_on_orthonormal_vectors_is_the_true_one(array, tolerance, ulps):
    """Every inner product, against twice the tolerance, which is put at the largest one."""
    off = max(
        abs(value - (i == j)) for i, row in enumerate(gram_of(array)) for j, value in enumerate(row)
    )
    if ulps and tolerance:
        tolerance = float(off) / 2 * (1 + ulps * 2.0**-53)
    outside = int(off > 2 * Fraction(tolerance))
    within = int(off > 0) - outside
    assert judged(array, (0, 1), Orthonormal(), tolerance) == (outside, within)


@pytest.mark.parametrize("name", ["float64", "float32", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("side", [3, 64, 400])
def test_permutations_and_signs_are_orthonormal_at_tolerance_0(name, side):
    """Their inner products are exact in float64; one weight that is off by a bit is seen."""
    dtype = DTYPES[name].numpy
    array = np.eye(side)[np.random.default_rng(side).permutation(side)].astype(dtype)
    assert judged(array, (0, 1), Orthonormal(), 0.0) == (0, 0)
    array[0, 0] = array[0, 0] + np.asarray(2.0**-7, dtype)
    assert judged(array, (0, 1), Orthonormal(), 0.0) == (1, 0)


def test_a_nearly_orthonormal_matrix_is_not_one_at_tolerance_0():
    """Too near for float64 to tell: the first inner product that is looked at decides."""
    rotation = np.linalg.qr(np.random.default_rng(4).normal(size=(60, 60)))[0]
    assert judged(rotation, (0, 1), Orthonormal(), 0.0) == (1, 0)
    assert judged(rotation, (0, 1), Orthonormal(), 1e-9) == (0, 1)


def test_what_is_not_decided_is_not_evaluated():
    """A rotation of many rows has a norm of 1 but for bits that no proof in float64 reaches."""
    rotation = np.linalg.qr(np.random.default_rng(4).normal(size=(200, 200)))[0]
    reader = InMemory(w=rotation)
    for tolerance, words in ((0.0, "lies between 0.99999"), (1e-6, None)):
        rule = Assignment(
            reader.tensors["w"], SpectralNorm(1), (0, 1), "r", Origin.SPEC, "why", tolerance
        )
        (result,) = judge(reader, [rule], Running(), Reporting())
        assert (result.reason is None) == (words is None)
        assert words is None or words in str(result.reason)


def test_small_rotations_are_decided():
    """Rounding took each to one side of 1 or the other, which rationals tell."""
    found = set()
    for seed in range(8):
        rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(2, 2)))[0]
        outside = int(exceeds(gram_of(rotation), Fraction(1)))
        assert judged(rotation, (0, 1), SpectralNorm(1), 0.0) == (outside, 0)
        found.add(outside)
    assert found == {0, 1}


@settings(max_examples=200, deadline=None)
@given(matrices(most_rows=6), st.booleans(), ULPS)
def test_a_verdict_on_symmetry_is_the_true_one(array, mirrored, ulps):
    """Relative to the largest magnitude, at a tolerance next to the largest difference."""
    side = min(array.shape)
    square = array[:side, :side].copy()
    if mirrored:
        square = np.triu(square) + np.triu(square, 1).T
    rows = rational(square)
    off = max(abs(rows[i][j] - rows[j][i]) for i in range(side) for j in range(side))
    peak = max(abs(x) for row in rows for x in row)
    assume(peak)
    tolerance = float(off / peak) * (1 + ulps * 2.0**-53)
    outside = int(off > Fraction(tolerance) * peak)
    assert judged(square, (0, 1), Symmetric(), tolerance) == (outside, int(off > 0) - outside)
    copy = InMemory(w=square)
    project_matrices(copy, copy.tensors["w"], (0, 1), Symmetric(), 0.0, memory=MEMORY)
    after = copy.arrays["w"]
    assert np.array_equal(after, after.T)


@settings(max_examples=100, deadline=None)
@given(matrices(most_rows=6), st.sampled_from([LowerTriangular(), UpperTriangular()]))
def test_triangles_are_exact(array, constraint):
    """No tolerance forgives a weight that should be 0, however small."""
    other = np.triu(array, 1) if isinstance(constraint, LowerTriangular) else np.tril(array, -1)
    assert judged(array, (0, 1), constraint, 0.1) == (int(other.any()), 0)


@st.composite
def kernels(draw):
    dtype = DTYPES[draw(st.sampled_from(SIGNED))].numpy
    size = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    array = rng.standard_normal((size, size, 2, 3))
    if draw(st.booleans()):
        array = RadialConstraint().apply(array)
    return array.astype(dtype)


def radial_move(array):
    """How far the projection moves a weight at most, by the definition."""
    size = len(array)
    moves: list[Fraction] = []
    for kernel in array.astype(np.float64).reshape(size, size, -1).transpose(2, 0, 1):
        rings: dict[int, list[Fraction]] = {}
        for (i, j), weight in np.ndenumerate(kernel):
            ring = max(abs(2 * i - size + 1), abs(2 * j - size + 1)) // 2
            rings.setdefault(ring, []).append(Fraction(float(weight)))
        for weights in rings.values():
            mean = sum(weights, Fraction(0)) / len(weights)
            moves += [abs(weight - mean) for weight in weights]
    return max(moves)


@settings(max_examples=200, deadline=None)
@given(kernels(), ULPS)
def test_a_verdict_on_a_radial_kernel_is_the_true_one(array, ulps):
    """At a tolerance next to the largest move; a copy is radial to the bit."""
    move, peak = radial_move(array), Fraction(float(np.abs(array.astype(np.float64)).max()))
    assume(peak)
    tolerance = float(move / peak) * (1 + ulps * 2.0**-53)
    outside = int(move > Fraction(tolerance) * peak)
    found = judged(array, (0, 1, 2, 3), RadialConstraint(), tolerance)
    assert found == (outside, int(move > 0) - outside)
    copy = InMemory(w=array)
    project_whole(copy, copy.tensors["w"], RadialConstraint(), MEMORY)
    assert radial_move(copy.arrays["w"]) == 0


@settings(max_examples=100, deadline=None)
@given(matrices(), ULPS)
def test_a_verdict_on_signs_by_row_is_the_true_one(array, ulps):
    """The magnitude of a weight of the wrong sign, relative to the largest."""
    wide = array.astype(np.float64)
    wrong, peak = float(np.maximum(-wide, 0).max()), float(np.abs(wide).max())
    assume(peak)
    tolerance = wrong / peak * (1 + ulps * 2.0**-53)
    outside = int(Fraction(wrong) > Fraction(tolerance) * Fraction(peak))
    constraint = RowSigns((1,) * len(array))
    assert judged(array, (0, 1), constraint, tolerance) == (outside, int(wrong > 0) - outside)
