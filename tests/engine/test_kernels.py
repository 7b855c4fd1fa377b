"""Compiled kernels and NumPy give the same bits, at every level of instructions and in one order."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ckptclamp.checkpoints.dtypes import DTYPES, Kind
from ckptclamp.constraints.base import Statistic
from ckptclamp.constraints.movement import Transform
from ckptclamp.engine import kernels
from ckptclamp.engine.blocks import PIECE, Workspace
from ckptclamp.engine.kernels import native
from ckptclamp.engine.measure.statistics import EXTREMES, measured
from ckptclamp.engine.project.transform import compare, measure_moved, moved
from ckptclamp.errors import UsageError

REAL = sorted(name for name, dtype in DTYPES.items() if dtype.kind is not Kind.COMPLEX)
ROUNDED = sorted(set(REAL) - {"bool"})
WORKSPACE = Workspace()

compiled = pytest.mark.skipif(native.loaded() is None, reason="no compiled kernels")


@pytest.fixture(params=native.LEVELS)
def level(request):
    """Each level in turn; one that this processor lacks is the best that it has."""
    return request.param


def at(level, work):
    """Do `work` with the kernels of a level, or with NumPy."""
    before = os.environ.get(native.VARIABLE)
    os.environ[native.VARIABLE] = level
    try:
        with np.errstate(all="ignore"):
            return work()
    finally:
        if before is None:
            del os.environ[native.VARIABLE]
        else:
            os.environ[native.VARIABLE] = before


@st.composite
def blocks(draw, names=tuple(REAL), rank=4):
    """Blocks of any dtype and either byte order, of bytes at random, and the axes of their units."""
    shape = draw(st.lists(st.integers(1, 20), min_size=1, max_size=rank))
    long = draw(st.integers(0, len(shape) - 1))
    shape[long] = draw(st.integers(1, max(1, 40_000 // math.prod(shape))))
    axes = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    dtype = DTYPES[draw(st.sampled_from(names))].numpy
    bits = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    data = bits.integers(0, 256, math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    if dtype == np.bool_:
        data &= 1
    if draw(st.booleans()):
        data[bits.integers(0, len(data), len(data) // 3)] = 0
    block = data.view(dtype).reshape(shape)
    if dtype.kind == "f" and draw(st.booleans()):  # mostly numbers of one size
        block = bits.standard_normal(shape).astype(dtype)
    if dtype.itemsize > 1 and dtype.kind in "iuf" and draw(st.booleans()):
        block = block.astype(dtype.newbyteorder(">"))
    return block, tuple(sorted(axes))


@compiled
@settings(max_examples=150, deadline=None)
@given(blocks())
def test_statistics_have_the_same_bits(case):
    """Sums, extremes and counts of any units: NumPy and every level, NaN and infinities too."""
    block, axes = case

    def measured():
        return kernels.measure(block, axes, native.STATISTICS, WORKSPACE)

    expected = at("numpy", measured)
    for level in native.LEVELS:
        found = at(level, measured)
        for name, value in expected.items():
            assert found[name].tobytes() == value.tobytes(), (level, name)


SIZES = [
    (1, 1),
    (3, 2),
    (65, 15),
    (2, 16),
    (3, 17),
    (2, 2047),
    (1, 2049),
    (1, PIECE + 5000),
    (3, 100_003),
    (100_000, 2),
    (70, 255),
    (70, 256),
    (70, 257),
    (1030, 513),
    (2, PIECE + 1),
]


@compiled
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("name", ["float32", "float64", "bfloat16", "int64"])
def test_runs_groups_and_folds_begin_where_they_do_in_numpy(shape, axis, name, level):
    """Sizes on both sides of each border of the order in which sums are taken."""
    values = np.random.default_rng(7).standard_normal(shape) * 1000
    block = values.astype(DTYPES[name].numpy)

    def measured():
        return kernels.measure(block, (axis,), native.STATISTICS, WORKSPACE)

    expected, found = at("numpy", measured), at(level, measured)
    assert {n: v.tobytes() for n, v in found.items()} == {
        n: v.tobytes() for n, v in expected.items()
    }


@compiled
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "shape", [*SIZES[::3], (513, 256), (514, 544), (1025, 320), (70_000, 256), (5, 2080)], ids=str
)
@pytest.mark.parametrize("name", ["int8", "uint8", "float8_e4m3fn"])
@pytest.mark.parametrize("kind", ["any", "largest", "one NaN"])
def test_squares_of_bytes_alone_have_the_same_bits(shape, axis, name, kind, level):
    """Integers add them: the largest for many rows, and where a NaN is the last weight of all."""
    codes = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    if name == "float8_e4m3fn":
        codes[codes & 0x7F == 0x7F] = 0x7E
    if kind == "largest":
        codes[:] = {"int8": 0x80, "uint8": 0xFF, "float8_e4m3fn": 0xFE}[name]
    elif kind == "one NaN":
        codes[-1, -1] = 0xFF
    block = codes.view(DTYPES[name].numpy)

    def measured():
        return kernels.measure(block, (axis,), ["squares"], WORKSPACE)["squares"].tobytes()

    assert at(level, measured) == at("numpy", measured)


@settings(max_examples=60, deadline=None)
@given(blocks(names=("float64", "float32", "bfloat16", "int64")))
def test_sums_are_right(case):
    """To within the roundings that so many terms can meet, whatever the order."""
    block, axes = case
    with np.errstate(all="ignore"):
        wide = block.astype(np.float64)
    wide = np.nan_to_num(wide, nan=1.0, posinf=1.0, neginf=-1.0)
    wide = np.clip(wide, -1e100, 1e100)
    kept = tuple(axis for axis in range(wide.ndim) if axis not in axes)
    units = wide.transpose(kept + axes).reshape(math.prod(wide.shape[a] for a in kept), -1)
    found = kernels.measure(wide, axes, ["squares", "sum", "sum_abs"], WORKSPACE)
    u = 2.0**-53
    for i, unit in enumerate(units.tolist()):
        squares, magnitudes = math.fsum(w * w for w in unit), math.fsum(map(abs, unit))
        bound = (len(unit) + 4) * u
        assert abs(found["squares"][i] - squares) <= bound * squares
        assert abs(found["sum_abs"][i] - magnitudes) <= bound * magnitudes
        assert abs(found["sum"][i] - math.fsum(unit)) <= bound * magnitudes


@st.composite
def movements(draw, rows):
    """How so many rows move: a factor, and what else there may be."""
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    scale = random.uniform(-0.5, 1.5, rows)
    if draw(st.booleans()):  # halves of weights lie between two numbers, and a hair beside that
        scale = 0.5 + draw(st.sampled_from([0.0, 2.0**-30, -(2.0**-30), 2.0**-53]))
    shift = random.standard_normal(rows) if draw(st.booleans()) else 0.0
    low, high = (-np.inf, np.inf)
    if draw(st.booleans()):
        low, high = -np.abs(random.standard_normal(rows)), np.abs(random.standard_normal(rows))
    offsets = random.uniform(-0.1, 0.1, rows) if draw(st.booleans()) else np.zeros(rows)
    return Transform(scale, shift, low, high), offsets, draw(st.booleans())


@st.composite
def rows_to_move(draw):
    block, _ = draw(blocks(names=tuple(ROUNDED), rank=2))
    rows = block.reshape(-1, block.shape[-1])
    with np.errstate(all="ignore"):
        finite = np.isfinite(rows.astype(np.float64))
        rows = np.where(finite, rows, np.ones(1, rows.dtype)).astype(rows.dtype)
    return rows, draw(movements(len(rows)))


@compiled
@settings(max_examples=150, deadline=None)
@given(rows_to_move())
def test_what_is_stored_has_the_same_bits(case):
    """Moved, rounded to the nearest with ties to even, measured and compared: NumPy and every level."""
    rows, (movement, offsets, adds) = case
    needs = measured(frozenset({Statistic.NORM, Statistic.SUM, Statistic.SUM_ABS}) | EXTREMES)

    def done():
        new = moved(movement, rows, offsets, WORKSPACE, adds=adds)
        found = measure_moved(movement, rows, offsets, needs, WORKSPACE, adds=adds)
        values = dict(sorted(found.values.items())).values()
        assert found.nonfinite is None
        return (
            new.tobytes(),
            *(value.tobytes() for value in values),
            *(value.tobytes() for value in compare(rows, new, WORKSPACE)),
        )

    expected = at("numpy", done)
    assert all(at(level, done) == expected for level in native.LEVELS)


@pytest.mark.parametrize("kind", ["numpy", *native.LEVELS])
@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float16"])
def test_weights_are_rounded_once(name, kind):
    """A hair above the middle of two numbers is nearer to the upper one; float32 sees the middle."""
    dtype = DTYPES[name].numpy
    below, above = np.ones(1, dtype), (np.ones(1, dtype).view(f"u{dtype.itemsize}") + 1).view(dtype)
    middle = (float(below[0]) + float(above[0])) / 2
    movement = Transform(scale=np.nextafter(middle, 2))
    new = at(kind, lambda: moved(movement, below[None], np.zeros(1), WORKSPACE, adds=False))
    assert new[0, 0] == above[0]


@compiled
def test_kernels_take_nothing_that_they_cannot_read():
    """Sizes and dtypes are checked before C sees them; other layouts are copied first."""
    block = np.arange(24, dtype=np.float32).reshape(4, 6)
    unaligned = np.frombuffer(b"\0" + block.tobytes(), np.uint8)[1:].view(np.float32)
    assert native.takes(block)
    for other in (block.T, block.astype(">f4"), block.astype(np.complex64), unaligned, block[:0]):
        assert not native.takes(other)
    for other in (block.T.copy().T, block.astype(">f4"), unaligned.reshape(4, 6)):
        found = kernels.measure(other, (1,), ["squares"], WORKSPACE)
        assert found["squares"].tolist() == (block.astype(float) ** 2).sum(axis=1).tolist()


def test_a_level_that_does_not_exist_is_an_error():
    """A typing error must not measure with other kernels than were asked for."""
    with pytest.raises(UsageError, match="CKPTCLAMP_KERNELS is 'v9'"):
        native.loaded({native.VARIABLE: "v9"})


SPEC = """
version: 1
rules:
  - {tensors: rows, constraint: MaxNorm, max_value: 30, axis: 1}
  - {tensors: columns, constraint: MinMaxNorm, min_value: 40, max_value: 45, axis: 0}
  - {tensors: whole, constraint: MaxNorm, max_value: 900, axis: null}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Tensors of several blocks, and what NumPy alone makes of them with one thread."""
    folder = tmp_path_factory.mktemp("kernels")
    random = np.random.default_rng(3)
    tensors = {
        "rows": random.standard_normal((3000, 1000)).astype(np.float32),
        "columns": random.standard_normal((2000, 1500)).astype(DTYPES["bfloat16"].numpy),
        "whole": random.standard_normal(1_000_003),
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "spec.yaml").write_text(SPEC)
    return folder, applied(folder, "numpy", "1", "256MiB", folder)


def applied(folder, kind, jobs, memory, to):
    """Apply as a user does; the report, but for times and the copy's name, and the copy."""
    command = [sys.executable, "-m", "ckptclamp", "apply", "model.safetensors", "-f", "json"]
    run = subprocess.run(
        [
            *command,
            "--spec",
            "spec.yaml",
            "-o",
            to / "new.safetensors",
            "-j",
            jobs,
            "--memory",
            memory,
        ],
        cwd=folder,
        env=os.environ | {native.VARIABLE: kind},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stdout.splitlines() if "seconds" not in line]
    return [line for line in lines if "new.safetensors" not in line], (
        to / "new.safetensors"
    ).read_bytes()


@compiled
@pytest.mark.parametrize(("jobs", "memory"), [("1", "64MiB"), ("8", "1GiB")])
def test_nothing_depends_on_kernels_threads_or_memory(level, jobs, memory, model, tmp_path):
    """The whole report and every byte of the copy are those of NumPy with one thread."""
    folder, expected = model
    assert applied(folder, level, jobs, memory, tmp_path) == expected
