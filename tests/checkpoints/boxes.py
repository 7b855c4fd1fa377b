"""Boxes that hypothesis draws, and chunked tensors as h5py knows them."""

from __future__ import annotations

import h5py
import numpy as np
from hypothesis import strategies as st

from ckptclamp.checkpoints.dtypes import Kind, StorageDType
from ckptclamp.checkpoints.tensor import Box, Chunk, Chunked, Tensor

FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}


@st.composite
def boxed_shapes(draw: st.DrawFn) -> tuple[tuple[int, ...], Box]:
    """A shape of any rank, and a box in it."""
    shape = tuple(draw(st.lists(st.integers(0, 7), max_size=5)))
    ends = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    return shape, tuple((low, high) for low, high in ends)


def described(dataset: h5py.Dataset) -> Tensor:
    """The description of a chunked dataset, from h5py's own account of it."""
    created = dataset.id.get_create_plist()
    filters = tuple(FILTERS[created.get_filter(i)[0]] for i in range(created.get_nfilters()))
    infos = [dataset.id.get_chunk_info(i) for i in range(dataset.id.get_num_chunks())]
    chunks = tuple(Chunk(i.chunk_offset, i.byte_offset, i.size, i.filter_mask) for i in infos)
    fill = np.array(dataset.fillvalue, dataset.dtype).tobytes()
    storage = Chunked(0, dataset.chunks, filters, chunks, fill)
    kind = {"f": Kind.FLOAT}.get(dataset.dtype.kind, Kind.INTEGER)
    order = ">" if dataset.dtype.str.startswith(">") else "<"
    dtype = StorageDType(dataset.dtype.name, dataset.dtype.itemsize * 8, kind, byte_order=order)  # type: ignore[arg-type]
    return Tensor("w", dataset.shape, dtype, storage)
