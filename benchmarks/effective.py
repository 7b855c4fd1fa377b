"""Audits of weights in parts against reading their bytes with `cat`."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import processes
from setting import Setting, audit, cat
from table import Row, compared

from ckptclamp.checkpoints.dtypes import DTYPES

YARDSTICK = 3.0
SIDE = 4096
"""Outputs, and inputs, of a layer."""

Parts = dict[str, np.ndarray]
_CODES = {"float8_e4m3fn": "F8_E4M3", "bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_CODES |= {"uint8": "U8", "int8": "I8", "int32": "I32", "int64": "I64"}


def warm(setting: Setting) -> Iterator[Row]:
    """Norms of the rows of each kind of weight, of files in the page cache."""
    for name, (make, stated) in FAMILIES.items():
        folder = setting.folder / "effective"
        folder.mkdir(exist_ok=True)
        path = _save(folder / "model.safetensors", make(), setting.size)
        (folder / "config.json").write_text(json.dumps({"quantization_config": stated}))
        ours = audit(path, "--axis", "1", "--max-norm", "1e30")
        found = processes.compare(cat(path), ours, times=setting.times)
        path.unlink()
        yield compared("effective", f"rows, {name}", "`cat`", YARDSTICK, found)


def _save(path: Path, parts: Parts, size: int) -> Path:
    """Write layers of these parts until they take about `size` bytes, their codes shifted in each."""
    each = sum(part.nbytes for part in parts.values())
    header, end = {}, 0
    for layer in range(max(1, size // each)):
        for name, part in parts.items():
            offsets = [end, end := end + part.nbytes]
            described = {"dtype": _CODES[part.dtype.name], "shape": part.shape}
            header[f"layers.{layer}.{name}"] = {**described, "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for layer in range(max(1, size // each)):
            for part in parts.values():
                data = memoryview(part.tobytes())
                first = layer * SIDE % len(data) if part.ndim > 1 else 0
                file.write(data[first:])
                file.write(data[:first])
    return path


def _random(dtype: str, *shape: int) -> np.ndarray:
    size = math.prod(shape) * DTYPES[dtype].itemsize
    data = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    return data.view(dtype).reshape(shape)


def _scales(dtype: str, *shape: int) -> np.ndarray:
    values = np.random.default_rng(1).uniform(0.001, 0.01, shape)
    return values.astype(np.dtype(getattr(ml_dtypes, dtype, None) or dtype))


def _blocks_of_float8() -> Parts:
    codes = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32) * 30
    scale = _scales("float32", SIDE // 128, SIDE // 128)
    return {"weight": codes.astype(ml_dtypes.float8_e4m3fn), "weight_scale_inv": scale}


def _rows_of_int8() -> Parts:
    return {"weight": _random("int8", SIDE, SIDE), "weight_scale": _scales("float32", SIDE, 1)}


def _packed() -> Parts:
    return {
        "weight_packed": _random("int32", SIDE, SIDE // 8),
        "weight_shape": np.array([SIDE, SIDE]),
        "weight_scale": _scales("bfloat16", SIDE, SIDE // 128),
    }


def _gptq() -> Parts:
    return {
        "qweight": _random("int32", SIDE // 8, SIDE),
        "qzeros": np.full((SIDE // 128, SIDE // 8), 0x77777777, np.int32),
        "scales": _scales("float16", SIDE // 128, SIDE),
    }


def _awq() -> Parts:
    return {
        "qweight": _random("int32", SIDE, SIDE // 8),
        "qzeros": _random("int32", SIDE // 128, SIDE // 8),
        "scales": _scales("float16", SIDE // 128, SIDE),
    }


def _nvfp4() -> Parts:
    return {
        "weight": _random("uint8", SIDE, SIDE // 2),
        "weight_scale": _scales("float8_e4m3fn", SIDE, SIDE // 16),
        "weight_scale_2": np.array(0.5, np.float32),
    }


def _mxfp4() -> Parts:
    exponents = np.random.default_rng(0).integers(110, 130, (4, SIDE // 4, SIDE // 32), np.uint8)
    return {
        "weight_blocks": _random("uint8", 4, SIDE // 4, SIDE // 32, 16),
        "weight_scales": exponents,
    }


_FOUR_BITS = {"g": {"weights": {"num_bits": 4}}}
FAMILIES: dict[str, tuple[Callable[[], Parts], dict[str, object]]] = {
    "float8 in blocks": (_blocks_of_float8, {}),
    "int8": (_rows_of_int8, {}),
    "int4 of compressed-tensors": (_packed, {"config_groups": _FOUR_BITS}),
    "int4 of GPTQ": (_gptq, {"quant_method": "gptq"}),
    "int4 of AWQ": (_awq, {"quant_method": "awq"}),
    "NVFP4": (_nvfp4, {}),
    "MXFP4": (_mxfp4, {}),
}
