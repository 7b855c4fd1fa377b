"""Reads the few attributes that Keras puts in HDF5 files; part of the worker.

The value of an attribute is read only when it is wanted, by name, and only after its datatype class
and its size were looked at: decoding damaged variable-length strings is where the HDF5 library
crashes and stalls most.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from h5py import h5a, h5s, h5t

from ckptclamp.errors import RefusedError

if TYPE_CHECKING:
    from h5py.h5g import GroupID
    from h5py.h5o import ObjectID

_MAX_TEXT = 48 << 20
"""Bytes of one attribute; what is told of the file must fit into one answer."""
_MAX_STRINGS = 1_000_000
_MAX_PARTS = 10_000
"""Keras splits long lists of names over attributes ``layer_names0``, ``layer_names1`` and so on."""


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
