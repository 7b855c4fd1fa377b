"""Zip archives in which two readers see two models, and ``.keras`` files that are not what they seem."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np

from tests.checkpoints.hdf5_files import external_storage, hard_cycle, virtual
from tests.checkpoints.keras_files import CONFIG, members, pack, weights
from torture.hostile.case import REFUSED, VIOLATED, Make, cases, file

NAME = "model.keras"
GOOD = weights({"dense": np.ones(4, np.float32)})
LARGE = weights({"dense": np.full(4, 1e6, np.float32)})


def packed(method: int = zipfile.ZIP_STORED, /, **changes: bytes) -> Make:
    """A ``.keras`` archive of large weights; `changes` are members by name, ``__`` for a dot."""
    contents = members(LARGE) | {name.replace("__", "."): data for name, data in changes.items()}
    return lambda directory: pack(directory / NAME, contents, method)


def patched(change: Callable[[bytes], bytes], method: int = zipfile.ZIP_STORED) -> Make:
    """An archive whose bytes `change` changed afterwards."""

    def make(directory: Path) -> Path:
        path = pack(directory / NAME, members(LARGE), method)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def raw(contents: Mapping[str, bytes]) -> bytes:
    """A plain archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def twice(name: str, other: str) -> Callable[[], bytes]:
    """An archive with two members of one name: the second one conforms."""
    contents = members(LARGE) | {other: GOOD if name.endswith("h5") else CONFIG}
    return lambda: raw(contents).replace(other.encode(), name.encode())


def entry(field: int, value: bytes, which: int = -1) -> Callable[[bytes], bytes]:
    """Change a field of one entry of the central directory; by default of the last member."""

    def change(data: bytes) -> bytes:
        places = [at for at in range(len(data)) if data.startswith(b"PK\x01\x02", at)]
        at = places[which] + field
        return data[:at] + value + data[at + len(value) :]

    return change


def end(field: int, value: bytes) -> Callable[[bytes], bytes]:
    """Change a field of the end record."""

    def change(data: bytes) -> bytes:
        at = data.rindex(b"PK\x05\x06") + field
        return data[:at] + value + data[at + len(value) :]

    return change


def both(flag: int) -> Callable[[bytes], bytes]:
    """Set a flag of the first member in its header and in the directory."""

    def change(data: bytes) -> bytes:
        copy = bytearray(data)
        copy[6] |= flag
        copy[copy.index(b"PK\x01\x02") + 8] |= flag
        return bytes(copy)

    return change


