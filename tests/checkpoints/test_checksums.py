"""Checksums that several threads take of one file, against zlib's of all of it."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptclamp.checkpoints import source as module
from ckptclamp.checkpoints.source import Source, crc32_of, crc32_of_both
from ckptclamp.errors import UnreadableError


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_two_checksums_make_that_of_both(first: bytes, second: bytes):
    """Also where one of them is of nothing."""
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
