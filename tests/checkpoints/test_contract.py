"""Every format under the same contract."""

from __future__ import annotations

import json
import zipfile
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


def write_hdf5(path: Path, arrays: Arrays, **options: Any) -> None:
    """Write Keras' layout: one ``vars`` group a layer; options are for datasets with axes."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            extra = options if array.ndim else {}
            file.create_dataset(f"layers/{name}/vars/0", data=array, **extra)


class Hdf5Contract(CheckpointContract):
    """What is common to the containers of HDF5."""

    def arrays(self) -> Arrays:
        arrays = super().arrays()
        return {name: arrays[name] for name in ("scalar", "matrix", "kernel", "cube")}

    def name(self, name: str) -> str:
        return f"layers/{name}/vars/0"


class TestContiguousHdf5(Hdf5Contract):
    """Datasets as Keras writes them."""

    def make(self, directory: Path, arrays: Arrays) -> Path:
        path = directory / "model.weights.h5"
        write_hdf5(path, arrays)
        return path


class TestBigEndianHdf5(TestContiguousHdf5):
    """Datasets of the other byte order, which stay that way."""

    def arrays(self) -> Arrays:
        arrays = super().arrays()
        return {n: a.astype(a.dtype.newbyteorder(">")) for n, a in arrays.items() if a.itemsize > 1}


class TestChunkedHdf5(Hdf5Contract):
    """Chunks without filters, ragged at the edges."""

    def make(self, directory: Path, arrays: Arrays) -> Path:
        path = directory / "model.weights.h5"
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                chunks = tuple(max(1, n // 2) for n in array.shape) or None
                file.create_dataset(f"layers/{name}/vars/0", data=array, chunks=chunks)
        return path


class TestCompressedHdf5(Hdf5Contract):
    """Chunks that change their size when they are written."""

    in_place = False

    def make(self, directory: Path, arrays: Arrays) -> Path:
        path = directory / "model.weights.h5"
        write_hdf5(path, arrays, compression="gzip", shuffle=True, fletcher32=True)
        return path


CONFIG = {"module": "keras", "class_name": "Sequential", "config": {"name": "m", "layers": []}}
METADATA = {"keras_version": "3.15.1", "date_saved": "2026-01-01@00:00:00"}


class TestKerasDirectory(Hdf5Contract):
    """What ``model.save(directory, zipped=False)`` leaves, with an asset."""

    def make(self, directory: Path, arrays: Arrays) -> Path:
        model = directory / "model"
        (model / "assets").mkdir(parents=True)
        (model / "config.json").write_text(json.dumps(CONFIG))
        (model / "metadata.json").write_text(json.dumps(METADATA))
        write_hdf5(model / "model.weights.h5", arrays)
        return model


class TestKerasArchive(Hdf5Contract):
    """A ``.keras`` file: the same in a zip archive of stored members."""

    def make(self, directory: Path, arrays: Arrays) -> Path:
        weights = directory / "weights"
        write_hdf5(weights, arrays)
        path = directory / "model.keras"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps(METADATA))
            archive.writestr("config.json", json.dumps(CONFIG))
            archive.write(weights, "model.weights.h5")
        return path

    def bookkeeping(self, path: Path) -> set[int]:
        """The checksum of the weights stands in the member's header and in the directory."""
        with zipfile.ZipFile(path) as archive:
            local = archive.getinfo("model.weights.h5").header_offset + 14
            directory = archive.start_dir
        central = path.read_bytes().index(b"model.weights.h5", directory) - 46 + 16
        return {*range(local, local + 4), *range(central, central + 4)}


class TestKerasShards(Hdf5Contract):
    """Weights that Keras split over two files."""

    def make(self, directory: Path, arrays: Arrays) -> Path:
        items = list(arrays.items())
        weight_map: dict[str, str] = {}
        for number in range(2):
            name = f"model_{number:05}.weights.h5"
            write_hdf5(directory / name, dict(items[number::2]))
            weight_map |= {f"/layers/{key}/vars": name for key, _ in items[number::2]}
        index = directory / "model.weights.json"
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
        return index
