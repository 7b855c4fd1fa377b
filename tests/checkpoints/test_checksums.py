"""Checksums of parts, taken by several threads or beside other reading, against zlib's of the whole."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ckptclamp import audit
from ckptclamp.auditing.options import AuditOptions
from ckptclamp.checkpoints.formats.zip import checksums as module
from ckptclamp.checkpoints.formats.zip.checksums import Checksums, crc32, crc32_of, crc32_of_both
from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import UnreadableError


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_two_checksums_make_that_of_both(first: bytes, second: bytes):
    """Also where one of them is of nothing."""
    assert crc32(second, crc32(first)) == zlib.crc32(first + second)
    both = crc32_of_both(zlib.crc32(first), zlib.crc32(second), len(second))
    assert both == zlib.crc32(first + second)


@pytest.mark.parametrize("length", [0, 1, 99, 100, 101, 200, 950, 1000])
def test_pieces_and_blocks_make_the_checksum_of_the_part(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Wherever pieces and blocks end, and whatever stands before and behind the part."""
    monkeypatch.setattr(module, "_PIECE", 100)
    monkeypatch.setattr(module, "_BLOCK", 7)
    data = bytes(i * i % 251 for i in range(1100))
    (tmp_path / "file").write_bytes(data)
    source = Source.open(tmp_path / "file")
    assert crc32_of(source, 50, length) == zlib.crc32(data[50 : 50 + length])
    with pytest.raises(UnreadableError):
        crc32_of(source, 500, 1000)
    source.close()


READS = st.lists(st.tuples(st.integers(0, 1090), st.integers(1, 200)), max_size=30)


@given(READS, st.integers(0, 1000), st.integers(0, 1000), st.sampled_from([1, 20, 100]))
def test_what_was_read_need_not_be_read_again(
    reads: list[tuple[int, int]], first: int, second: int, least: int
):
    """Whatever was read, in whatever order, overlapping or twice: what is left out is filled in."""
    data = bytes(i * i % 251 for i in range(1100))
    start, stop = sorted((first, second))
    with pytest.MonkeyPatch.context() as patch, tempfile.NamedTemporaryFile() as file:
        patch.setattr(module, "_LEAST", least)
        patch.setattr(module, "_BLOCK", 7)
        patch.setattr(module, "_PIECE", 300)
        patch.setattr(module, "_MOST", 20)
        file.write(data)
        file.flush()
        with closing(Source.open(Path(file.name))) as source:
            source.checksums = Checksums()
            for offset, length in reads:
                expected = data[offset : offset + length]
                assert source.read_at(offset, len(expected)) == expected
            pieces = list(source.checksums.within(start, stop))
            assert crc32_of(source, start, stop - start) == zlib.crc32(data[start:stop])
    assert sum(length for _, length, _ in pieces) == stop - start
    assert all(crc is None or length >= least for _, length, crc in pieces)


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("kind", ["keras", "npz"])
def test_an_audit_reads_the_weights_of_an_archive_once(
    damaged: bool, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The checksum is that of the bytes that were judged; a wrong one is found all the same."""
    path = tmp_path / f"model.{kind}"
    weights = np.random.default_rng(0).random((512, 1024), np.float32)
    save_archive(path, weights)
    if damaged:
        raw = bytearray(path.read_bytes())
        raw[raw.index(weights[300].tobytes()) + 8] ^= 1
        path.write_bytes(raw)
    read: list[int] = []
    fill = Source._fill

    def counted(self: Source, buffer: memoryview, offset: int) -> None:
        read.append(len(buffer))
        fill(self, buffer, offset)

    monkeypatch.setattr(Source, "_fill", counted)
    rule = {"tensors": "**", "constraint": "MaxNorm", "max_value": 100, "axis": 0}
    spec = {"version": 1, "rules": [rule]}
    if damaged:
        with pytest.raises(UnreadableError, match="do not match their checksum"):
            audit(path, spec, AuditOptions(hash=False))
    else:
        assert audit(path, spec, AuditOptions(hash=False)).exit_code == 0
    assert sum(read) < 1.2 * weights.nbytes


def save_archive(path: Path, weights: NDArray[Any]) -> None:
    """A stored archive of one weight, as NumPy and Keras write them."""
    if path.suffix == ".npz":
        np.savez(path, weights=weights)
        return
    hdf5 = io.BytesIO()
    with h5py.File(hdf5, "w") as file:
        file["layers/dense/vars/0"] = weights
    config = {"class_name": "Sequential", "config": {"layers": []}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", hdf5.getvalue())