def inner(fill: Callable[[h5py.File], object]) -> Make:
    """An archive whose weights are an HDF5 file that `fill` filled."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as h5:
        h5["layers/dense/vars/0"] = np.ones(2, "f4")
        fill(h5)
    return packed(model__weights__h5=buffer.getvalue())


def quoted_overlap() -> bytes:
    """Many entries whose data all run into the same kernel of zeros."""
    kernel = zlib.compress(bytes(1 << 20), 9)[2:-4]
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 33, 0, len(kernel), 1 << 20, 1, 0)
    body = local + b"a" + kernel
    directory = b""
    for number in range(200):
        name = f"{number:03}".encode()
        directory += struct.pack(
            "<4s6H3I5H2I",
            b"PK\1\2",
            20,
            20,
            0,
            8,
            0,
            33,
            0,
            len(kernel),
            1 << 20,
            3,
            0,
            0,
            0,
            0,
            0,
            0,
        )
        directory += name
    tail = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 200, 200, len(directory), len(body), 0)
    return body + directory + tail


def flipped(name: str) -> Callable[[bytes], bytes]:
    """Flip a bit inside the data of one member."""

    def change(data: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            info = archive.getinfo(name)
        at = info.header_offset + 30 + len(name) + 8 + info.compress_size // 2
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return change


SPACES = json.dumps({"a": " " * (8 << 20)}).encode()

CASES = cases(
    "archive",
    (
        ("sound", packed(), VIOLATED, "dense"),
        ("deflated", packed(zipfile.ZIP_DEFLATED), VIOLATED, "dense"),
        (
            "weights twice",
            file(NAME, twice("model.weights.h5", "model.weights.hh")),
            REFUSED,
            "twice",
        ),
        ("config twice", file(NAME, twice("config.json", "config.jsom")), REFUSED, "twice"),
        (
            "name cut at NUL",
            file(
                NAME,
                lambda: raw(members(GOOD) | {"model.weights.h5?.txt": LARGE}).replace(
                    b"h5?", b"h5\0"
                ),
            ),
            REFUSED,
            "plain relative",
        ),
        ("script before it", patched(lambda data: b"#!/bin/sh\n" + data), REFUSED, ""),
        ("bytes after it", patched(lambda data: data + b"garbage"), REFUSED, "end record"),
        ("two archives", patched(lambda data: data + data), REFUSED, ""),
        ("archive in the comment", patched(lambda data: data + raw({"a": b""})), REFUSED, ""),
        ("cut", patched(lambda data: data[: len(data) // 2]), REFUSED, "end record"),
        ("one byte short", patched(lambda data: data[:-1]), REFUSED, "end record"),
        ("parent", packed(**{"../evil": b"x"}), REFUSED, "plain relative"),
        ("absolute", packed(**{"/etc/passwd": b"x"}), REFUSED, "plain relative"),
        ("backslash", packed(**{"assets\\..\\evil": b"x"}), REFUSED, "plain relative"),
        ("drive", packed(**{"c:/evil": b"x"}), REFUSED, "plain relative"),
        ("name with new line", packed(**{"assets/a\nb": b"x"}), REFUSED, "plain relative"),
        ("encrypted", patched(both(1)), REFUSED, "encrypted"),
        ("strongly encrypted", patched(both(1 << 6)), REFUSED, "encrypted"),
        ("packed by bzip2", packed(zipfile.ZIP_BZIP2), REFUSED, "method 12"),
        ("packed by lzma", packed(zipfile.ZIP_LZMA), REFUSED, "method 14"),
        ("unknown method", patched(entry(10, b"\x63\0")), REFUSED, "method 99"),
        ("link", patched(entry(38, b"\0\0\xff\xa1")), REFUSED, "symbolic link"),
        ("newer reader", patched(entry(6, b"\x7f")), REFUSED, "newer"),
        ("size in the directory", patched(entry(24, b"\x01")), REFUSED, ""),
        ("place in the directory", patched(entry(42, b"\xff")), REFUSED, ""),
        ("checksum in the directory", patched(entry(16, b"\0\0\0\0", 2)), REFUSED, "disagree"),
        ("date in the directory", patched(entry(12, b"\0\0")), REFUSED, "disagree"),
        ("disk of a member", patched(entry(34, b"\x05")), REFUSED, "no sense"),
        ("count", patched(end(10, b"\x63")), REFUSED, ""),
        ("another disk", patched(end(4, b"\x01")), REFUSED, "disks"),
        ("size of the directory", patched(end(12, b"\xff\xff")), REFUSED, ""),
        ("place of the directory", patched(end(16, b"\0\0\0\0")), REFUSED, ""),
        ("place beyond the file", patched(end(16, b"\xff\xff\xff\x7f")), REFUSED, ""),
        ("length of the comment", patched(end(20, b"\xff\xff")), REFUSED, "end record"),
        ("overlapping bomb", file(NAME, quoted_overlap), REFUSED, "overlaps"),
        (
            "too many members",
            file(NAME, lambda: raw({str(n): b"" for n in range(10_001)})),
            REFUSED,
            "at most",
        ),
        ("flipped bit in weights", patched(flipped("model.weights.h5")), REFUSED, ""),
        ("flipped bit in config", patched(flipped("config.json")), REFUSED, ""),
        (
            "flipped bit in assets",
            patched(flipped("assets/words/vocabulary.txt")),
            REFUSED,
            "checksum",
        ),
        (
            "flipped bit deflated",
            patched(flipped("model.weights.h5"), zipfile.ZIP_DEFLATED),
            REFUSED,
            "",
        ),
        ("config bomb", packed(zipfile.ZIP_DEFLATED, config__json=SPACES), REFUSED, "unpacks from"),
        (
            "metadata bomb",
            packed(zipfile.ZIP_DEFLATED, metadata__json=SPACES),
            REFUSED,
            "unpacks from",
        ),
        (
            "weights bomb",
            packed(zipfile.ZIP_DEFLATED, model__weights__h5=bytes(70 << 20)),
            REFUSED,
            "unpacks",
        ),
        (
            "asset bomb",
            packed(zipfile.ZIP_DEFLATED, assets__zeros=bytes(70 << 20)),
            REFUSED,
            "unpacks from",
        ),
        ("no config", file(NAME, lambda: raw({"model.weights.h5": GOOD})), REFUSED, "config.json"),
        ("no weights", file(NAME, lambda: raw({"config.json": CONFIG})), REFUSED, "weights.h5"),
        ("empty archive", file(NAME, lambda: raw({})), REFUSED, "config.json"),
        ("npz beside weights", packed(model__weights__npz=b"x"), REFUSED, "npz"),
        (
            "pickle",
            file("model.pt", lambda: raw({"archive/data.pkl": b"\x80\x02."})),
            REFUSED,
            "pickle",
        ),
        ("config of a list", packed(config__json=b"[]"), REFUSED, "object"),
        ("config cut", packed(config__json=CONFIG[:-1]), REFUSED, "JSON"),
        ("config says two things", packed(config__json=b'{"a":1,"a":2}'), REFUSED, "twice"),
        (
            "config deep",
            packed(config__json=b'{"a":' * 9000 + b"1" + b"}" * 9000),
            REFUSED,
            "deeper",
        ),
        ("config in UTF-16", packed(config__json=CONFIG.decode().encode("utf-16")), REFUSED, ""),
        ("config with a surrogate", packed(config__json=b'{"a":"\\ud800"}'), REFUSED, "surrogate"),
        ("config is empty", packed(config__json=b""), REFUSED, "JSON"),
        ("weights are no HDF5", packed(model__weights__h5=b"x" * 999), REFUSED, "HDF5"),
        ("weights are a zip", packed(model__weights__h5=raw({"a": b"b"})), REFUSED, "HDF5"),
        ("weights empty", packed(model__weights__h5=b""), REFUSED, ""),
        (
            "weights with trailing zip",
            packed(model__weights__h5=LARGE + raw({"a": b""})),
            REFUSED,
            "",
        ),
        (
            "weights linked elsewhere",
            inner(lambda f: f.__setitem__("e", h5py.ExternalLink("/x", "/w"))),
            REFUSED,
            "external link",
        ),
        ("weights stored elsewhere", inner(external_storage), REFUSED, "external storage"),
        ("weights virtual", inner(virtual), REFUSED, "virtual"),
        ("weights in a circle", inner(hard_cycle), REFUSED, "never end"),
    ),
)
