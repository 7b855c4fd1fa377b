"""Checkpoints to measure on, made anew for each run: safetensors of equal matrices, or sparse ones."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import ml_dtypes
import numpy as np

CODES = {
    "float32": "F32",
    "float64": "F64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "int8": "I8",
}


def numpy_dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Normal weights whose rows of 4,096 have norms near 1 (integers: near 30)."""
    values = np.random.default_rng(0).standard_normal(shape, np.float32) / 64
    return (values * 30 if name == "int8" else values).astype(numpy_dtype(name))


def save(path: Path, name: str, shape: tuple[int, ...], size: int, *, sparse: bool = False) -> Path:
    """Write tensors of `shape` to `path` until they take about `size` bytes."""
    each = math.prod(shape) * numpy_dtype(name).itemsize
    count = max(1, size // each)
    header = {
        f"layers.{i}.weight": {
            "dtype": CODES[name],
            "shape": list(shape),
            "data_offsets": [i * each, (i + 1) * each],
        }
        for i in range(count)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if sparse:
            file.truncate(8 + len(text) + count * each)
        else:
            data = weights(name, shape).tobytes()
            for _ in range(count):
                file.write(data)
    return path
