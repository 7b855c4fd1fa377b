"""Kernels that decode: the weights, and what is measured of them, have the bits that NumPy gives them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.constraints.base import Statistic, UnitStatistics
from ckptclamp.engine import kernels
from ckptclamp.engine.blocks import Workspace, grid_in_codes
from ckptclamp.engine.kernels import native
from ckptclamp.engine.measure import measure
from ckptclamp.engine.measure.requests import Batch, Failed, Request
from ckptclamp.models.effective.codes import Codes, Octets, floats_of
from ckptclamp.models.effective.weights import Effective
from ckptclamp.plan.tensors import computed_tensors
from tests.engine.test_kernels import at, compiled
from tests.models.effective.families import (
    FAMILIES,
    blocks_of_float8,
    compressed_tensors,
    gptq,
    rows_of_int8,
)

WORKSPACE = Workspace()
SQUARES = ["squares"]
BYTES = ("int8", "uint8", *(name for name in DTYPES if name.startswith("float8")))


@st.composite
def blocks(draw):
    """Blocks in codes of any layout, with numbers at random, NaN and infinities among them."""
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    per, cell = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([0, 4, 8, 16, 32, 64]))
    per = 2 if cell == 4 else per
    matrices, length = draw(st.integers(1, 3)), draw(st.sampled_from([1, 5, 64, 600, 2100]))
    skip = draw(st.integers(0, 7))
    width, height = draw(st.sampled_from([1, 3, 64, 100])), draw(st.integers(1, 40))
    if cell:  # so many columns that each row has enough codes
        columns = math.ceil((skip + length) * 8 / per / cell) + draw(st.integers(0, 1))
        width *= max(1, cell // 8)
        height, shape = width * 8 // cell, (matrices, columns, width)
    else:
        shape = (matrices, height, math.ceil((skip + length) / per) + draw(st.integers(0, 1)))
    stored = random.integers(0, 256, math.prod(shape), np.uint8).reshape(shape)
    table = places = zeros = group_of = None
    if per == 1 and draw(st.booleans()):
        stored = stored.view(DTYPES[draw(st.sampled_from(BYTES))].numpy)
    else:
        table = random.standard_normal((256, per)).astype(np.float32)
        table[random.random(table.shape) < 0.01] = draw(st.sampled_from([0.0, -0.0, np.inf]))
        if per == 2 and draw(st.booleans()):  # a byte stands for what its nibbles do
            octets = np.arange(256)
            table = np.stack([table[octets & 15, 0], table[octets >> 4, 0]], axis=-1)
            table = np.ascontiguousarray(table[:, :: draw(st.sampled_from([1, -1]))])
    rows = draw(st.integers(1, 40)) if draw(st.booleans()) else height
    if rows != height:
        places = random.integers(0, height, rows)
    groups, step, first = 1, length + 7, draw(st.integers(0, 6))
    match draw(st.sampled_from(["one", "blocks", "index"])):
        case "blocks":
            step = draw(st.sampled_from([1, 16, 33, 128]))
            first = draw(st.integers(0, step - 1))
            groups = (first + length - 1) // step + 1
        case "index":
            groups = draw(st.integers(1, 9))
            group_of = random.integers(0, groups, length).astype(np.int32)
    factors = random.uniform(0.001, 2, (draw(st.integers(1, 9)), groups))
    factors[random.random(factors.shape) < 0.02] = draw(st.sampled_from([np.nan, np.inf, 1e300]))
    numbers = random.integers(0, len(factors), matrices * rows)
    if draw(st.booleans()):
        zeros = random.normal(0, 8, factors.shape)
    return Codes(
        shape=(matrices, rows, length),
        octets=Octets(stored, table, skip, cell, places),
        length=length,
        numbers=numbers,
        factors=factors,
        zeros=zeros,
        step=step,
        first=first,
        group_of=group_of,
        divisor=draw(st.sampled_from([1.0, 127.0])),
    )


def decoded(codes):
    """The weights, by NumPy, one operation after the other."""
    octets, length = codes.octets, codes.length
    stored = octets.stored
    if octets.cell == 4:
        nibbles = np.stack([stored & 15, stored >> 4], axis=-1)
        nibbles = nibbles.reshape(*stored.shape[:2], -1).swapaxes(1, 2)
        nibbles = np.concatenate([nibbles, nibbles[..., :1] * 0], axis=2)
        even = nibbles.shape[2] // 2 * 2
        stored = nibbles[..., 0:even:2] | nibbles[..., 1:even:2] << 4
    elif octets.cell:
        cells = stored.reshape(*stored.shape[:2], -1, octets.cell // 8)
        turned = cells.swapaxes(1, 2)
        stored = turned.reshape(*turned.shape[:2], -1)
    if octets.places is not None:
        stored = stored[:, octets.places]
    with np.errstate(all="ignore"):
        values = stored.astype(np.float64) if octets.table is None else octets.table[stored]
        values = values.reshape(*stored.shape[:2], -1)
        values = values[..., octets.skip :][..., :length].reshape(-1, length)
        group = codes.group_of
        if group is None:
            group = (codes.first + np.arange(length)) // codes.step
        if codes.zeros is not None:
            values = values - codes.zeros[codes.numbers][:, group]
        values = values * codes.factors[codes.numbers][:, group] / codes.divisor
    return values.reshape(codes.shape)


def same(found, expected):
    """Whether all bits are the same, but for those that a NaN may have."""
    lost = np.isnan(expected)
    return (np.isnan(found) == lost).all() and (
        np.where(lost, 0, found).tobytes() == np.where(lost, 0, expected).tobytes()
    )


@compiled
@settings(max_examples=150, deadline=None)
@given(
    blocks(),
    st.sets(st.integers(0, 2), min_size=1) | st.just({2}),
    st.booleans(),
    st.sampled_from([native.STATISTICS, SQUARES]),
)
def test_codes_of_any_layout_are_decoded_and_measured_to_the_same_bits(codes, axes, flat, wanted):
    """Every level, all that is measured of rows, columns and both, and single weights."""
    expected = decoded(codes)
    axes = tuple(sorted(axes))
    if flat:
        codes, expected, axes = codes.reshape(-1), expected.reshape(-1), (0,)
    statistics = at("numpy", lambda: kernels.measure(expected, axes, wanted, WORKSPACE))
    for level in native.LEVELS:
        wide = at(level, lambda: kernels.widen(codes, WORKSPACE).copy())
        assert wide.shape == expected.shape
        assert same(wide, expected), level
        found = at(level, lambda: kernels.measure(codes, axes, wanted, WORKSPACE))
        for name, value in statistics.items():
            assert found[name].tobytes() == value.tobytes(), (level, name)


@compiled
@pytest.mark.parametrize("upper_first", [False, True])
@pytest.mark.parametrize("skip", [0, 3, 6])
@pytest.mark.parametrize(("step", "length"), [(16, 4104), (64, 2304), (128, 5001), (300, 280)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_squares_of_codes_in_groups(upper_first, skip, step, length, bits):
    """Squares alone, which no tile holds: rows that end in a group, in lanes, in a byte."""
    random = np.random.default_rng(length + bits)
    table = floats_of(tuple(map(float, range(-3, 2**bits - 3))), bits, upper_first=upper_first)
    stored = random.integers(0, 256, (1, 20, (skip + length) * bits // 8 + 1), np.uint8)
    factors = random.uniform(0.001, 2, (20, -(-(length + 16) // step)))
    for zeros, divisor in product([None, random.normal(0, 8, factors.shape)], [1.0, 127.0]):
        codes = Codes(
            shape=(20, length),
            octets=Octets(stored, table, skip),
            length=length,
            numbers=random.permutation(20),
            factors=factors,
            zeros=zeros,
            step=step,
            first=16 % step,
            divisor=divisor,
        )
        expected = at(
            "numpy", lambda codes=codes: kernels.measure(decoded(codes), (1,), SQUARES, WORKSPACE)
        )
        for level in native.LEVELS:
            found = at(level, lambda codes=codes: kernels.measure(codes, (1,), SQUARES, WORKSPACE))
            assert found["squares"].tobytes() == expected["squares"].tobytes(), level


SIZES = [(32, 64), (96, 32), (320, 384)]


@compiled
@pytest.mark.parametrize("family", FAMILIES)
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_box_in_codes_is_what_is_computed_of_it(tmp_path, family, data):
    """Any box, whatever it cuts: words, groups, blocks; the very bits that are computed by NumPy."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    made = family(random, data.draw(st.sampled_from(SIZES)))
    with open_checkpoint(made.write(tmp_path)) as checkpoint:
        ((_, tensor),) = computed_tensors(checkpoint).items()
        assert isinstance(tensor.storage, Effective)
        ends = [data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2)) for n in tensor.shape]
        box = tuple((min(pair), max(pair)) for pair in ends)
        expected = checkpoint.read(tensor, box)
        codes = tensor.storage.in_codes(checkpoint.read, box)
    if codes is None:
        return
    for level in native.LEVELS:
        found = at(level, lambda: kernels.widen(codes, WORKSPACE))
        assert found.shape == expected.shape
        assert found.tobytes() == expected.tobytes(), level


