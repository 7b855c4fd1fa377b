"""Describes one HDF5 dataset, and reads attributes of text; part of the worker.

No element is ever read. What could lead elsewhere or cost too much is refused; what is merely no
number is described as unreadable, with the reason.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from h5py import h5a, h5d, h5s, h5t, h5z

from ckptclamp.checkpoints.dtypes import DTYPES
from ckptclamp.errors import RefusedError

if TYPE_CHECKING:
    from h5py.h5d import DatasetID
    from h5py.h5g import GroupID
    from h5py.h5o import ObjectID
    from h5py.h5p import PropDCID
    from h5py.h5t import TypeID


MAX_CHUNKS = 1_000_000
"""Chunks in the whole file."""

_MAX_TEXT = 48 << 20
"""Bytes of one attribute; all that is found must fit into one answer."""
_MAX_STRINGS = 1_000_000
_MAX_PARTS = 10_000
"""Keras splits long lists of names over attributes ``layer_names0``, ``layer_names1`` and so on."""

_FILTERS = {
    h5z.FILTER_DEFLATE: "deflate",
    h5z.FILTER_SHUFFLE: "shuffle",
    h5z.FILTER_FLETCHER32: "fletcher32",
    h5z.FILTER_LZF: "lzf",
}
_FLOATS = {
    # (bits, sign at, exponent at, exponent bits, mantissa at, mantissa bits, exponent bias)
    (64, 63, 52, 11, 0, 52, 1023): "float64",
    (32, 31, 23, 8, 0, 23, 127): "float32",
    (16, 15, 10, 5, 0, 10, 15): "float16",
    (16, 15, 7, 8, 0, 7, 127): "bfloat16",
}
_ORDERS = {h5t.ORDER_LE: "<", h5t.ORDER_BE: ">"}
_CLASSES = {
    h5t.STRING: "string",
    h5t.COMPOUND: "compound",
    h5t.VLEN: "variable-length",
    h5t.ARRAY: "array",
    h5t.REFERENCE: "reference",
    h5t.BITFIELD: "bit field",
    h5t.TIME: "time",
    h5t.ENUM: "enumeration",
    h5t.OPAQUE: "opaque",
}


class ChunkBudget:
    """How many chunks the file may still list."""

    def __init__(self) -> None:
        self.left = MAX_CHUNKS

    def take(self, path: str) -> None:
        """Count one chunk of the dataset at `path`."""
        self.left -= 1
        if self.left < 0:
            raise RefusedError(f"the file lists more than {MAX_CHUNKS} chunks", tensor=path)


def describe_dataset(dataset: DatasetID, path: str, budget: ChunkBudget) -> dict[str, Any]:
    """Return what the parent needs to read the dataset without the HDF5 library.

    Raises:
        RefusedError: it is virtual, lies in another file, or goes through filters that are not
            decoded here.
    """
    created = dataset.get_create_plist()
    layout = created.get_layout()
    if layout == h5d.VIRTUAL:
        raise RefusedError("is a virtual dataset, made of others", tensor=path)
    if created.get_external_count() > 0:
        raise RefusedError("keeps its values in another file (external storage)", tensor=path)
    filters = _filters(created, path)
    space = dataset.get_space()
    if space.get_simple_extent_type() == h5s.NULL:
        return {"shape": [], "label": "null", "reason": "holds no values (a null dataspace)"}
    shape = list(space.get_simple_extent_dims())
    dtype = _dtype(dataset, path)
    if "reason" in dtype:
        return {"shape": shape, **dtype}
    if layout == h5d.COMPACT:
        reason = "is kept inside its object header (compact layout)"
        return {"shape": shape, "label": "compact", "reason": reason}
    fill = _fill(created, dataset.get_type())
    if layout == h5d.CHUNKED:
        chunks = {
            "layout": "chunked",
            "chunk_shape": list(created.get_chunk()),
            "filters": filters,
            "chunks": _chunks(dataset, path, budget),
        }
        return {"shape": shape, **dtype, **chunks, "fill": fill}
    return {"shape": shape, **dtype, **_extent(dataset, fill)}


def _filters(created: PropDCID, path: str) -> list[list[Any]]:
    filters: list[list[Any]] = []
    for index in range(created.get_nfilters()):
        code, _, values, label = created.get_filter(index)
        name = _FILTERS.get(code)
        if name is None:
            said = label.decode("utf-8", "replace") or str(code)
            raise RefusedError(
                f"is stored through the filter {said!r}, which is not decoded here",
                tensor=path,
                hint="rewrite the file with gzip or without a filter (h5repack)",
            )
        if any(name == other for other, _ in filters):
            raise RefusedError(f"is put through the filter {name!r} twice", tensor=path)
        filters.append([name, values[0] if values else None])
    return filters


def _dtype(dataset: DatasetID, path: str) -> dict[str, Any]:
    """Return name and byte order of the dtype, or a label and the reason why it is none of ours."""
    try:
        datatype = dataset.get_type()
        kind = datatype.get_class()
    except TypeError:
        return {"label": "unknown", "reason": "has a datatype that is not known here"}
    name, order = None, "<"
    if kind in (h5t.FLOAT, h5t.INTEGER):
        name = _float_name(datatype) if kind == h5t.FLOAT else _integer_name(datatype)
        order = _ORDERS.get(datatype.get_order(), "") if datatype.get_size() > 1 else "<"
    elif kind == h5t.ENUM and _is_boolean(datatype):
        name = "bool"
    elif kind == h5t.OPAQUE and datatype.get_size() == 2:
        return _opaque_pair(dataset, path)
    if name in DTYPES and order:
        return {"dtype": name, "order": order}
    if kind in (h5t.FLOAT, h5t.INTEGER):
        label = f"{datatype.get_precision()}-bit {'float' if kind == h5t.FLOAT else 'integer'}"
        return {"label": label, "reason": f"holds numbers of an unusual layout ({label})"}
    label = _CLASSES.get(kind, "other")
    return {"label": label, "reason": f"holds no plain numbers (HDF5 datatype class {label!r})"}


def _float_name(datatype: TypeID) -> str | None:
    bits = datatype.get_size() * 8
    if datatype.get_precision() != bits or datatype.get_offset() != 0:
        return None
    sign, exponent, exponent_bits, mantissa, mantissa_bits = datatype.get_fields()
    if datatype.get_norm() != h5t.NORM_IMPLIED:
        return None
    bias = datatype.get_ebias()
    return _FLOATS.get((bits, sign, exponent, exponent_bits, mantissa, mantissa_bits, bias))


def _integer_name(datatype: TypeID) -> str | None:
    bits = datatype.get_size() * 8
    if datatype.get_precision() != bits or datatype.get_offset() != 0:
        return None
    return f"{'' if datatype.get_sign() == h5t.SGN_2 else 'u'}int{bits}"


def _is_boolean(datatype: TypeID) -> bool:
    """Whether this is h5py's boolean: an 8-bit enumeration of FALSE = 0 and TRUE = 1."""
    if datatype.get_size() != 1 or datatype.get_nmembers() != 2:
        return False
    members = {datatype.get_member_name(i): datatype.get_member_value(i) for i in range(2)}
    return members == {b"FALSE": 0, b"TRUE": 1}


