"""Safetensors files written by hand, so that tests can write what no library would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    **{
        f"{sign}int{bits}": f"{letter}{bits}"
        for sign, letter in (("", "I"), ("u", "U"))
        for bits in (8, 16, 32, 64)
    },
    "bool": "BOOL",
    "complex64": "C64",
}
"""Every dtype of the format that NumPy and ml_dtypes can hold."""


def framed(header: bytes, data: bytes = b"") -> bytes:
    """A file with this header, whatever is in it."""
    return len(header).to_bytes(8, "little") + header + data


def encoded(header: Mapping[str, Any], data: bytes = b"") -> bytes:
    """A file with this header as JSON."""
    return framed(json.dumps(header).encode(), data)


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    """One tensor's entry in a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def serialised(
    arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """A valid file with these arrays, in this order."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    data = b""
    for name, array in arrays.items():
        content = array.tobytes()
        header[name] = entry(
            NAMES[array.dtype.name], list(array.shape), len(data), len(data) + len(content)
        )
        data += content
    return encoded(header, data)


def write_set(directory: Path, shards: Mapping[str, Mapping[str, NDArray[Any]]]) -> Path:
    """Write a sharded set and return its index."""
    weight_map: dict[str, str] = {}
    for shard, arrays in shards.items():
        (directory / shard).write_bytes(serialised(arrays))
        weight_map |= dict.fromkeys(arrays, shard)
    total = sum(array.nbytes for arrays in shards.values() for array in arrays.values())
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return index


def samples() -> dict[str, NDArray[Any]]:
    """Arrays of many ranks, some empty, some unaligned in the file."""
    rng = np.random.default_rng(7)
    return {
        "odd": rng.integers(-9, 9, 3, dtype=np.int8),
        "scalar": np.array(2.5, np.float32),
        "vector": rng.normal(size=11).astype(np.float32),
        "matrix": rng.normal(size=(7, 5)).astype(np.float64),
        "cube": rng.normal(size=(4, 3, 6)).astype(np.float16),
        "kernel": rng.normal(size=(3, 2, 4, 5)).astype(np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }
