"""What a worker tells of chunks, looked at as if a file had taken the worker over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckptclamp.checkpoints.formats.hdf5.file import Answer, Place
from ckptclamp.checkpoints.tensor import Chunk, Chunked
from ckptclamp.errors import RefusedError

FIRST, SECOND = [0, 0, 4096, 50, 0], [2, 4, 8192, 60, 1]


def tensor_of(*chunks: list[Any]) -> Chunked:
    """The storage of a (4, 6) float32 tensor in compressed chunks of (2, 4), as it is understood."""
    row = {"name": "w", "shape": [4, 6], "dtype": "float32", "order": "<", "layout": "chunked"}
    told = [number for chunk in chunks for number in chunk]
    row |= {"chunk_shape": [2, 4], "filters": [["deflate", 1]], "chunks": told}
    answer = Answer({"datasets": [row]}, Path("w.h5"), Place(0, 100, 1 << 20))
    storage = answer.tensors()["w"].storage
    assert isinstance(storage, Chunked)
    return storage


def test_chunks_are_found_by_their_start_wherever_the_file_lies():
    """Offsets count from the start of the source, and the order is that of the tensor."""
    chunks = tensor_of(SECOND, FIRST).chunks
    assert chunks == (Chunk((0, 0), 4196, 50, 0), Chunk((2, 4), 8292, 60, 1))
    assert tensor_of().chunks == ()


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        ([2, 4, 8192, 60], "chunks make no sense"),
        ([2, 4, 8192, 60, 0, 0], "chunks make no sense"),
        ([2, 4, 8192, 60, True], "chunks make no sense"),
        ([2, 4, 8192.0, 60, 0], "chunks make no sense"),
        ([2, 4, "8192", 60, 0], "chunks make no sense"),
        ([2, 4, None, 60, 0], "chunks make no sense"),
        ([2, 4, [8192], 60, 0], "chunks make no sense"),
        ([2, 4, -1, 60, 0], "chunks make no sense"),
        ([2, 4, 8192, 1 << 63, 0], "chunks make no sense"),
        ([2, 3, 8192, 60, 0], "outside its shape"),
        ([4, 0, 8192, 60, 0], "outside its shape"),
        ([0, 8, 8192, 60, 0], "outside its shape"),
        ([2, 4, 8192, 0, 0], "is empty"),
        ([0, 0, 8192, 60, 0], "twice"),
        ([2, 4, 4100, 60, 0], "shares its bytes"),
        ([2, 4, 1 << 30, 60, 0], "outside the file"),
    ],
)
def test_chunks_that_make_no_sense_are_refused(chunk: list[Any], reason: str):
    """No number of the worker's is taken on trust: not its type, its size nor what it points at."""
    with pytest.raises(RefusedError, match=reason):
        tensor_of(FIRST, chunk)
