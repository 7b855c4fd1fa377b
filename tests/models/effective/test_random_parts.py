"""Parts with random content, of every family that has a formula: the weight, and its worst unit."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptclamp.auditing.audit import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.checkpoints.opening import open_checkpoint
from ckptclamp.models.effective.blockwise import FP4, NF4
from ckptclamp.models.effective.numbers import NIBBLE_TABLE
from ckptclamp.plan.tensors import computed_tensors
from tests.checkpoints.safetensors_files import serialised

SOME = settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SIZES = st.sampled_from([(32, 64), (96, 32), (320, 384)])
"""Outputs and inputs; the last takes several pieces."""


def spread(scale, shape):
    """Repeat each number over its block."""
    for axis, (grid, extent) in enumerate(zip(scale.shape, shape, strict=True)):
        scale = scale.repeat(extent // grid, axis)
    return scale


def bits_packed(rows, bits):
    """Rows of unsigned integers as int32 words, lowest bit first."""
    single = (rows[..., None] >> np.arange(bits)) & 1
    single = single.reshape(len(rows), -1)
    single = np.pad(single, ((0, 0), (0, -single.shape[1] % 32)))
    return np.packbits(single.astype(np.uint8), axis=1, bitorder="little").view(np.int32)


def positive(random, *shape, dtype=np.float32):
    """Scales."""
    return random.uniform(0.01, 1, shape).astype(dtype)


def float8(random, shape):
    """Codes of float8 that are numbers."""
    return random.normal(size=shape, scale=30).astype(ml_dtypes.float8_e4m3fn)


def blocks_of_float8(random, shape):
    codes = float8(random, shape)
    scale = positive(random, shape[0] // 16, shape[1] // 16)
    parts = {"l.weight": codes, "l.weight_scale_inv": scale}
    return parts, codes.astype(np.float64) * spread(scale.astype(np.float64), shape), None


def packed_exponents(random, shape):
    """Float8 with four exponents to an int32, blocks of 128 inputs."""
    shape = (shape[0], 512)
    codes = float8(random, shape)
    exponents = random.integers(100, 140, (shape[0], 4)).astype(np.uint8)
    scale = np.exp2(exponents.astype(np.float64) - 127)
    parts = {"l.weight": codes, "l.weight_scale_inv": exponents.view(np.int32)}
    return parts, codes.astype(np.float64) * spread(scale, shape), None


def rows_of_int8(random, shape):
    codes = random.integers(-128, 128, shape).astype(np.int8)
    scale = positive(random, shape[0], dtype=ml_dtypes.bfloat16)
    parts = {"l.weight": codes, "l.weight_scale": scale}
    return parts, codes * scale.astype(np.float64)[:, None], None


def gptq(random, shape):
    outputs, inputs = shape
    bits, groups = int(random.choice([2, 3, 4, 8])), inputs // 16
    codes = random.integers(0, 1 << bits, (inputs, outputs))
    zeros = random.integers(1, (1 << bits) - 1, (groups, outputs))
    scale, index = positive(random, groups, outputs), random.integers(0, groups, inputs)
    parts = {
        "l.qweight": bits_packed(codes.T, bits).T.copy(),
        "l.qzeros": bits_packed(zeros - 1, bits),
        "l.scales": scale,
        "l.g_idx": index.astype(np.int32),
    }
    weight = (codes - zeros[index]) * scale.astype(np.float64)[index]
    return parts, weight.T, {"quant_method": "gptq"}


def compressed_tensors(random, shape):
    bits = int(random.choice([4, 8]))
    codes = random.integers(0, 1 << bits, shape)
    zeros = random.integers(0, 1 << bits, (shape[0], shape[1] // 32))
    scale = positive(random, *zeros.shape)
    parts = {
        "l.weight_packed": bits_packed(codes, bits),
        "l.weight_shape": np.array(shape),
        "l.weight_scale": scale,
        "l.weight_zero_point": bits_packed(zeros.T, bits).T.copy(),
    }
    wide = spread(scale.astype(np.float64), shape)
    return parts, (codes - spread(zeros, shape)) * wide, None


def bitsandbytes(random, shape):
    kind, table = [("nf4", NF4), ("fp4", FP4)][random.integers(2)]
    codes = random.integers(0, 16, shape).reshape(-1).astype(np.uint8)
    maxima = random.integers(0, 256, len(codes) // 64).astype(np.uint8)
    tables = random.uniform(0.1, 1, 256).astype(np.float32)
    outer = positive(random, -(-len(maxima) // 256))
    state = {"quant_type": kind, "blocksize": 64, "shape": list(shape), "dtype": "float16"}
    state |= {"nested_blocksize": 256, "nested_offset": 0.25, "nested_dtype": "float32"}
    parts = {
        "l.weight": (codes[::2] << 4 | codes[1::2])[:, None],
        "l.weight.absmax": maxima,
        "l.weight.quant_map": np.array(table, np.float32),
        "l.weight.nested_absmax": outer,
        "l.weight.nested_quant_map": tables,
        f"l.weight.quant_state.bitsandbytes__{kind}": np.frombuffer(
            json.dumps(state).encode(), np.uint8
        ),
    }
    scale = tables.astype(np.float64)[maxima] * outer.astype(np.float64).repeat(256)[: len(maxima)]
    values = np.array(table, np.float32).astype(np.float64)[codes]
    return parts, (values * (scale + 0.25).repeat(64)).reshape(shape), None


def nvfp4(random, shape):
    codes = random.integers(0, 16, shape).astype(np.uint8)
    scale = positive(random, shape[0], shape[1] // 16).astype(ml_dtypes.float8_e4m3fn)
    parts = {
        "l.weight": codes[:, ::2] | codes[:, 1::2] << 4,
        "l.weight_scale": scale,
        "l.weight_scale_2": np.array(0.75, np.float32),
    }
    values = np.array(NIBBLE_TABLE)[codes]
    return parts, values * spread(scale.astype(np.float64), shape) * 0.75, None


def weight_norm(random, shape):
    kept = int(random.integers(2))
    directions = random.normal(size=shape).astype(np.float32)
    lengths = random.normal(size=(shape[0], 1) if kept == 0 else (1, shape[1])).astype(np.float32)
    wide = directions.astype(np.float64)
    norms = np.sqrt((wide**2).sum(axis=1 - kept, keepdims=True))
    parts = {"l.weight_g": lengths, "l.weight_v": directions}
    return parts, wide * (lengths.astype(np.float64) / norms), None


def update(random, shape):
    rank = int(random.integers(1, 40))
    down = random.normal(size=(rank, shape[1])).astype(np.float32)
    up = random.normal(size=(shape[0], rank)).astype(np.float32)
    parts = {"l.lora_down.weight": down, "l.lora_up.weight": up, "l.alpha": np.float32(3)}
    return parts, up.astype(np.float64) @ down.astype(np.float64) * (3 / rank), None


FAMILIES = [
    blocks_of_float8, packed_exponents, rows_of_int8, gptq, compressed_tensors, bitsandbytes, nvfp4,
    weight_norm, update,
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@SOME
@given(data=st.data())
def test_random_parts_make_the_weight_and_its_worst_unit(tmp_path, family, data):
    """What one line of NumPy makes of whole arrays is what is read in boxes and judged."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    parts, expected, stated = family(random, data.draw(SIZES))
    path = tmp_path / "model.safetensors"
    path.write_bytes(serialised({name: np.asarray(part) for name, part in parts.items()}))
    if stated is not None:
        (tmp_path / "config.json").write_text(json.dumps({"quantization_config": stated}))
    cuts = [data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2)) for n in expected.shape]
    box = tuple((min(ends), max(ends)) for ends in cuts)
    with open_checkpoint(path) as checkpoint:
        ((name, tensor),) = computed_tensors(checkpoint).items()
        found = checkpoint.read(tensor, box)
    part = expected[tuple(slice(*span) for span in box)]
    np.testing.assert_allclose(found, part, rtol=1e-11, atol=1e-13 * np.abs(expected).max())
    axis = data.draw(st.integers(0, 1))
    norms = np.sqrt((expected**2).sum(axis=axis))
    second, largest = np.sort(norms)[-2:]
    rule = {"id": "r", "tensors": name, "constraint": "MaxNorm", "axis": axis}
    spec = {"version": 1, "rules": [rule | {"max_value": float(second + (largest - second) / 2)}]}
    (result,) = audit(path, spec, AuditOptions(tolerance=0, memory=1 << 22)).results
    assert result.measured_max == pytest.approx(largest, rel=1e-12)
    if largest > second * (1 + 1e-12):
        assert result.violating == 1
        assert result.worst[0].index == (int(norms.argmax()),)
