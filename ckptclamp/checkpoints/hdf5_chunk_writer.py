"""Puts encoded chunks into an HDF5 file; part of the worker, and the only HDF5 writing there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
from h5py import h5d

from ckptclamp.checkpoints.chunk_records import read_records

if TYPE_CHECKING:
    from ckptclamp.checkpoints.hdf5_window import Window

_STDIN = 0


def write_chunks(window: Window) -> dict[str, Any]:
    """Write every chunk that comes through standard input, and return how many there were.

    They are encoded already: no filter is applied, and none is marked as left out.
    """
    written = 0
    with h5py.File(window, "r+") as file:
        for record in read_records(_STDIN):
            dataset = h5d.open(file.id, record.name.encode("utf-8"))
            dataset.write_direct_chunk(record.start, record.data, 0)
            written += 1
    return {"written": written}
