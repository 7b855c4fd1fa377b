"""Kernels that decode: the weights, and what is measured of them, have the bits that NumPy gives them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.engine import kernels
from ckptclamp.engine.blocks import Workspace
from ckptclamp.engine.kernels import native
from ckptclamp.models.effective.codes import Codes, Octets
from ckptclamp.models.effective.weights import Effective
from ckptclamp.plan.tensors import computed_tensors
from tests.engine.test_kernels import at, compiled
from tests.models.effective.families import FAMILIES

WORKSPACE = Workspace()
BYTES = ("int8", "uint8", *(name for name in DTYPES if name.startswith("float8")))


@st.composite
def blocks(draw):
    """Blocks in codes of any layout, with numbers at random, NaN and infinities among them."""
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    per, cell = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([0, 1, 2, 4, 8]))
    matrices, length = draw(st.integers(1, 3)), draw(st.sampled_from([1, 5, 64, 600, 2100]))
    skip = draw(st.integers(0, 7))
    height, rows = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    needed = math.ceil((skip + length) / per / max(1, cell))
    columns = needed + draw(st.integers(0, 1))
    width = columns * max(1, cell)
    shape = (matrices, columns, height, cell) if cell else (matrices, height, width)
    stored = random.integers(0, 256, math.prod(shape), np.uint8).reshape(shape)
    table = tables = places = None
    if per == 1 and draw(st.booleans()):
        stored = stored.view(DTYPES[draw(st.sampled_from(BYTES))].numpy)
    else:
        count = draw(st.integers(1, 3))
        table = random.standard_normal((count, 256, per))
        tables = random.integers(0, count, rows) if draw(st.booleans()) else None
        table[random.random(table.shape) < 0.01] = draw(st.sampled_from([0.0, -0.0, np.inf]))
    if draw(st.booleans()):
        places = random.integers(0, height, rows)
    else:
        rows = height
        tables = None
    groups, step, first, group_of = 1, length + 7, draw(st.integers(0, 6)), None
    match draw(st.sampled_from(["one", "blocks", "index"])):
        case "blocks":
            step = draw(st.sampled_from([1, 16, 33, 128]))
            first = draw(st.integers(0, step - 1))
            groups = (first + length - 1) // step + 1
        case "index":
            groups = draw(st.integers(1, 9))
            group_of = random.integers(0, groups, length).astype(np.int32)
    factors = random.uniform(0.001, 2, (matrices * rows, groups))
    factors[random.random(factors.shape) < 0.02] = draw(st.sampled_from([np.nan, np.inf, 1e300]))
    zeros = random.normal(0, 8, factors.shape) if draw(st.booleans()) else None
    octets = Octets(stored, table, skip, cell, places, tables)
    whole = (matrices, rows, length)
    divisor = draw(st.sampled_from([1.0, 127.0]))
    return Codes(whole, octets, length, factors, zeros, step, first, group_of, divisor)


def decoded(codes):
    """The weights, by NumPy, one operation after the other."""
    octets, length = codes.octets, codes.length
    stored = octets.stored
    if octets.cell:
        matrices, columns, height, cell = stored.shape
        stored = stored.transpose(0, 2, 1, 3).reshape(matrices, height, columns * cell)
    if octets.places is not None:
        stored = stored[:, octets.places]
    with np.errstate(all="ignore"):
        if octets.table is None:
            values = stored.astype(np.float64)
        else:
            which = np.zeros(stored.shape[1], int) if octets.tables is None else octets.tables
            values = octets.table[which[None, :, None], stored].reshape(*stored.shape[:2], -1)
        values = values[..., octets.skip :][..., :length].reshape(-1, length)
        group = codes.group_of
        if group is None:
            group = (codes.first + np.arange(length)) // codes.step
        if codes.zeros is not None:
            values = values - codes.zeros[:, group]
        values = values * codes.factors[:, group] / codes.divisor
    return values.reshape(codes.shape)


def same(found, expected):
    """Whether all bits are the same, but for those that a NaN may have."""
    lost = np.isnan(expected)
    return (np.isnan(found) == lost).all() and (
        np.where(lost, 0, found).tobytes() == np.where(lost, 0, expected).tobytes()
    )


@compiled
@settings(max_examples=150, deadline=None)
@given(blocks(), st.sets(st.integers(0, 2), min_size=1), st.booleans())
def test_codes_of_any_layout_are_decoded_and_measured_to_the_same_bits(codes, axes, flat):
    """Every level, all that is measured of rows, columns and both, and single weights."""
    expected = decoded(codes)
    axes = tuple(sorted(axes))
    if flat:
        codes, expected, axes = codes.reshape(-1), expected.reshape(-1), (0,)
    statistics = at("numpy", lambda: kernels.measure(expected, axes, native.STATISTICS, WORKSPACE))
    for level in native.LEVELS:
        wide = at(level, lambda: kernels.widen(codes, WORKSPACE).copy())
        assert wide.shape == expected.shape
        assert same(wide, expected), level
        found = at(level, lambda: kernels.measure(codes, axes, native.STATISTICS, WORKSPACE))
        for name, value in statistics.items():
            assert found[name].tobytes() == value.tobytes(), (level, name)


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


IN_CODES = {
    "blocks_of_float8", "packed_exponents", "rows_of_float8", "comfy", "rows_of_int8",
    "groups_of_int8", "vectorwise", "gptq", "gptq_v2", "awq", "compressed_tensors",
    "compressed_by_activation", "compressed_nvfp4", "compressed_mxfp4", "mxfp4", "nvfp4",
    "four_bits", "bitsandbytes",
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


def _plain():
    octets = Octets(np.zeros((1, 4, 8), np.uint8), np.zeros((1, 256, 2)))
    return Codes((4, 16), octets, 16, np.ones((4, 1)), step=16)


WRONG = {
    "too few bytes": lambda c: replace(c, octets=replace(c.octets, skip=1)),
    "a place beyond": lambda c: replace(c, octets=replace(c.octets, places=np.arange(1, 5))),
    "a place before": lambda c: replace(c, octets=replace(c.octets, places=np.arange(-1, 3))),
    "a table too few": lambda c: replace(c, octets=replace(c.octets, tables=np.arange(4))),
    "no table": lambda c: replace(c, octets=replace(c.octets, table=np.zeros((0, 256, 2)))),
    "a short table": lambda c: replace(c, octets=replace(c.octets, table=np.zeros((1, 255, 2)))),
    "other numbers": lambda c: replace(c, octets=Octets(np.zeros((1, 4, 16), np.float16))),
    "too few factors": lambda c: replace(c, factors=np.ones((3, 1))),
    "float32 factors": lambda c: replace(c, factors=np.ones((4, 1), np.float32)),
    "other zero points": lambda c: replace(c, zeros=np.ones((4, 2))),
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
