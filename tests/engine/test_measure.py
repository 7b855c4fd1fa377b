"""Measuring: right numbers for any shape, axes, dtype and cut, the same whatever runs the work."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.checkpoints.tensor import Chunked, Contiguous, Tensor
from ckptclamp.constraints.base import Statistic
from ckptclamp.engine.measure import measure
from ckptclamp.engine.measure.requests import Batch, Failed, Request, Screened
from ckptclamp.errors import UnreadableError
from tests.engine.raw import InMemory, units_of

EVERY = frozenset(statistic for statistic in Statistic if statistic.streams)
FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "bool")


def request(reader, axes, needs=EVERY, name="w", bounds=None):
    return Request(reader.tensors[name], tuple(axes), frozenset(needs), bounds)


def gathered(reader, asked, **options):
    """Measure one request; put the batches together where their boxes say."""
    kept = [reader.tensors[asked.tensor.name].shape[axis] for axis in asked.kept]
    values = {key: np.full(kept, np.nan) for key in asked.needs}
    nonfinite = np.full(kept, -1)
    for batch in measure(reader, [asked], **options):
        assert isinstance(batch, Batch)
        place = tuple(slice(*span) for span in batch.units)
        assert (nonfinite[place] == -1).all(), "a unit was answered twice"
        nonfinite[place] = batch.statistics.nonfinite.reshape(nonfinite[place].shape)
        for key in asked.needs:
            values[key][place] = batch.statistics[key].reshape(nonfinite[place].shape)
    assert (nonfinite >= 0).all(), "a unit was not answered"
    return {key: value.reshape(-1) for key, value in values.items()}, nonfinite.reshape(-1)


def reference(array, axes):
    """The statistics in exact arithmetic, rounded once."""
    rows = units_of(array.astype(np.float64), tuple(axes))
    exact = [[Fraction(float(w)) for w in row] for row in rows]
    return {
        Statistic.NORM: [_root(sum(w * w for w in row)) for row in exact],
        Statistic.SUM: [float(sum(row)) for row in exact],
        Statistic.SUM_ABS: [float(sum(abs(w) for w in row)) for row in exact],
        Statistic.MIN: rows.min(axis=1),
        Statistic.MAX: rows.max(axis=1),
        Statistic.MAX_ABS: np.abs(rows).max(axis=1),
        Statistic.NONZERO: np.count_nonzero(rows, axis=1),
    }


def _root(square):
    """The square root of a fraction of any size, to within a unit in the last place."""
    if not square:
        return 0.0
    shift = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(square / Fraction(4) ** shift), shift)


@st.composite
def cases(draw):
    shape = tuple(draw(st.lists(st.integers(1, 7), max_size=5)))
    axes = tuple(sorted(draw(st.sets(st.sampled_from(range(len(shape))))))) if shape else ()
    dtype = draw(st.sampled_from(FLOATS + INTEGERS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    array = (rng.standard_normal(shape) * 10.0 ** draw(st.integers(-3, 2))).astype(
        np.float32 if dtype in INTEGERS else np.float64
    )
    return array.astype(DTYPES[dtype].numpy), axes


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from([1, 3, 16, 64, 1 << 17]), st.sampled_from([1, 2]))
def test_statistics_are_those_of_exact_arithmetic(case, block, jobs):
    """A wrong axis, a lost block, a bad merge or a lossy sum would show in one of these."""
    array, axes = case
    reader = InMemory(w=array)
    values, nonfinite = gathered(reader, request(reader, axes), block=block, jobs=jobs)
    expected = reference(array, axes)
    scale = expected[Statistic.SUM_ABS]
    assert not nonfinite.any()
    for key in EVERY - {Statistic.SUM}:
        np.testing.assert_allclose(values[key], expected[key], rtol=1e-14, err_msg=str(key))
    assert (
        np.abs(values[Statistic.SUM] - expected[Statistic.SUM]) <= 1e-14 * np.array(scale)
    ).all()


HARD: dict[str, Callable[[int], NDArray[np.float64]]] = {
    "constant": lambda n: np.full(n, 0.1),
    "one huge": lambda n: np.concatenate([[1e4], np.full(n - 1, 1e-3)]),
    "growing": lambda n: np.geomspace(1e-3, 1e3, n),
    "random": lambda n: np.random.default_rng(0).standard_normal(n),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("layout", ["row", "rows", "columns", "narrow columns", "middle"])
def test_norms_have_float64_quality(name, dtype, layout):
    """Float32 sums lose three digits on such data; these may lose the last two of sixteen."""
    n = 300_000
    column = HARD[name](n).astype(DTYPES[dtype].numpy)
    array, axes = {
        "row": (column, (0,)),
        "rows": (np.stack([column, column]), (1,)),
        "columns": (np.repeat(column[:20_000, None], 300, axis=1), (0,)),
        "narrow columns": (np.stack([column, column], axis=1), (0,)),
        "middle": (np.repeat(column.reshape(300, 1, 1000), 3, axis=1), (0, 2)),
    }[layout]
    reader = InMemory(w=array)
    values, _ = gathered(reader, request(reader, axes, {Statistic.NORM}), jobs=2)
    used = units_of(array, axes)[0].astype(np.longdouble)
    expected = float(np.sqrt(np.sum(used * used)))
    np.testing.assert_allclose(values[Statistic.NORM], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "weight"),
    [
        ("float32", 3e38),
        ("float32", 1e-38),
        ("float32", 1e-45),
        ("float16", 200),
        ("float16", 6e-8),
        ("bfloat16", 3e38),
        ("float64", 1e300),
        ("float64", 1e-300),
        ("float64", 5e-324),
    ],
)
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_nothing_overflows_or_vanishes(dtype, weight, axes):
    """The squares of these leave their dtype's range, and some leave float64's."""
    array = np.full((60, 50), weight).astype(DTYPES[dtype].numpy)
    reader = InMemory(w=array)
    values, nonfinite = gathered(reader, request(reader, axes, {Statistic.NORM}), block=700)
    size = units_of(array, axes).shape[1]
    expected = float(array[0, 0]) * np.sqrt(size)
    np.testing.assert_allclose(values[Statistic.NORM], expected, rtol=1e-12, atol=5e-324)
    assert not nonfinite.any()


def test_magnitudes_of_float64_may_differ_within_a_unit():
    """Parts of one unit that need a rescue merge with parts that do not."""
    array = np.array([[1e-200, 1e-170, 0.0, 3e160], [1e-200, 1.0, 0.0, 4e160]])
    reader = InMemory(w=array)
    for block in (1, 2, 1 << 17):
        values, _ = gathered(reader, request(reader, (0,), {Statistic.NORM}), block=block)
        expected = [np.sqrt(2) * 1e-200, 1.0, 0.0, 5e160]
        np.testing.assert_allclose(values[Statistic.NORM], expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e5m2"])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), ()])
@pytest.mark.parametrize("needs", [{s} for s in sorted(EVERY)] + [set()])
def test_weights_that_are_not_finite_are_counted(dtype, axes, needs):
    """Whatever is asked for, a NaN or an infinity of either sign cannot hide."""
    array = np.ones((6, 5)).astype(DTYPES[dtype].numpy)
    array[1, 1], array[1, 3], array[4, 0] = np.nan, np.inf, -np.inf
    reader = InMemory(w=array)
    _, nonfinite = gathered(reader, request(reader, axes, needs), block=7)
    expected = (~np.isfinite(units_of(array.astype(np.float64), axes))).sum(axis=1)
    assert nonfinite.tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", [">f8", ">f4", ">f2", ">i4", ">u2"])
def test_big_endian_tensors_are_measured(dtype):
    """HDF5 files may hold them; bytes read the wrong way round are garbage that looks fine."""
    array = np.arange(1, 13).reshape(3, 4).astype(dtype)
    reader = InMemory(w=array)
    values, _ = gathered(reader, request(reader, (0,)), block=5)
    for key, expected in reference(array, (0,)).items():
        np.testing.assert_allclose(values[key], expected, rtol=1e-14)


def everything(reader, requests, **options):
    """All that measuring gives, each with its request and as bytes."""
    return [
        (answer.request, answer.units, [v.tobytes() for v in answer.statistics.values.values()])
        if isinstance(answer, Batch)
        else (answer.request, answer)
        for answer in measure(reader, requests, **options)
    ]


def several_requests():
    rng = np.random.default_rng(7)
    reader = InMemory(
        a=rng.standard_normal((700, 901)).astype(np.float32),
        b=rng.standard_normal((3, 3, 50, 60)).astype(DTYPES["bfloat16"].numpy),
        c=rng.standard_normal(11),
    )
    return reader, [
        request(reader, (0,), name="a"),
        request(reader, (1,), name="a"),
        request(reader, (), {Statistic.MIN}, name="a", bounds=(-10, 10)),
        request(reader, (), {Statistic.MIN}, name="a", bounds=(0, np.inf)),
        request(reader, (0, 1, 2), name="b"),
        request(reader, (0,), name="c"),
    ]


@pytest.mark.parametrize("block", [1000, 1 << 17])
def test_the_same_bits_whatever_runs_the_work(block):
    """One thread, several, another's pool, and each request alone: an audit is reproducible."""
    reader, requests = several_requests()
    expected = everything(reader, requests, jobs=1, block=block)
    assert everything(reader, requests, jobs=3, block=block) == expected
    with ThreadPoolExecutor(2) as pool:
        assert everything(reader, requests, executor=pool, block=block) == expected
    for place, single in enumerate(requests):
        if single.bounds is None:
            alone = [(0, *rest) for request_place, *rest in expected if request_place == place]
            assert everything(reader, [single], block=block) == alone