def _opaque_pair(dataset: DatasetID, path: str) -> dict[str, Any]:
    """Two opaque bytes are how Keras stores bfloat16; an attribute says so, or nothing does."""
    if h5a.exists(dataset, b"dtype") and text(dataset, "dtype", path) != "bfloat16":
        return {"label": "opaque", "reason": "holds opaque pairs of bytes that are no bfloat16"}
    return {"dtype": "bfloat16", "order": "<"}


def _extent(dataset: DatasetID, fill: str | None) -> dict[str, Any]:
    """Return where the one extent of the dataset lies; it may never have been written."""
    offset, stored = dataset.get_offset(), dataset.get_storage_size()
    if offset is not None and stored > 0:
        return {"layout": "contiguous", "offset": offset, "stored": stored}
    if fill is None:
        return {"label": "empty", "reason": "was never written and names no fill value"}
    return {"layout": "constant", "fill": fill}


def _fill(created: PropDCID, datatype: TypeID) -> str | None:
    """Return the bytes, in hexadecimal, of an element that was never written; ``None``: undefined."""
    size = datatype.get_size()
    defined = created.fill_value_defined()
    if defined == h5d.FILL_VALUE_UNDEFINED:
        return None
    if defined == h5d.FILL_VALUE_DEFAULT:
        return bytes(size).hex()
    value = np.zeros((), dtype=datatype.dtype)
    created.get_fill_value(value)
    return value.tobytes().hex()


def _chunks(dataset: DatasetID, path: str, budget: ChunkBudget) -> list[int]:
    """Return, for each chunk in turn, its start along every axis, offset, size and filter mask."""
    chunks: list[int] = []

    def note(chunk: Any) -> None:  # noqa: ANN401 - h5py's StoreInfo
        budget.take(path)
        chunks.extend(chunk.chunk_offset)
        chunks.extend((chunk.byte_offset, chunk.size, chunk.filter_mask))

    dataset.chunk_iter(note)
    return chunks


def text(owner: ObjectID, name: str, path: str) -> str | None:
    """Return the one string in attribute `name` of `owner`, or ``None`` if it holds no such thing."""
    values = _strings(owner, name, path)
    return values[0] if values is not None and len(values) == 1 else None


def names(owner: GroupID, name: str, path: str) -> list[str] | None:
    """Return the list of strings in attribute `name`, put together from its parts if it is split.

    ``None`` if there is neither the attribute nor a first part of it.
    """
    if h5a.exists(owner, name.encode()):
        return _strings(owner, name, path) or []
    joined: list[str] | None = None
    for part in range(_MAX_PARTS):
        if not h5a.exists(owner, f"{name}{part}".encode()):
            return joined
        joined = (joined or []) + (_strings(owner, f"{name}{part}", path) or [])
    raise RefusedError(f"the attribute {name!r} is split into too many parts", tensor=path)


def _strings(owner: ObjectID, name: str, path: str) -> list[str] | None:
    """Return the strings of an attribute; ``None`` if it does not exist or holds no strings."""
    if not h5a.exists(owner, name.encode()):
        return None
    attribute = h5a.open(owner, name.encode())
    datatype = attribute.get_type()
    space = attribute.get_space()
    if datatype.get_class() != h5t.STRING or space.get_simple_extent_type() == h5s.NULL:
        return None
    shape = space.get_simple_extent_dims()
    count = math.prod(shape)
    width = datatype.get_size()
    if count > _MAX_STRINGS or count * width > _MAX_TEXT:
        raise RefusedError(f"the attribute {name!r} is too large", tensor=path)
    values = np.empty(shape, dtype=datatype.dtype)
    if count:
        attribute.read(values)
    return [_decoded(value, name, path) for value in values.ravel().tolist()]


def _decoded(value: object, name: str, path: str) -> str:
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    if len(raw) > _MAX_TEXT:
        raise RefusedError(f"the attribute {name!r} is too large", tensor=path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        message = f"the attribute {name!r} is no UTF-8 text"
        raise RefusedError(message, tensor=path) from None
