"""Keras' containers against safetensors of the same tensors; compressed HDF5 against h5py."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import files
import peers
import processes
from setting import Setting, audit
from table import Row, compared

SHAPE = (2048, 2048)
OPTIONS = ("--axis", "1", "--max-norm", "2")
COMPRESSIONS = {
    "gzip": {"compression": "gzip"},
    "shuffle and gzip": {"compression": "gzip", "shuffle": True},
}


def containers(setting: Setting) -> Iterator[Row]:
    """Half of the size in each container, plain and compressed."""
    yield from _stored(setting)
    for how, options in COMPRESSIONS.items():
        path = files.save_hdf5(setting.folder / "packed.h5", SHAPE, setting.size // 2, **options)
        theirs = [sys.executable, "-c", peers.H5PY, str(path)]
        found = processes.compare(theirs, audit(path, *OPTIONS), times=setting.times)
        path.unlink()
        what = f"rows, HDF5, {how}"
        yield compared("containers", what, "h5py reads all of it", 0.6, found)


def _stored(setting: Setting) -> Iterator[Row]:
    """Plain containers, with what it costs to start a worker and without."""
    start, size = _worker_start(setting), setting.size // 2
    same = files.save(setting.folder / "same.safetensors", "float32", SHAPE, size)
    theirs = audit(same, *OPTIONS)
    for name, save, path in (
        ("contiguous .h5", files.save_hdf5, setting.folder / "plain.h5"),
        ("stored .keras", files.save_keras, setting.folder / "stored.keras"),
    ):
        save(path, SHAPE, size)
        pairs = processes.turns([theirs, audit(path, *OPTIONS)], setting.times)
        path.unlink()
        for note, less, limit in (
            (f"after the worker's start, {start:.2f} s", start, 1.15),
            ("with the worker's start", 0.0, None),
        ):
            found = processes.comparison(pairs, less=less)
            what = f"rows, {name}, {note.split(',')[0]}"
            yield compared("containers", what, "the same in safetensors", limit, found, note=note)
    same.unlink()


def _worker_start(setting: Setting) -> float:
    """Seconds that an audit of next to nothing takes longer in HDF5 than in safetensors.

    The fastest runs are compared: what the machine does meanwhile must not be taken off as a start.
    """
    tiny = (4, 4)
    plain = files.save(setting.folder / "tiny.safetensors", "float32", tiny, 64)
    hdf5 = files.save_hdf5(setting.folder / "tiny.h5", tiny, 64)
    pairs = processes.turns([audit(plain, *OPTIONS), audit(hdf5, *OPTIONS)], setting.times)
    others, mine = ([run.wall for run in runs] for runs in zip(*pairs, strict=True))
    return max(min(mine) - min(others), 0)
