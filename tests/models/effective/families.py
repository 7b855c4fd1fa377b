"""Random parts of every family that has a formula, and the weight that one line of NumPy makes of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ckptclamp.models.effective.numbers import NIBBLE_TABLE
from ckptclamp.models.effective.quantised.blockwise import FP4, NF4
from tests.checkpoints.safetensors_files import serialised


@dataclass(frozen=True)
class Made:
    """The `parts` of one weight, the `weight`, and what lies beside the file.

    `scales` are the parts that scale codes, so that none of their numbers may be negative, or 0;
    `sized` are those of which the shape follows from that of the others, or from the config.
    """

    parts: dict[str, Any]
    weight: np.ndarray
    quantisation: dict[str, Any] | None = None
    adapter: dict[str, Any] | None = None
    scales: tuple[str, ...] = ()
    sized: tuple[str, ...] = ()

    def write(self, folder: Path, parts: dict[str, Any] | None = None) -> Path:
        """A file of these or other parts, with its config beside it."""
        chosen = self.parts if parts is None else parts
        path = folder / "model.safetensors"
        path.write_bytes(serialised({name: np.asarray(part) for name, part in chosen.items()}))
        for file, content in (
            ("config.json", self.quantisation and {"quantization_config": self.quantisation}),
            ("adapter_config.json", self.adapter),
        ):
            (folder / file).unlink(missing_ok=True)
            if content is not None:
                (folder / file).write_text(json.dumps(content))
        return path


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


def normal(random, *shape):
    """Numbers of either sign in float32."""
    return random.normal(size=shape).astype(np.float32)


def wide(array):
    """As float64."""
    return array.astype(np.float64)


def blocks_of_float8(random, shape):
    codes = float8(random, shape)
    scale = positive(random, shape[0] // 16, shape[1] // 16)
    names = "l.weight", "l.weight_scale_inv"
    return Made(
        dict(zip(names, (codes, scale), strict=True)),
        wide(codes) * spread(wide(scale), shape),
        quantisation={"quant_method": "fp8", "weight_block_size": [16, 16]},
        scales=names[1:],
        sized=names[1:],
    )


def packed_exponents(random, shape):
    """Float8 with four exponents to an int32, blocks of 128 inputs."""
    shape = (shape[0], 512)
    codes = float8(random, shape)
    exponents = random.integers(122, 128, (shape[0], 4)).astype(np.uint8)
    parts = {"l.weight": codes, "l.weight_scale_inv": exponents.view(np.int32)}
    scale = np.exp2(wide(exponents) - 127)
    return Made(parts, wide(codes) * spread(scale, shape), sized=("l.weight_scale_inv",))


def rows_of_float8(random, shape):
    """Exponents of E8M0 for the tensor's rows, and a scale for the input."""
    codes = float8(random, shape)
    exponents = random.integers(122, 128, (shape[0], 1)).astype(np.uint8)
    parts = {
        "l.weight": codes,
        "l.weight_scale": exponents.view(ml_dtypes.float8_e8m0fnu),
        "l.input_scale": np.float32(0.5),
    }
    weight = wide(codes) * np.exp2(wide(exponents) - 127)
    stated = compressed(8, type="float", strategy="channel", symmetric=True)
    return Made(parts, weight, stated, sized=("l.weight_scale",))


def comfy(random, shape):
    codes, scale = float8(random, shape), positive(random)
    parts = {"l.weight": codes, "l.scale_weight": scale, "l.scale_input": np.float32(2)}
    return Made(parts, wide(codes) * float(scale), scales=("l.scale_weight",))


def rows_of_int8(random, shape):
    codes = random.integers(-128, 128, shape).astype(np.int8)
    scale = positive(random, shape[0], dtype=ml_dtypes.bfloat16)
    parts = {"l.weight": codes, "l.weight_scale": scale}
    names = ("l.weight_scale",)
    return Made(parts, codes * wide(scale)[:, None], scales=names, sized=names)