@compiled
@pytest.mark.parametrize("lost", [None, np.nan, np.inf, 0.0, 2.0**-126])
@pytest.mark.parametrize("family", [rows_of_int8, gptq, compressed_tensors, blocks_of_float8])
def test_more_weights_than_usual_are_measured_at_once_to_the_same_bits(tmp_path, family, lost):
    """In codes; else, and where weights must be looked at one by one, by usual blocks, as NumPy does."""
    made = family(np.random.default_rng(0), (4608, 1024))
    if lost is not None:
        made.parts[made.scales[0]][:1] = lost
    with open_checkpoint(made.write(tmp_path)) as checkpoint:
        ((_, tensor),) = computed_tensors(checkpoint).items()
        assert len(grid_in_codes(tensor, (1,)) or ()) == 2
        request = Request(tensor, (1,), frozenset({Statistic.NORM, Statistic.MAX}))

        def measured():
            answers = list(measure(checkpoint, [request], jobs=1))
            if any(isinstance(answer, Failed) for answer in answers):
                return answers
            found = UnitStatistics.joined(
                [answer.statistics for answer in answers if isinstance(answer, Batch)]
            )
            return [found.nonfinite.tobytes(), *(found[key].tobytes() for key in request.needs)]

        expected = at("numpy", measured)
        for level in native.LEVELS:
            assert at(level, measured) == expected, level


