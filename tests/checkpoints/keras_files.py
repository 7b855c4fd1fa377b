"""Keras checkpoints of every container, made without Keras."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

CONFIG = b'{"class_name": "Sequential", "config": {"layers": [], "limit": Infinity}}'
METADATA = b'{"keras_version": "3.9.0", "date_saved": "2025-01-01@00:00:00"}'
WHEN = (2024, 5, 17, 12, 34, 56)


def weights(arrays: Mapping[str, NDArray[Any]], **options: Any) -> bytes:
    """A v3 weights file: each array is the one variable of a layer of its name."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(f"layers/{name}/vars/0", data=array, **options)
            file[f"layers/{name}/vars"].attrs["name"] = name
    return buffer.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    """What Keras puts into an archive, in its order, and an asset."""
    return {
        "metadata.json": METADATA,
        "config.json": CONFIG,
        "model.weights.h5": data,
        "assets/words/vocabulary.txt": b"the quick brown fox\n" * 20,
    }


def pack(path: Path, contents: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    """An archive of these members at `path`, under headers that are worth keeping."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            info = zipfile.ZipInfo(name, WHEN)
            info.compress_type = method
            info.external_attr = 0o640 << 16
            info.comment = b"of " + name.encode()
            info.extra = struct.pack("<2HI", 0xCAFE, 4, 7)
            archive.writestr(info, content)
        archive.comment = b"made by hand"
    return path


def unpacked(directory: Path, data: bytes) -> Path:
    """The same as a directory."""
    for name, content in members(data).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def sharded(directory: Path, shards: Mapping[str, Mapping[str, NDArray[Any]]]) -> Path:
    """Shards by name, and the index that belongs to them."""
    weight_map: dict[str, list[str]] = {}
    for shard, arrays in shards.items():
        (directory / shard).write_bytes(weights(arrays))
        for name in arrays:
            weight_map.setdefault(f"/layers/{name}/vars", []).append(shard)
    return indexed(directory, weight_map)


def indexed(directory: Path, weight_map: Mapping[str, object]) -> Path:
    """An index with this map."""
    index = directory / "model.weights.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1.0}, "weight_map": weight_map}))
    return index


def ones(*shape: int) -> NDArray[Any]:
    """A float32 array of ones."""
    return np.ones(shape, np.float32)
