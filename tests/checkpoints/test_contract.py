"""Every format under the same contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.checkpoints.contract import Arrays, CheckpointContract
from tests.checkpoints.safetensors_files import NAMES, serialised, write_set


class TestSafetensors(CheckpointContract):
    """Files as the library writes them."""

    def make(self, directory: Path, arrays: Arrays) -> Path:
        path = directory / "model.safetensors"
        save_file(dict(arrays), path, metadata={"format": "np"})
        return path


class TestSafetensorsOfEveryDtype(CheckpointContract):
    """Files by hand: data in the order of the header, so some tensors are not aligned."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        rng = np.random.default_rng(3)
        return {
            name: rng.integers(0, 2, (3, 5)).astype(getattr(ml_dtypes, name, name))
            for name in NAMES
        }

    def make(self, directory: Path, arrays: Arrays) -> Path:
        path = directory / "model.safetensors"
        path.write_bytes(serialised(arrays))
        return path


class TestShardedSafetensors(CheckpointContract):
    """A set of three shards and its index."""

    def make(self, directory: Path, arrays: Arrays) -> Path:
        items = list(arrays.items())
        return write_set(
            directory,
            {f"model-{n + 1:05}-of-00003.safetensors": dict(items[n::3]) for n in range(3)},
        )


class TestContiguousHdf5(CheckpointContract):
    """Datasets as Keras writes them."""

    def arrays(self) -> Arrays:
        return {name: array for name, array in super().arrays().items() if array.size}

    def make(self, directory: Path, arrays: Arrays) -> Path:
        path = directory / "model.weights.h5"
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[f"layers/{name}"] = array
        return path

    def name(self, name: str) -> str:
        return f"layers/{name}"