IN_CODES = {
    "blocks_of_float8", "packed_exponents", "rows_of_float8", "comfy", "rows_of_int8",
    "groups_of_int8", "vectorwise", "gptq", "gptq_v2", "awq", "compressed_tensors",
    "compressed_by_activation", "compressed_nvfp4", "compressed_mxfp4", "mxfp4", "mxfp4_of_openai",
    "nvfp4", "four_bits", "bitsandbytes",
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_codes_come_in_codes(tmp_path, family):
    """Of a family whose whole weights came without, the kernels would never see a code."""
    name = family.__name__
    for seed in range(8):
        made = family(np.random.default_rng(seed), (32, 64))
        with open_checkpoint(made.write(tmp_path)) as checkpoint:
            ((_, tensor),) = computed_tensors(checkpoint).items()
            box = tuple((0, extent) for extent in tensor.shape)
            assert isinstance(tensor.storage, Effective)
            if tensor.storage.in_codes(checkpoint.read, box) is not None:
                assert name in IN_CODES
                return
    assert name not in IN_CODES


@pytest.mark.parametrize(("inputs", "short"), [(2, True), (64, False)])
def test_rows_of_few_weights_are_not_told_of_one_by_one(tmp_path, inputs, short):
    """Where each row lies and its scale take 32 bytes: with rows of two, more than the weights do."""
    made = rows_of_int8(np.random.default_rng(0), (64, inputs))
    with open_checkpoint(made.write(tmp_path)) as checkpoint:
        ((_, tensor),) = computed_tensors(checkpoint).items()
        assert isinstance(tensor.storage, Effective)
        box = tuple((0, extent) for extent in tensor.shape)
        assert (tensor.storage.in_codes(checkpoint.read, box) is None) == short


def _plain():
    octets = Octets(np.zeros((1, 4, 8), np.uint8), np.zeros((256, 2), np.float32))
    return Codes((4, 16), octets, 16, np.zeros(4, np.int64), np.ones((2, 1)), step=16)


WRONG = {
    "too few bytes": lambda c: replace(c, octets=replace(c.octets, skip=1)),
    "a place beyond": lambda c: replace(c, octets=replace(c.octets, places=np.arange(1, 5))),
    "a place before": lambda c: replace(c, octets=replace(c.octets, places=np.arange(-1, 3))),
    "too few columns": lambda c: replace(c, octets=replace(c.octets, cell=4)),
    "a short table": lambda c: replace(c, octets=replace(c.octets, table=np.zeros((255, 2)))),
    "a wide table": lambda c: replace(c, octets=replace(c.octets, table=np.zeros((256, 3)))),
    "other numbers": lambda c: replace(c, octets=Octets(np.zeros((1, 4, 16), np.float16))),
    "too few rows": lambda c: replace(c, numbers=np.zeros(3, np.int64)),
    "numbers beyond": lambda c: replace(c, numbers=np.full(4, 2)),
    "numbers before": lambda c: replace(c, numbers=np.full(4, -1)),
    "float32 factors": lambda c: replace(c, factors=np.ones((4, 1), np.float32)),
    "other zero points": lambda c: replace(c, zeros=np.ones((2, 2))),
    "a group beyond": lambda c: replace(c, step=15),
    "no step": lambda c: replace(c, step=0),
    "an index beyond": lambda c: replace(c, group_of=np.ones(16, np.int32)),
    "too short an index": lambda c: replace(c, group_of=np.zeros(15, np.int32)),
    "a wider shape": lambda c: replace(c, shape=(4, 17)),
}


@compiled
@pytest.mark.parametrize("wrong", WRONG)
def test_nothing_beside_the_arrays_reaches_the_kernels(wrong):
    """Sizes are checked before C is called, whatever has gone wrong above."""
    assert not kernels.widen(_plain(), WORKSPACE).any()
    with pytest.raises(ValueError, match="than the kernels take"):
        kernels.widen(WRONG[wrong](_plain()), WORKSPACE)