def test_one_read_serves_several_requests():
    """Rows and columns of one tensor are measured in one pass over it."""
    reader, requests = several_requests()
    seen: list[int] = []
    list(measure(reader, requests[:3], progress=seen.append, jobs=2))
    assert sum(seen) == reader.tensors["a"].nbytes


def test_blocks_inside_the_bounds_are_answered_by_their_extremes():
    """Only blocks with a weight outside come back weight by weight, and none is lost."""
    array = np.zeros(1000, np.float32)
    array[640], array[17] = -1.0, 4.0
    reader = InMemory(w=array)
    asked = request(reader, (), {Statistic.MIN}, bounds=(0.0, 5.0))
    answers = list(measure(reader, [asked], block=100))
    screened = [a for a in answers if isinstance(a, Screened)]
    (batch,) = [a for a in answers if isinstance(a, Batch)]
    assert sum(a.count for a in screened) == 900
    assert max(a.maximum for a in screened) == 4.0
    assert batch.units == ((600, 700),)
    assert batch.statistics[Statistic.MIN][40] == -1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_never_screened(bad):
    """An infinity lies inside of no bounds, not even infinite ones; NaN compares false."""
    array = np.ones(100, np.float32)
    array[50] = bad
    reader = InMemory(w=array)
    asked = request(reader, (), {Statistic.MIN}, bounds=(-np.inf, np.inf))
    answers = list(measure(reader, [asked], block=10))
    (batch,) = [a for a in answers if isinstance(a, Batch)]
    assert batch.statistics.nonfinite.sum() == 1


