"""Blocks in codes as the compiled kernels take them, checked so that nothing is read beside the arrays."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ckptclamp.models.effective.codes import Codes, Octets

    Gather = Callable[[NDArray[Any], NDArray[np.intp]], NDArray[Any]]

_POINTERS = ("bytes", "places", "table", "tables", "zeros", "factors", "group_of")
_SIZES = ("length", "per", "skip", "groups", "step", "first")


class Structure(ctypes.Structure):
    """`struct codes`."""

    _fields_: ClassVar = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_size_t) for name in _SIZES),
        ("divisor", ctypes.c_double),
        ("dtype", ctypes.c_int),
    ]


class Prepared:
    """What C is handed for a block in codes, and the arrays that it points into."""

    def __init__(self, codes: Codes, dtype: int, gather: Gather) -> None:
        octets = codes.octets
        stored = _turned(octets, gather) if octets.cell else octets.stored.view(np.uint8)
        matrices, height, width = stored.shape
        row = np.arange(height) if octets.places is None else octets.places
        places = (height * np.arange(matrices)[:, None] + row).reshape(-1) * width
        tables = None
        if octets.tables is not None:
            tables = np.tile(octets.tables, matrices) * (256 * octets.per)
        self._arrays: dict[str, NDArray[Any] | None] = {
            "bytes": stored,
            "places": np.ascontiguousarray(places, np.int64),
            "table": octets.table,
            "tables": tables,
            "zeros": codes.zeros,
            "factors": codes.factors,
            "group_of": codes.group_of,
        }
        dtypes: dict[str, type] = {
            "bytes": np.uint8,
            "places": np.int64,
            "tables": np.int64,
            "group_of": np.int32,
        }
        for name, array in self._arrays.items():
            _require(array is None or array.dtype == dtypes.get(name, np.float64))
            _require(array is None or array.flags.c_contiguous)
        _check_rows(codes, octets, stored, row)
        _check_groups(codes)
        sizes = (codes.length, octets.per, octets.skip, codes.factors.shape[1])
        pointers = (None if a is None else a.ctypes.data for a in self._arrays.values())
        self.structure = Structure(*pointers, *sizes, codes.step, codes.first, codes.divisor, dtype)


def _turned(octets: Octets, gather: Gather) -> NDArray[np.uint8]:
    """The bytes in rows of the codes: shape (matrices, rows, bytes)."""
    stored = np.ascontiguousarray(octets.stored).view(np.uint8)
    cells = stored.view(f"u{octets.cell}")[..., 0]
    every = np.arange(cells.shape[2])
    turned = [gather(matrix, every).view(np.uint8) for matrix in cells]
    return turned[0][None] if len(turned) == 1 else np.stack(turned)


def _check_rows(
    codes: Codes, octets: Octets, stored: NDArray[np.uint8], row: NDArray[np.int64]
) -> None:
    matrices, height, width = stored.shape
    count = matrices * len(row)
    _require(codes.length > 0 and count * codes.length == codes.size)
    table = np.empty((1, 256, 1)) if octets.table is None else octets.table
    _require(octets.stored.itemsize == 1 and table.shape[1:] in {(256, 1), (256, 2), (256, 4)})
    _require(octets.skip >= 0 and octets.skip + codes.length <= width * octets.per)
    _require(row.min() >= 0 and row.max() < height)
    if octets.tables is None:
        _require(len(table) > 0)
    else:
        tables = octets.tables
        _require(tables.shape == row.shape)
        _require(tables.min() >= 0 and tables.max() < len(table))
    _require(len(codes.factors) == count)


def _check_groups(codes: Codes) -> None:
    groups = codes.factors.shape[1]
    _require(codes.zeros is None or codes.zeros.shape == codes.factors.shape)
    if codes.group_of is not None:
        _require(codes.group_of.shape == (codes.length,))
        _require(codes.group_of.min() >= 0 and codes.group_of.max() < groups)
    else:
        _require(codes.step > 0 and codes.first >= 0)
        _require((codes.first + codes.length - 1) // codes.step < groups)


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError("a block in codes of other sizes or dtypes than the kernels take")
