"""What a safetensors header may say, judged by our own reader and by the reference library."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from ckptclamp.checkpoints.formats import safetensors
from ckptclamp.checkpoints.formats.safetensors import (
    Header,
    SafetensorsCheckpoint,
    parse_header,
)
from ckptclamp.checkpoints.source import Source
from ckptclamp.checkpoints.tensor import Contiguous, Unreadable
from ckptclamp.errors import CkptclampError, RefusedError, UnreadableError
from tests.checkpoints.contract import assert_same, full
from tests.checkpoints.safetensors_files import (
    NAMES,
    encoded,
    entry,
    framed,
    samples,
    serialised,
)


def opened(directory: Path, content: bytes, **options: int) -> SafetensorsCheckpoint:
    """Write `content` to a file and open it."""
    path = directory / "model.safetensors"
    path.write_bytes(content)
    source = Source.open(path)
    try:
        return SafetensorsCheckpoint(source, **options)
    except BaseException:
        source.close()
        raise


ONE = entry("F32", [1], 0, 4)
W = json.dumps(ONE)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated"),
        (b"\x02\0\0", "truncated"),
        (b"\x02\0\0\0\0\0\0\0", "truncated"),
        (b"\xff" * 8 + b"{}", "truncated"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "truncated"),
        (framed(b""), "does not begin with '{'"),
        (framed(b" {}"), "does not begin with '{'"),
        (framed(b"\xef\xbb\xbf{}"), "does not begin with '{'"),
        (framed(b"[]"), "does not begin with '{'"),
        (framed(b"{}\n"), "does not end with '}' and spaces"),
        (framed(b"{}\0"), "does not end with '}' and spaces"),
        (framed(b"{} {}"), "not JSON"),
        (framed(b'{"a":}'), "not JSON"),
        (framed(b'{"\xff":{}}'), "not UTF-8"),
        (framed(f'{{"w":{W},"w":{W}}}'.encode(), bytes(4)), "the key 'w' twice"),
        (framed(b'{"w":{"dtype":"F32","dtype":"F32"}}'), "the key 'dtype' twice"),
        (framed(f'{{"\\ud800":{W}}}'.encode(), bytes(4)), "lone surrogate"),
        (framed(b'{"a":' * 2000 + b"1" + b"}" * 2000), "nests deeper"),
        (framed(b"{" + b"[" * 100_000 + b"}"), "nests deeper"),
        (encoded({"w": 1}), "w: the entry does not hold just"),
        (encoded({"w": {"dtype": "F32"}}), "w: the entry does not hold just"),
        (encoded({"w": ONE | {"strides": [1]}}, bytes(4)), "w: the entry does not hold just"),
        (encoded({"w": ONE | {"dtype": 32}}, bytes(4)), "w: dtype is not a string"),
        (encoded({"w": ONE | {"dtype": "F33"}}, bytes(4)), "w: the dtype F33 is not of the format"),
        (encoded({"w": ONE | {"shape": [1.0]}}, bytes(4)), "w: shape is not a list of whole"),
        (encoded({"w": ONE | {"shape": [True]}}, bytes(4)), "w: shape is not a list of whole"),
        (encoded({"w": ONE | {"shape": [-1]}}, bytes(4)), "w: shape is not a list of whole"),
        (encoded({"w": ONE | {"shape": 1}}, bytes(4)), "w: shape is not a list of whole"),
        (encoded({"w": ONE | {"data_offsets": [0, 4, 4]}}, bytes(4)), "w: data_offsets is not"),
        (encoded({"w": ONE | {"data_offsets": [4, 0]}}, bytes(4)), "w: data_offsets is not"),
        (encoded({"w": ONE | {"data_offsets": [0, 4e0]}}, bytes(4)), "w: data_offsets is not"),
        (framed(b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,NaN]}}'), "holds NaN"),
        (framed(b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,1e999]}}'), "overflows"),
        (framed(b'{"w":{"dtype":"F32","shape":[1' + b"0" * 5000 + b"]}}"), "thousands of digits"),
        (encoded({"w": ONE | {"data_offsets": 4}}, bytes(4)), "w: data_offsets is not"),
        (
            encoded({"v": ONE, "w": entry("F32", [True], 4, 8)}, bytes(8)),
            "w: shape is not a list of whole",
        ),
        (encoded(ONE, bytes(4)), "dtype: the entry does not hold just"),
        (encoded({"": ONE}, bytes(4)), "name has 0 characters"),
        (encoded({"n" * 1025: ONE}, bytes(4)), "name has 1025 characters"),
        (encoded({"w": ONE, "v": ONE}, bytes(4)), "overlaps the tensor before it"),
        (encoded({"w": ONE, "v": entry("F32", [1], 2, 6)}, bytes(6)), "v: overlaps"),
        (encoded({"w": entry("F32", [1], 4, 8)}, bytes(8)), "w: leaves a gap"),
        (encoded({"w": ONE, "v": entry("F32", [1], 8, 12)}, bytes(12)), "v: leaves a gap"),
        (encoded({"w": ONE}, bytes(3)), "the file is truncated"),
        (encoded({"w": ONE}, bytes(5)), "longer than its header says"),
        (encoded({"w": entry("F32", [2], 0, 4)}, bytes(4)), r"F32 \[2\] does not fill 4 bytes"),
        (encoded({"w": entry("F32", [1 << 62, 4], 0, 0)}), "does not fill 0 bytes"),
        (encoded({"w": entry("F32", [1 << 63, 1 << 63, 0], 0, 0)}), "safetensors library refuses"),
        (encoded({"__metadata__": {"a": 1}}), "__metadata__ is not an object of strings"),
        (encoded({"__metadata__": ONE}), "__metadata__ is not an object of strings"),
        (encoded({"__metadata__": []}), "__metadata__ is not an object of strings"),
        (framed(b'{"__metadata__":{"a":"1","a":"2"}}'), "the key 'a' twice"),
    ],
)
def test_a_bad_header_is_refused(tmp_path: Path, content: bytes, reason: str):
    """Each way to be malformed or to mean two things ends in one clear line with the file's name."""
    with pytest.raises(RefusedError, match=reason) as caught:
        opened(tmp_path, content)
    assert caught.value.path == str(tmp_path / "model.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b"{}" + b" " * 62,
        b'{"__metadata__":{}}',
        b'{ "w" : {"data_offsets":[0,0],\n"shape":[0],"dtype":"I8"} }',
        b'{"' + b"n" * 1024 + b'":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"I8","shape":[0],"data_offsets":[0,0]},'
        b'"b":{"dtype":"I8","shape":[0,3],"data_offsets":[0,0]}}',
    ],
)
def test_what_is_legal_opens(tmp_path: Path, header: bytes):
    """Padding, white space inside, no tensors, empty tensors and long names are all legal."""
    with opened(tmp_path, framed(header)) as checkpoint:
        assert all(tensor.size == 0 for tensor in checkpoint.tensors.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_dtype_of_the_format(tmp_path: Path, name: str):
    """Each dtype is read as the NumPy type of the same meaning, from an unaligned place too."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    values = np.array([[1, 0, 1], [0, 1, 1]]).astype(dtype)
    arrays = {"pad": np.ones(1, np.int8), "w": values}
    with opened(tmp_path, serialised(arrays)) as checkpoint:
        tensor = checkpoint.tensors["w"]
        assert (tensor.dtype_name, tensor.nbytes) == (NAMES[name], values.nbytes)
        assert_same(checkpoint.read(tensor, full(tensor)), values)


@pytest.mark.parametrize(("dtype", "bits"), [("F4", 4), ("F6_E2M3", 6), ("F6_E3M2", 6)])
def test_sub_byte_dtypes_are_named_but_not_read(tmp_path: Path, dtype: str, bits: int):
    """A file with packed dtypes opens; only their own tensors cannot be read, and say why."""
    header = {
        "q": entry(dtype, [8, 2], 0, bits * 2),
        "w": entry("F32", [1], bits * 2, bits * 2 + 4),
    }
    with opened(tmp_path, encoded(header, bytes(bits * 2 + 4))) as checkpoint:
        tensor = checkpoint.tensors["q"]
        assert isinstance(tensor.storage, Unreadable)
        assert tensor.shape == (8, 2)
        assert tensor.nbytes == bits * 2
        with pytest.raises(UnreadableError, match=f"q: the dtype {dtype} cannot be read"):
            checkpoint.read(tensor, full(tensor))
        assert checkpoint.read(checkpoint.tensors["w"], ((0, 1),)).item() == 0


def test_more_axes_than_numpy_has(tmp_path: Path):
    """A shape of 65 axes is no crash, but a tensor that cannot be read."""
    header = {"deep": entry("F32", [1] * 65, 0, 4), "ok": entry("F32", [1] * 64, 4, 8)}
    with opened(tmp_path, encoded(header, bytes(8))) as checkpoint:
        assert isinstance(checkpoint.tensors["deep"].storage, Unreadable)
        assert checkpoint.read(checkpoint.tensors["ok"], ((0, 1),) * 64).ndim == 64


def test_metadata_and_order_are_kept(tmp_path: Path):
    """Free text is handed on; tensors come in the order of their bytes, not of the header."""
    header = {
        "__metadata__": {"format": "pt", "note": "\u202e"},
        "late": entry("I8", [2], 3, 5),
        "early": entry("I8", [3], 0, 3),
    }
    with opened(tmp_path, encoded(header, bytes(5))) as checkpoint:
        assert checkpoint.metadata == {"format": "pt", "note": "\u202e"}
        assert list(checkpoint.tensors) == ["early", "late"]
        late = checkpoint.tensors["late"].storage
        assert late == Contiguous(0, checkpoint.sources[0].size - 2)


def test_the_header_limit_can_be_set(tmp_path: Path):
    """A header over the limit is not read; one that is, is read with a higher limit."""
    header = {"__metadata__": {"padding": "x" * 5000}, "w": ONE}
    with pytest.raises(RefusedError, match="at most 4096 are read"):
        opened(tmp_path, encoded(header, bytes(4)), header_limit=4096)
    with opened(tmp_path, encoded(header, bytes(4)), header_limit=8192) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path):
    """A length over the format's own limit is refused whatever the limit, before any reading."""
    path = tmp_path / "model.safetensors"
    path.write_bytes((100_000_001).to_bytes(8, "little") + b"{")
    os.truncate(path, 200_000_000)
    source = Source.open(path)
    with pytest.raises(RefusedError, match="at most 100000000 are read"):
        SafetensorsCheckpoint(source, header_limit=1 << 40)
    source.close()


def test_a_file_larger_than_memory_opens(tmp_path: Path):
    """Opening reads the header only: a terabyte of weights behind it makes no difference."""
    content = encoded({"w": entry("F32", [1 << 38], 0, 1 << 40)})
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    os.truncate(path, len(content) + (1 << 40))
    with SafetensorsCheckpoint(Source.open(path)) as checkpoint:
        tensor = checkpoint.tensors["w"]
        assert checkpoint.read(tensor, (((1 << 38) - 3, 1 << 38),)).tolist() == [0, 0, 0]


def test_a_hundred_thousand_tensors(tmp_path: Path):
    """A header of the largest models is described in full."""
    header = {f"layers.{i}.weight": entry("F32", [2], i * 8, i * 8 + 8) for i in range(100_000)}
    with opened(tmp_path, encoded(header, bytes(800_000))) as checkpoint:
        assert len(checkpoint.tensors) == 100_000
        assert checkpoint.tensors["layers.99999.weight"].shape == (2,)


def test_truncation_while_open_is_an_error(tmp_path: Path):
    """A file that is cut short while it is open gives an error, never zeros and never a crash."""
    with opened(tmp_path, serialised(samples())) as checkpoint:
        os.truncate(checkpoint.path, 600)
        last = list(checkpoint.tensors.values())[-2]
        with pytest.raises(UnreadableError, match="truncated"):
            checkpoint.read(last, full(last))
        with pytest.raises(UnreadableError, match="changed while"):
            checkpoint.verify_unchanged()


def library_reading(content: bytes) -> dict[str, tuple[Any, ...]] | None:
    """What the reference makes of a file, or nothing where it refuses it."""
    try:
        tensors = deserialize(content)
    except SafetensorError:
        return None
    return {
        name: (info["dtype"], tuple(info["shape"]), bytes(info["data"])) for name, info in tensors
    }


def our_reading(content: bytes) -> dict[str, tuple[Any, ...]] | str:
    """What our own reader alone makes of a file, or the reason why it refuses it."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 + length:
        return "truncated"
    try:
        header = parse_header(
            content[8 : 8 + length], len(content) - 8 - length, limit=1 << 20, path="model"
        )
    except CkptclampError as error:
        return error.message
    return {name: found(header, name, content[8 + length :]) for name in header.tensors}


def found(header: Header, name: str, data: bytes) -> tuple[Any, ...]:
    """The dtype, shape and bytes of one tensor, as the library would tell them."""
    tensor = header.tensors[name]
    begin, end = header.extents[name]
    return tensor.dtype_name, tensor.shape, data[begin:end]


CHANGES = ((0, "z"), (1, "I32"), (2, (2, 2)), (3, 4))
"""A place in what a parser makes of a tensor, and what another one might have there."""


def changed(reading, place, value):
    """`reading` with another value at a place."""
    return (*reading[:place], value, *reading[place + 1 :])


@pytest.mark.parametrize(
    "differently",
    [
        *(lambda r, c=c: [changed(r[0], *c), *r[1:]] for c in CHANGES),
        lambda r: r[1:],
        lambda r: [*r, ("more", "F32", (0,), None)],
        lambda r: [r[1], r[0], *r[2:]],
    ],
)
def test_a_library_that_reads_otherwise_is_believed(tmp_path, monkeypatch, differently):
    """Another name, dtype, shape or place of one tensor, one less or more; not the order of empty ones."""
    arrays = {name: np.arange(4, dtype=np.float32) for name in "ab"}
    content = serialised({**arrays, "c": np.zeros(0, np.float32), "d": np.zeros(0, np.float32)})
    readings = safetensors._library_readings
    monkeypatch.setattr(
        safetensors, "_library_readings", lambda path: sorted(readings(path), key=backwards)
    )
    opened(tmp_path, content).close()
    monkeypatch.setattr(
        safetensors, "_library_readings", lambda path: differently([*readings(path)])
    )
    with pytest.raises(RefusedError, match="reads the header otherwise"):
        opened(tmp_path, content)


def backwards(reading):
    """Where a tensor stands: those without bytes the other way round, and last."""
    name, _, _, begin = reading
    return (begin is None, begin or 0, -ord(name))


STRICTER = ("twice", "begin with", "end with '}'", "just dtype", "name has", "nests deeper")
"""Reasons for which we refuse what the library accepts."""

VALID = serialised(
    {
        "a.kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a.bias": np.arange(3, dtype=np.float16),
        "empty": np.zeros((0, 2), np.int8),
        "b": np.arange(5, dtype=np.uint8),
    },
    {"format": "pt"},
)
HEADER_END = 8 + int.from_bytes(VALID[:8], "little")


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A valid file with some bytes replaced, inserted, removed or swapped, length kept true."""
    header = bytearray(VALID[8:HEADER_END])
    tokens = [b"0", b"1", b"9", b"-", b".", b"e", b" ", b'"', b"{", b"}", b"[", b"]", b",", b":"]
    tokens += [b"null", b"true", b"NaN", b"\\u0061", b"\\ud800", b"\xff", b"\0", b"F4", b"BF16"]
    pieces = st.sampled_from(tokens) | st.binary(min_size=1, max_size=2)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(header)))
        length = draw(st.integers(0, 2))
        header[at : at + length] = draw(pieces)
    data = VALID[HEADER_END:] + draw(st.sampled_from([b"", b"\0", bytes(8)]))
    return framed(bytes(header), data)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """A well-formed JSON header whose entries may or may not fit together."""
    size = st.integers(-1, 5)
    shape = st.lists(size, max_size=3) | st.just([1 << 63, 2]) | st.none()
    dtype = st.sampled_from(["F32", "I8", "BF16", "F4", "F6_E2M3", "C64", "X"])
    offsets = st.lists(st.integers(0, 24), max_size=3)
    one = st.fixed_dictionaries(
        {"dtype": dtype, "shape": shape, "data_offsets": offsets}, optional={"extra": size}
    )
    names = st.sampled_from(["a", "b", "", "\u00e9", "e\u0301", "__metadata__"])
    header = draw(st.dictionaries(names, one, max_size=3))
    return encoded(header, bytes(draw(st.integers(0, 24))))


@settings(max_examples=1500, deadline=None)
@given(mutants() | headers() | st.binary(max_size=40))
def test_our_reader_and_the_library_agree(content: bytes):
    """What we accept the library reads the same; what we alone refuse has one of a few reasons."""
    ours, theirs = our_reading(content), library_reading(content)
    if isinstance(ours, str):
        assert theirs is None or any(reason in ours for reason in STRICTER)
    else:
        assert theirs == ours


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64) | mutants())
def test_opening_never_fails_but_by_refusing(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
):
    """Whatever the bytes, opening ends in a description or in one of our own errors."""
    directory = tmp_path_factory.getbasetemp()
    try:
        with opened(directory, content) as checkpoint:
            assert checkpoint.format == "safetensors"
    except CkptclampError as error:
        assert error.exit_code == 3  # noqa: PT017 - most examples raise nothing