@pytest.mark.parametrize(
    ("shape", "axes"), [((0,), (0,)), ((0, 5), (0,)), ((5, 0), (1,)), ((10**12, 0), (1,))]
)
def test_a_tensor_without_weights_answers_no_units(shape, axes):
    """It is answered, so that it is not forgotten, and costs nothing however large it claims to be."""
    tensor = Tensor("w", shape, DTYPES["float32"], Contiguous(0, 0))
    (batch,) = measure(InMemory(), [Request(tensor, axes, EVERY)])
    assert isinstance(batch, Batch)
    assert len(batch.statistics) == 0


class Damaged(InMemory):
    """One tensor of it cannot be read beyond a row."""

    def read(self, tensor, box, buffer=None):
        if tensor.name == "a" and box[0][1] > 300:
            raise UnreadableError("the chunk is damaged", hint="restore it")
        return super().read(tensor, box, buffer)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_tensor_that_cannot_be_read_fails_alone(jobs):
    """Each of its requests fails last and once; the other tensors are measured."""
    whole, requests = several_requests()
    answers = list(measure(Damaged(**whole.arrays), requests, jobs=jobs, block=5000))
    failures = [a for a in answers if isinstance(a, Failed)]
    assert {a.request for a in failures} == {0, 1, 2, 3}
    assert {(a.reason, a.hint) for a in failures} == {("the chunk is damaged", "restore it")}
    for failure in failures:
        assert [a for a in answers if a.request == failure.request][-1] is failure
    assert {a.request for a in answers if isinstance(a, Batch)} >= {4, 5}


@pytest.mark.parametrize("dtype", [None, DTYPES["complex64"]])
def test_what_are_not_real_numbers_is_not_measured(dtype):
    """Complex weights would lose their imaginary part; unknown ones are not guessed at."""
    tensor = Tensor("w", (3,), dtype, Contiguous(0, 0))
    (answer,) = measure(InMemory(), [Request(tensor, (0,), EVERY)])
    assert isinstance(answer, Failed)


def chunked(tensor, chunk):
    return Tensor(tensor.name, tensor.shape, tensor.dtype, Chunked(0, chunk, (), (), b""))