def groups_of_int8(random, shape):
    codes = random.integers(-128, 128, shape).astype(np.int8)
    grid = (shape[0], shape[1] // 32)
    scale, zeros = positive(random, *grid), random.integers(-20, 20, grid).astype(np.int8)
    parts = {"l.weight": codes, "l.weight_scale": scale, "l.weight_zero_point": zeros}
    weight = (wide(codes) - spread(wide(zeros), shape)) * spread(wide(scale), shape)
    stated, names = compressed(8, strategy="group", group_size=32), tuple(parts)
    return Made(parts, weight, stated, scales=names[1:2], sized=names[1:])


def vectorwise(random, shape):
    codes, scale = random.integers(-127, 128, shape).astype(np.int8), positive(random, shape[0])
    parts = {"l.weight": codes, "l.SCB": scale, "l.weight_format": np.zeros((), np.uint8)}
    weight = codes * wide(scale)[:, None] / 127
    return Made(parts, weight, scales=("l.SCB",), sized=("l.SCB",))


def gptq(random, shape, less=1):
    outputs, inputs = shape
    bits, groups = int(random.choice([2, 3, 4, 8])), inputs // 16
    codes = random.integers(0, 1 << bits, (inputs, outputs))
    zeros = random.integers(1, (1 << bits) - 1, (groups, outputs))
    scale, index = positive(random, groups, outputs), random.integers(0, groups, inputs)
    parts = {
        "l.qweight": bits_packed(codes.T, bits).T.copy(),
        "l.qzeros": bits_packed(zeros - less, bits),
        "l.scales": scale,
        "l.g_idx": index.astype(np.int32),
    }
    weight = (codes - zeros[index]) * wide(scale)[index]
    stated = {"quant_method": "gptq", "bits": bits, "group_size": 16, "desc_act": True}
    stated |= {} if less else {"checkpoint_format": "gptq_v2"}
    return Made(parts, weight.T, stated, scales=("l.scales",), sized=tuple(parts))


def gptq_v2(random, shape):
    """The second format, whose zero points are stored as they are."""
    return gptq(random, shape, less=0)


def awq(random, shape):
    outputs, inputs = shape
    codes = random.integers(0, 16, (inputs, outputs))
    zeros = random.integers(0, 16, (inputs // 16, outputs))
    scale = positive(random, *zeros.shape, dtype=np.float16)
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7])
    parts = {
        name: bits_packed(rows.reshape(len(rows), -1, 8)[..., order].reshape(rows.shape), 4)
        for name, rows in (("l.qweight", codes), ("l.qzeros", zeros))
    } | {"l.scales": scale}
    weight = (codes - spread(zeros, codes.shape)) * spread(wide(scale), codes.shape)
    stated = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}
    return Made(parts, weight.T, stated, scales=("l.scales",), sized=("l.qzeros", "l.scales"))


