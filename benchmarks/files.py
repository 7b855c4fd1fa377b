"""Checkpoints to measure on, made anew for each run: equal matrices in every container, or sparse."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import h5py
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
            data = memoryview(weights(name, shape).tobytes())
            for i in range(count):
                # The same weights, some further on: equal tensors would be looked at as tied ones.
                first = i * 4096 % each
                file.write(data[first:])
                file.write(data[:first])
    return path


def save_hdf5(path: Path, shape: tuple[int, ...], size: int, **storage: Any) -> Path:
    """Write float32 matrices of about `size` bytes to an HDF5 file, stored as h5py is told."""
    return _save_hdf5(path, "layer_{}/kernel", shape, size, **storage)


def save_keras(path: Path, shape: tuple[int, int], size: int) -> Path:
    """Write the same as a stored .keras archive: a Sequential of Dense layers without bias."""
    weights_file = path.with_suffix(".weights.h5")
    _save_hdf5(weights_file, "layers/dense_{}/vars/0", shape, size)
    layers = [
        {
            "module": "keras.layers",
            "class_name": "Dense",
            "registered_name": None,
            "config": {"name": f"dense_{i}", "units": shape[1], "use_bias": False},
        }
        for i in range(_count(shape, size))
    ]
    model = {"module": "keras", "class_name": "Sequential", "registered_name": "Sequential"}
    model["config"] = {"name": "bench", "layers": layers}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.9.0"}))
        archive.writestr("config.json", json.dumps(model))
        archive.write(weights_file, "model.weights.h5")
    weights_file.unlink()
    return path


def _save_hdf5(path: Path, name: str, shape: tuple[int, ...], size: int, **storage: Any) -> Path:
    data = weights("float32", shape)
    with h5py.File(path, "w") as file:
        first = file.create_dataset(name.format(0), data=data, **storage)
        for i in range(1, _count(shape, size)):
            if first.chunks is None:
                rows = np.roll(data, i, axis=0)  # no equal tensors, as in `save`
                file.create_dataset(name.format(i), data=rows)
            else:
                _repeat(first, file.create_dataset(name.format(i), shape, "f4", **storage))
    return path


def _repeat(first: h5py.Dataset, other: h5py.Dataset) -> None:
    """Give `other` the chunks of `first` as they are stored: compressing takes minutes."""
    for index in range(first.id.get_num_chunks()):
        start = first.id.get_chunk_info(index).chunk_offset
        mask, raw = first.id.read_direct_chunk(start)
        other.id.write_direct_chunk(start, raw, mask)


def _count(shape: tuple[int, ...], size: int) -> int:
    return max(1, size // (math.prod(shape) * 4))
