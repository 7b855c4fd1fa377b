"""A second opinion on a file that passed: plain readers, plain NumPy, nothing of ours.

Runs in a fork, since plain readers are what hostile files bring down.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import safetensors
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float64]]
Wanted = Callable[[str], bool]

_DTYPES = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    **{f"{kind}{8 * size}": f"{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)},
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}


def arrays(path: Path, wanted: Wanted = lambda _: True) -> Arrays:
    """Every tensor of the file whose name is `wanted`, as float64."""
    data = path.read_bytes()
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read("model.weights.h5")
    if data.startswith(b"\x89HDF"):
        return _hdf5_arrays(data, wanted)
    return _safetensors_arrays(data)


def model_config(path: Path) -> Any:
    """The model config that the file carries, parsed."""
    data = path.read_bytes()
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return json.loads(archive.read("config.json"))
    with h5py.File(io.BytesIO(data), "r") as file:
        return json.loads(file.attrs["model_config"])


def outside(values: NDArray[np.float64], axes: tuple[int, ...], bound: Any, slack: float) -> bool:
    """Whether a norm over `axes`, or without axes an element, is not finite or not within `bound`."""
    measured = np.sqrt(np.sum(values * values, axis=axes)) if axes else values
    low, high = (np.inf * sign if b is None else b for sign, b in zip((-1, 1), bound, strict=True))
    within = (measured >= low - slack * abs(low)) if np.isfinite(low) else True
    within &= (measured <= high + slack * abs(high)) if np.isfinite(high) else True
    return not (np.isfinite(values).all() and np.all(within))


def _hdf5_arrays(data: bytes, wanted: Wanted) -> Arrays:
    found: Arrays = {}

    names: list[str] = []
    with h5py.File(io.BytesIO(data), "r") as file:
        file.visit(names.append)
        for name in filter(wanted, names):  # the others may be broken
            item = file[name]
            if isinstance(item, h5py.Dataset):
                values = np.asarray(item[()])
                values = values.view(ml_dtypes.bfloat16) if values.dtype == "V2" else values
                found[name] = values.astype(np.float64)
    return found


def _safetensors_arrays(data: bytes) -> Arrays:
    return {
        name: np.frombuffer(bytes(part["data"]), _DTYPES[part["dtype"]])
        .reshape(part["shape"])
        .astype(np.float64)
        for name, part in safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    }