@settings(max_examples=50, deadline=None)
@given(cases(), st.sampled_from([1, 5, 20, 1 << 17]), st.data())
def test_chunked_tensors_are_measured_along_chunk_borders(case, block, data):
    """Boxes begin where chunks do, so that none is decoded twice, and the numbers are the same."""
    array, axes = case
    chunk = tuple(data.draw(st.integers(1, n + 2)) for n in array.shape)
    reader = Aligned(chunk, w=array)
    reader.tensors["w"] = chunked(reader.tensors["w"], chunk)
    values, _ = gathered(reader, request(reader, axes), block=block)
    for key, expected in reference(array, axes).items():
        np.testing.assert_allclose(values[key], expected, rtol=1e-13, atol=1e-12, err_msg=str(key))


class Aligned(InMemory):
    """Refuses boxes that begin inside a chunk, or that come twice."""

    def __init__(self, chunk, **arrays):
        super().__init__(**arrays)
        self.chunk = chunk
        self.seen = set()

    def read(self, tensor, box, buffer=None):
        assert all(start % c == 0 for (start, _), c in zip(box, self.chunk, strict=True))
        assert box not in self.seen
        self.seen.add(box)
        return super().read(tensor, box, buffer)


def test_a_chunk_larger_than_the_memory_fails_in_words():
    """Decoding it would break the budget; the answer says what to do."""
    reader = InMemory(w=np.ones((1000, 1000), np.float32))
    tensor = chunked(reader.tensors["w"], (1000, 1000))
    (answer,) = measure(reader, [Request(tensor, (0,), EVERY)], memory=1 << 20)
    assert isinstance(answer, Failed)
    assert "--memory" in (answer.hint or "")


def test_weights_out_of_bounds_are_answered_a_segment_at_a_time(tmp_path):
    """Whoever hands over many segments gets what the first bad one answers, and the rest after it.

    The sequence of answers is the same as of one thread, or with the weights handed over one by one.
    """
    random = np.random.default_rng(7)
    weights = random.uniform(-1, 1, (40, 1 << 18)).astype(np.float32)
    weights[17, 3], weights[30, 5] = 7, np.nan
    save_file({"w": weights}, tmp_path / "w.safetensors")
    with open_checkpoint(tmp_path / "w.safetensors") as opened:
        tensor = opened.tensors["w"]
        asked = [
            Request(tensor, (1,), frozenset({Statistic.NORM})),
            Request(tensor, (), frozenset({Statistic.MIN, Statistic.MAX}), bounds=(-2, 2)),
        ]
        one, *others = (
            [answer for answer in measure(opened, asked, jobs=jobs) if answer.request == 1]
            for jobs in (1, 2, 8)
        )
    assert all(told(other) == told(one) for other in others)
    assert sum(answer.count for answer in one if isinstance(answer, Screened)) > weights.size / 2
    bad = sum(
        int(np.count_nonzero(out_of_bounds(answer, (-2, 2))))
        for answer in one
        if isinstance(answer, Batch)
    )
    assert bad == 2


def test_tensors_that_all_have_weights_out_of_bounds_are_answered_once_each(tmp_path):
    """What a worker leaves may be of other tensors; none of it is lost, or answered twice."""
    random = np.random.default_rng(8)
    tensors = {f"w{i:02}": random.uniform(-1, 3, 90_000 + i).astype(np.float16) for i in range(40)}
    save_file(tensors, tmp_path / "w.safetensors")
    needs = frozenset({Statistic.MIN, Statistic.MAX})
    with open_checkpoint(tmp_path / "w.safetensors") as opened:
        asked = [Request(opened.tensors[n], (), needs, bounds=(-2, 2)) for n in tensors]
        one, *others = (list(measure(opened, asked, jobs=jobs)) for jobs in (1, 2, 8))
    assert all(told(other) == told(one) for other in others)
    batches = [answer for answer in one if isinstance(answer, Batch)]
    assert [batch.request for batch in batches] == list(range(40))
    assert [len(batch.statistics) for batch in batches] == [len(w) for w in tensors.values()]


def told(answers):
    """What answers say, bit for bit."""
    return [
        (answer.count, answer.minimum, answer.maximum)
        if isinstance(answer, Screened)
        else (answer.units, answer.statistics[Statistic.MIN].tobytes())
        for answer in answers
    ]


def out_of_bounds(batch, bounds):
    """Which units are not finite, or lie outside."""
    least, most = batch.statistics[Statistic.MIN], batch.statistics[Statistic.MAX]
    return (batch.statistics.nonfinite > 0) | (least < bounds[0]) | (most > bounds[1])