def compressed(bits, **more):
    """What the config says of weights that compressed-tensors stored."""
    weights = {"num_bits": bits, "type": "int", "symmetric": False, **more}
    return {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": weights}}}


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
    weight = (codes - spread(zeros, shape)) * spread(wide(scale), shape)
    stated = compressed(bits, strategy="group", group_size=32)
    return Made(parts, weight, stated, scales=("l.weight_scale",), sized=tuple(parts))


def compressed_by_activation(random, shape):
    """Symmetric integers whose groups lie in the order of activations."""
    codes, groups = random.integers(0, 16, shape), shape[1] // 16
    scale, index = positive(random, shape[0], groups), random.integers(0, groups, shape[1])
    parts = {
        "l.weight_packed": bits_packed(codes, 4),
        "l.weight_shape": np.array(shape),
        "l.weight_scale": scale,
        "l.weight_g_idx": index.astype(np.int32),
    }
    stated = compressed(4, strategy="group", group_size=16, symmetric=True, actorder="group")
    weight = (codes - 8) * wide(scale)[:, index]
    return Made(parts, weight, stated, scales=("l.weight_scale",), sized=tuple(parts))


def compressed_nvfp4(random, shape):
    codes = random.integers(0, 16, shape).astype(np.uint8)
    scale = positive(random, shape[0], shape[1] // 16).astype(ml_dtypes.float8_e4m3fn)
    whole = positive(random, 1)
    parts = {
        "l.weight_packed": codes[:, ::2] | codes[:, 1::2] << 4,
        "l.weight_scale": scale,
        "l.weight_global_scale": whole,
    }
    weight = np.array(NIBBLE_TABLE)[codes] * (spread(wide(scale), shape) / float(whole[0]))
    names = tuple(parts)
    return Made(parts, weight, scales=names[1:], sized=names)


def compressed_mxfp4(random, shape):
    codes = random.integers(0, 16, shape).astype(np.uint8)
    exponents = random.integers(122, 128, (shape[0], shape[1] // 32)).astype(np.uint8)
    parts = {
        "l.weight_packed": codes[:, ::2] | codes[:, 1::2] << 4,
        "l.weight_scale": exponents,
    }
    weight = np.array(NIBBLE_TABLE)[codes] * spread(np.exp2(wide(exponents) - 127), shape)
    return Made(parts, weight, sized=tuple(parts))


def mxfp4(random, shape):
    """Two experts, inputs before outputs in the model."""
    codes = random.integers(0, 16, (2, *shape)).astype(np.uint8)
    exponents = random.integers(122, 128, (2, shape[0], shape[1] // 32)).astype(np.uint8)
    pairs = codes[..., ::2] | codes[..., 1::2] << 4
    parts = {"l.weight_blocks": pairs.reshape(*exponents.shape, 16), "l.weight_scales": exponents}
    scale = spread(np.exp2(wide(exponents) - 127), codes.shape)
    weight = (np.array(NIBBLE_TABLE)[codes] * scale).swapaxes(1, 2)
    return Made(parts, weight, sized=tuple(parts))


def mxfp4_of_openai(random, shape):
    """The same as OpenAI's own code has it: outputs before inputs."""
    made = mxfp4(random, shape)
    parts = {name.replace("_", "."): part for name, part in made.parts.items()}
    return Made(parts, made.weight.swapaxes(1, 2), sized=tuple(parts))


def nvfp4(random, shape):
    codes = random.integers(0, 16, shape).astype(np.uint8)
    scale = positive(random, shape[0], shape[1] // 16).astype(ml_dtypes.float8_e4m3fn)
    parts = {
        "l.weight": codes[:, ::2] | codes[:, 1::2] << 4,
        "l.weight_scale": scale,
        "l.weight_scale_2": np.array(0.75, np.float32),
    }
    weight = np.array(NIBBLE_TABLE)[codes] * spread(wide(scale), shape) * 0.75
    return Made(parts, weight, scales=tuple(parts)[1:], sized=tuple(parts)[:2])


def four_bits(random, shape):
    """bitsandbytes' codes, with a maximum for each 64."""
    kind, table = [("nf4", NF4), ("fp4", FP4)][random.integers(2)]
    codes = random.integers(0, 16, shape).reshape(-1).astype(np.uint8)
    maxima = positive(random, len(codes) // 64)
    state = {"quant_type": kind, "blocksize": 64, "shape": list(shape), "dtype": "float16"}
    parts = {
        "l.weight": (codes[::2] << 4 | codes[1::2])[:, None],
        "l.weight.absmax": maxima,
        "l.weight.quant_map": np.array(table, np.float32),
        f"l.weight.quant_state.bitsandbytes__{kind}": _text(state),
    }
    values = wide(np.array(table, np.float32))[codes]
    weight = (values * wide(maxima).repeat(64)).reshape(shape)
    return Made(parts, weight, scales=("l.weight.absmax",), sized=("l.weight", "l.weight.absmax"))


def bitsandbytes(random, shape):
    """The same, the maxima quantised themselves."""
    made = four_bits(random, shape)
    maxima = random.integers(0, 256, made.weight.size // 64).astype(np.uint8)
    tables = random.uniform(0.1, 1, 256).astype(np.float32)
    outer = positive(random, -(-len(maxima) // 256))
    (name,) = (name for name in made.parts if "quant_state" in name)
    state = json.loads(made.parts[name].tobytes())
    state |= {"nested_blocksize": 256, "nested_offset": 0.25, "nested_dtype": "float32"}
    parts = made.parts | {
        "l.weight.absmax": maxima,
        "l.weight.nested_absmax": outer,
        "l.weight.nested_quant_map": tables,
        name: _text(state),
    }
    scale = wide(tables)[maxima] * wide(outer).repeat(256)[: len(maxima)] + 0.25
    codes = made.parts["l.weight"].reshape(-1)
    values = wide(parts["l.weight.quant_map"])[np.stack([codes >> 4, codes & 15], -1).reshape(-1)]
    return Made(
        parts,
        (values * scale.repeat(64)).reshape(shape),
        scales=("l.weight.nested_absmax",),
        sized=("l.weight", "l.weight.absmax", "l.weight.nested_absmax"),
    )


def _text(state):
    return np.frombuffer(json.dumps(state).encode(), np.uint8)


def weight_norm(random, shape, names=("l.weight_g", "l.weight_v")):
    kept = int(random.integers(2))
    directions = normal(random, *shape)
    lengths = normal(random, *((shape[0], 1) if kept == 0 else (1, shape[1])))
    norms = np.sqrt((wide(directions) ** 2).sum(axis=1 - kept, keepdims=True))
    parts = dict(zip(names, (lengths, directions), strict=True))
    return Made(parts, wide(directions) * (wide(lengths) / norms), sized=names[:1])


def weight_norm_parametrised(random, shape):
    """The same in the names of today."""
    stem = "l.parametrizations.weight.original"
    return weight_norm(random, shape, (f"{stem}0", f"{stem}1"))


def spectral_norm(random, shape, names=("l.weight_orig", "l.weight_u", "l.weight_v")):
    original = normal(random, *shape)
    left, right = normal(random, shape[0]), normal(random, shape[1])
    sigma = wide(left) @ (wide(original) @ wide(right))
    parts = dict(zip(names, (original, left, right), strict=True))
    return Made(parts, wide(original) / sigma, sized=names[1:])


def spectral_norm_parametrised(random, shape):
    """The same in the names of today."""
    stem = "l.parametrizations.weight."
    return spectral_norm(random, shape, (f"{stem}original", f"{stem}0._u", f"{stem}0._v"))


def pruned(random, shape):
    original, mask = normal(random, *shape), random.integers(0, 2, shape).astype(np.float32)
    parts = {"l.weight_orig": original, "l.weight_mask": mask}
    return Made(parts, wide(original) * mask, sized=tuple(parts))


def update(random, shape):
    """kohya's factors, with their alpha."""
    rank = int(random.integers(1, 40))
    down, up = normal(random, rank, shape[1]), normal(random, shape[0], rank)
    parts = {"l.lora_down.weight": down, "l.lora_up.weight": up, "l.alpha": np.float32(3)}
    return Made(parts, wide(up) @ wide(down) * (3 / rank))


def peft(random, shape):
    """peft's factors beside their base weight."""
    down, up, base = (
        normal(random, 4, shape[1]),
        normal(random, shape[0], 4),
        normal(random, *shape),
    )
    parts = {"l.lora_A.weight": down, "l.lora_B.weight": up, "l.base_layer.weight": base}
    adapter = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    return Made(parts, wide(base) + 2 * wide(up) @ wide(down), adapter=adapter, sized=tuple(parts))


def dora(random, shape):
    """The same, with a length for each row."""
    made, lengths = peft(random, shape), positive(random, shape[0])
    norms = np.sqrt((made.weight**2).sum(axis=1))
    weight = made.weight * (wide(lengths) / norms)[:, None]
    parts = made.parts | {"l.lora_magnitude_vector": lengths}
    return Made(parts, weight, adapter=made.adapter | {"use_dora": True}, sized=tuple(parts))


FAMILIES = [
    blocks_of_float8, packed_exponents, rows_of_float8, comfy, rows_of_int8, groups_of_int8, vectorwise,
    gptq, gptq_v2, awq, compressed_tensors, compressed_by_activation, compressed_nvfp4,
    compressed_mxfp4, mxfp4, mxfp4_of_openai, nvfp4, four_bits, bitsandbytes, weight_norm, weight_norm_parametrised,
    spectral_norm, spectral_norm_parametrised, pruned, update, peft, dora,
]  # fmt: skip
"""All that `offers.BUILDERS` computes, in each form in which parts are read."""
