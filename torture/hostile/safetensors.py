"""Safetensors files with two readings, lies about sizes, and what no library would write."""

from __future__ import annotations

import json
import struct
from typing import Any

from tests.checkpoints.safetensors_files import encoded, entry, framed
from torture.hostile.case import NOTHING, REFUSED, VIOLATED, cases, file

ONE = entry("F32", [1], 0, 4)
LARGE = struct.pack("<f", 1e6)
W = json.dumps(ONE)


def header(text: str | bytes, data: bytes = LARGE) -> bytes:
    """A file with this text as its header."""
    return framed(text.encode() if isinstance(text, str) else text, data)


def tensors(data: bytes = LARGE, /, **entries: Any) -> bytes:
    """A file with these entries."""
    return encoded(entries, data)


def values(dtype: str, *numbers: float, code: str = "f") -> bytes:
    """A file with one tensor of these values."""
    data = struct.pack(f"<{len(numbers)}{code}", *numbers)
    return encoded({"w": entry(dtype, [len(numbers)], 0, len(data))}, data)


def many(count: int) -> bytes:
    """As many tensors of no bytes."""
    return encoded({f"t{number}": entry("F32", [0], 0, 0) for number in range(count)})


NAN, INF = float("nan"), float("inf")

ROWS = (
    ("nothing after the length", (8).to_bytes(8, "little"), REFUSED, "checkpoint"),
    ("length 0", bytes(8), REFUSED, "checkpoint"),
    ("length beyond the file", (4000).to_bytes(8, "little") + b"{}", REFUSED, "truncated"),
    ("length 2 to the 63", (1 << 63).to_bytes(8, "little") + b"{}", REFUSED, "checkpoint"),
    ("length 2 to the 64", b"\xff" * 8 + b"{}", REFUSED, "checkpoint"),
    ("length over the limit", (90 << 20).to_bytes(8, "little") + b"{}", REFUSED, "truncated"),
    ("name twice", header(f'{{"w":{W},"w":{W}}}'), REFUSED, "twice"),
    ("name twice by escapes", header(f'{{"w":{W},"\\u0077":{W}}}'), REFUSED, "twice"),
    ("field twice", header('{"w":{"dtype":"F32","dtype":"F32"}}'), REFUSED, "twice"),
    ("metadata twice", header('{"__metadata__":{},"__metadata__":{}}', b""), REFUSED, "twice"),
    ("white space before", header(f' {{"w":{W}}}'), REFUSED, "begin"),
    ("byte order mark", header(f'\ufeff{{"w":{W}}}'), REFUSED, "begin"),
    ("new line after", header(f'{{"w":{W}}}\n'), REFUSED, "end with"),
    ("two documents", header(f'{{"w":{W}}} {{}}'), REFUSED, "not JSON"),
    ("a list", header("[]", b""), REFUSED, "begin"),
    ("no JSON", header('{"w":}'), REFUSED, "not JSON"),
    ("no UTF-8", header(b'{"\xff":{}}'), REFUSED, "UTF-8"),
    ("lone surrogate", header(f'{{"\\ud800":{W}}}'), REFUSED, "surrogate"),
    ("deep", header('{"a":' * 5000 + "1" + "}" * 5000), REFUSED, "nests deeper"),
    ("a hundred thousand brackets", header("{" + "[" * 100_000 + "}"), REFUSED, "nests deeper"),
    ("number of 5000 digits", header('{"w":' + "1" * 5000 + "}"), REFUSED, "digits"),
    ("number that overflows", header('{"w":1e999}'), REFUSED, "overflows"),
    ("NaN", header('{"w":NaN}'), REFUSED, "NaN"),
    ("extra field", tensors(w=ONE | {"strides": [1]}), REFUSED, "just dtype"),
    ("missing field", tensors(w={"dtype": "F32"}), REFUSED, "just dtype"),
    ("entry is null", tensors(w=None), REFUSED, "just dtype"),
    ("dtype is a number", tensors(w=ONE | {"dtype": 32}), REFUSED, "not a string"),
    ("dtype unknown", tensors(w=ONE | {"dtype": "F33"}), REFUSED, "not of the format"),
    ("dtype in lower case", tensors(w=ONE | {"dtype": "f32"}), REFUSED, "not of the format"),
    ("shape of floats", tensors(w=ONE | {"shape": [1.0]}), REFUSED, "whole numbers"),
    ("shape of booleans", tensors(w=ONE | {"shape": [True]}), REFUSED, "whole numbers"),
    ("shape negative", tensors(w=ONE | {"shape": [-1]}), REFUSED, "whole numbers"),
    ("shape null", tensors(w=ONE | {"shape": None}), REFUSED, "whole numbers"),
    ("shape overflow", tensors(b"", w=entry("F32", [1 << 62, 4], 0, 0)), REFUSED, "does not fill"),
    (
        "shape overflow beside 0",
        tensors(b"", w=entry("F32", [1 << 63, 1 << 63, 0], 0, 0)),
        REFUSED,
        "refuses",
    ),
    ("65 axes", tensors(w=ONE | {"shape": [1] * 65}), REFUSED, "axes"),
    ("shape too large", tensors(w=ONE | {"shape": [2]}), REFUSED, "does not fill"),
    ("shape too small", tensors(bytes(8), w=entry("F32", [1], 0, 8)), REFUSED, "does not fill"),
    ("three offsets", tensors(w=ONE | {"data_offsets": [0, 4, 4]}), REFUSED, "[begin, end]"),
    ("reversed offsets", tensors(w=ONE | {"data_offsets": [4, 0]}), REFUSED, "[begin, end]"),
    ("float offsets", tensors(w=ONE | {"data_offsets": [0, 4.0]}), REFUSED, "[begin, end]"),
    ("negative offset", tensors(w=ONE | {"data_offsets": [-4, 0]}), REFUSED, "[begin, end]"),
    ("same bytes twice", tensors(v=ONE, w=ONE), REFUSED, "overlaps"),
    ("shared bytes", tensors(bytes(6), v=ONE, w=entry("F32", [1], 2, 6)), REFUSED, "overlaps"),
    ("gap at the start", tensors(bytes(8), w=entry("F32", [1], 4, 8)), REFUSED, "gap"),
    ("gap", tensors(bytes(12), v=ONE, w=entry("F32", [1], 8, 12)), REFUSED, "gap"),
    ("data cut", tensors(bytes(3), w=ONE), REFUSED, "truncated"),
    ("data too long", tensors(bytes(5), w=ONE), REFUSED, "longer"),
    ("no tensors", encoded({}), NOTHING, ""),
    ("no name", tensors(**{"": ONE}), REFUSED, "0 characters"),
    ("name of 5000 characters", tensors(**{"n" * 5000: ONE}), REFUSED, "characters"),
    ("name with NUL", tensors(**{"w\0x": ONE}), VIOLATED, "w\0x"),
    ("name with escape codes", tensors(**{"\x1b[2J\x1b]0;": ONE}), VIOLATED, "\x1b[2J"),
    (
        "name like a command",
        tensors(
            **{
                "::error::": ONE,
            }
        ),
        VIOLATED,
        "::error::",
    ),
    ("name like a path", tensors(**{"../../etc/passwd": ONE}), VIOLATED, "passwd"),
    ("name like a glob", tensors(**{"**": ONE}), VIOLATED, "**"),
    ("metadata of numbers", encoded({"__metadata__": {"a": 1}}), REFUSED, "strings"),
    ("metadata is a list", encoded({"__metadata__": []}), REFUSED, "strings"),
    ("tensor called metadata", tensors(__metadata__=ONE), REFUSED, "strings"),
    ("float of 4 bits", tensors(bytes(1), w=entry("F4", [2], 0, 1)), REFUSED, "F4"),
    ("complex", tensors(bytes(8), w=entry("C64", [1], 0, 8)), REFUSED, "complex"),
    ("not a number", values("F32", 1, NAN, 1), VIOLATED, "w"),
    ("all not a number", values("F32", *[NAN] * 9), VIOLATED, "w"),
    ("infinite", values("F32", 1, -INF), VIOLATED, "w"),
    ("not a number in half precision", values("F16", 1, NAN, code="e"), VIOLATED, "w"),
    ("not a number in float8", tensors(b"\x7f", w=entry("F8_E4M3", [1], 0, 1)), VIOLATED, "w"),
    ("largest double", values("F64", 1.7e308, -1.7e308, code="d"), VIOLATED, "w"),
    ("smallest 8-bit integer", tensors(b"\x80", w=entry("I8", [1], 0, 1)), VIOLATED, "w"),
    ("largest 64-bit integer", tensors(b"\xff" * 8, w=entry("U64", [1], 0, 8)), VIOLATED, "w"),
    ("boolean of 2", tensors(b"\x02", w=entry("BOOL", [1], 0, 1)), REFUSED, "real numbers"),
    ("empty tensors alone", many(3), REFUSED, "no weights"),
    ("nothing", b"", REFUSED, "empty"),
    ("one byte", b"{", REFUSED, "JSON"),
    ("pickle", b"\x80\x04c__builtin__\neval\n" + bytes(90), REFUSED, "pickle"),
    ("pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\n", REFUSED, "LFS"),
    ("web page", b"<!DOCTYPE html><title>404</title>", REFUSED, "web page"),
)

CASES = cases(
    "safetensors",
    [(name, file("model.safetensors", data), code, word) for name, data, code, word in ROWS],
)
