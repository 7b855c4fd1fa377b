"""The directory of a zip archive: what Python writes is read, what readers disagree about is not."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptclamp.checkpoints.formats.zip.directory import Directory, read_directory
from ckptclamp.checkpoints.source import Source
from ckptclamp.errors import CkptclampError, NotACheckpointError, RefusedError
from tests.checkpoints.zip_files import archive

PARTS = st.text("abcé_.0", min_size=1, max_size=6).filter(lambda part: part not in (".", ".."))
NAMES = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
METHODS = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])


def read(path: Path, data: bytes) -> Directory:
    """What the strict reader makes of `data`."""
    path.write_bytes(data)
    source = Source.open(path)
    try:
        return read_directory(source)
    finally:
        source.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test puts its archive."""
    return tmp_path / "model.keras"


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)
@given(
    members=st.dictionaries(NAMES, st.binary(max_size=80), min_size=1, max_size=4),
    method=METHODS,
    form=st.fixed_dictionaries(
        {"comment": st.binary(max_size=3), "zip64": st.booleans(), "streamed": st.booleans()}
    ),
)
def test_reads_what_python_writes(
    path: Path, members: dict[str, bytes], method: int, form: dict[str, Any]
) -> None:
    """Every member is found where its bytes are, in every form that Python can write."""
    data = archive(members, method=method, **form)
    found = read(path, data).members
    with zipfile.ZipFile(io.BytesIO(data)) as reader:
        assert [(m.name, m.method, m.crc, m.size, m.stored) for m in found] == [
            (i.filename, i.compress_type, i.CRC, i.file_size, i.compress_size)
            for i in reader.infolist()
        ]
    for member in found:
        if method == zipfile.ZIP_STORED:
            assert data[member.data : member.data + member.stored] == members[member.name]
        for place in member.crc_places:
            assert struct.unpack_from("<I", data, place) == (member.crc,)


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300
)
@given(
    streamed=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(1, 255)), max_size=2),
)
def test_agrees_with_python_on_damage(
    path: Path, streamed: bool, changes: list[tuple[int, int]]
) -> None:
    """A damaged archive that is accepted is one that Python's reader sees alike."""
    data = bytearray(archive({"config.json": b"{}", "b": b"weights"}, streamed=streamed))
    for at, flip in changes:
        data[at % len(data)] ^= flip
    try:
        found = read(path, bytes(data)).members
    except CkptclampError:
        return
    with zipfile.ZipFile(io.BytesIO(data)) as reader:
        assert [(m.name, m.crc, m.size, m.header) for m in found] == [
            (i.filename, i.CRC, i.file_size, i.header_offset) for i in reader.infolist()
        ]


TWO = {"config.json": b"{}", "model.weights.h5": b"weights"}


def duplicated() -> bytes:
    """Two members of one name."""
    data = archive({"config.json": b"{}", "config.jsoN": b"{}"})
    return data.replace(b"config.jsoN", b"config.json")


def named(name: str) -> bytes:
    """An archive with a member of that name."""
    return archive({name: b"{}"})


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    """`data` with `value` at `offset`; from the end if negative."""
    offset %= len(data)
    return data[:offset] + value + data[offset + len(value) :]


def overlapping() -> bytes:
    """The second member's entry points into the first one's data."""
    inner = archive({"b": b"xy"})[: 30 + 1 + 2]
    data = archive({"a": inner, "b": b"xy"})
    with zipfile.ZipFile(io.BytesIO(data)) as reader:
        second = reader.infolist()[1].header_offset
    return data.replace(struct.pack("<I", second) + b"b", struct.pack("<I", 31) + b"b")


def encrypted() -> bytes:
    """Both headers say that the member is encrypted."""
    data = bytearray(named("a"))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def symbolic_link() -> bytes:
    """A member that stands for another file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        info = zipfile.ZipInfo("model.weights.h5")
        info.external_attr = 0o120777 << 16
        target.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def in_directory(data: bytes, name: bytes, other: bytes) -> bytes:
    """`data` with `name` replaced in the central directory alone."""
    at = data.rindex(name)
    return data[:at] + other + data[at + len(name) :]


def second_name() -> bytes:
    """A member with a Unicode path field, which some readers prefer."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        info = zipfile.ZipInfo("a")
        info.extra = struct.pack("<2HBI", 0x7075, 6, 1, 0) + b"b"
        target.writestr(info, "x")
    return buffer.getvalue()


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "two members of one name": (duplicated, "twice"),
    "bytes before": (lambda: b"#!/bin/sh\n" + archive(TWO), "belong to no member|damaged"),
    "two archives": (lambda: archive(TWO) + archive(TWO), "belong to no member|end records"),
    "overlapping members": (overlapping, "overlaps|disagree|reach"),
    "encrypted": (encrypted, "encrypted"),
    "symbolic link": (symbolic_link, "symbolic link"),
    "second name": (second_name, "second name"),
    "names that disagree": (lambda: in_directory(named("abc"), b"abc", b"abd"), "disagree"),
    "cut name": (lambda: named("model.weights.h5?.txt").replace(b"?", b"\0"), "plain relative"),
    "parent": (lambda: named("../a"), "plain relative"),
    "absolute": (lambda: named("/a"), "plain relative"),
    "backslash": (lambda: named("a!b").replace(b"!", b"\\"), "plain relative"),
    "drive": (lambda: named("c:/a"), "plain relative"),
    "dot": (lambda: named("./a"), "plain relative"),
    "no text": (lambda: named("a!").replace(b"!", b"\xff"), "neither ASCII"),
    "size that lies": (lambda: patched(named("a"), 22, b"\x09"), "disagree"),
    "method": (lambda: archive({"a": b"x"}, method=zipfile.ZIP_BZIP2), "method 12"),
    "count that lies": (lambda: patched(named("a"), -14, b"\x02\x00\x02\x00"), "announces"),
    "another disk": (lambda: patched(named("a"), -18, b"\x01\x00"), "disks"),
    "an end record in the comment": (
        lambda: archive(TWO, comment=b"PK\x05\x06" + bytes(18)),
        "end records",
    ),
    "the beginning of an end record in the comment": (
        lambda: archive(TWO, comment=b"PK\x05\x06"),
        "end records",
    ),
    "too many members": (
        lambda: archive({str(number): b"" for number in range(10_001)}),
        "at most 10000",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refuses(what: str, path: Path) -> None:
    """An archive in which two readers could see different members is refused."""
    make, reason = REFUSED[what]
    with pytest.raises(RefusedError, match=reason):
        read(path, make())


@pytest.mark.parametrize("data", [archive(TWO)[:-5], archive(TWO) + b"\n", b"PK\x03\x04", b""])
def test_no_end(path: Path, data: bytes) -> None:
    """An archive that does not end with its end record is none."""
    with pytest.raises(NotACheckpointError, match="end record"):
        read(path, data)
